"""Reduce: many blocks' displacement fields become one, without seams."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, get_args

import numba
import numpy as np

from weft.grid import Grid
from weft.image import Region
from weft.transforms.interpolate import check_field, resample_field
from weft.transforms.model import Displacements
from weft.transforms.rigid import Rigid, fit_rigid, mean_rigid

Method = Literal["distance_weighted", "simple_mean", "rigid_consensus", "collection"]


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
    blocks: Iterable[BlockField],
    target: Grid,
    base: Displacements | np.ndarray | None = None,
    *,
    method: Method = "distance_weighted",
) -> np.ndarray:
    """Combine the blocks' fields.

    ``distance_weighted``
        A partition of unity: a block's weight is 1 inside, falls as sin^2 over the overlap with a neighbour
        and is 0 at the halo's border; at the border of the volume it stays 1.
    ``simple_mean``
        The mean of all blocks whose halo holds the sample: smooth noise, but steps at the halos' borders.
    ``collection``
        The field of the block whose core holds the sample, without blending: for looking at what single
        blocks found, not for results.
    ``rigid_consensus``
        One rigid motion for the whole volume: the mean of those that fit the blocks' fields best, weighted
        by the size of the cores (see `weft.transforms.rigid`). Nothing else of the fields, and of the stage
        before, is left.

    A block without a field counts with the same weights and the displacement of the stage before, so that it
    leaves no kink (in a rigid consensus it has no say). Memory: the target, its weights and one block.

    Parameters
    ----------
    blocks
        All blocks of the plan, those without a field included, in any order.
    target
        Grid of the result.
    base
        Displacement of the stage before, on any grid (an array: on the target grid); None for zero.
    method
        One of the above.

    Returns
    -------
    (3, z, y, x) float32, um, components z, y, x. The same bytes whatever the order of the blocks.

    Raises
    ------
    ValueError
        When the cores do not tile the target, a block's field does not lie on its grid or cover its core, or
        there is no such method.
    """
    if method not in get_args(Method):
        raise ValueError(f"there is no method {method!r}; wanted one of {', '.join(get_args(Method))}")
    if isinstance(base, np.ndarray):
        base = Displacements(base, target)
    ordered = sorted(
        (BlockField(*block) for block in blocks), key=lambda block: _bounds(block.core, target)[0]
    )
    _check_tiling([_bounds(block.core, target) for block in ordered], target)
    if method == "rigid_consensus":
        return _rigid_consensus(ordered, target, base)
    total = np.zeros((3, *target.shape), np.float32)
    weights = np.zeros(target.shape, np.float32)
    for block in ordered:
        core = _bounds(block.core, target)
        padded = _covered(block, target)
        field = _block_field(block, target.crop(_region(padded)), base)
        windows = [
            _window(*axis, method) for axis in zip(_axes(padded), _axes(core), target.shape, strict=True)
        ]
        _accumulate(total, weights, np.array(padded[0]), field, *windows)
    _normalise(total, weights)
    return total


def _rigid_consensus(blocks: list[BlockField], target: Grid, base: Displacements | None) -> np.ndarray:
    """The field of the mean of the blocks' rigid motions; that of the stage before when no block has a say."""
    motions: list[Rigid] = []
    sizes: list[int] = []
    for block in blocks:
        block = block._replace(field=block.field() if callable(block.field) else block.field)
        if block.field is None:
            continue
        _covered(block, target)
        core = target.crop(block.core)
        motions.append(fit_rigid(_block_field(block, core, None), core))
        sizes.append(core.size)
    if motions:
        return mean_rigid(motions, np.array(sizes, float)).field(target)
    if base is None:
        return np.zeros((3, *target.shape), np.float32)
    return resample_field(base.field, base.grid, target)


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


def _region(bounds: Bounds) -> Region:
    z, y, x = (slice(a, b) for a, b in zip(*bounds, strict=True))
    return z, y, x


def _covered(block: BlockField, target: Grid) -> Bounds:
    """The target's samples whose centres lie within a block's voxels, which must be all of its core."""
    first = np.ceil(target.to_index(block.grid.lower) - 1e-3).astype(int)
    last = np.floor(target.to_index(block.grid.upper) + 1e-3).astype(int) + 1
    first, last = np.maximum(first, 0), np.minimum(last, target.shape)
    core = _bounds(block.core, target)
    # The centre of a coarse last sample may lie beyond the volume, and so beyond every block.
    last = np.where(np.array(core[1]) == target.shape, target.shape, last)
    padded = tuple(int(i) for i in first), tuple(int(i) for i in last)
    if any(p[0] > c[0] or p[1] < c[1] for p, c in zip(_axes(padded), _axes(core), strict=True)):
        raise ValueError(
            f"the block of core {core} has a field on {padded} of the target grid only; wanted all of its core"
        )
    return padded


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


def _window(padded: tuple[int, int], core: tuple[int, int], n: int, method: Method) -> np.ndarray:
    """Weights along one axis: sin^2 ramps centred on the core's faces, as wide as twice the halo, or all or none."""
    centre = np.arange(*padded) + 0.5
    ramp = np.ones(len(centre))
    if method == "simple_mean":
        return ramp.astype(np.float32)
    if method == "collection":
        return ((centre > core[0]) & (centre < core[1])).astype(np.float32)
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
