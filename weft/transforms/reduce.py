"""Reduce: many blocks' displacement fields become one, without seams."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numba
import numpy as np

from weft.grid import Grid
from weft.image import Region
from weft.transforms.interpolate import check_field, resample_field
from weft.transforms.model import Displacements


class BlockField(NamedTuple):
    """What one block says about its part of the volume.

    Parameters
    ----------
    grid
        Of the block with its halo, in the fixed space. Its samples are samples of the target grid, or lie
        elsewhere and are interpolated.
    field
        The *total* u, (3, z, y, x) float32, um, or a callable that loads it; None (or a callable that gives
        None) for a block that was empty or failed.
    core
        The part of the target grid that is the block's own: slices (z, y, x). Cores tile the target.
    """

    grid: Grid
    field: np.ndarray | Callable[[], np.ndarray | None] | None
    core: Region


def reduce_blocks(
    blocks: Iterable[BlockField], target: Grid, base: Displacements | np.ndarray | None = None
) -> np.ndarray:
    """Blend the blocks' fields by a partition of unity.

    A block's weight is 1 inside, falls as sin^2 over the overlap with a neighbour and is 0 at the halo's
    border; at the border of the volume it stays 1. A block without a field counts with the same weights
    and the displacement of the stage before, so that it leaves no kink. Memory: the target, its weights and
    one block.

    Parameters
    ----------
    blocks
        All blocks of the plan, those without a field included, in any order.
    target
        Grid of the result.
    base
        Displacement of the stage before, on any grid (an array: on the target grid); None for zero.

    Returns
    -------
    (3, z, y, x) float32, um, components z, y, x. The same bytes whatever the order of the blocks.

    Raises
    ------
    ValueError
        When the cores do not tile the target, or a block's field does not lie on its grid or cover its core.
    """
    if isinstance(base, np.ndarray):
        base = Displacements(base, target)
    ordered = sorted(
        (BlockField(*block) for block in blocks), key=lambda block: _bounds(block.core, target)[0]
    )
    _check_tiling([_bounds(block.core, target) for block in ordered], target)
    total = np.zeros((3, *target.shape), np.float32)
    weights = np.zeros(target.shape, np.float32)
    for block in ordered:
        core = _bounds(block.core, target)
        padded = _covered(block.grid, target)
        if any(p[0] > c[0] or p[1] < c[1] for p, c in zip(_axes(padded), _axes(core), strict=True)):
            raise ValueError(
                f"the block of core {core} has a field on {padded} of the target grid only; wanted all of its core"
            )
        part = tuple(slice(a, b) for a, b in zip(*padded, strict=True))
        field = _block_field(block, target.crop(part), base)  # type: ignore[arg-type]
        windows = [_window(*axis) for axis in zip(_axes(padded), _axes(core), target.shape, strict=True)]
        _accumulate(total, weights, np.array(padded[0]), field, *windows)
    _normalise(total, weights)
    return total


Bounds = tuple[tuple[int, ...], tuple[int, ...]]  # first index, one after the last, per axis


def _bounds(region: Region, grid: Grid) -> Bounds:
    ends = [part.indices(n)[:2] for part, n in zip(region, grid.shape, strict=True)]
    return tuple(e[0] for e in ends), tuple(e[1] for e in ends)


def _axes(bounds: Bounds) -> list[tuple[int, int]]:
    return list(zip(*bounds, strict=True))


def _check_tiling(cores: list[Bounds], target: Grid) -> None:
    count = np.zeros(target.shape, np.uint8)
    for first, last in cores:
        count[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] += 1
    wrong = int((count != 1).sum())
    if wrong:
        raise ValueError(
            f"the cores of {len(cores)} blocks do not tile the target grid of shape {target.shape}: "
            f"{int((count == 0).sum())} samples are in none, {int((count > 1).sum())} in several"
        )


def _covered(grid: Grid, target: Grid) -> Bounds:
    """The target's samples whose centres lie within a block's voxels."""
    first = np.ceil(target.to_index(grid.lower) - 1e-3).astype(int)
    last = np.floor(target.to_index(grid.upper) + 1e-3).astype(int) + 1
    first, last = np.maximum(first, 0), np.minimum(last, target.shape)
    return tuple(int(i) for i in first), tuple(int(i) for i in last)


def _block_field(block: BlockField, part: Grid, base: Displacements | None) -> np.ndarray:
    """The block's displacement on its part of the target grid."""
    field = block.field() if callable(block.field) else block.field
    if field is None:
        if base is None:
            return np.zeros((3, *part.shape), np.float32)
        return resample_field(base.field, base.grid, part)
    check_field(field, block.grid)
    if not np.isfinite(field).all():
        raise ValueError(
            f"the block of core {block.core} has displacements that are not finite; wanted None for a failed block"
        )
    return resample_field(np.asarray(field), block.grid, part)


def _window(padded: tuple[int, int], core: tuple[int, int], n: int) -> np.ndarray:
    """Weights along one axis: sin^2 ramps centred on the core's faces, as wide as twice the halo."""
    centre = np.arange(*padded) + 0.5
    ramp = np.ones(len(centre))
    if core[0] > 0:
        halo = max(core[0] - padded[0], 0.5)
        ramp *= np.clip((centre - (core[0] - halo)) / (2 * halo), 0, 1)
    if core[1] < n:
        halo = max(padded[1] - core[1], 0.5)
        ramp *= np.clip(((core[1] + halo) - centre) / (2 * halo), 0, 1)
    return (np.sin(ramp * np.pi / 2) ** 2).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _accumulate(total, weights, first, field, wz, wy, wx):
    for z in range(field.shape[1]):
        for y in range(field.shape[2]):
            w = wz[z] * wy[y]
            row = weights[first[0] + z, first[1] + y, first[2] : first[2] + field.shape[3]]
            for x in range(row.size):
                row[x] += w * wx[x]
            for c in range(3):
                sums = total[c, first[0] + z, first[1] + y, first[2] : first[2] + field.shape[3]]
                values = field[c, z, y]
                for x in range(row.size):
                    sums[x] += w * wx[x] * values[x]


@numba.njit(cache=True, nogil=True)
def _normalise(total, weights):
    for c in range(3):
        for z in range(weights.shape[0]):
            for y in range(weights.shape[1]):
                for x in range(weights.shape[2]):
                    total[c, z, y, x] /= weights[z, y, x]
