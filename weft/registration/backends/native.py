"""The native deformable engine: local correlation, Gauss-Newton steps, coarse to fine, one thread.

Each level repeats: sum the normal equations of the local affine-intensity fit in one pass over the images
(`native_pass`), smooth them by a Gaussian, solve them together with a prior on the total displacement (`native_prior`)
for a step v (`native_solver`), compose u <- v + u o (id + v) (`native_field`). Smoothed equations see beyond single cells, so
there is no step length and no line search, and a level needs two to twelve steps. A level ends when the mean
squared correlation gains less than `NativeSettings.tolerance`, or little while steps are confirmed in parts of the images only.
What keeps noise from being fitted is the prior, its strength measured on the pair, and that a step is taken only as far as
cells that it was not made from confirm it (`native_validation`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter

from weft.grid import Grid, Shape, Triple
from weft.pyramid import halving
from weft.registration.backends.native_channels import Channels
from weft.registration.backends.native_field import (
    compose,
    gaussian_taps,
    smooth,
    smooth_within,
    upsample,
)
from weft.registration.backends.native_images import (
    Statistics,
    block_statistics,
    halve,
    intensity_statistics,
    reduced,
    scale,
)
from weft.registration.backends.native_pair import NO_MASK, Pair
from weft.registration.backends.native_prior import MOST_FALL, Uncertainty
from weft.registration.backends.native_settings import NativeSettings
from weft.registration.backends.native_solver import solve_with_prior
from weft.registration.backends.native_tiles import spans_of_fields, widen
from weft.registration.backends.native_validation import (
    FIELD,
    FIELDS,
    SETTLED,
    SETTLED_GAIN,
    confirmed_share,
    confirmed_texture,
    sum_fields,
    take_share,
)
from weft.registration.contract import Initial, Masks, Result
from weft.registration.threads import share_out
from weft.transforms.folds import find_folds, folds, minimal_jacobian
from weft.transforms.interpolate import resample_field

__all__ = [
    "NativeSettings",
    "backend_version",
    "image_statistics",
    "intensity_statistics",
    "predicted_memory",
    "register",
    "smoothing_radius",
]

SMALLEST_LEVEL = 12  # voxels along the second longest axis: coarser levels are left out
SMALLEST_IMAGE = 4  # voxels along it at the finest level
CELL = (2.0, 2.0, 2.0)  # spacing of a displacement grid in voxels of its level
CHANCE = 0.025  # mean rho^2 of independent noise, .022 in windows of 5^3 of presmoothed voxels, and some more
MOST_NOISE = 0.3  # more white noise than this widens no sums
IMAGE_BYTES = 4  # per voxel of an image level
FIELD_BYTES = 12.0  # per voxel of the finest level: equations, fields and what kernels hold, on its cells


@dataclass
class _Level:
    """One resolution of the block: what is compared; `halved` are the factors from it to the next.

    `in_fields`: its equations are those of fields of 2^3 cells, and steps are made for these and interpolated.
    """

    number: int
    halved: Shape
    pair: Pair | Channels
    grid: Grid
    field_grid: Grid
    noise: float
    in_fields: bool

    @property
    def equations_shape(self) -> Shape:
        """How many normal equations there are: one for each cell, or for each field of 2^3 cells."""
        z, y, x = self.field_grid.shape
        return (-(-z // 2), -(-y // 2), -(-x // 2)) if self.in_fields else (z, y, x)


class _Scratch:
    """Memory that all levels use in turn: equations and a field."""

    def __init__(self, levels: Sequence[_Level]) -> None:
        self._equations = np.empty(9 * max(math.prod(level.equations_shape) for level in levels), np.float32)
        self._vectors = np.empty(3 * math.prod(levels[-1].field_grid.shape), np.float32)

    def equations(self, shape: Shape) -> np.ndarray:
        """(9, Z, Y, X) float32."""
        if self._equations.size < 9 * math.prod(shape):
            self._equations = np.empty(9 * math.prod(shape), np.float32)
        return self._equations[: 9 * math.prod(shape)].reshape(9, *shape)

    def vectors(self, shape: Shape) -> np.ndarray:
        """(3, Z, Y, X) float32."""
        return self._vectors[: 3 * math.prod(shape)].reshape(3, *shape)


def register(
    fixed: np.ndarray,
    fixed_grid: Grid,
    moving: np.ndarray,
    moving_grid: Grid,
    initial: Initial,
    masks: Masks,
    settings: Mapping[str, Any],
    seed: int = 0,
) -> Result:
    """Register one block (`weft.registration.contract.Backend`).

    Parameters
    ----------
    fixed, moving
        (z, y, x) arrays of any real dtype, or (c, z, y, x) of as many channels, which are compared one with
        the other and count by `NativeSettings.channel_weights`. A single plane is registered within itself.
    fixed_grid, moving_grid
        Their grids, um, of about equal spacing. Where it differs between the axes, only the finest ones are
        halved from level to level until it does not; smoothing and windows count voxels.
    initial
        Affine and, where there is one, start field.
    masks
        (fixed, moving) bool arrays, arrays of weights from 0 to 1, or None: a pair of voxels counts by the
        product of both weights. Windows of 5^3 near a border still see over it.
    settings
        Fields of `NativeSettings`.
    seed
        Not used: nothing is random.

    Returns
    -------
    The total displacement on ``fixed_grid.coarsen((2, 2, 2))``. Similarity is the mean of rho^2, weighted
    by varF / (varF + noise floor). Per level, ``before`` and ``after`` belong to the level's start and to
    the start of its last step; ``limited`` counts steps cut by `jacobian_floor`. `metric_before` and
    `metric_after` compare the start with the result on parts of planes spread over the finest level; a result that is
    no more similar than the start, or no more than noise is to noise, is the start, with both equal.

    Raises
    ------
    ValueError
        For arrays that do not fit their grids, values that are not finite or bad
        settings.
    """
    options = NativeSettings.from_mapping(settings)
    result_grid = fixed_grid.coarsen((2, 2, 2))
    breadth = min(_breadth(fixed_grid.shape), _breadth(moving_grid.shape)) >> options.levels[-1]
    found: list[tuple[list[_Level], float]] = []
    channels = _channels(fixed, moving, options)
    del fixed, moving  # the caller may have let them go: then they end with the last channel's pyramid
    for number in range(len(channels)):
        one, other, weight = channels.pop(0)
        _check(one, fixed_grid, other, moving_grid, masks)
        statistics = _statistics(one, other, number, options)
        if any(s.empty for s in statistics) or breadth < SMALLEST_IMAGE:
            continue
        images = [one, other]
        del one, other
        levels = _pyramid(images, fixed_grid, moving_grid, initial.affine, masks, statistics, options)
        pair = levels[-1].pair
        if isinstance(pair, Pair) and min(pair.floor_fixed, pair.floor_moving) > 0:
            found.append((levels, weight))
    if not found:
        return _unchanged(initial, result_grid)
    levels = _together(found)
    del found, pair
    level, scratch = levels[0], _Scratch(levels)
    u, record = _refine(level, _start(initial, level), options, scratch)
    metrics = [record]
    while len(levels) > 1:
        # The images of a level are let go when it has ended.
        coarse, level = levels.pop(0), levels[0]
        u = _carry_on(u, initial, coarse, level, options.jacobian_floor)
        del coarse
        u, record = _refine(level, u, options, scratch)
        metrics.append(record)
    before, after = level.pair.similarity(_start(initial, level), u, scratch.equations(level.equations_shape))
    if not any(record["iterations"] for record in metrics):
        return _unchanged(initial, result_grid)
    if after <= max(before, CHANCE):
        # The start is a candidate too, and the only one where noise is compared with noise.
        return replace(
            _unchanged(initial, result_grid), metrics=metrics, metric_before=before, metric_after=before
        )

    coarser = level.field_grid
    for grid, factors in _halvings(fixed_grid, level.number)[-2::-1]:
        finer = grid.coarsen((2, 2, 2))
        u = _finer(u, coarser, finer, factors)
        coarser = finer
    jacobian = minimal_jacobian(u, CELL)
    u *= np.asarray(fixed_grid.spacing, np.float32)[:, None, None, None]
    return Result(
        displacement=u,
        grid=result_grid,
        metrics=metrics,
        iterations=sum(record["iterations"] for record in metrics),
        metric_before=before,
        metric_after=after,
        minimal_jacobian=jacobian,
    )


def predicted_memory(
    fixed_shape: tuple[int, int, int], moving_shape: tuple[int, int, int], settings: Mapping[str, Any]
) -> int:
    """Most bytes that `register` holds at once beside its arguments: arrays, not the interpreter.

    Parameters
    ----------
    fixed_shape, moving_shape
        Voxels (z, y, x) of the block with its halo and of the part of the moving image read for it.
    settings
        Fields of `NativeSettings`.

    Raises
    ------
    ValueError
        For bad settings.
    """
    options = NativeSettings.from_mapping(settings)
    fixed, moving = math.prod(fixed_shape), math.prod(moving_shape)
    finest = 8 ** options.levels[-1]
    pyramids = 8 / 7 * IMAGE_BYTES * (fixed + moving)
    return math.ceil(pyramids + FIELD_BYTES * fixed / finest)


def image_statistics(
    parts: Sequence[np.ndarray], spacing: Triple, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Scale and noise floor of a whole image, for all blocks of a stage: the setting ``intensity`` of its role.

    Parameters
    ----------
    parts
        Parts of the image, (z, y, x), that stand for all of it.
    spacing
        Voxel size, um.
    settings
        Fields of `NativeSettings`.
    """
    options = NativeSettings.from_mapping(settings)
    return intensity_statistics(parts, options.contrast, options.levels[0], spacing)


