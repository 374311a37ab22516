"""Memory that is free in the process, for other processes; and that what is held is no matter of chance."""

from __future__ import annotations

import ctypes
import gc
from functools import cache
from typing import Any

import zarr

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
    set_option = _of_c_library("mallopt")
    if set_option is not None:
        set_option(_ARENA_MAX, 1)
        set_option(_MMAP_THRESHOLD, _LARGE)


def read_in(threads: int) -> None:
    """Have Zarr read and decode so many chunks at a time, from now on, in the whole process.

    By default there are ten, in threads of their own: how many of them are held together is chance then, and of a
    thousand blocks one holds more than any of ten. To be called before anything is read.
    """
    zarr.config.set({"threading.max_workers": threads, "async.concurrency": threads})


def give_back() -> None:
    """Return freed memory to the system.

    The C library keeps what lies below memory still held; a worker between two blocks, or a process that waits for
    its workers, has tens of megabytes of it. Where the library has no `malloc_trim` (glibc has), only Python's garbage
    goes: what each read leaves of it is found at a time that depends on all that was done before.
    """
    gc.collect()
    trim = _of_c_library("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _of_c_library(name: str) -> Any:
    """A function of the C library, looked for once, as each look leaves some kilobytes; None where it has none of this name."""
    return getattr(ctypes.CDLL(None), name, None)
