"""A moving image seen from a fixed grid, as float32, with the voxels that it covers."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

from weft.grid import Grid
from weft.registration.contract import Initial

_PLANES = 16  # at a time: coordinates take 24 bytes a voxel


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
    values = np.zeros(grid.shape, np.float32)
    covered = np.zeros(grid.shape, bool)
    source = np.asarray(moving, np.float32)
    if moving_mask is not None and moving_mask.any():
        # Half-way across the mask's border the interpolation would mix in what is to be left out.
        source = np.where(moving_mask, source, source[moving_mask].mean(dtype=np.float64)).astype(np.float32)
    upper = np.asarray(moving_grid.shape)[:, None] - 1
    for start in range(0, grid.shape[0], _PLANES):
        slab = grid.crop((slice(start, start + _PLANES), slice(None), slice(None)))
        points = physical_points(slab)
        if initial.field is not None and initial.field_grid is not None:
            points = points + sample_field(initial.field, initial.field_grid, points)
        points = initial.affine[:3, :3] @ points + initial.affine[:3, 3:]
        index = (points - np.c_[list(moving_grid.origin)]) / np.c_[list(moving_grid.spacing)]
        inside = np.all((index >= -0.5) & (index <= upper + 0.5), axis=0)
        if moving_mask is not None:
            nearest = np.clip(np.rint(index), 0, upper).astype(int)
            inside &= moving_mask[tuple(nearest)]
        found = map_coordinates(source, index, order=1, mode="nearest")
        values[start : start + _PLANES] = np.where(inside, found, 0).reshape(slab.shape)
        covered[start : start + _PLANES] = inside.reshape(slab.shape)
    return values, covered


def physical_points(grid: Grid) -> np.ndarray:
    """Physical positions of a grid's voxels in C order, (3, n) float64 um."""
    axes = [o + s * np.arange(n) for n, s, o in zip(grid.shape, grid.spacing, grid.origin, strict=True)]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])


def sample_field(field: np.ndarray, grid: Grid, points: np.ndarray) -> np.ndarray:
    """A vector field, (3, z, y, x), at points, (3, n) um: (3, n), linear, the border's value beyond it."""
    index = (points - np.c_[list(grid.origin)]) / np.c_[list(grid.spacing)]
    return np.stack([map_coordinates(part, index, order=1, mode="nearest") for part in field])