def smoothing_radius(settings: Mapping[str, Any]) -> int:
    """Voxels around a voxel that its finest step sees: a window, and two usual widths of the Gaussian over the equations."""
    options = NativeSettings.from_mapping(settings)
    finest = options.levels[-1]
    return math.ceil((2 + 2 * CELL[0] * options.at(options.sigma, finest)) * 2**finest)


def backend_version() -> str:
    """Part of a result's name. Raise it when results change though the code of this package does not tell."""
    return "9"


def _check(fixed, fixed_grid, moving, moving_grid, masks) -> None:
    """Refuse arrays that the engine cannot work with."""
    for name, image, grid, mask in (
        ("fixed", fixed, fixed_grid, masks[0]),
        ("moving", moving, moving_grid, masks[1]),
    ):
        if image.shape != grid.shape:
            raise ValueError(f"the {name} block is of shape {image.shape}; its grid says {grid.shape}")
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise ValueError(f"the {name} block holds values that are not finite; wanted numbers everywhere")
        if mask is not None and mask.shape != image.shape:
            raise ValueError(f"the {name} mask is of shape {mask.shape}; its image is of {image.shape}")
        if mask is not None and mask.dtype.kind == "f" and not (np.min(mask) >= 0 and np.max(mask) <= 1):
            raise ValueError(f"the {name} mask holds weights outside 0 to 1 or not finite; wanted 0 to 1")


