"""The job of a stage as the rules' files describe it."""

from __future__ import annotations

from typing import Any

from weft import receipts
from weft.image import Image
from weft.registration.stage import StageJob
from weft.steps.sources import channel_of, open_mask, open_received
from weft.transforms import open_transform


def open_stage_job(
    plan: str,
    fixed: str,
    moving: str,
    start: str,
    channels: dict[str, str | None],
    settings: dict[str, Any],
    masks: tuple[str | list[str], str | list[str]],
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
    masks
        Receipts of the images that say where the fixed and the moving image count; empty for none.
    """
    pick = open_pair(fixed, moving, channels)
    planned = receipts.read(plan)
    _, displacements, affine = open_transform(start).split()
    return StageJob(
        plan=planned,
        settings=settings,
        fixed=pick[0],
        moving=pick[1],
        affine=affine,
        start=displacements,
        background=tuple(planned["background"]),
        intensity=planned["intensity"],
        masks=(open_mask(masks[0]), open_mask(masks[1])),
    )


def open_pair(fixed: str, moving: str, channels: dict[str, str | None]) -> list[tuple[Image, int]]:
    """The fixed and the moving image by their receipts, each with the index of its channel."""
    pick = []
    for role, path in (("fixed", fixed), ("moving", moving)):
        image, _ = open_received(path)
        pick.append((image, channel_of(image.channels, channels[role], f"{role}_channel")))
    return pick
