"""One stage of a pair of images: what a block of it is cut from, and how it is registered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weft import receipts
from weft.grid import Grid
from weft.image import Image
from weft.registration.engine import Block, attempt_block, cut_block, parent_record
from weft.registration.features import log_intensity, otsu_threshold
from weft.registration.plan import block_field_grid, block_regions
from weft.sampling import stage_grid
from weft.transforms.interpolate import Field, resample_field
from weft.transforms.model import Displacements

SURVEY = 2_000_000  # voxels of the pyramid level from which the background's value is taken


@dataclass(frozen=True)
class StageJob:
    """All that the blocks of a stage have in common.

    Parameters
    ----------
    plan
        As `weft.registration.plan.plan_stage` makes it.
    settings
        ``backend``, ``settings`` and ``min_content`` of `weft.config.Stage`.
    fixed, moving
        Image and index of its channel.
    affine, field
        The transform so far: A (4, 4) um and u with its grid, or None. A block reads its own part of u.
    background
        Values of the fixed and of the moving image above which a voxel counts as content: see
        `background_value`.
    """

    plan: Mapping[str, Any]
    settings: Mapping[str, Any]
    fixed: tuple[Image, int]
    moving: tuple[Image, int]
    affine: np.ndarray
    field: tuple[Field, Grid] | None
    background: tuple[float, float]

    def cut(self, name: str) -> Block:
        """Read a block of both images."""
        grid = Grid.from_json(self.plan["grid"])
        _, padded = block_regions(self.plan, name)
        moving = stage_grid(self.moving[0].grid, grid.finest)
        return cut_block(
            self.fixed, self.moving, grid.crop(padded), moving, self.affine, self.field, self.plan["overlap"]
        )

    def register(self, name: str, block: Block) -> tuple[np.ndarray | None, dict[str, Any]]:
        """Register a block that was cut: its total displacement (None: the stage before) and its row of the block table."""
        return attempt_block(
            block,
            backend=self.settings["backend"],
            settings=self.settings["settings"],
            background=self.background,
            min_content=self.settings["min_content"],
            seed=self.seed(name),
        )

    def run(self, name: str) -> tuple[np.ndarray | None, dict[str, Any]]:
        """Read and register a block; one that is not to be registered is not read."""
        if name in self.plan["skipped"]:
            return None, parent_record("skipped", 0)
        return self.register(name, self.cut(name))

    def repair(self, name: str, start: Displacements | None) -> tuple[np.ndarray | None, dict[str, Any]]:
        """Register a block once more, from a better start and with a wider halo; as `register`.

        Parameters
        ----------
        start
            The total u to start from; None for zero.
        """
        wider = {**self.plan, "overlap": self.plan["overlap"] + max(2, self.plan["overlap"] // 4 * 2)}
        field = None if start is None else (start.field, start.grid)
        again = replace(self, plan=wider, field=field)
        u, record = again.run(name)
        if u is not None:
            u = resample_field(u, block_field_grid(wider, name), block_field_grid(self.plan, name))
        return u, record

    def seed(self, name: str) -> int:
        """The seed of a block: a hash of its name and the backend's settings."""
        return int(receipts.digest([name, self.settings["settings"]])[:8], 16)


def background_value(image: Image, channel: int) -> float:
    """The value between background and content: Otsu's threshold of the logarithm, on a coarse level."""
    level = next((v for v in image.levels if v.grid.size <= SURVEY), image.levels[-1])
    values = level.read(channel)
    logarithm = log_intensity(values)
    content = values[logarithm > otsu_threshold(logarithm)]
    return float(content.min()) / 2 if content.size else 0.0
