"""Cut a grid into blocks with halos, name them, find them again on other grids, and deal the names to batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from weft.grid import Grid

Region = tuple[slice, slice, slice]


def cut(shape: Sequence[int], block: Sequence[int]) -> list[str]:
    """Names ``i.j.k`` of the blocks that tile ``shape``, in z-order (Morton order), so that neighbours stay close.

    Parameters
    ----------
    shape, block
        Voxels per axis, any number of axes; the last block of an axis may be smaller.
    """
    counts = [range(-(-n // b)) for n, b in zip(shape, block, strict=True)]
    indices = sorted(itertools.product(*counts), key=_morton)
    return [".".join(map(str, index)) for index in indices]


def index_of(name: str) -> tuple[int, ...]:
    """Indices of a block along the axes."""
    return tuple(int(part) for part in name.split("."))


def region(name: str, shape: Sequence[int], block: Sequence[int]) -> tuple[slice, ...]:
    """Slices of a block, clipped to ``shape``."""
    return tuple(
        slice(i * b, min((i + 1) * b, n)) for i, n, b in zip(index_of(name), shape, block, strict=True)
    )


def with_halo(core: Sequence[slice], halo: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """``core`` enlarged by ``halo`` voxels on either side, clipped to ``shape``."""
    return tuple(
        slice(max(c.start - h, 0), min(c.stop + h, n)) for c, h, n in zip(core, halo, shape, strict=True)
    )


def deal(names: Sequence[str], batch: int, batches: int) -> list[str]:
    """The names of one batch: contiguous, and batches differ by at most one name."""
    n = len(names)
    return list(names[n * batch // batches : n * (batch + 1) // batches])


def block_at(plan: Mapping[str, Any], point: np.ndarray) -> str:
    """Name of a stage's block whose core holds a point, (3,) um; the nearest one outside of the volume."""
    return ".".join(str(int(i[0])) for i in _block_indices(plan, [np.atleast_1d(v) for v in point]))


def blocks_along_axes(plan: Mapping[str, Any] | None, grid: Grid) -> list[np.ndarray]:
    """Index of a stage's block along each axis for every voxel of a grid in the fixed space; all 0 without a plan."""
    if plan is None:
        return [np.zeros(n, int) for n in grid.shape]
    axes = zip(grid.origin, grid.spacing, grid.shape, strict=True)
    return _block_indices(plan, [o + s * np.arange(n) for o, s, n in axes])


def within_blocks(blocks: Sequence[np.ndarray], part: Region) -> Iterator[tuple[str, Region]]:
    """Names of the blocks (`blocks_along_axes`) that a part of the grid meets, and the slices of each within the part."""
    runs = []
    for index, p in zip(blocks, part, strict=True):
        along = index[p]
        starts = np.r_[0, np.flatnonzero(np.diff(along)) + 1]
        stops = np.r_[starts[1:], len(along)]
        runs.append([(int(along[a]), slice(int(a), int(b))) for a, b in zip(starts, stops, strict=True)])
    for z, y, x in itertools.product(*runs):
        yield f"{z[0]}.{y[0]}.{x[0]}", (z[1], y[1], x[1])


def _block_indices(plan: Mapping[str, Any], positions: list[np.ndarray]) -> list[np.ndarray]:
    """Index of the block along each axis for positions along it, um."""
    grid = Grid.from_json(plan["grid"])
    found = []
    for axis, (position, edge) in enumerate(zip(positions, plan["block"], strict=True)):
        voxel = np.floor((position - grid.lower[axis]) / grid.spacing[axis] + 1e-6)
        found.append(np.clip(voxel, 0, grid.shape[axis] - 1).astype(int) // edge)
    return found


def _morton(index: tuple[int, ...]) -> int:
    """Interleaved bits of the indices."""
    code = 0
    for bit in range(max(index).bit_length()):
        for axis, i in enumerate(index):
            code |= ((i >> bit) & 1) << (bit * len(index) + len(index) - 1 - axis)
    return code