def _channels(
    fixed: np.ndarray, moving: np.ndarray, options: NativeSettings
) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """The images channel by channel, with the weights."""
    if fixed.ndim == moving.ndim == 3:
        return [(fixed, moving, 1.0)]
    weights = options.channel_weights or (1.0,) * len(fixed)
    if fixed.ndim != 4 or moving.ndim != 4 or not len(fixed) == len(moving) == len(weights):
        raise ValueError(
            f"the blocks are of shapes {fixed.shape} and {moving.shape}, with {len(weights)} channel_weights; "
            "wanted (z, y, x) for both, or (c, z, y, x) of as many channels as weights"
        )
    for role, known in (options.intensity or {}).items():
        if len(weights) > 1 and (isinstance(known, Mapping) or len(known) != len(weights)):
            raise ValueError(
                f"setting intensity of backend native holds other than {len(weights)} statistics of the {role} image; "
                "wanted a list of one for each channel"
            )
    return list(zip(fixed, moving, weights, strict=True))


def _together(found: list[tuple[list[_Level], float]]) -> list[_Level]:
    """The levels of all channels as one."""
    if len(found) == 1:
        return found[0][0]
    weights = [weight for _, weight in found]
    return [
        replace(level, pair=Channels([levels[n].pair for levels, _ in found], weights))  # type: ignore[misc]
        for n, level in enumerate(found[0][0])
    ]


