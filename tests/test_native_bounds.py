"""The native engine's kernels neither read nor write beyond their arrays: these end, or begin, at pages that must not be touched."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from weft.registration.backends.native_field import compose
from weft.registration.backends.native_pair import NO_MASK, Pair
from weft.transforms.folds import find_folds, folds, minimal_jacobian

# Rows of as many cells as fill a vector of 16, or lack or exceed a few of it.
WIDTHS = (1, 2, 27, 28, 30, 32, 34, 60, 63, 94, 116, 285)
CELL = (2.0, 2.0, 2.0)


def guarded(array: np.ndarray, at_end: bool) -> np.ndarray:
    """A copy of an array that ends, or begins, where memory ends that the process may touch."""
    page = mmap.PAGESIZE
    size = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, size + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    offset = page + (size - array.nbytes if at_end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    for edge in (start, start + page + size):
        assert protect(edge, page, 0) == 0  # neither to be read nor written
    return copy


def run_kernels() -> None:
    """Every kernel on images whose rows end in every way, the moving one much finer along x, displaced far and little."""
    rng = np.random.default_rng(0)
    for width, at_end, masked in itertools.product(WIDTHS, (False, True), (False, True)):
        shape, moving_shape = (7, 6, width), (5, 9, 5 * width + 2)

        def noise(*shape: int, scale: float = 1.0, at_end: bool = at_end) -> np.ndarray:
            return guarded(rng.normal(0, scale, shape).astype(np.float32), at_end)

        linear = np.diag([(m - 1) / n for m, n in zip(moving_shape, shape, strict=True)])
        pair = Pair(
            fixed=noise(*shape),
            moving=noise(*moving_shape),
            fixed_mask=abs(noise(*shape)) if masked else NO_MASK,
            moving_mask=abs(noise(*moving_shape)) if masked else NO_MASK,
            linear=linear,
            shift=np.zeros(3),
            floor_fixed=0.01,
            floor_moving=0.01,
        )
        cells = tuple((n + 1) // 2 for n in shape)
        fields = tuple((n + 1) // 2 for n in cells)
        for scale in (0.3, 2.0, 20.0):
            u = noise(3, *cells, scale=scale)
            for grid in (cells, fields):
                equations = noise(9, *grid)
                pair.normal_equations(u, 0.2, equations)
                compose(u, noise(3, *grid), noise(3, *cells))
            pair.similarity(noise(3, *cells), u, equations)
            folds(u, CELL, 0.1)
            find_folds(u, CELL, 0.1)
            minimal_jacobian(u, CELL)


def test_nothing_beyond_the_arrays_is_touched():
    command = [sys.executable, "-X", "faulthandler", __file__]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]


if __name__ == "__main__":
    run_kernels()
