"""A moving image seen from a fixed grid, as float32, with the voxels that it covers."""

from __future__ import annotations

import numpy as np

from weft.grid import Grid
from weft.registration.contract import Initial
from weft.warp import warp


def pull(
    moving: np.ndarray, moving_grid: Grid, moving_mask: np.ndarray | None, initial: Initial, grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """Resample a moving image through a transform, linearly.

    Parameters
    ----------
    moving
        (z, y, x), any real dtype.
    moving_grid
        Its grid, um.
    moving_mask
        (z, y, x) bool, where it counts; None: everywhere.
    initial
        The transform, fixed space to moving space.
    grid
        Where values are wanted, in fixed space.

    Returns
    -------
    tuple
        (z, y, x) float32, 0 outside the moving image; (z, y, x) bool, true where the moving image (and its
        mask) is.
    """
    if moving_mask is None:
        moving_mask = np.ones(moving_grid.shape, bool)
    source = np.asarray(moving, np.float32)
    if moving_mask.any() and not moving_mask.all():
        # Half-way across the mask's border the interpolation would mix in what is to be left out.
        source = np.where(moving_mask, source, source[moving_mask].mean(dtype=np.float64)).astype(np.float32)
    through = (initial.affine, initial.field, initial.field_grid, grid)
    covered, _ = warp(moving_mask, moving_grid, *through, order=0)
    values, _ = warp(source, moving_grid, *through)
    return np.where(covered, values, np.float32(0)), covered


def physical_points(grid: Grid) -> np.ndarray:
    """Physical positions of a grid's voxels in C order, (3, n) float64 um."""
    axes = [o + s * np.arange(n) for n, s, o in zip(grid.shape, grid.spacing, grid.origin, strict=True)]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])
