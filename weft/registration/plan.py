"""The plan of a stage: its grid, its blocks and where their results lie on the field's grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from weft.blocks import cut, region, with_halo
from weft.grid import Grid
from weft.image import Region
from weft.sampling import stage_grid

AUTO = 128  # edge of a block, voxels, when the config leaves it to weft; a smaller volume is one block
SLACK = 1.25  # a block may be this much longer than asked for before an axis is cut once more


def plan_stage(image: Grid, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of a stage of `weft.config.Stage`: ``grid``, ``block`` (edges, voxels), ``overlap``, ``ids`` and
    ``skipped`` (the ids that ``only`` does not name).

    Parameters
    ----------
    image
        Grid of the fixed image.
    settings
        ``name``, ``level``, ``block``, ``overlap`` and ``only`` of the stage.

    Raises
    ------
    ValueError
        When a block is larger than the volume, or ``only`` names a block that the stage does not have.
    """
    spacing = stage_spacing(settings["level"], image)
    grid = stage_grid(image, spacing)
    size = AUTO if settings["block"] == "auto" else settings["block"]
    if isinstance(settings["block"], int) and size > max(grid.shape):
        raise ValueError(
            f"stage {settings['name']!r}: block {size} is larger than the fixed image, which has {list(grid.shape)} voxels "
            f"(z, y, x) at {spacing:g} um; wanted a smaller number or `whole`"
        )
    block = [_even(n, 1 if size == "whole" else max(1, int(np.ceil(n / (size * SLACK))))) for n in grid.shape]
    ids = cut(grid.shape, block)
    only = settings.get("only")
    for name in only or ():
        if name not in ids:
            raise ValueError(
                f"stage {settings['name']!r}: only names the block {name!r}, but the blocks are {ids[0]} to {ids[-1]} "
                f"({len(ids)} of {block} voxels, z, y, x)"
            )
    return {
        "grid": grid.to_json(),
        "block": block,
        "overlap": settings["overlap"],
        "ids": ids,
        "skipped": [] if only is None else [name for name in ids if name not in only],
    }


def stage_spacing(level: float | str, image: Grid) -> float:
    """Voxel size, um, of a stage's level: a number, or ``x4`` for four times the image's smallest voxel edge."""
    return float(level[1:]) * image.finest if isinstance(level, str) else float(level)


def block_regions(plan: Mapping[str, Any], name: str) -> tuple[Region, Region]:
    """Core and core with halo of a block, slices (z, y, x) in the stage's grid."""
    shape = plan["grid"]["shape"]
    core = region(name, shape, plan["block"])
    padded = with_halo(core, [plan["overlap"]] * 3, shape)
    return core, padded  # type: ignore[return-value]


def block_field_grid(plan: Mapping[str, Any], name: str) -> Grid:
    """The grid of a block's own field: the block with its halo, coarsened by 2."""
    return Grid.from_json(plan["grid"]).crop(block_regions(plan, name)[1]).coarsen((2, 2, 2))


def field_grid(plan: Mapping[str, Any], factor: int) -> Grid:
    """The grid of a stage's field, one sample for `factor` voxels of the level along each axis.

    Raises
    ------
    ValueError
        When a block would hold no sample.
    """
    edge = min(plan["block"])
    if factor > edge:
        raise ValueError(
            f"reduce.field_factor is {factor}, but the stage's blocks have {plan['block']} voxels (z, y, x); wanted at most {edge}"
        )
    return Grid.from_json(plan["grid"]).coarsen((factor,) * 3)


def field_core(plan: Mapping[str, Any], name: str, factor: int) -> Region:
    """The samples of `field_grid` whose centres lie in a block's core, slices (z, y, x).

    The centre of a last, incomplete sample may lie beyond the volume: it is the last block's.
    """
    core, _ = block_regions(plan, name)
    shape = plan["grid"]["shape"]
    z, y, x = (
        slice(_first_sample(part.start, n, factor), _first_sample(part.stop, n, factor))
        for part, n in zip(core, shape, strict=True)
    )
    return z, y, x


def _first_sample(voxel: int, n: int, factor: int) -> int:
    """The first sample at or after the lower face of a voxel; of the end of the axis, the number of samples."""
    if voxel == n:
        return -(-n // factor)
    # Sample i lies at voxel i f + (f - 1) / 2, the face at voxel - 1 / 2.
    return -((factor - 2 * voxel) // (2 * factor))


def _even(n: int, parts: int) -> int:
    """Edge of a block so that ``parts`` of them cover ``n`` voxels: even, so that blocks start on field samples."""
    edge = -(-n // parts)
    return edge + edge % 2
