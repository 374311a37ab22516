"""One stage of a pair of images: what a block of it is cut from, and how it is registered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.grid import Grid
from weft.image import Image, Region
from weft.registration.debug import block_folder
from weft.registration.engine import (
    Background,
    Block,
    Channels,
    Zeros,
    affine_instead,
    attempt_block,
    cut_block,
    parent_record,
)
from weft.registration.plan import block_regions
from weft.registration.repair import Attempt
from weft.sampling import stage_grid
from weft.transforms.model import Displacements


@dataclass(frozen=True)
class StageJob:
    """All that the blocks of a stage have in common.

    Parameters
    ----------
    plan
        As `weft.registration.plan.plan_stage` makes it.
    settings
        ``backend``, ``settings``, ``min_content`` and ``debug`` of `weft.config.registration.Stage`.
    fixed, moving
        Image and index of its channel; of several channels, those of one place are compared with each other.
    affine, start
        The transform so far: A (4, 4) um and its displacements, or None. A block reads its own part of them.
    zeros
        What is taken off the values of each channel of the fixed and of the moving image; None for nothing.
    background
        Then the values of the fixed and of the moving image above which a voxel counts as content.
    intensity
        What the backend is told of the whole images, or None. The three come from `weft.registration.survey`.
    weights
        How much each of several channels counts; None for the backend's own choice.
    masks
        Images that say where the fixed and the moving image count; None where all of it does.
    logs
        Folder for what ``debug`` asks for, with a folder for each try of each block; None for none.
    """

    plan: Mapping[str, Any]
    settings: Mapping[str, Any]
    fixed: Channels
    moving: Channels
    affine: np.ndarray
    start: Displacements | None
    background: Background
    intensity: Mapping[str, Any] | None = None
    weights: tuple[float, ...] | None = None
    masks: tuple[Image | None, Image | None] = (None, None)
    zeros: Zeros | None = None
    logs: str | None = None

    def cut(self, name: str) -> Block:
        """Read a block of both images."""
        return self.cut_region(block_regions(self.plan, name)[1], self.start)

    def cut_region(self, region: Region, start: Displacements | None) -> Block:
        """Read a region of both images, slices (z, y, x) in the stage's grid, to be registered from a start."""
        field = None if start is None else (start.field, start.grid)
        grid = Grid.from_json(self.plan["grid"])
        moving = stage_grid(self.moving[0][0].grid, grid.finest)
        return cut_block(
            self.fixed,
            self.moving,
            grid.crop(region),
            moving,
            self.affine,
            field,
            self.plan["overlap"],
            self.masks,
            self.zeros,
        )

    def register(self, name: str, block: Block) -> tuple[np.ndarray | None, dict[str, Any]]:
        """Register a block that was cut: its total displacement (None: the stage before) and its row of the block table."""
        debug = self.settings.get("debug")
        with block_folder(Path(self.logs) / name if debug and self.logs else None):
            return attempt_block(
                block,
                backend=self.settings["backend"],
                settings=self.backend_settings,
                background=self.background,
                min_content=self.settings["min_content"],
                seed=self.seed(name),
                volumes=debug == "volumes",
            )

    def give_up(self, name: str, message: str) -> tuple[np.ndarray | None, dict[str, Any]]:
        """What `run` gives for a block whose process died: the ladder's next rung, status ``error``."""
        return affine_instead(self.cut(name), "error", message, self.seed(name))

    def run(self, name: str) -> tuple[np.ndarray | None, dict[str, Any]]:
        """Read and register a block; one that is not to be registered is not read."""
        if name in self.skipped:
            return None, parent_record("skipped", 0)
        return self.register(name, self.cut(name))

    def attempt(self, name: str, region: Region, start: Displacements | None) -> Attempt:
        """Register any region of the stage's grid, from any start: `weft.registration.repair.Attempts`."""
        return Attempt(*self.register(name, self.cut_region(region, start)))

    @cached_property
    def skipped(self) -> frozenset[str]:
        """Blocks that the stage's ``only`` leaves out."""
        return frozenset(self.plan["skipped"])

    @property
    def backend_settings(self) -> dict[str, Any]:
        """The backend's settings with what it is told of the whole images and of the channels."""
        known: dict[str, Any] = {} if self.intensity is None else {"intensity": self.intensity}
        if self.weights is not None:
            known["channel_weights"] = list(self.weights)
        return {**known, **self.settings["settings"]}

    def seed(self, name: str) -> int:
        """The seed of a block: a hash of its name and the backend's settings."""
        return int(receipts.digest([name, self.settings["settings"]])[:8], 16)
