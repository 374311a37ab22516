"""Rule plan_blocks: the blocks of a stage."""

from __future__ import annotations

from typing import Any

from weft import receipts
from weft.grid import Grid
from weft.registration.contract import backend_version
from weft.registration.needs import workers
from weft.registration.plan import plan_stage
from weft.registration.survey import overview, survey_images
from weft.steps.stage_job import open_channels


def plan_blocks(
    *,
    fixed: str,
    moving: str,
    fixed_more: list[str],
    moving_more: list[str],
    start: str | list[str],
    settings: dict[str, Any],
    channels: dict[str, Any],
    code: str,
    plan: str,
    blocks_mb: int = 0,
) -> None:
    """Write the stage's grid, its block size and halo, the names of its blocks, and what all of them are told of both images.

    Of the stage before (where it is given) only what it leaves to be expected counts. What is background, and what the backend wants
    to know of whole images, is measured here, once and for all blocks.

    Raises
    ------
    ValueError
        When a block is larger than the volume, or does not fit into the memory of register_blocks (`blocks_mb`, where
        that is known), or a channel is missing, or the package of the stage's backend.
    """
    backend_version(
        settings.get("backend", "native")
    )  # asked for by every block: better now than after the stages before
    image = Grid.from_json(receipts.read(fixed)["grid"])
    residual = receipts.read(start).get("residual_um") if isinstance(start, str) else None
    planned = plan_stage(image, settings, residual, channels=1 + len(fixed_more))
    if blocks_mb:
        workers(settings["name"], planned, blocks_mb, threads=1)
    pick = open_channels(fixed, moving, channels, (fixed_more, moving_more))
    seen = ([overview(*source) for source in sources] for sources in pick)
    known = survey_images(planned, settings, *seen)
    receipts.write(plan, {**planned, **known})
    receipts.write_provenance(plan, settings=settings, code=code)
