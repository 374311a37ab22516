"""Compile the kernels of the registration before they are needed: ``python -m weft warm``.

Compiled kernels are kept in a folder of the user's, named after their source and the type of CPU; a process that
finds them there loads them in a fraction of a second. Jobs that start side by side on an empty folder would each
compile them for themselves.
"""

from __future__ import annotations

import time

import numpy as np

from weft.grid import Grid
from weft.registration.backends.native import register
from weft.registration.contract import Initial
from weft.transforms.interpolate import resample_field
from weft.transforms.jacobian import smallest_determinant

SHAPE = (32, 32, 32)


def warm() -> float:
    """Register a small pair, so that all kernels of the engine are compiled or loaded; gives the seconds it took."""
    began = time.monotonic()
    rng = np.random.default_rng(0)
    grid = Grid(SHAPE, (1.0, 1.0, 1.0))
    fixed = np.kron(rng.random((8, 8, 8)), np.ones((4, 4, 4))).astype(np.float32)
    moving = np.roll(fixed, (1, 0, -1), (0, 1, 2))
    weights = np.ones(SHAPE, np.float32)
    start = Initial(np.eye(4), np.zeros((3, *SHAPE), np.float32), grid)
    # One step far too long for what the floor of the Jacobian allows: the cutting of steps is warmed too.
    settings = {"levels": (1, 0), "iterations": (2,), "damping": 1e-6, "jacobian_floor": 0.9}
    result = register(fixed, grid, moving, grid, start, (weights, None), settings, 0)
    smallest_determinant(resample_field(result.displacement, result.grid, grid), grid)
    return time.monotonic() - began
