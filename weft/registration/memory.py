"""Memory that is free in the process, for other processes."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return freed memory to the system.

    The C library keeps what lies below memory still held; a worker between two blocks, or a process that waits for
    its workers, has tens of megabytes of it. Does nothing where the library has no `malloc_trim` (glibc has).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
