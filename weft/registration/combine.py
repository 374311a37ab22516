"""The blocks of a stage become one displacement field."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from weft.grid import Grid
from weft.registration.agreement import (
    Load,
    affine_of_neighbours,
    disagreement_with_neighbours,
    judge_agreement,
)
from weft.registration.ledger import FAILED
from weft.registration.plan import block_field_grid, field_core, field_grid
from weft.transforms.jacobian import determinant
from weft.transforms.model import Displacements
from weft.transforms.reduce import BlockField, reduce_blocks
from weft.transforms.unfold import unfold

Repair = Callable[[str, Displacements | None], tuple[np.ndarray | None, dict[str, Any]]]


@dataclass(frozen=True)
class Combined:
    """A stage's displacement field and what was found about it.

    Parameters
    ----------
    displacements
        The total u.
    blocks
        The rows of the block table, in the order of the plan.
    facts
        ``unfolded`` (samples that were smoothed), ``still_folded`` (samples), ``folded`` (share with a determinant
        of 0 or less) and ``jacobian`` (smallest, 1st and 99th percentile).
    """

    displacements: Displacements
    blocks: list[dict[str, Any]]
    facts: dict[str, Any]


def combine_blocks(
    plan: Mapping[str, Any],
    load: Load,
    records: Mapping[str, Mapping[str, Any]],
    before: Displacements | None,
    settings: Mapping[str, Any],
    repair: Repair | None = None,
) -> Combined:
    """Reject blocks that disagree with their neighbours, repair what failed, reduce all fields to one, and unfold it.

    A block that failed or was rejected is registered once more, from the field that the others give and, if
    need be, from the stage before; its new displacement is used when it agrees with the others. Else a rejected block takes the affine that fits what its
    neighbours found in the overlaps, or the stage before; one that failed by itself stays with what it fell
    back to.

    Parameters
    ----------
    plan
        As `plan_stage` makes it.
    load
        Gives the total displacement of a block, (3, z, y, x) float32 um, on the grid of the block with its halo
        coarsened by 2; None where the stage before is used. One is held at a time.
    records
        What became of each block: its row of the block table.
    before
        Displacements of the stage before.
    settings
        As `weft.config.Reduce`.
    repair
        Registers a block again from a total displacement: `weft.registration.stage.StageJob.repair`; None for no
        second try.

    Raises
    ------
    ValueError
        When the settings do not go with the plan, or a field with its block.
    """
    grid = Grid.from_json(plan["grid"])
    target = field_grid(plan, settings["field_factor"])
    limit = None if settings["agreement"] is None else settings["agreement"] * grid.finest
    moved = {name: records[name]["largest_displacement_um"] for name in plan["ids"]}
    agreement = judge_agreement(plan, load, moved, limit)
    rows = {
        name: {**records[name], "block": name, "disagreement_um": agreement.disagreement[name]}
        for name in plan["ids"]
    }
    for name in agreement.rejected:
        rows[name] |= {"status": "disagrees", "used": "parent"}
    failed = [name for name in plan["ids"] if rows[name]["status"] in FAILED]
    replaced: dict[str, np.ndarray | None] = dict.fromkeys(agreement.rejected)

    def trusted(name: str) -> np.ndarray | None:
        return None if name in failed else load(name)

    if failed and repair is not None and agreement.limit is not None:
        start = Displacements(_reduced(plan, trusted, target, before, settings), target)
        # The others' field is the better start; where nothing is gained from it, there is the block's own.
        for name, better in itertools.product(failed, (start, before)):
            if replaced.get(name) is not None:
                continue
            u, again = repair(name, better)
            if u is None or again["status"] != "ok":
                continue
            apart = disagreement_with_neighbours(plan, name, u, trusted)
            if apart is not None and apart <= agreement.limit:
                replaced[name] = u
                kept = {"block": name, "status": rows[name]["status"], "disagreement_um": apart}
                rows[name] = {**again, **kept}
    for name in agreement.rejected:
        if replaced[name] is None:
            replaced[name] = affine_of_neighbours(plan, name, trusted, before)
            rows[name]["used"] = "parent" if replaced[name] is None else "affine"

    u = _reduced(
        plan, lambda name: replaced[name] if name in replaced else load(name), target, before, settings
    )
    unfolded = left = 0
    if settings["unfold"]:
        u, unfolded, left = unfold(u, target)
    values = determinant(u, target)
    facts = {
        "unfolded": unfolded,
        "folded": float(np.mean(values <= 0)),
        "still_folded": left,
        "jacobian": [float(v) for v in (values.min(), *np.percentile(values, [1, 99]))],
    }
    return Combined(Displacements(u, target), list(rows.values()), facts)


def _reduced(
    plan: Mapping[str, Any],
    load: Load,
    target: Grid,
    before: Displacements | None,
    settings: Mapping[str, Any],
) -> np.ndarray:
    """The blocks' fields as one, (3, z, y, x) float32 um, on the target grid."""

    def fields() -> Iterator[BlockField]:
        for name in plan["ids"]:
            core = field_core(plan, name, settings["field_factor"])
            yield BlockField(block_field_grid(plan, name), partial(load, name), core)

    return reduce_blocks(fields(), target, before, method=settings["method"])
