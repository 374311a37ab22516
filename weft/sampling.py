"""Read any part of an image at any voxel size, antialiased: how stages see images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.ndimage import correlate1d

from weft.grid import Grid, Shape
from weft.image import Image, Level, box

TRUNCATE = 3.0  # reach of the antialiasing Gaussian, standard deviations


def read_at(image: Image, channel: int, grid: Grid) -> np.ndarray:
    """One channel of an image on a grid of another voxel size.

    The coarsest pyramid level that is fine enough is read, only where it is needed; it is smoothed by a
    Gaussian of sigma = 0.5 sqrt((t / s)^2 - 1) voxels per axis (s its voxel size, t the wanted one) and
    interpolated linearly. Where the grids coincide, voxels are taken as they are. Outside the image the
    border's value holds. A voxel's value does not depend on which part is asked for.

    Parameters
    ----------
    image
        Pyramid to read from.
    channel
        Index of the channel.
    grid
        Where values are wanted, um, in the image's space.

    Returns
    -------
    (z, y, x) array: of the image's type where voxels are taken as they are, else float32.
    """
    level = image.level_at(grid.spacing)
    source = level.grid
    first = source.to_index(grid.to_physical((0, 0, 0)))
    step = np.asarray(grid.spacing) / np.asarray(source.spacing)
    if np.allclose(step, 1, atol=1e-6) and np.allclose(first, np.round(first), atol=1e-6):
        start = np.round(first).astype(int)
        stop = start + grid.shape
        if (start >= 0).all() and (stop <= source.shape).all():
            return level.read(channel, box(start, stop))
    sigma = _antialiasing(step)
    reach = np.ceil(TRUNCATE * sigma).astype(int) + 1
    last = first + step * (np.asarray(grid.shape) - 1)
    low = np.clip(np.floor(first).astype(int) - reach, 0, np.asarray(source.shape) - 1)
    high = np.clip(np.ceil(last).astype(int) + reach + 1, low + 1, source.shape)
    return _pull(level.read(channel, box(low, high)), first - low, step, sigma, grid.shape)


def read_mask(mask: Image, grid: Grid) -> np.ndarray:
    """Where an image counts, on a grid of another voxel size.

    Parameters
    ----------
    mask
        Image whose voxels above 0 count; one of a float type holds weights, which are cut to 0 to 1. Its first
        channel is read.
    grid
        Where weights are wanted, um, in the mask's space.

    Returns
    -------
    (z, y, x) float32, 0 to 1: the share that counts of what a voxel sees; 0 outside the mask's image.
    """
    levels = tuple(Level(_Weights(level.data), level.grid) for level in mask.levels)
    weights = read_at(replace(mask, levels=levels), 0, grid).astype(np.float32)
    for axis in range(3):
        if mask.grid.shape[axis] > 1 or grid.shape[axis] > 1:
            centres = grid.origin[axis] + grid.spacing[axis] * np.arange(grid.shape[axis])
            outside = (centres < mask.grid.lower[axis]) | (centres > mask.grid.upper[axis])
            weights[(slice(None),) * axis + (outside,)] = 0
    return weights


class _Weights:
    """An array (c, z, y, x) seen as weights."""

    dtype = np.dtype(np.float32)

    def __init__(self, data: Any) -> None:
        self._data = data

    def __getitem__(self, key: Any) -> np.ndarray:
        values = np.asarray(self._data[key])
        if values.dtype.kind == "f":
            return np.clip(np.nan_to_num(values, nan=0.0), 0, 1).astype(np.float32)
        return (values > 0).astype(np.float32)


def resample(values: np.ndarray, source: Grid, grid: Grid) -> np.ndarray:
    """An array on a grid of another voxel size, antialiased as `read_at` does.

    Parameters
    ----------
    values
        (z, y, x), any real dtype, finite.
    source
        Its grid, um.
    grid
        Where values are wanted, um, in the same space.

    Returns
    -------
    (z, y, x) float32.
    """
    if grid == source:
        return np.array(values, np.float32)
    step = np.asarray(grid.spacing) / np.asarray(source.spacing)
    first = source.to_index(grid.to_physical((0, 0, 0)))
    return _pull(values, first, step, _antialiasing(step), grid.shape)


def stage_grid(image_grid: Grid, spacing: float) -> Grid:
    """The grid on which a stage of this voxel size, um, sees an image.

    An axis whose voxels are larger keeps them, for there is nothing between them to be seen, as does the axis across
    a single plane.
    """
    z, y, x = (
        max(spacing, own) if n > 1 else own
        for own, n in zip(image_grid.spacing, image_grid.shape, strict=True)
    )
    return image_grid.resample((z, y, x))


def _antialiasing(step: np.ndarray) -> np.ndarray:
    """Standard deviation of the Gaussian, source voxels per axis, before every ``step``-th is taken."""
    return 0.5 * np.sqrt(np.maximum(step**2 - 1, 0))


def _pull(
    values: np.ndarray, first: np.ndarray, step: np.ndarray, sigma: np.ndarray, shape: Shape
) -> np.ndarray:
    """Values at ``first + step * i`` voxels of an array, smoothed before."""
    values = values.astype(np.float32)
    for axis in range(3):
        values = _smooth(values, sigma[axis], axis)
        values = _interpolate(values, first[axis] + step[axis] * np.arange(shape[axis]), axis)
    return values


def _smooth(values: np.ndarray, sigma: float, axis: int) -> np.ndarray:
    if sigma < 1e-3:
        return values
    offsets = np.arange(-int(np.ceil(TRUNCATE * sigma)), int(np.ceil(TRUNCATE * sigma)) + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    return correlate1d(values, (kernel / kernel.sum()).astype(np.float32), axis=axis, mode="nearest")


def _interpolate(values: np.ndarray, position: np.ndarray, axis: int) -> np.ndarray:
    position = np.clip(position, 0, values.shape[axis] - 1)
    lower = np.minimum(position.astype(int), max(values.shape[axis] - 2, 0))
    upper = np.minimum(lower + 1, values.shape[axis] - 1)
    shape = [1, 1, 1]
    shape[axis] = -1
    weight = (position - lower).astype(np.float32).reshape(shape)
    return np.take(values, lower, axis) * (1 - weight) + np.take(values, upper, axis) * weight
