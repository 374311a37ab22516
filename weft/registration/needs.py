"""What a block needs: how wide a halo, and how much memory."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from weft.grid import Grid
from weft.registration.contract import PROCESS_MB, backend_module

FIRST = (
    0.05  # of the fixed image's longest edge: displacement expected after the affine, where nothing says more
)
RADIUS = 8  # voxels that a backend is taken to see around a voxel when it does not say so
BYTES = 130  # per voxel of both images that a block is taken to need when its backend does not say so
GAPS = 6_000_000  # bytes that the C library keeps between arrays too small to be given back one by one


def first_displacement(image: Grid) -> float:
    """The largest displacement, um, expected after the affine where neither settings nor a stage say so."""
    return FIRST * max(image.extent)


def expected_residual(lost: float, spacing: float) -> float:
    """The largest displacement, um, still to be expected after a stage.

    What a field cannot show is of the order of what it could only just show: twice what is lost when every second
    sample is left out and interpolated, and half a voxel for the matching itself.

    Parameters
    ----------
    lost
        `weft.transforms.detail.LostDetail.percentile99` of the displacements that the stage found, um.
    spacing
        Voxel size, um, at which it worked.
    """
    return 2 * lost + spacing / 2


def halo(displacement: float, spacing: float, backend: str, settings: Mapping[str, Any]) -> int:
    """Voxels of halo so that a block sees its partner and what smooths its equations.

    The displacement expected, rounded up, and the backend's radius: that of its module's function
    ``smoothing_radius(settings)``, else 8 voxels. Even.

    Parameters
    ----------
    displacement
        The largest one expected, um.
    spacing
        Voxel size of the stage, um.
    backend, settings
        Of the stage.
    """
    radius = of_backend(backend, "smoothing_radius")
    reach = RADIUS if radius is None else radius(settings)
    return 2 * math.ceil((math.ceil(displacement / spacing) + reach) / 2)


def block_memory(
    block: Sequence[int],
    overlap: int,
    backend: str,
    settings: Mapping[str, Any],
    channels: int = 1,
    volume: Sequence[int] | None = None,
) -> int:
    """Most bytes that a block takes beside the process: its images, weights and fields, and what the backend makes of them.

    What the backend's module says by ``predicted_memory(fixed_shape, moving_shape, settings)`` and gaps, else 130 bytes for
    each voxel of both images. What reading at another voxel size takes for a time, 8 bytes for each of at most 2^24
    voxels, counts to the process.

    Parameters
    ----------
    block
        Voxels (z, y, x) of the block without its halo; the whole volume where that is smaller.
    overlap
        Voxels of its halo; of the moving image twice as much is read.
    backend, settings
        Of the stage.
    channels
        How many are compared; images of several are (c, z, y, x).
    volume
        Voxels (z, y, x) of the fixed image, which no halo goes beyond; None where it is not known.
    """
    several = [] if channels == 1 else [channels]
    ends = [n + 2 * overlap for n in block] if volume is None else volume
    seen = [n if n == 1 else min(n + 2 * overlap, end) for n, end in zip(block, ends, strict=True)]
    fixed = [*several, *seen]
    moving = [*several, *(n if n == 1 else n + 2 * overlap for n in seen)]
    predicted = of_backend(backend, "predicted_memory")
    if predicted is None:
        return BYTES * (math.prod(fixed) + math.prod(moving))
    return math.ceil(predicted(tuple(fixed), tuple(moving), settings)) + GAPS


def process_memory(backend: str) -> int:
    """MB that a job takes beside its blocks: the process, and the backend's engine where one process holds it for all blocks."""
    return PROCESS_MB + (of_backend(backend, "engine_mb") or 0)


def workers(stage: str, plan: Mapping[str, Any], memory_mb: float, threads: int) -> int:
    """How many blocks of a plan may run beside each other in a job's memory.

    Raises
    ------
    ValueError
        When not even one does.
    """
    block_mb, process_mb = plan["memory_mb"], plan["process_mb"]
    room = int((memory_mb - process_mb) // max(block_mb, 1))
    if room < 1:
        raise ValueError(
            f"stage {stage!r}: a block takes about {block_mb:.0f} MB beside {process_mb:.0f} MB for the process, but the job has "
            f"mem_mb {memory_mb:.0f}; wanted mem_mb of at least {block_mb + process_mb:.0f} for register_blocks, or a smaller "
            "`block` (or `memory_mb`, where it is `auto`)"
        )
    return min(room, threads)


def of_backend(backend: str, name: str) -> Any:
    """An optional function or property of a backend's module; None where it has none of this name."""
    return getattr(importlib.import_module(backend_module(backend)), name, None)