def _breadth(shape: tuple[int, ...]) -> int:
    """Voxels along the second longest axis: a thin slab has as much to compare as the plane of it."""
    return sorted(shape)[1]


def _statistics(fixed, moving, channel: int, options: NativeSettings) -> tuple[Statistics, Statistics]:
    """Scale and noise floor of both images (of one of several channels): the caller's, or the block's own."""
    found = []
    for name, image in (("fixed", fixed), ("moving", moving)):
        if options.intensity is not None:
            known = options.intensity[name]
            value = Statistics.from_mapping(known if isinstance(known, Mapping) else known[channel])
            if value.contrast != options.contrast:
                raise ValueError(
                    f"intensity statistics of the {name} image are of contrast {value.contrast!r}; "
                    f"wanted {options.contrast!r}, the setting contrast"
                )
        else:
            value = block_statistics([image], options.contrast)
        found.append(value)
    return found[0], found[1]


def _halvings(grid: Grid, count: int) -> list[tuple[Grid, Shape]]:
    """The grids after 0, 1 .. `count` halvings, each with the factors to the next."""
    found = []
    for _ in range(count + 1):
        factors = halving(grid.shape, grid.spacing)
        found.append((grid, factors))
        grid = grid.coarsen(factors)
    return found


def _finer(u: np.ndarray, coarse: Grid, fine: Grid, factors: Shape) -> np.ndarray:
    """u in voxels of a level, on its displacement grid `coarse`, for the level that was halved by `factors`."""
    if factors == (2, 2, 2):
        return upsample(u, fine.shape, 2.0)
    return resample_field(u, coarse, fine) * np.asarray(factors, np.float32)[:, None, None, None]


def _widths(sigma: float, shape: Shape) -> Triple:
    """Standard deviations (z, y, x) of the Gaussian that averages as many samples as one of `sigma` does in a volume.

    A plane has one axis less to average over, so it is wider there. Where voxel edges differ it still counts
    samples: as wide in um along each axis, it would average too few of them where the noise is.
    """
    axes = max(sum(n > 1 for n in shape), 1)
    # An integral over `axes` axes: (2 pi)^(axes / 2) sigma^axes.
    width = (2 * np.pi) ** ((3 - axes) / (2 * axes)) * sigma ** (3 / axes)
    z, y, x = (width if n > 1 else 0.0 for n in shape)
    return z, y, x


def _pyramid(images, fixed_grid, moving_grid, affine, masks, statistics, options) -> list[_Level]:
    """The levels to run, coarsest first; takes the images out of their list, to let them go."""
    images = [scale(images.pop(0), s) for s in statistics]
    weights = [NO_MASK if mask is None else np.ascontiguousarray(mask, np.float32) for mask in masks]
    grids = [_halvings(grid, options.levels[0]) for grid in (fixed_grid, moving_grid)]
    levels: list[_Level] = []
    for number in range(options.levels[0] + 1):
        if number > options.levels[-1] and min(_breadth(image.shape) for image in images) < SMALLEST_LEVEL:
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


def _level(number, images, weights, grids, affine, statistics, options) -> _Level:
    """One level; the images are smoothed in place."""
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
    if not number and options.presmoothing:
        for image in images:
            left = _presmooth(image, options.presmoothing)
        background *= left
    pair = Pair(
        fixed=images[0],
        moving=_at_least_two(images[1]),
        fixed_mask=weights[0],
        moving_mask=_at_least_two(weights[1]),
        linear=np.ascontiguousarray(to_index[:3, :3]),
        shift=np.ascontiguousarray(to_index[:3, 3]),
        floor_fixed=options.noise_floor * variances[0],
        floor_moving=options.noise_floor * variances[1],
        background=background,
    )
    finest = number == options.levels[-1]
    return _Level(number, halved, pair, grid, grid.coarsen((2, 2, 2)), sum(noises) / 2, finest)


