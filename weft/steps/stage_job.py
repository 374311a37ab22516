"""The job of a stage as the rules' files describe it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.grid import Grid
from weft.image import Image
from weft.registration.engine import Channels
from weft.registration.stage import StageJob
from weft.steps.sources import channel_of, open_mask, open_received
from weft.transforms import open_transform


def open_stage_job(
    plan: str,
    fixed: str,
    moving: str,
    start: str,
    channels: dict[str, Any],
    settings: dict[str, Any],
    masks: tuple[str | list[str], str | list[str]],
    more: tuple[list[str], list[str]],
    log: str,
) -> StageJob:
    """Open the images and the transform so far by their receipts.

    Parameters
    ----------
    plan
        Path of ``plan.json``.
    fixed, moving, start
        Receipts of the images and of the transform so far.
    channels
        As `open_channels` takes them, and ``weights`` of several, or None.
    settings
        ``backend``, ``settings``, ``min_content`` and ``debug`` of the stage.
    masks
        Receipts of the images that say where the fixed and the moving image count; empty for none.
    more
        Receipts of the images of the further channels, fixed and moving.
    log
        Path of the job's log; what blocks leave for ``debug`` lies in ``blocks`` beside its folder.
    """
    stage = Path(plan).parent
    pick = open_channels(fixed, moving, channels, more)
    planned = receipts.read(plan)
    _, displacements, affine = open_transform(start).split()
    return StageJob(
        plan=planned,
        settings=settings,
        fixed=pick[0],
        moving=pick[1],
        affine=affine,
        start=displacements,
        zeros=planned["zero"],
        background=tuple(planned["background"]),
        intensity=planned["intensity"],
        weights=None if channels["weights"] is None else tuple(channels["weights"]),
        masks=(open_mask(masks[0]), open_mask(masks[1])),
        logs=str(Path(log).parents[1] / "blocks" / f"{stage.parents[1].name}-{stage.name}"),
    )


def open_channels(
    fixed: str, moving: str, channels: dict[str, Any], more: tuple[list[str], list[str]]
) -> tuple[Channels, Channels]:
    """What is compared of the fixed and of the moving image: images by their receipts, with the index of a channel.

    Parameters
    ----------
    fixed, moving
        Receipts of the images.
    channels
        Names of their channels, ``fixed`` and ``moving``; None for the first. Further ones are lists ``fixed_more`` and
        ``moving_more``.
    more
        Receipts of the images of the latter, fixed and moving.

    Raises
    ------
    ValueError
        For a channel that its image does not have, or a further image that lies elsewhere than the first.
    """
    found = []
    for role, receipt, others in zip(("fixed", "moving"), (fixed, moving), more, strict=True):
        named = [(receipt, channels[role], f"{role}_channel")]
        named += [
            (path, name, f"{role}_more") for path, name in zip(others, channels[f"{role}_more"], strict=True)
        ]
        picked: list[tuple[Image, int]] = []
        for path, name, where in named:
            image, _ = open_received(path)
            if picked and not _overlap(image.grid, picked[0][0].grid):
                raise ValueError(
                    f"{where}: {path} lies elsewhere than {receipt}; wanted an image of the same space"
                )
            picked.append((image, channel_of(image.channels, name, where)))
        found.append(tuple(picked))
    return found[0], found[1]


def _overlap(one: Grid, other: Grid) -> bool:
    return bool(np.all(np.minimum(one.upper, other.upper) > np.maximum(one.lower, other.lower)))
