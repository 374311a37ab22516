"""Read any part of an image at any voxel size, antialiased: how stages see images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numba import njit

from weft.grid import Grid, Shape
from weft.image import Image, Level, box

TRUNCATE = 3.0  # reach of the antialiasing Gaussian, standard deviations
PLANES = 64  # source planes of a large volume read at once: a chunk of weft's own stores
LARGE = 1 << 24  # voxels that are read at once, in whatever number of planes

Taps = tuple[np.ndarray, np.ndarray, np.ndarray]


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

    def planes(start: int, stop: int) -> np.ndarray:
        return level.read(channel, box((low[0] + start, *low[1:]), (low[0] + stop, *high[1:])))

    return _pull(planes, tuple(high - low), int(low[0]), first - low, step, sigma, grid.shape)


def thinned(level: Level, channel: int, most: int) -> tuple[np.ndarray, Grid]:
    """Every so many-th voxel of one channel of a level along each axis, about `most` in all, with their grid.

    A large level is read some planes at a time.
    """
    grid = level.grid
    deep = max(sum(n > 1 for n in grid.shape), 1)
    step = max(1, int(np.ceil((grid.size / most) ** (1 / deep) - 1e-9)))
    if step == 1:
        return level.read(channel), grid
    parts = []
    for start in range(0, grid.shape[0], PLANES):
        stop = min(start + PLANES, grid.shape[0])
        planes = level.read(channel, box((start, 0, 0), (stop, *grid.shape[1:])))
        parts.append(np.array(planes[-start % step :: step, ::step, ::step]))
    values = np.concatenate(parts)
    z, y, x = grid.spacing
    return values, Grid(values.shape, (z * step, y * step, x * step), grid.origin)


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

    def planes(start: int, stop: int) -> np.ndarray:
        return values[start:stop]

    return _pull(planes, source.shape, 0, first, step, _antialiasing(step), grid.shape)


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
    planes: Callable[[int, int], np.ndarray],
    size: Shape,
    offset: int,
    first: np.ndarray,
    step: np.ndarray,
    sigma: np.ndarray,
    shape: Shape,
) -> np.ndarray:
    """Values at ``first + step * i`` voxels of an array, smoothed before.

    Each axis is smoothed only where it is sampled. As the planes of a large array are added one by one, it is never
    held as a whole, and how many are read at once changes nothing.

    Parameters
    ----------
    planes
        ``planes(start, stop)`` gives planes of the array.
    size
        Its shape.
    offset
        Number of its first plane where it is read: reading goes on at multiples of `PLANES`.
    """
    along_z, along_y, along_x = (
        _taps(first[axis] + step[axis] * np.arange(shape[axis]), sigma[axis], size[axis]) for axis in range(3)
    )
    out = np.zeros(shape, np.float32)
    whole = size[0] * size[1] * size[2] <= LARGE
    start = 0
    while start < size[0]:
        stop = size[0] if whole else min(start + PLANES - (offset + start) % PLANES, size[0])
        values = np.ascontiguousarray(planes(start, stop))
        if values.dtype.kind not in "fiu" or values.dtype.itemsize > 4:
            values = values.astype(np.float32)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        reduced = np.zeros((len(values), shape[1], values.shape[2]), np.float32)
        _add_rows(values, *along_y, reduced)
        _add_planes(_sample_rows(reduced, *along_x), start, *along_z, out)
        start = stop
    return out


def _taps(position: np.ndarray, sigma: float, size: int) -> Taps:
    """A Gaussian, and linear interpolation, at positions along an axis of so many voxels.

    Returns
    -------
    lower, count, weights
        For each position the first voxel that counts, how many do, and the weights of these, (n, most) float32. Beyond
        its ends the axis goes on as it ends.
    """
    reach = int(np.ceil(TRUNCATE * sigma)) if sigma >= 1e-3 else 0
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2) if reach else np.ones(1)
    kernel /= kernel.sum()
    position = np.clip(position, 0, size - 1)
    nearest = np.round(position)
    # Rounding must not bring in a neighbour that has no weight.
    position = np.where(np.abs(position - nearest) < 1e-9, nearest, position)
    below = np.floor(position).astype(int)
    share = position - below
    voxels = below[:, None] + np.arange(-reach, reach + 2)
    weights = np.zeros(voxels.shape)
    weights[:, :-1] = (1 - share)[:, None] * kernel
    weights[:, 1:] += share[:, None] * kernel
    lower = np.clip(voxels[:, 0], 0, size - 1)
    last = np.clip(voxels[:, -1] - (share == 0), 0, size - 1)
    found = np.zeros(weights.shape)
    at = np.minimum(np.clip(voxels, 0, size - 1), last[:, None]) - lower[:, None]
    np.add.at(found, (np.arange(len(voxels))[:, None], at), weights)
    return lower, last - lower + 1, found.astype(np.float32)


@njit(cache=True, nogil=True)
def _add_rows(values, lower, count, weights, out):
    """out (z, n, x) += weighted rows of values (z, y, x)."""
    for z in range(out.shape[0]):
        for k in range(out.shape[1]):
            row = out[z, k]
            for t in range(count[k]):
                w = weights[k, t]
                source = values[z, lower[k] + t]
                for x in range(row.shape[0]):
                    row[x] += w * np.float32(source[x])


@njit(cache=True, nogil=True)
def _sample_rows(values, lower, count, weights):
    """Rows of values (z, y, x), weighted along themselves: (z, y, n)."""
    out = np.empty((values.shape[0], values.shape[1], len(lower)), np.float32)
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            row = values[z, y]
            for k in range(len(lower)):
                part, weight = row[lower[k] : lower[k] + count[k]], weights[k]
                total = np.float32(0)
                for t in range(part.size):
                    total += weight[t] * part[t]
                out[z, y, k] = total
    return out


@njit(cache=True, nogil=True)
def _add_planes(values, start, lower, count, weights, out):
    """out (n, y, x) += weighted planes of an array, of which values (z, y, x) are those from `start` on."""
    for k in range(out.shape[0]):
        for t in range(count[k]):
            z = lower[k] + t - start
            if 0 <= z < values.shape[0]:
                w = weights[k, t]
                for y in range(out.shape[1]):
                    row = out[k, y]
                    source = values[z, y]
                    for x in range(row.shape[0]):
                        row[x] += w * source[x]
