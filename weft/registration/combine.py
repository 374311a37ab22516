"""The blocks of a stage become one displacement field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from weft.grid import Grid
from weft.registration.agreement import affine_of_neighbours, judge_agreement
from weft.registration.plan import block_regions, field_core, field_grid
from weft.transforms.jacobian import determinant
from weft.transforms.model import Displacements
from weft.transforms.reduce import BlockField, reduce_blocks
from weft.transforms.unfold import unfold


@dataclass(frozen=True)
class Combined:
    """A stage's displacement field and what was found about it.

    Parameters
    ----------
    displacements
        The total u.
    disagreement
        Of each block with its neighbours, um: see `weft.registration.agreement.Agreement`.
    rejected
        Blocks that are not used because they disagree, and what is used for each: ``affine`` (of its
        neighbours) or ``parent``.
    facts
        ``unfolded`` (samples that were smoothed), ``still_folded`` (samples), ``folded`` (share with a determinant
        of 0 or less) and ``jacobian`` (smallest, 1st and 99th percentile).
    """

    displacements: Displacements
    disagreement: dict[str, float]
    rejected: dict[str, str]
    facts: dict[str, Any]


def combine_blocks(
    plan: Mapping[str, Any],
    load: Callable[[str], np.ndarray | None],
    moved: Mapping[str, float],
    before: Displacements | None,
    settings: Mapping[str, Any],
) -> Combined:
    """Reject blocks that disagree with their neighbours, reduce the others' fields to one, and unfold it.

    A rejected block takes the affine that fits what its neighbours found in the overlaps, else the stage
    before.

    Parameters
    ----------
    plan
        As `plan_stage` makes it.
    load
        Gives the total displacement of a block, (3, z, y, x) float32 um, on the grid of the block with its halo
        coarsened by 2; None where the stage before is used. One is held at a time.
    moved
        The largest displacement of each block, um, relative to the stage before.
    before
        Displacements of the stage before.
    settings
        As `weft.config.Reduce`.

    Raises
    ------
    ValueError
        When the settings do not go with the plan, or a field with its block.
    """
    grid = Grid.from_json(plan["grid"])
    target = field_grid(plan, settings["field_factor"])
    limit = None if settings["agreement"] is None else settings["agreement"] * grid.spacing[0]
    agreement = judge_agreement(plan, load, moved, limit)

    def trusted(name: str) -> np.ndarray | None:
        return None if name in agreement.rejected else load(name)

    rejected: dict[str, str] = {}
    fallbacks: dict[str, np.ndarray | None] = {}
    for name in agreement.rejected:
        fallbacks[name] = affine_of_neighbours(plan, name, trusted, before)
        rejected[name] = "parent" if fallbacks[name] is None else "affine"

    def field(name: str) -> np.ndarray | None:
        return fallbacks[name] if name in fallbacks else load(name)

    def fields() -> Iterator[BlockField]:
        for name in plan["ids"]:
            _, padded = block_regions(plan, name)
            core = field_core(plan, name, settings["field_factor"])
            yield BlockField(grid.crop(padded).coarsen((2, 2, 2)), partial(field, name), core)

    u = reduce_blocks(fields(), target, before, method=settings["method"])
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
    return Combined(Displacements(u, target), agreement.disagreement, rejected, facts)


def block_table(
    plan: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]], combined: Combined
) -> list[dict[str, Any]]:
    """The rows of a stage's block table, with what became of the blocks when they were combined."""
    rows = []
    for name in plan["ids"]:
        row = {**records[name], "block": name, "disagreement_um": combined.disagreement[name]}
        if name in combined.rejected:
            row |= {"status": "disagrees", "used": combined.rejected[name]}
        rows.append(row)
    return rows