def _at_least_two(image: np.ndarray) -> np.ndarray:
    """An image with each axis of one voxel repeated: between two voxels the kernels can interpolate."""
    for axis in range(3):
        if image.shape[axis] == 1:
            image = np.repeat(image, 2, axis)
    return image


def _presmooth(image: np.ndarray, width: float) -> float:
    """Smooth an image slightly, in place, by what of the Gaussian lies inside; returns the share of white noise left."""
    taps = gaussian_taps(_widths(width, image.shape))
    smooth(image[None], taps)
    for axis, half in enumerate(taps):
        n = image.shape[axis]
        inside = np.convolve(np.ones(n), [*half[:0:-1], *half])[len(half) - 1 :][:n]
        for k in np.flatnonzero(inside < 1 - 1e-6):
            np.moveaxis(image, axis, 0)[k] /= np.float32(inside[k])
    return float(np.prod(2 * (taps**2).sum(1) - taps[:, 0] ** 2))


def _start(initial: Initial, level: _Level) -> np.ndarray:
    """The start field on a level's displacement grid, in voxels of the level."""
    if initial.field is None or initial.field_grid is None:
        return np.zeros((3, *level.field_grid.shape), np.float32)
    u = resample_field(initial.field, initial.field_grid, level.field_grid)
    u /= np.asarray(level.grid.spacing, np.float32)[:, None, None, None]
    return u


def _carry_on(u: np.ndarray, initial: Initial, coarse: _Level, level: _Level, floor: float) -> np.ndarray:
    """What one level found, on the displacement grid of the next.

    What was added to the start is carried on, to the start as the finer grid shows it: its detail must not be
    lost. Where both together come near a fold, all of u is carried on.
    """
    grids = coarse.field_grid, level.field_grid, level.halved
    if initial.field is not None:
        both = _finer(u - _start(initial, coarse), *grids)
        both += _start(initial, level)
        if not folds(both, CELL, floor):
            return both
    return _finer(u, *grids)


def _unchanged(initial: Initial, grid: Grid) -> Result:
    """The start as result: for a block with nothing to compare."""
    if initial.field is None or initial.field_grid is None:
        return Result(np.zeros((3, *grid.shape), np.float32), grid)
    u = resample_field(initial.field, initial.field_grid, grid)
    return Result(u, grid, minimal_jacobian=minimal_jacobian(u, grid.spacing))


def _refine(
    level: _Level, u: np.ndarray, options: NativeSettings, scratch: _Scratch
) -> tuple[np.ndarray, dict[str, Any]]:
    """Run one level from u; returns the new u, which may lie in the scratch, and the level's record."""
    moved = scratch.vectors(level.field_grid.shape)
    # The more of the images is white noise, the stricter on windows that fit badly.
    robustness = options.at(options.robustness, level.number) / (1 + 20 * level.noise)
    stiffness = options.at(options.stiffness, level.number)
    tolerance = options.at(options.tolerance, level.number)
    finest = level.number == options.levels[-1]
    taps = reached = None
    cells = level.pair.spans
    scores: list[float] = []
    weakest = 0.0
    iterations = limited = 0
    for _ in range(options.at(options.iterations, level.number)):
        equations = scratch.equations(level.equations_shape)
        score, weight = level.pair.normal_equations(u, robustness, equations)
        if weight <= 0:
            break
        scores.append(score / weight)
        uncertainty = Uncertainty.measure(equations, cells, u, 1 - scores[-1], level.noise)
        if taps is None or reached is None:
            # On coarser levels u is still to be found: its bending so far does not tell how wide is best.
            wider = uncertainty.widening() if finest else math.sqrt(1 + 3 * min(level.noise, MOST_NOISE))
            if level.in_fields and uncertainty.bends_much:
                level.in_fields = False
                equations = scratch.equations(level.equations_shape)
                level.pair.normal_equations(u, robustness, equations)
            spans = spans_of_fields(cells) if level.in_fields else cells
            edge = 1 if level.in_fields else FIELD
            taps = _taps(options.at(options.sigma, level.number) * wider, level)
            reached = widen(spans, taps.shape[1] - 1, equations.shape[3])
        whole, half = sum_fields(equations, spans, edge)
        _smooth_each(equations, taps, spans, reached)
        alpha = max(uncertainty.prior_strength(stiffness), weakest)
        if iterations == 1 and not finest:
            # The first step may start from a u that does not bend at all.
            weakest = alpha / MOST_FALL
        share = confirmed_share(equations, spans, taps, whole, half, options.damping + 6 * alpha, edge)
        settled = confirmed_texture(share, equations, spans, edge) < SETTLED
        step = _step(level, equations, reached, u, alpha, options, moved)
        take_share(step, share, edge * FIELDS)
        cuts = _compose_unfolded(u, step, moved, options.jacobian_floor)
        limited += cuts != 0
        if cuts is None:
            break
        u, moved = moved, u
        iterations += 1
        # The step was paid for when its equations were summed: it is taken, and then the level ends.
        if len(scores) > 1:
            gain = scores[-1] - scores[-2]
            if gain < tolerance or (settled and gain < SETTLED_GAIN):
                break
    return u, {
        "level": level.number,
        "iterations": iterations,
        "before": scores[0] if scores else 0.0,
        "after": scores[-1] if scores else 0.0,
        "limited": limited,
    }


