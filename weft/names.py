"""What was meant by a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 12  # names that a sentence lists at most


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence on an unknown name: the one that was meant, or else all there are."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(known)}" if 0 < len(known) <= LISTED else ""
