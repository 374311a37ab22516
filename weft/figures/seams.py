"""Seams between tiles, before and after the solve: one tile in green, the other in magenta, grey where they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weft.figures import style

PANEL = 2.3  # longest side of a patch, inches
_GAP, _WORDS = 0.25, 0.42

Patch = tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True)
class SeamPicture:
    """One seam.

    Parameters
    ----------
    title, words
        Above its two patches: the tiles' names, and why it is shown.
    before, after
        What both tiles show by the stage's positions and by the solved ones, (y, x) each; None where they do not
        overlap.
    ncc
        Of the seam, before and after.
    """

    title: str
    words: str
    before: Patch
    after: Patch
    ncc: tuple[float, float]


def seams(pictures: Sequence[SeamPicture], path: str | Path, title: str, *, columns: int = 2) -> None:
    """Draw seams, ``columns`` beside each other, each with its patch by the stage and by the solve.

    Parameters
    ----------
    pictures
        In order.
    path
        PNG to write.
    title
        Above the picture.
    columns
        Seams in a row.
    """
    rows = max(1, -(-len(pictures) // columns))
    cell = (2 * PANEL + 2 * _GAP, PANEL + _WORDS + _GAP)
    width, height = columns * cell[0] + _GAP, rows * cell[1] + 0.55
    with style.picture(path, width, height, title) as figure:
        if not pictures:
            figure.text(
                0.16 / width, 1 - 0.6 / height, "There is no seam to show.", va="top", color=style.MUTED
            )
        for n, picture in enumerate(pictures):
            left = _GAP + (n % columns) * cell[0]
            top = 0.55 + (n // columns) * cell[1]
            head = f"{picture.title}: {picture.words}" if picture.words else picture.title
            figure.text(left / width, 1 - top / height, head, va="top", fontsize=8.5)
            shown = zip(("stage", "solved"), (picture.before, picture.after), picture.ncc, strict=True)
            for side, (word, patch, ncc) in enumerate(shown):
                number = f"{word}, NCC {ncc:.2f}" if np.isfinite(ncc) else f"{word}"
                words = number if patch else f"{word}: no overlap"
                place = (left + side * (PANEL + 0.1), top + _WORDS, PANEL, PANEL)
                axes = style.panel(figure, place, words, colour=style.MUTED)
                if patch:
                    axes.imshow(composite(*patch), interpolation="nearest", aspect="equal")


def composite(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Green for what the first patch shows and magenta for the second, (y, x, 3) in 0 to 1: grey where both do."""
    grey = []
    for patch in (first, second):
        low, high = style.stretch(patch)
        grey.append(np.clip((patch - low) / (high - low), 0, 1))
    return np.stack([grey[1], grey[0], grey[1]], axis=-1)
