"""The plan of a stage: its grid, its blocks and where their results lie on the field's grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from weft.blocks import cut, region, with_halo
from weft.grid import Grid, breadth_of
from weft.image import Region
from weft.logs import warn
from weft.registration.contract import OWN_PROCESS_MB
from weft.registration.needs import block_memory, first_displacement, halo, of_backend, process_memory
from weft.sampling import stage_grid

LARGEST = 256  # edge of a block, voxels, that is chosen where memory allows it; a smaller volume is one block
SMALLEST = 32
FEWEST = 4  # voxels along the second longest axis: nothing is to be seen at a level that leaves fewer
MEMORY_MB = 500.0
SLACK = (
    0.25  # of a block: so much more than whole blocks is shared among them before an axis is cut once more
)


def plan_stage(
    image: Grid, settings: Mapping[str, Any], residual: float | None = None, channels: int = 1
) -> dict[str, Any]:
    """The plan of a stage of `weft.config.registration.Stage`: ``grid``, ``block`` (edges, voxels), ``overlap``, ``memory_mb`` (of a
    block, predicted, with its backend's process where that has its own), ``process_mb`` (what a job takes beside its blocks), ``ids`` and ``skipped`` (the ids that ``only`` does not name).

    Parameters
    ----------
    image
        Grid of the fixed image.
    settings
        Those of the stage; of its fields ``name``, ``level``, ``block`` and ``overlap`` are needed.
    residual
        The largest displacement still expected, um, as the stage before measured it; None for the first stage.
    channels
        How many are compared, which memory depends on.

    Raises
    ------
    ValueError
        When the level leaves nothing of the image, a block is larger than the volume, or ``only`` names a block that the stage does not have.
    """
    level = settings["level"]
    spacing = stage_spacing(level, image)
    grid = stage_grid(image, spacing)
    # Of an image of few voxels x4, the default's first level, leaves fewer: its blocks say by their status what came of it.
    fewest = min(FEWEST, -(-breadth_of(image.shape) // 4))
    if breadth_of(grid.shape) < fewest:
        raise ValueError(
            f"stage {settings['name']!r}: level {level if isinstance(level, str) else f'{level:g}'} leaves {list(grid.shape)} voxels (z, y, x) of the fixed image, "
            f"which has {list(image.shape)} of {', '.join(f'{s:g}' for s in image.spacing)} um; wanted a voxel size in um, or a "
            f"factor such as x4, at which {fewest} or more are left"
        )
    backend, options = settings.get("backend", "native"), settings.get("settings", {})
    overlap = settings["overlap"]
    if overlap == "auto":
        expected = settings.get("expected_displacement") or residual or first_displacement(image)
        overlap = halo(expected, grid.finest, backend, options)
    size = settings["block"]
    if size == "auto":
        size = _edge(grid, overlap, backend, options, channels, settings.get("memory_mb", MEMORY_MB))
    elif size != "whole" and size > max(grid.shape):
        raise ValueError(
            f"stage {settings['name']!r}: block {size} is larger than the fixed image, which has {list(grid.shape)} voxels "
            f"(z, y, x) at {spacing:g} um; wanted a smaller number or `whole`"
        )
    block = _block(grid, size)
    ids = cut(grid.shape, block)
    process = OWN_PROCESS_MB if of_backend(backend, "own_process") else 0
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
        "overlap": overlap,
        "memory_mb": math.ceil(_memory_mb(grid, block, overlap, backend, options, channels) + process),
        "process_mb": process_memory(backend),
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


def _block(grid: Grid, size: int | str) -> list[int]:
    """Edges of the blocks, voxels, that are about as long as asked for and all alike."""
    return [_even(n, 1 if isinstance(size, str) else max(1, math.ceil(n / size - SLACK))) for n in grid.shape]


def _edge(
    grid: Grid, overlap: int, backend: str, settings: Mapping[str, Any], channels: int, memory_mb: float
) -> int:
    """The longest edge, voxels, of blocks that fit into memory."""
    for size in range(LARGEST, SMALLEST - 1, -16):
        taken = _memory_mb(grid, _block(grid, size), overlap, backend, settings, channels)
        if taken <= memory_mb:
            return size
    warn(
        f"even blocks of {SMALLEST} voxels, with an overlap of {overlap}, take about {math.ceil(taken)} MB each, more than the "
        f"stage's memory_mb of {memory_mb:g}; a smaller overlap, or a coarser stage before this one, makes them take less"
    )
    return SMALLEST


def _memory_mb(
    grid: Grid, block: list[int], overlap: int, backend: str, settings: Mapping[str, Any], channels: int
) -> float:
    edges = [min(n, edge) for n, edge in zip(grid.shape, block, strict=True)]
    return block_memory(edges, overlap, backend, settings, channels, grid.shape) / 1e6


def _even(n: int, parts: int) -> int:
    """Edge of a block so that ``parts`` of them cover ``n`` voxels: even, so that blocks start on field samples."""
    edge = -(-n // parts)
    return edge + edge % 2
