"""Repair: what becomes of a block that failed, or that its neighbours contradict."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from weft.blocks import with_halo
from weft.grid import Grid
from weft.image import Region
from weft.registration.agreement import Load, disagreement_with_neighbours
from weft.registration.extension import extend_neighbours
from weft.registration.plan import block_field_grid, block_regions
from weft.transforms.folds import minimal_jacobian
from weft.transforms.interpolate import resample_field
from weft.transforms.model import Displacements
from weft.transforms.reduce import BlockField, reduce_blocks

SURE = 0.5  # confidence of the neighbours from which a displacement is held against theirs
FEWEST = 8  # samples of them that can contradict anything


class Attempt(NamedTuple):
    """What a registration of some region came to.

    Parameters
    ----------
    displacement
        The total u, (3, z, y, x) float32 um, on the region's grid coarsened by 2; None where a gate was not passed.
    record
        Its row of the block table.
    """

    displacement: np.ndarray | None
    record: dict[str, Any]


Attempts = Callable[[str, Region, Displacements | None], Attempt]


def no_attempt(*_: Any) -> Attempt:
    """For what is not to be registered again."""
    return Attempt(None, {"status": "skipped"})


def repair_block(
    plan: Mapping[str, Any],
    name: str,
    load: Load,
    before: Displacements | None,
    limit: float,
    attempt: Attempts,
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Find a displacement for a block whose own cannot be used.

    In this order, until one agrees with the neighbours: the block registered again with a wider halo from
    what the neighbours found, carried on over it (`weft.registration.extension`); the same from the stage before; blocks
    of the same size cut half a block aside, eight of which cover it, each used where it agrees. Last, what the
    neighbours found, carried on.

    Parameters
    ----------
    plan
        As `weft.registration.plan.plan_stage` makes it.
    load
        Gives a neighbour's total displacement; None for one that has none or is not to be trusted.
    before
        Displacements of the stage before; None for zero.
    limit
        um: how far blocks that agree may differ.
    attempt
        Registers a region of the stage's grid (a name for its seed, the region, the total u to start from).

    Returns
    -------
    u, changes
        The total u, (3, z, y, x) float32 um, on the grid of the block's field, or None where only the stage before
        is left; and what changes in the block's row: ``used``, ``tries`` and the numbers of what is used.
    """
    tries = 1

    def again(name: str, region: Region, start: Displacements | None) -> Attempt:
        nonlocal tries
        found = attempt(name, region, start)
        tries += found.record["status"] != "skipped"
        return found

    _, padded = block_regions(plan, name)
    cuts = shifted_cuts(plan, name)
    stage, grid = Grid.from_json(plan["grid"]), block_field_grid(plan, name)
    more = [max(2, plan["overlap"] // 4 * 2)] * 3
    wide: Region = with_halo(padded, more, plan["grid"]["shape"])  # type: ignore[assignment]
    local = stage.crop(_hull([wide, *(cut for cut, _ in cuts)])).coarsen((2, 2, 2))
    u, confidence = extend_neighbours(plan, name, local, load, before)
    others = Displacements(u, local)

    def judged(u: np.ndarray, record: Mapping[str, Any]) -> dict[str, Any] | None:
        apart = disagreement_with_neighbours(plan, name, u, load)
        if apart is None or apart > limit:
            return None
        kept = {key: value for key, value in record.items() if key not in ("status", "block")}
        return {**kept, "used": "deformable", "disagreement_um": apart, "tries": tries}

    for start in (others, before):
        found = again(name, wide, start)
        if found.displacement is None or found.record["status"] != "ok":
            continue
        u = resample_field(found.displacement, stage.crop(wide).coarsen((2, 2, 2)), grid)
        if (changes := judged(u, found.record)) is not None:
            return u, changes

    fields: list[BlockField] = []
    record: dict[str, Any] | None = None
    for number, (cut, part) in enumerate(cuts):
        found = again(f"{name}/{number}", cut, others)
        own = stage.crop(cut).coarsen((2, 2, 2))
        v = found.displacement if found.record["status"] == "ok" else None
        if v is not None and _contradicted(v, own, others, confidence, limit):
            v = None
        fields.append(BlockField(own, v, part))
        record = record or (None if v is None else found.record)
    if record is not None:
        u = reduce_blocks(fields, grid, others)
        changes = judged(u, record)
        if changes is not None and _unfolded(u, grid):
            return u, changes

    u = resample_field(others.field, local, grid)
    if not confidence.any() or not _unfolded(u, grid):
        return None, {"used": "parent", "tries": tries}
    apart = disagreement_with_neighbours(plan, name, u, load)
    return u, {"used": "neighbours", "disagreement_um": 0.0 if apart is None else apart, "tries": tries}


def shifted_cuts(plan: Mapping[str, Any], name: str) -> list[tuple[Region, Region]]:
    """The blocks that cover this one when all are cut half a block aside.

    Up to eight of them; along an axis with a single block there is nothing to shift.

    Returns
    -------
    Per block: its region with its halo, slices (z, y, x) in the stage's grid; and what it is wanted for, slices of the
    grid of this block's field. The latter tile that grid.
    """
    core, padded = block_regions(plan, name)
    samples = block_field_grid(plan, name).shape
    axes = []
    for axis, (own, wide) in enumerate(zip(core, padded, strict=True)):
        edge, n = plan["block"][axis], plan["grid"]["shape"][axis]
        half = edge // 4 * 2
        middle = (own.start + half - wide.start) // 2
        if edge >= n or middle >= samples[axis]:
            axes.append([(wide, slice(0, samples[axis]))])
            continue
        low, centre, high = own.start - half, own.start + half, own.start + half + edge
        halo = plan["overlap"]
        axes.append(
            [
                (slice(max(low - halo, 0), min(centre + halo, n)), slice(0, middle)),
                (slice(max(centre - halo, 0), min(high + halo, n)), slice(middle, samples[axis])),
            ]
        )
    cuts = []
    for choice in itertools.product(*axes):
        (z, a), (y, b), (x, c) = choice
        cuts.append(((z, y, x), (a, b, c)))
    return cuts


def _contradicted(
    u: np.ndarray, grid: Grid, others: Displacements, confidence: np.ndarray, limit: float
) -> bool:
    """Whether a displacement differs from the neighbours' where these are sure."""
    one = np.asarray(confidence, np.float32)
    sure = resample_field(np.stack([one] * 3), others.grid, grid)[0] >= SURE
    if np.count_nonzero(sure) < FEWEST:
        return False
    apart = u - resample_field(others.field, others.grid, grid)
    return float(np.median(np.sqrt((apart**2).sum(0))[sure])) > limit


def _unfolded(u: np.ndarray, grid: Grid) -> bool:
    return minimal_jacobian(u, grid.spacing) > 0


def _hull(regions: list[Region]) -> Region:
    """The smallest region, starting on even voxels, that holds all of these."""
    z, y, x = (
        slice(min(part.start for part in parts) // 2 * 2, max(part.stop for part in parts))
        for parts in zip(*regions, strict=True)
    )
    return z, y, x
