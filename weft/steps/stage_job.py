"""The job of a stage as the rules' files describe it."""

from __future__ import annotations

from typing import Any

from weft import receipts
from weft.registration.stage import StageJob, background_value
from weft.steps.sources import channel_of, open_received
from weft.transforms import open_transform


def open_stage_job(
    plan: str,
    fixed: str,
    moving: str,
    start: str,
    channels: dict[str, str | None],
    settings: dict[str, Any],
) -> StageJob:
    """Open the images and the transform so far by their receipts.

    Parameters
    ----------
    plan
        Path of ``plan.json``.
    fixed, moving, start
        Receipts of the images and of the transform so far.
    channels
        Name of each image's channel; None for the first.
    settings
        ``backend``, ``settings`` and ``min_content`` of the stage.
    """
    pick = []
    for role, path in (("fixed", fixed), ("moving", moving)):
        image, _ = open_received(path)
        pick.append((image, channel_of(image.channels, channels[role], f"{role}_channel")))
    _, displacements, affine = open_transform(start).split()
    return StageJob(
        plan=receipts.read(plan),
        settings=settings,
        fixed=pick[0],
        moving=pick[1],
        affine=affine,
        start=displacements,
        background=(background_value(*pick[0]), background_value(*pick[1])),
    )
