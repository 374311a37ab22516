"""Memory that is free in the process, for other processes."""

from __future__ import annotations

import ctypes

_ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h


def keep_one_arena() -> None:
    """Let all threads that are started from now on take their memory from one place.

    By default each has its own (an arena), and what it frees there is of no use to the others: a worker that computes
    in one thread and reads in another held a fifth more. Does nothing where the C library has no `mallopt`.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_ARENA_MAX, 1)


def give_back() -> None:
    """Return freed memory to the system.

    The C library keeps what lies below memory still held; a worker between two blocks, or a process that waits for
    its workers, has tens of megabytes of it. Does nothing where the library has no `malloc_trim` (glibc has).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
