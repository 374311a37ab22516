"""The native deformable engine: local correlation, Gauss-Newton steps, coarse to fine, one thread.

Each level repeats: sum the normal equations of the local affine-intensity fit in one pass over the images
(`native_pass`), smooth them by a Gaussian, solve them together with a prior on the total displacement (`native_prior`)
for a step v (`native_solver`), compose u <- v + u o (id + v) (`native_field`). Smoothed equations see beyond single cells, so
there is no step length and no line search, and a level needs two to twelve steps. A level ends when the mean
squared correlation gains less than `NativeSettings.tolerance`, or little while steps are confirmed in parts of the images only.
What keeps noise from being fitted is the prior, its strength measured on the pair, and that a step is taken only as far as
cells that it was not made from confirm it (`native_validation`). Where the level before the finest shows that these follow what the
images do not have in common, the finest is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from weft.grid import Grid, Triple, breadth_of
from weft.registration.backends.native_channels import Channels
from weft.registration.backends.native_images import Statistics, block_statistics, intensity_statistics
from weft.registration.backends.native_levels import (
    CELL,
    Level,
    carry_on,
    finer,
    halvings_of,
    pyramid,
    start_field,
)
from weft.registration.backends.native_settings import NativeSettings
from weft.registration.backends.native_steps import Scratch, equations_shape, refine
from weft.registration.contract import Initial, Masks, Result
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

SMALLEST_IMAGE = 4  # voxels along it at the finest level
CHANCE = 0.025  # mean rho^2 of independent noise, .022 in windows of 5^3 of presmoothed voxels, and some more
VOXEL_BYTES = 4  # of an image, as read at most and as scaled, and of its weights
FIELD_BYTES = 12.0  # per voxel of the finest level: equations, fields and what kernels hold, on its cells
START_BYTES = 2.1  # per voxel of the block: the start field, on every second voxel and somewhat beyond


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
    breadth = min(breadth_of(fixed_grid.shape), breadth_of(moving_grid.shape)) >> options.levels[-1]
    found: list[tuple[list[Level], float]] = []
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
        levels = pyramid(images, fixed_grid, moving_grid, initial.affine, masks, statistics, options)
        if min(levels[-1].floors) > 0:
            found.append((levels, weight))
    if not found:
        return _unchanged(initial, result_grid)
    levels = _together(found)
    del found
    level, scratch = levels[0], Scratch(levels[-1])
    start = start_field(initial, level)
    u, record, resolved = refine(level, start.copy(), options, scratch)
    metrics = [record]
    while len(levels) > 1 and not resolved:
        # The images of a level are let go when it has ended.
        coarse, level = levels.pop(0), levels[0]
        grids = coarse.field_grid, level.field_grid, level.halved
        coarse_start, start = start, start_field(initial, level)
        if initial.field is None:
            u = finer(u, *grids)
        else:
            u = carry_on(u, coarse_start, start, *grids, options.jacobian_floor)
        del coarse, coarse_start
        u, record, resolved = refine(level, u, options, scratch)
        metrics.append(record)
    equations = scratch.equations(equations_shape(level, in_fields=True))
    before, after = level.pair.similarity(start, u, equations)
    if not any(record["iterations"] for record in metrics):
        return _unchanged(initial, result_grid)
    if after <= max(before, CHANCE):
        # The start is a candidate too, and the only one where noise is compared with noise.
        return replace(
            _unchanged(initial, result_grid), metrics=metrics, metric_before=before, metric_after=before
        )

    coarser = level.field_grid
    for grid, factors in halvings_of(fixed_grid, level.number)[-2::-1]:
        cells = grid.coarsen((2, 2, 2))
        u = finer(u, coarser, cells, factors)
        coarser = cells
    u *= np.asarray(fixed_grid.spacing, np.float32)[:, None, None, None]
    return Result(
        displacement=u,
        grid=result_grid,
        metrics=metrics,
        iterations=sum(record["iterations"] for record in metrics),
        metric_before=before,
        metric_after=after,
    )


def predicted_memory(
    fixed_shape: tuple[int, ...], moving_shape: tuple[int, ...], settings: Mapping[str, Any]
) -> int:
    """Most bytes that `register` and its arguments take at once: arrays, not the interpreter.

    There are weights for both images and a start field: blocks of a stage get weights without a mask too, where voxels
    are saturated or no tile covers them. Images as read are let go when they are scaled, all channels together.

    Parameters
    ----------
    fixed_shape, moving_shape
        Voxels (z, y, x), or (c, z, y, x), of the block with its halo and of the part of the moving image read for it.
    settings
        Fields of `NativeSettings`.

    Raises
    ------
    ValueError
        For bad settings.
    """
    options = NativeSettings.from_mapping(settings)
    channels = math.prod(fixed_shape[:-3])
    fixed, moving = math.prod(fixed_shape[-3:]), math.prod(moving_shape[-3:])
    plane = 1 in fixed_shape[-3:]
    if plane:  # held twice, for the kernels to interpolate
        fixed, moving = 2 * fixed, 2 * moving
    image = weights = VOXEL_BYTES * (fixed + moving)
    coarser = 1 / 3 if plane else 1 / 7  # of the voxels of a level
    start = START_BYTES * fixed
    read = VOXEL_BYTES * moving if channels == 1 else channels * image
    scaling = read + channels * image + weights + (channels - 1) * coarser * (image + weights)
    running = channels * (1 + coarser) * image + (1 + channels * coarser) * weights
    running += FIELD_BYTES * fixed / 8 ** options.levels[-1]
    return math.ceil(start + max(scaling, running))


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
    return "12"


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


def _together(found: list[tuple[list[Level], float]]) -> list[Level]:
    """The levels of all channels as one."""
    if len(found) == 1:
        return found[0][0]
    weights = [weight for _, weight in found]
    return [
        replace(level, prepare=partial(_side_by_side, [levels[n] for levels, _ in found], weights))
        for n, level in enumerate(found[0][0])
    ]


def _side_by_side(levels: list[Level], weights: list[float]) -> Channels:
    """What the channels compare at one level."""
    return Channels([level.pair for level in levels], weights)  # type: ignore[misc]


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


def _unchanged(initial: Initial, grid: Grid) -> Result:
    """The start as result: for a block with nothing to compare."""
    if initial.field is None or initial.field_grid is None:
        return Result(np.zeros((3, *grid.shape), np.float32), grid)
    return Result(resample_field(initial.field, initial.field_grid, grid), grid)
