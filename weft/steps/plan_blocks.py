"""Rule plan_blocks: the blocks of a stage."""

from __future__ import annotations

from typing import Any

from weft import receipts
from weft.grid import Grid
from weft.registration.plan import plan_stage
from weft.registration.stage import background_value
from weft.steps.stage_job import open_pair


def plan_blocks(
    *,
    fixed: str,
    moving: str,
    start: str,
    settings: dict[str, Any],
    channels: dict[str, str | None],
    code: str,
    plan: str,
) -> None:
    """Write the stage's grid, its block size and halo, the names of its blocks, and what is background in both images.

    Of the transform so far only what it leaves to be expected counts. What is background is measured here, once and
    for all blocks.

    Raises
    ------
    ValueError
        When a block is larger than the volume.
    """
    image = Grid.from_json(receipts.read(fixed)["grid"])
    planned = plan_stage(image, settings, receipts.read(start).get("residual_um"))
    background = [background_value(*pick) for pick in open_pair(fixed, moving, channels)]
    receipts.write(plan, {**planned, "background": background})
    receipts.write_provenance(plan, settings=settings, code=code)
