"""The levels of the native engine: one pair of images at each resolution, and what is carried from one to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from weft.grid import Grid, Shape, breadth_of
from weft.pyramid import halving
from weft.registration.backends.native_channels import Channels
from weft.registration.backends.native_field import gaussian_taps, smooth, upsample, widths
from weft.registration.backends.native_images import reduced, scale
from weft.registration.backends.native_pair import NO_MASK, Pair
from weft.registration.contract import Initial
from weft.transforms.folds import folds
from weft.transforms.interpolate import resample_field

SMALLEST_LEVEL = 12  # voxels along the second longest axis: coarser levels are left out
CELL = (2.0, 2.0, 2.0)  # spacing of a displacement grid in voxels of its level


@dataclass(frozen=True)
class Level:
    """One resolution of the block.

    Parameters
    ----------
    number
        Halvings of the block's own resolution.
    halved
        Factors from the level to the next coarser one.
    grid, field_grid
        Of the fixed image and of the displacement.
    noise
        Share of white noise in both images' local variance.
    floors
        Noise floors of the fixed and of the moving image.
    prepare
        Makes what is compared. Only when the level is reached: the finest, which costs most, may not be.
    """

    number: int
    halved: Shape
    grid: Grid
    field_grid: Grid
    noise: float
    floors: tuple[float, float]
    prepare: Callable[[], Pair | Channels]

    @cached_property
    def pair(self) -> Pair | Channels:
        """What is compared."""
        return self.prepare()


def halvings_of(grid: Grid, count: int) -> list[tuple[Grid, Shape]]:
    """The grids after 0, 1 .. `count` halvings, each with the factors to the next."""
    found = []
    for _ in range(count + 1):
        factors = halving(grid.shape, grid.spacing)
        found.append((grid, factors))
        grid = grid.coarsen(factors)
    return found


def finer(u: np.ndarray, coarse: Grid, fine: Grid, factors: Shape) -> np.ndarray:
    """u in voxels of a level, on its displacement grid `coarse`, for the level that was halved by `factors`."""
    if factors == (2, 2, 2):
        return upsample(u, fine.shape, 2.0)
    return resample_field(u, coarse, fine) * np.asarray(factors, np.float32)[:, None, None, None]


def pyramid(images, fixed_grid, moving_grid, affine, masks, statistics, options) -> list[Level]:
    """The levels to run, coarsest first; takes the images out of their list, to let them go."""
    images = [scale(images.pop(0), s) for s in statistics]
    weights = [NO_MASK if mask is None else np.ascontiguousarray(mask, np.float32) for mask in masks]
    grids = [halvings_of(grid, options.levels[0]) for grid in (fixed_grid, moving_grid)]
    levels: list[Level] = []
    for number in range(options.levels[0] + 1):
        if number > options.levels[-1] and min(breadth_of(image.shape) for image in images) < SMALLEST_LEVEL:
            break
        factors = [halvings[number][1] for halvings in grids]
        coarser = [reduced(*pair) for pair in zip(images, factors, strict=True)]
        if number >= options.levels[-1]:
            levels.append(_level(number, images, weights, grids, affine, statistics, options))
        images = coarser
        weights = [
            reduced(weight, f) if weight.size else weight for weight, f in zip(weights, factors, strict=True)
        ]
    return levels[::-1]


def _level(number, images, weights, grids, affine, statistics, options) -> Level:
    """One level."""
    (grid, halved), (from_grid, _) = (halvings[number] for halvings in grids)
    # Fixed index -> um -> moving um -> moving index.
    to_index = np.linalg.inv(from_grid.matrix()) @ affine @ grid.matrix()
    flat = [a == b == 1 for a, b in zip(grid.shape, from_grid.shape, strict=True)]
    to_index[:3][flat] = 0.0  # planes are compared wherever they lie
    variances, noises, (background, _) = zip(
        *[
            s.variance_and_noise(image, weight if weight.size else None, number)
            for s, image, weight in zip(statistics, images, weights, strict=True)
        ],
        strict=True,
    )
    floors = options.noise_floor * variances[0], options.noise_floor * variances[1]
    width = 0.0 if number else options.presmoothing
    prepare = partial(_prepare, images, weights, to_index, floors, background, width)
    return Level(number, halved, grid, grid.coarsen((2, 2, 2)), sum(noises) / 2, floors, prepare)


def _prepare(images, weights, to_index, floors, background, width) -> Pair:
    """What a level compares; the images are smoothed in place, if a width is given."""
    if width:
        for image in images:
            left = _presmooth(image, width)
        background *= left
    return Pair(
        fixed=images[0],
        moving=_at_least_two(images[1]),
        fixed_mask=weights[0],
        moving_mask=_at_least_two(weights[1]),
        linear=np.ascontiguousarray(to_index[:3, :3]),
        shift=np.ascontiguousarray(to_index[:3, 3]),
        floor_fixed=floors[0],
        floor_moving=floors[1],
        background=background,
    )


def _at_least_two(image: np.ndarray) -> np.ndarray:
    """An image with each axis of one voxel repeated: between two voxels the kernels can interpolate."""
    for axis in range(3):
        if image.shape[axis] == 1:
            image = np.repeat(image, 2, axis)
    return image


def _presmooth(image: np.ndarray, width: float) -> float:
    """Smooth an image slightly, in place, by what of the Gaussian lies inside; returns the share of white noise left."""
    taps = gaussian_taps(widths(width, image.shape))
    smooth(image[None], taps)
    for axis, half in enumerate(taps):
        n = image.shape[axis]
        inside = np.convolve(np.ones(n), [*half[:0:-1], *half])[len(half) - 1 :][:n]
        for k in np.flatnonzero(inside < 1 - 1e-6):
            np.moveaxis(image, axis, 0)[k] /= np.float32(inside[k])
    return float(np.prod(2 * (taps**2).sum(1) - taps[:, 0] ** 2))


def start_field(initial: Initial, level: Level) -> np.ndarray:
    """The start field on a level's displacement grid, in voxels of the level."""
    if initial.field is None or initial.field_grid is None:
        return np.zeros((3, *level.field_grid.shape), np.float32)
    u = resample_field(initial.field, initial.field_grid, level.field_grid)
    u /= np.asarray(level.grid.spacing, np.float32)[:, None, None, None]
    return u


def carry_on(
    u: np.ndarray,
    start: np.ndarray,
    fine_start: np.ndarray,
    coarse: Grid,
    fine: Grid,
    factors: Shape,
    floor: float,
) -> np.ndarray:
    """What one level found from a start field, on the displacement grid of the next, as `finer`.

    What was added to the start is carried on, to the start as the finer grid shows it: its detail must not be
    lost. Where both together come near a fold, a Jacobian determinant of `floor`, all of u is carried on.

    Parameters
    ----------
    u, start
        (3, Z, Y, X) float32, in voxels of the level: what it found, and the start field on its grid.
    fine_start
        The start field on the next level's grid, in voxels of that.
    """
    both = finer(u - start, coarse, fine, factors)
    both += fine_start
    return finer(u, coarse, fine, factors) if folds(both, CELL, floor) else both
