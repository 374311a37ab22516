"""Rule plan_blocks: the blocks of a stage."""

from __future__ import annotations

from typing import Any

from weft import receipts
from weft.grid import Grid
from weft.registration.plan import plan_stage


def plan_blocks(*, fixed: str, start: str, settings: dict[str, Any], code: str, plan: str) -> None:
    """Write the stage's grid, its block size and halo, and the names of its blocks.

    Of the transform so far only what it leaves to be expected counts.

    Raises
    ------
    ValueError
        When a block is larger than the volume.
    """
    image = Grid.from_json(receipts.read(fixed)["grid"])
    receipts.write(plan, plan_stage(image, settings, receipts.read(start).get("residual_um")))
    receipts.write_provenance(plan, settings=settings, code=code)
