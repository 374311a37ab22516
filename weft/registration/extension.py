"""Extension: what the blocks around a block found, carried on smoothly over that block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from weft.grid import Grid
from weft.registration.agreement import Load, neighbours
from weft.registration.plan import block_field_grid, block_regions
from weft.transforms.interpolate import resample_field
from weft.transforms.model import Displacements

SMALLEST = 8  # samples along the longest axis of the coarsest grid that is solved on, at least
STEPS = 300, 30  # conjugate-gradient steps on the coarsest grid, and on each finer one
FADE = 8.0  # samples of the field from the nearest block over which a correction fades to the stage before


def extend_neighbours(
    plan: Mapping[str, Any], name: str, grid: Grid, load: Load, before: Displacements | None
) -> tuple[np.ndarray, np.ndarray]:
    """A block's displacement as its neighbours have it, carried on where they do not reach.

    What the neighbours add to the stage before, r, is the minimum of

        sum c |r - d|^2 + |Laplacian r|^2 + |r / FADE^2|^2

    with d the mean of their corrections, weighted by c, their confidence: 1 in their cores, falling to 0 at the
    borders of their halos. So r is theirs where they are sure, bends as little as possible between them, and fades
    to the stage before far from all of them. Solved by conjugate gradients on grids from coarse to fine.

    Parameters
    ----------
    plan
        As `weft.registration.plan.plan_stage` makes it.
    name
        The block; its own field is not asked for.
    grid
        Where displacements are wanted: samples of the stage's field in and around the block.
    load
        Gives a neighbour's total displacement on the grid of its field; None for one that has none or is not
        to be trusted.
    before
        Displacements of the stage before; None for zero.

    Returns
    -------
    u, confidence
        (3, z, y, x) float32 um, total; (z, y, x) float32, the neighbours' largest confidence, 0 to 1.
    """
    total = np.zeros((3, *grid.shape), np.float32)
    weights = np.zeros(grid.shape, np.float32)
    confidence = np.zeros(grid.shape, np.float32)
    for other in neighbours(plan, name):
        own = block_field_grid(plan, other)
        part = _inside(own, grid)
        if part is None:
            continue
        u = load(other)
        if u is None:
            continue
        there = grid.crop(part)
        weight = _confidence(plan, other, there)
        correction = resample_field(u, own, there)
        if before is not None:
            correction -= resample_field(before.field, before.grid, there)
        total[(slice(None), *part)] += weight * correction
        weights[part] += weight
        confidence[part] = np.maximum(confidence[part], weight)
    wanted = total / np.maximum(weights, 1e-6)
    u = _minimise(wanted, confidence) if confidence.any() else np.zeros_like(total)
    if before is not None:
        u += resample_field(before.field, before.grid, grid)
    return u, confidence


def _inside(own: Grid, grid: Grid) -> tuple[slice, slice, slice] | None:
    """The samples of a grid that lie within the extent of a block's field."""
    first = np.maximum(np.ceil(grid.to_index(own.lower) - 1e-3).astype(int), 0)
    last = np.minimum(np.floor(grid.to_index(own.upper) + 1e-3).astype(int) + 1, grid.shape)
    if (last <= first).any():
        return None
    z, y, x = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    return z, y, x


def _confidence(plan: Mapping[str, Any], name: str, grid: Grid) -> np.ndarray:
    """1 in a block's core and at the volume's border, falling linearly to 0 at the border of the halo."""
    stage = Grid.from_json(plan["grid"])
    core, padded = block_regions(plan, name)
    weight = np.ones(grid.shape, np.float32)
    for axis in range(3):
        place = grid.origin[axis] + grid.spacing[axis] * np.arange(grid.shape[axis])
        voxel = (place - stage.origin[axis]) / stage.spacing[axis] + 0.5  # distance from the volume's face
        ramp = np.ones(grid.shape[axis])
        if padded[axis].start < core[axis].start:
            ramp = np.minimum(ramp, (voxel - padded[axis].start) / (core[axis].start - padded[axis].start))
        if padded[axis].stop > core[axis].stop:
            ramp = np.minimum(ramp, (padded[axis].stop - voxel) / (padded[axis].stop - core[axis].stop))
        shape = [1, 1, 1]
        shape[axis] = -1
        weight *= np.clip(ramp, 0, 1).astype(np.float32).reshape(shape)
    return weight


def _minimise(wanted: np.ndarray, confidence: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """The minimum, (3, z, y, x) float32, on a grid `scale` times as coarse as the field's."""
    shape = confidence.shape
    start, steps = np.zeros_like(wanted), STEPS[0]
    if max(shape) >= 2 * SMALLEST:
        sums, weights = _halve(wanted * confidence), _halve(confidence)
        coarse = _minimise(sums / np.maximum(weights, 1e-6), weights, 2 * scale)
        unit = Grid(shape, (1.0, 1.0, 1.0))
        steps = STEPS[1]
        start = resample_field(coarse, unit.coarsen((2, 2, 2)), unit)
    bending = np.float32(scale**-4)
    fade = np.float32(FADE**-4)

    def operator(r: np.ndarray) -> np.ndarray:
        return (confidence + fade) * r + bending * _laplacian(_laplacian(r))

    return _conjugate_gradients(operator, confidence * wanted, start, steps)


def _conjugate_gradients(operator: Any, right: np.ndarray, x: np.ndarray, steps: int) -> np.ndarray:
    residual = right - operator(x)
    direction = residual.copy()
    # Sums by NumPy's own pairwise addition: no BLAS, whose threads could change their order.
    square = (residual * residual).sum(dtype=np.float64)
    stop = 1e-10 * max((right * right).sum(dtype=np.float64), 1e-20)
    for _ in range(steps):
        if square <= stop:
            break
        image = operator(direction)
        step = np.float32(square / (direction * image).sum(dtype=np.float64))
        x = x + step * direction
        residual -= step * image
        before, square = square, (residual * residual).sum(dtype=np.float64)
        direction = residual + np.float32(square / before) * direction
    return x


def _laplacian(r: np.ndarray) -> np.ndarray:
    """Second differences along z, y, x; no flux through the border, so that a constant bends nowhere."""
    out = np.zeros_like(r)
    for axis in range(1, 4):
        step = np.diff(r, axis=axis)
        low: list[slice] = [slice(None)] * 4
        high = list(low)
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        out[tuple(low)] += step
        out[tuple(high)] -= step
    return out


def _halve(values: np.ndarray) -> np.ndarray:
    """Means of 2^3 samples along the last three axes, the border repeated."""
    for axis in range(values.ndim - 3, values.ndim):
        n = values.shape[axis]
        if n % 2:
            values = np.concatenate([values, np.take(values, [n - 1], axis)], axis)
        even: list[slice] = [slice(None)] * values.ndim
        odd = list(even)
        even[axis], odd[axis] = slice(0, None, 2), slice(1, None, 2)
        values = (values[tuple(even)] + values[tuple(odd)]) / 2
    return values
