"""Reduce: many blocks' displacement fields become one, without seams."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import numba
import numpy as np

from weft.grid import Grid
from weft.image import Region, box
from weft.transforms.interpolate import Field, check_field, resample_field
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
        The *total* u, (3, z, y, x) float32, um, or a callable that opens it; None (or a callable that gives
        None) for a block that was empty or failed.
    core
        The part of the target grid that is the block's own: slices (z, y, x). Cores tile the target.
    """

    grid: Grid
    field: Field | Callable[[], Field | None] | None
    core: Region


class BlendedField:
    """The blocks' fields as one `weft.transforms.interpolate.Field`: every part is blended when it is asked for.

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
    leaves no kink (in a rigid consensus it has no say). A part costs reading what the blocks and the stage before say
    of it, and memory for it and for one block's share: neither grows with the number of blocks or the volume.

    Parameters
    ----------
    blocks
        All blocks of the plan, those without a field included, in any order: the bytes are the same.
    target
        Grid of the result.
    base
        Displacement of the stage before, on any grid (a field: on the target grid); None for zero.
    method
        One of the above.

    Raises
    ------
    ValueError
        When the cores do not tile the target, a block's field does not lie on its grid or cover its core (or holds
        values that are not finite: told when it is read), or there is no such method.
    """

    def __init__(
        self,
        blocks: Iterable[BlockField],
        target: Grid,
        base: Displacements | Field | None = None,
        *,
        method: Method = "distance_weighted",
    ) -> None:
        if method not in get_args(Method):
            raise ValueError(f"there is no method {method!r}; wanted one of {', '.join(get_args(Method))}")
        self.grid = target
        self._method = method
        self._base = base if base is None or isinstance(base, Displacements) else Displacements(base, target)
        cored = [(_bounds(block.core, target), BlockField(*block)) for block in blocks]
        cored.sort(key=lambda pair: pair[0][0])
        self._blocks = [block for _, block in cored]
        self._cores = [core for core, _ in cored]
        _check_tiling(self._cores, target)
        self._padded = np.array([_covered(block, core, target) for core, block in cored], np.int64).reshape(
            -1, 2, 3
        )

    @property
    def seams(self) -> list[list[list[int]]]:
        """Where seams would lie: per kind (faces of the cores, ends of the halos) and axis, the samples after them."""
        bounds = np.array(self._cores, np.int64).reshape(-1, 2, 3), self._padded
        return [
            [sorted({*ends[:, :, axis].ravel().tolist()} - {0, n}) for axis, n in enumerate(self.grid.shape)]
            for ends in bounds
        ]

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, z, y, x)."""
        return (3, *self.grid.shape)

    def __getitem__(self, region: Any) -> np.ndarray:
        """The blended u, (3, z, y, x) float32 um, of the part ``(slice(None), z, y, x)``, slices with steps of 1."""
        parts = region[1:] if isinstance(region, tuple) else ()
        parts = (*parts, *(slice(None),) * (3 - len(parts)))
        first, last = (np.array(ends) for ends in _bounds(parts, self.grid))
        if self._method == "rigid_consensus":
            return self._rigid(self.grid.crop(parts))
        total = np.zeros((3, *(last - first)), np.float32)
        weights = np.zeros(last - first, np.float32)
        meets = ((self._padded[:, 0] < last) & (self._padded[:, 1] > first)).all(axis=1)
        for i in np.flatnonzero(meets).tolist():
            low, high = np.maximum(self._padded[i, 0], first), np.minimum(self._padded[i, 1], last)
            common = box(low, high)
            field = self._displacement(i, self.grid.crop(common))
            windows = [
                _window((int(p[0]), int(p[1])), (int(c[0]), int(c[1])), n, self._method)[
                    s.start - p[0] : s.stop - p[0]
                ]
                for p, c, n, s in zip(
                    self._padded[i].T, np.transpose(self._cores[i]), self.grid.shape, common, strict=True
                )
            ]
            _accumulate(total, weights, low - first, field, *windows)
        _normalise(total, weights)
        return total

    def _displacement(self, i: int, part: Grid) -> np.ndarray:
        """What a block says on a part of the target grid, or what is used in its place."""
        block = self._blocks[i]
        field = block.field() if callable(block.field) else block.field
        if field is None:
            return self._before(part)
        check_field(field, block.grid)
        values = resample_field(field, block.grid, part)
        if not np.isfinite(values).all():
            raise ValueError(
                f"the block of core {block.core} has displacements that are not finite; wanted None for a failed block"
            )
        return values

    def _before(self, part: Grid) -> np.ndarray:
        if self._base is None:
            return np.zeros((3, *part.shape), np.float32)
        return resample_field(self._base.field, self._base.grid, part)

    def _rigid(self, part: Grid) -> np.ndarray:
        """The field of the mean of the blocks' rigid motions; that of the stage before when no block has a say."""
        return self._before(part) if self._consensus is None else self._consensus.field(part)

    @cached_property
    def _consensus(self) -> Rigid | None:
        motions: list[Rigid] = []
        sizes: list[int] = []
        for i, block in enumerate(self._blocks):
            if (block.field() if callable(block.field) else block.field) is None:
                continue
            core = self.grid.crop(block.core)
            motions.append(fit_rigid(self._displacement(i, core), core))
            sizes.append(core.size)
        return mean_rigid(motions, np.array(sizes, float)) if motions else None