def _step(
    level: _Level,
    equations: np.ndarray,
    reached: np.ndarray,
    u: np.ndarray,
    alpha: float,
    options: NativeSettings,
    scratch: np.ndarray,
) -> np.ndarray:
    """The step of `native_solver`, in place of equations; of fields in their own unit, two voxels of the level."""
    weights = (options.damping, alpha, options.tension, options.volume, options.step_limit)
    if level.in_fields:
        u = np.stack([halve(component) for component in u])
        u *= np.float32(0.5)
        equations[6:] *= np.float32(0.5)
        scratch = np.empty_like(u)
        # Lengths are halved and the grid is twice as coarse: derivatives of first order are the same, those of second
        # order twice as large. All is divided by 4.
        weights = (
            options.damping,
            alpha / 16,
            4 * options.tension,
            options.volume / 4,
            options.step_limit / 2,
        )
    return solve_with_prior(equations, reached, u, *weights, scratch)


def _taps(sigma: float, level: _Level) -> np.ndarray:
    """The Gaussian over the equations; the solver expects sums over 2^3 voxels.

    Across a plane there is one, and a field, which has twice as many along each axis, brings the mean of its cells.
    """
    shape = level.grid.shape
    taps = gaussian_taps(_widths(sigma / 2 if level.in_fields else sigma, shape))
    flat = np.asarray(shape) == 1
    taps[flat] *= 2
    if level.in_fields:
        taps[~flat] /= 2
    return taps


def _smooth_each(equations: np.ndarray, taps: np.ndarray, spans: np.ndarray, reached: np.ndarray) -> None:
    """Smooth each equation, in the block's threads."""

    def work(k: int) -> None:
        smooth_within(equations[k : k + 1], taps, spans, reached)

    share_out(work, range(len(equations)))


def _compose_unfolded(u: np.ndarray, step: np.ndarray, out: np.ndarray, floor: float) -> int | None:
    """Compose u with a step, of cells or of fields, into `out`, and cut the step where the result would fold.

    Returns
    -------
    How often the step was cut; None when cutting did not help.
    """
    compose(u, step, out)
    if not folds(out, CELL, floor):
        return 0
    # A u that is worse than the floor already must not get worse still.
    limit = min(floor, minimal_jacobian(u, CELL))
    if step.shape != u.shape:
        step = upsample(step, u.shape[1:], 2.0)
    bad = np.zeros(u.shape[1:], np.bool_)
    for cuts in range(1, 4):
        bad |= find_folds(out, CELL, limit)
        # Zero within some samples of a fold (there u stays as it was, above the limit), smoothly up to 1.
        taps = gaussian_taps(0.5 * 2**cuts)
        near = maximum_filter(bad, size=2 * taps.shape[1] + 3).astype(np.float32)
        smooth(near[None], taps)
        step *= 1 - near
        compose(u, step, out)
        if not folds(out, CELL, limit):
            return cuts
    return None
