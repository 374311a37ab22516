"""Rule plan_blocks: the blocks of a stage."""

from __future__ import annotations

from typing import Any

import numpy as np

from weft import receipts
from weft.blocks import cut, region, with_halo
from weft.grid import Grid
from weft.image import Region
from weft.sampling import stage_grid

AUTO = 128  # edge of a block, voxels, when the config leaves it to weft; a smaller volume is one block
SLACK = 1.25  # a block may be this much longer than asked for before an axis is cut once more


def plan_blocks(*, fixed: str, settings: dict[str, Any], code: str, plan: str) -> None:
    """Write the stage's grid, its block size and the names of its blocks.

    Raises
    ------
    ValueError
        When a block is larger than the volume.
    """
    image = Grid.from_json(receipts.read(fixed)["grid"])
    spacing = stage_spacing(settings["level"], image)
    grid = stage_grid(image, spacing)
    size = AUTO if settings["block"] == "auto" else settings["block"]
    if isinstance(settings["block"], int) and size > max(grid.shape):
        raise ValueError(
            f"stage {settings['name']!r}: block {size} is larger than the fixed image, which has {list(grid.shape)} voxels "
            f"(z, y, x) at {spacing:g} um; wanted a smaller number or `whole`"
        )
    block = [_even(n, 1 if size == "whole" else max(1, int(np.ceil(n / (size * SLACK))))) for n in grid.shape]
    receipts.write(
        plan,
        {
            "grid": grid.to_json(),
            "block": block,
            "overlap": settings["overlap"],
            "ids": cut(grid.shape, block),
        },
    )
    receipts.write_provenance(plan, settings=settings, code=code)


def stage_spacing(level: float | str, image: Grid) -> float:
    """Voxel size, um, of a stage's level: a number, or ``x4`` for four times the image's largest voxel edge."""
    return float(level[1:]) * max(image.spacing) if isinstance(level, str) else float(level)


def block_regions(plan: dict[str, Any], name: str) -> tuple[Region, Region]:
    """Core and core with halo of a block, slices (z, y, x) in the stage's grid."""
    shape = plan["grid"]["shape"]
    core = region(name, shape, plan["block"])
    padded = with_halo(core, [plan["overlap"]] * 3, shape)
    return core, padded  # type: ignore[return-value]


def _even(n: int, parts: int) -> int:
    """Edge of a block so that ``parts`` of them cover ``n`` voxels: even, so that blocks start on field samples."""
    edge = -(-n // parts)
    return edge + edge % 2
