"""The blocks of a stage become one displacement field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from weft.grid import Grid
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
    facts
        ``unfolded`` (samples that were smoothed), ``still_folded`` (samples), ``folded`` (share with a determinant
        of 0 or less) and ``jacobian`` (smallest, 1st and 99th percentile).
    """

    displacements: Displacements
    facts: dict[str, Any]


def combine_blocks(
    plan: Mapping[str, Any],
    load: Callable[[str], np.ndarray | None],
    before: Displacements | None,
    settings: Mapping[str, Any],
) -> Combined:
    """Reduce the blocks' fields to one, and unfold it.

    Parameters
    ----------
    plan
        As `plan_stage` makes it.
    load
        Gives the total displacement of a block, (3, z, y, x) float32 um, on the grid of the block with its halo
        coarsened by 2; None where the stage before is used. Called once a block, so that one is held at a
        time.
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

    def fields() -> Iterator[BlockField]:
        for name in plan["ids"]:
            _, padded = block_regions(plan, name)
            core = field_core(plan, name, settings["field_factor"])
            yield BlockField(grid.crop(padded).coarsen((2, 2, 2)), partial(load, name), core)

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
    return Combined(Displacements(u, target), facts)
