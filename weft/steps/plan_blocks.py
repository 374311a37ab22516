"""Rule plan_blocks: the blocks of a stage."""

from __future__ import annotations

from typing import Any

from weft import receipts
from weft.grid import Grid
from weft.registration.plan import plan_stage


def plan_blocks(*, fixed: str, settings: dict[str, Any], code: str, plan: str) -> None:
    """Write the stage's grid, its block size and the names of its blocks.

    Raises
    ------
    ValueError
        When a block is larger than the volume.
    """
    receipts.write(plan, plan_stage(Grid.from_json(receipts.read(fixed)["grid"]), settings))
    receipts.write_provenance(plan, settings=settings, code=code)
