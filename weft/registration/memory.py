"""Memory that is free in the process, for other processes."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_ARENA_MAX = -8
_MMAP_THRESHOLD = -3
_LARGE = 8 << 20  # bytes


def hold_little() -> None:
    """Have freed memory of use to the whole process, or given back, from now on.

    By default each thread has a place (an arena) of its own, and what it frees there is of no use to the others; and
    where arrays of up to 32 MB have been freed, the next ones lie among what stays: both leave gaps. A worker that
    computes in one thread and reads in another held a quarter more. Does nothing where the C library has no `mallopt`.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_ARENA_MAX, 1)
        set_option(_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Return freed memory to the system.

    The C library keeps what lies below memory still held; a worker between two blocks, or a process that waits for
    its workers, has tens of megabytes of it. Does nothing where the library has no `malloc_trim` (glibc has).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
