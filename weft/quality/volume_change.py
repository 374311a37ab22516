"""How much a transform grows and shrinks volume, from every sample of its displacement field, read part by part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.blocks import blocks_along_axes, cut, within_blocks
from weft.blocks import region as region_of
from weft.grid import Grid
from weft.image import Region
from weft.transforms.histogram import Histogram
from weft.transforms.jacobian import determinant, smallest_determinant
from weft.transforms.model import Displacements
from weft.transforms.survey import BIN, BINS, LOWEST, with_rim

TILE = 128  # edge of the parts that are in memory at once, samples: a shard of a stored field
BLOCK_BIN, BLOCK_BINS = 1 / 32, 256  # of the determinants of a block: coarser, as there may be many blocks


@dataclass(frozen=True)
class VolumeChange:
    """What `volume_change` found.

    Parameters
    ----------
    values
        ``jacobian_min`` (with the block that it lies in), ``jacobian_p1``, ``jacobian_p99`` and
        ``jacobian_folded_fraction``.
    blocks
        By name of a block: ``jacobian_min``, ``jacobian_p1``, ``jacobian_p99``, ``jacobian_folded_fraction``.
    """

    values: dict[str, Any]
    blocks: dict[str, dict[str, float]]


def volume_change(
    displacements: Displacements | None,
    plan: Mapping[str, Any] | None,
    content: tuple[np.ndarray, Grid] | None = None,
    keep: Callable[[Region, np.ndarray], None] | None = None,
) -> VolumeChange:
    """Jacobian determinants of a displacement field without the affine, over all of its samples.

    The smallest determinant and the share of folds are those of the corners of all cells between samples, where a
    trilinear field's one-sided derivatives meet; the quantiles are of central differences at the samples.

    Parameters
    ----------
    displacements
        The field; None for an affine alone, which changes nothing.
    plan
        Of the stage whose blocks are looked at one by one; None for none.
    content
        Where the fixed image shows something, (z, y, x) bool, and its grid: only there the quantiles are taken.
        None, or nothing anywhere: everywhere.
    keep
        Called with every part of the field's grid, slices (z, y, x) of up to 128 samples that start at multiples of 128,
        and its determinants, (z, y, x) float32.
    """
    names = [] if plan is None else list(plan["ids"])
    if displacements is None:
        flat = {f"jacobian_{name}": 1.0 for name in ("min", "p1", "p99")} | {"jacobian_folded_fraction": 0.0}
        return VolumeChange(flat, {name: dict(flat) for name in names})
    grid = displacements.grid
    along = blocks_along_axes(plan, grid)
    look = None if content is None or not content[0].any() else content
    whole = Histogram(LOWEST, BIN, BINS)
    found: dict[str, _BlockSums] = {}
    for name in cut(grid.shape, (TILE,) * 3):
        part: Region = region_of(name, grid.shape, (TILE,) * 3)  # type: ignore[assignment]
        central, smallest = _determinants(displacements, part)
        if keep is not None:
            keep(part, central)
        seen = np.ones(central.shape, bool) if look is None else _nearest(*look, grid.crop(part))
        whole.add(central[seen])
        for block, within in within_blocks(along, part):
            sums = found.setdefault(block, _BlockSums())
            sums.count += smallest[within].size
            sums.folded += int((~(smallest[within] > 0)).sum())
            sums.smallest = min(sums.smallest, float(smallest[within].min()))
            sums.determinants.add(central[within][seen[within]])
    worst = min(sorted(found), key=lambda block: found[block].smallest)
    lowest = found[worst].smallest
    count, folded = (sum(getattr(sums, part) for sums in found.values()) for part in ("count", "folded"))
    return VolumeChange(
        {
            "jacobian_min": lowest if plan is None or len(names) < 2 else {f"block {worst}": lowest},
            "jacobian_p1": _percentile(whole, 1),
            "jacobian_p99": _percentile(whole, 99),
            "jacobian_folded_fraction": folded / count,
        },
        {name: found[name].row() for name in names if name in found},
    )


class _BlockSums:
    """What is counted of one block."""

    def __init__(self) -> None:
        self.count = self.folded = 0
        self.smallest = math.inf
        self.determinants = Histogram(0.0, BLOCK_BIN, BLOCK_BINS)

    def row(self) -> dict[str, float]:
        return {
            "jacobian_min": self.smallest,
            "jacobian_p1": _percentile(self.determinants, 1),
            "jacobian_p99": _percentile(self.determinants, 99),
            "jacobian_folded_fraction": self.folded / self.count,
        }


def _determinants(displacements: Displacements, part: Region) -> tuple[np.ndarray, np.ndarray]:
    """Central and smallest determinants at the samples of a part, from the part with one sample around."""
    wide = with_rim(part, displacements.grid)
    u = np.ascontiguousarray(displacements.field[(slice(None), *wide)], np.float32)
    grid = displacements.grid.crop(wide)
    core = tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(part, wide, strict=True))
    # A field of one sample along an axis does not change along it.
    twice = tuple(slice(None) if n > 1 else [0, 0] for n in u.shape[1:])
    for axis, index in enumerate(twice):
        if isinstance(index, list):
            u = np.take(u, index, axis=axis + 1)
            grid = Grid(u.shape[1:], grid.spacing, grid.origin)
    return determinant(u, grid)[core], smallest_determinant(u, grid)[core]


def _percentile(determinants: Histogram, q: float) -> float:
    return determinants.percentile(q) if determinants.size else math.nan


def _nearest(values: np.ndarray, grid: Grid, wanted: Grid) -> np.ndarray:
    """A map on another grid, by the nearest voxel, the border's value outside."""
    axes = []
    for axis, n in enumerate(wanted.shape):
        place = wanted.origin[axis] + wanted.spacing[axis] * np.arange(n)
        index = np.rint((place - grid.origin[axis]) / grid.spacing[axis]).astype(int)
        axes.append(np.clip(index, 0, grid.shape[axis] - 1))
    return values[np.ix_(*axes)]