def reduce_blocks(
    blocks: Iterable[BlockField],
    target: Grid,
    base: Displacements | Field | None = None,
    *,
    method: Method = "distance_weighted",
) -> np.ndarray:
    """Combine the blocks' fields, all at once in memory: (3, z, y, x) float32 um. Parameters as `BlendedField`."""
    return BlendedField(blocks, target, base, method=method)[:]


Bounds = tuple[tuple[int, ...], tuple[int, ...]]  # first index, one after the last, per axis


def _bounds(region: Region, grid: Grid) -> Bounds:
    ends = [part.indices(n)[:2] for part, n in zip(region, grid.shape, strict=True)]
    return tuple(e[0] for e in ends), tuple(e[1] for e in ends)


def _axes(bounds: Bounds) -> list[tuple[int, int]]:
    return list(zip(*bounds, strict=True))


def _check_tiling(cores: list[Bounds], target: Grid) -> None:
    """That every sample is in one core, counted in the boxes between all cores' faces."""
    ends = np.array(cores, np.int64).reshape(-1, 2, 3)
    faces = [np.unique([0, n, *ends[:, :, axis].ravel()]) for axis, n in enumerate(target.shape)]
    count = np.zeros([len(f) - 1 for f in faces], np.int64)
    for first, last in ends:
        places = (np.searchsorted(f, (a, b)) for f, a, b in zip(faces, first, last, strict=True))
        count[tuple(slice(*place) for place in places)] += 1
    sizes = np.einsum("i,j,k->ijk", *(np.diff(f) for f in faces))
    if (count != 1).any():
        raise ValueError(
            f"the cores of {len(cores)} blocks do not tile the target grid of shape {target.shape}: "
            f"{int(sizes[count == 0].sum())} samples are in none, {int(sizes[count > 1].sum())} in several"
        )


def _covered(block: BlockField, core: Bounds, target: Grid) -> Bounds:
    """The target's samples whose centres lie within a block's voxels, which must be all of its core."""
    first = np.ceil(target.to_index(block.grid.lower) - 1e-3).astype(int)
    last = np.floor(target.to_index(block.grid.upper) + 1e-3).astype(int) + 1
    first, last = np.maximum(first, 0), np.minimum(last, target.shape)
    # The centre of a coarse last sample may lie beyond the volume, and so beyond every block.
    last = np.where(np.array(core[1]) == target.shape, target.shape, last)
    padded = tuple(int(i) for i in first), tuple(int(i) for i in last)
    if any(p[0] > c[0] or p[1] < c[1] for p, c in zip(_axes(padded), _axes(core), strict=True)):
        raise ValueError(
            f"the block of core {core} has a field on {padded} of the target grid only; wanted all of its core"
        )
    return padded


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
