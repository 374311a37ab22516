"""One block: cut it out, look whether there is anything to register, register it, judge the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from weft.grid import Grid, breadth_of
from weft.image import Image
from weft.registration.block_affine import register_block_affine
from weft.registration.contract import Initial, Masks, Result
from weft.registration.debug import folder_of_block, write_found, write_seen
from weft.registration.ledger import FAILED
from weft.registration.own_process import backend_at_work
from weft.sampling import read_at, read_mask
from weft.transforms.interpolate import Field, crop_field, resample_field
from weft.warp import moving_region

# What a backend may fail by on one block. A ValueError or a TypeError says that it fails on all of them; what the machine
# lacks (memory, room on the disk, a program) is no fault of the block: the job ends, and a rerun does it as it should be.
CRASHES = (RuntimeError, TimeoutError, ArithmeticError, AssertionError, LookupError, np.linalg.LinAlgError)
Channels = Sequence[tuple[Image, int]]
Zeros = Sequence[Sequence[float]]
Background = tuple[float | Sequence[float], float | Sequence[float]]


@dataclass
class Block:
    """What one block is registered from.

    Parameters
    ----------
    fixed, fixed_grid
        Voxels (z, y, x) of the fixed image in the block with its halo, or (c, z, y, x) of several channels, and where
        they lie.
    moving, moving_grid
        The part of the moving image that the block can meet, of as many channels; None when it lies outside.
    initial
        The transform so far, cropped to the block.
    masks
        Weights of the fixed and of the moving voxels, 0 to 1 or bool; None where all count.
    again
        Reads the block once more. Where it is given, the backend gets the only hold on the images, to let them go when
        it has its own of them: that is a fifth of what it takes to register a block.
    """

    fixed: np.ndarray
    fixed_grid: Grid
    moving: np.ndarray | None
    moving_grid: Grid | None
    initial: Initial
    masks: Masks = (None, None)
    again: Callable[[], Block] | None = None

    def hand_over(self) -> list[np.ndarray]:
        """The fixed and the moving image, which the block forgets where it could be read again."""
        images = [self.fixed, np.empty(0) if self.moving is None else self.moving]
        if self.again is not None:
            self.fixed, self.moving = np.empty((0, 0, 0), self.fixed.dtype), None
        return images

    def whole(self) -> Block:
        """The block with its images, read again where they were handed over."""
        return self if self.fixed.size or self.again is None else self.again()


def cut_block(
    fixed: Channels,
    moving: Channels,
    fixed_grid: Grid,
    moving_stage: Grid,
    affine: np.ndarray,
    field: tuple[Field, Grid] | None,
    margin: int,
    masks: tuple[Image | None, Image | None] = (None, None),
    zeros: Zeros | None = None,
) -> Block:
    """Read a block of both images at the stage's voxel size.

    Voxels at the largest value of an integer type are saturated, and do not count; nor do those of a stitched image
    that no tile covers, nor what is not finite, which is read as the mean of the block.

    Parameters
    ----------
    fixed, moving
        Image and index of its channel, one or several of the same space; of several, those of one place are
        compared with each other.
    fixed_grid
        The block with its halo, a crop of the stage's grid of the fixed image.
    moving_stage
        The stage's grid of the whole moving image.
    affine, field
        The transform so far: A (4, 4) um and u with its grid, or None.
    margin
        Voxels of the moving image read around what the transform so far asks for: how far the block may still move.
    masks
        Images, in the spaces of the fixed and of the moving image, that say where these count (`read_mask`).
    zeros
        Of each channel of the fixed and of the moving image, what is taken off its values (`weft.registration.survey.overview`);
        None for nothing.
    """
    zeros = zeros or ([0.0] * len(fixed), [0.0] * len(moving))
    u, u_grid = (None, None) if field is None else crop_field(*field, fixed_grid.lower, fixed_grid.upper)
    region = moving_region(fixed_grid, affine, u, u_grid, moving_stage, margin=margin)
    moving_grid = None if region is None else moving_stage.crop(region)
    here, here_counts = _read(fixed, masks[0], fixed_grid, zeros[0])
    there, there_counts = (
        (None, None) if moving_grid is None else _read(moving, masks[1], moving_grid, zeros[1])
    )
    weights = (here_counts, there_counts)
    again = partial(
        cut_block,
        fixed,
        moving,
        fixed_grid,
        moving_stage,
        affine,
        field,
        margin=margin,
        masks=masks,
        zeros=zeros,
    )
    return Block(here, fixed_grid, there, moving_grid, Initial(affine, u, u_grid), weights, again)


def _read(
    channels: Channels, mask: Image | None, grid: Grid, zeros: Sequence[float]
) -> tuple[np.ndarray, np.ndarray | None]:
    """The voxels of an image and their weights; None where all count. A voxel lost in one channel counts in none."""
    weights = None if mask is None else read_mask(mask, grid)
    read = []
    for (image, channel), zero in zip(channels, zeros, strict=True):
        values = read_at(image, channel, grid)
        covered = image.covered(grid)
        if covered is not None:
            weights = _less(weights, covered)
        if image.dtype.kind in "ui":
            largest = np.iinfo(image.dtype).max - 0.5
            if values.max() > largest:
                weights = _less(weights, values <= largest)
        elif not (known := np.isfinite(values)).all():
            weights = _less(weights, known)
            values = np.where(known, values, values[known].mean(dtype=np.float64) if known.any() else 0)
            values = values.astype(np.float32)
        read.append(less_zero(values, zero))
    return (read[0] if len(read) == 1 else np.stack(read)), weights


def less_zero(values: np.ndarray, zero: float) -> np.ndarray:
    """An image whose nothing is 0: float32 where that takes something off."""
    return values.astype(np.float32) - np.float32(zero) if zero else values


def _less(weights: np.ndarray | None, counts: np.ndarray) -> np.ndarray:
    """The weights (None: all count) without the voxels that do not count."""
    return np.where(counts, np.float32(1) if weights is None else weights, np.float32(0))


def register_block(
    block: Block,
    *,
    backend: str,
    settings: Mapping[str, Any],
    background: Background,
    min_content: float,
    seed: int,
    volumes: bool = False,
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Register one block and judge what came out.

    Parameters
    ----------
    background
        Values of the fixed and of the moving image above which a voxel counts as content; of each channel where
        there are several, one of which is enough.
    min_content
        Share of voxels with content below which a block is not registered.
    volumes
        Whether to write what the backend gets and finds, where `weft.registration.debug.block_folder` names a folder.

    Returns
    -------
    displacement, record
        The *total* u, (3, z, y, x) float32 um, on ``block.fixed_grid.coarsen((2, 2, 2))``, or None where the
        stage before is to be used; and the block's row of the block table.
    """
    record = parent_record("ok", seed)
    if not _shows(block.fixed, block.masks[0], background[0], min_content):
        return None, {**record, "status": "empty"}
    if block.moving is None or block.moving_grid is None or breadth_of(block.moving_grid.shape) < 2:
        return None, {**record, "status": "outside_moving"}
    if not _shows(block.moving, block.masks[1], background[1], min_content / 8):
        return None, {**record, "status": "no_overlap"}
    record["tries"] = 1
    fixed_grid, moving_grid, initial, masks = block.fixed_grid, block.moving_grid, block.initial, block.masks
    folder = folder_of_block() if volumes else None
    if folder is not None:  # before the backend may crash on them
        write_seen(folder, block.fixed, fixed_grid, block.moving, moving_grid, initial, masks)
    images = block.hand_over()
    run = backend_at_work(backend)
    result = run(images.pop(0), fixed_grid, images.pop(0), moving_grid, initial, masks, settings, seed)
    if folder is not None:
        moving = block.whole().hand_over()[1]
        write_found(folder, fixed_grid, moving, moving_grid, initial.affine, result.displacement, result.grid)
    return _judge(block, result, record, "deformable")


def attempt_block(
    block: Block,
    *,
    backend: str,
    settings: Mapping[str, Any],
    background: Background,
    min_content: float,
    seed: int,
    volumes: bool = False,
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Register one block whatever happens: deformable, else by an affine of its own, else as the stage before.

    A backend that crashes or hangs costs its own result and no other block. The status says why the
    deformable registration is not used; the numbers are those of what is used, and of the failure where that is
    the stage before. The affine passes the same gates.

    Parameters and return value as `register_block`; a block with the status ``error`` or ``timeout`` has
    a ``message`` besides.
    """
    try:
        u, record = register_block(
            block,
            backend=backend,
            settings=settings,
            background=background,
            min_content=min_content,
            seed=seed,
            volumes=volumes,
        )
    except CRASHES as error:
        status = "timeout" if isinstance(error, TimeoutError) else "error"
        return affine_instead(block, status, str(error) or type(error).__name__, seed)
    return _affine_instead(block, u, record)


def affine_instead(
    block: Block, status: str, message: str, seed: int
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """What is left of a block whose backend broke down, as `attempt_block` gives it: an affine of its own, or the start."""
    record = {**parent_record(status, seed), "tries": 1, "message": message}
    return _affine_instead(block, None, record)


def _affine_instead(
    block: Block, u: np.ndarray | None, record: dict[str, Any]
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """The result of a block, or an affine of its own where it failed."""
    if record["status"] not in FAILED or block.moving_grid is None:
        return u, record
    block = block.whole()
    assert block.moving is not None
    assert block.moving_grid is not None
    fixed, moving = (v if v.ndim == 3 else v[0] for v in (block.fixed, block.moving))
    fallback = register_block_affine(
        fixed, block.fixed_grid, moving, block.moving_grid, block.initial, block.masks
    )
    if not fallback.metric_after > fallback.metric_before:
        return None, record
    u, judged = _judge(block, fallback, record, "affine")
    return (None, record) if u is None else (u, judged)


def _shows(
    image: np.ndarray, weights: np.ndarray | None, background: float | Sequence[float], share: float
) -> bool:
    """Whether such a share of the voxels counts and is above the background in some channel."""
    channels = image if image.ndim == 4 else image[None]
    # Whole numbers are compared as such: with a fraction they would all be converted.
    limits = np.atleast_1d(np.floor(background) if image.dtype.kind in "ui" else background).tolist()
    count, wanted = 0, share * channels[0].size
    for z in range(channels.shape[1]):  # small enough for the cache
        if count >= wanted:
            break
        content = np.zeros(channels.shape[2:], bool)
        for channel, limit in zip(channels, limits, strict=True):
            content |= channel[z] > limit
        if weights is not None:
            content &= weights[z] > 0
        count += int(np.count_nonzero(content))
    return count >= wanted


def parent_record(status: str, seed: int) -> dict[str, Any]:
    """The row of a block that leaves the stage before as it is."""
    return {
        "status": status,
        "used": "parent",
        "metric_before": 0.0,
        "metric_after": 0.0,
        "largest_displacement_um": 0.0,
        "smallest_jacobian": 1.0,
        "disagreement_um": 0.0,
        "iterations": 0,
        "seed": seed,
        "tries": 0,
    }


def _judge(
    block: Block, result: Result, record: dict[str, Any], used: str
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """The gates of a block; a result that breaks one is not used."""
    grid = block.fixed_grid.coarsen((2, 2, 2))
    u = np.asarray(result.displacement, np.float32)
    if u.shape != (3, *result.grid.shape):
        raise ValueError(
            f"a backend gave a displacement of shape {u.shape}; wanted (3, *{result.grid.shape}), its grid's"
        )
    metrics = {
        "metric_before": float(result.metric_before),
        "metric_after": float(result.metric_after),
        "iterations": int(result.iterations),
    }
    if not (np.isfinite(u).all() and np.isfinite(list(metrics.values())).all()):
        return None, {**record, "status": "diverged"}
    record = {**record, **metrics}
    if result.grid != grid:
        u = resample_field(u, result.grid, grid)
        result = replace(result, displacement=u, grid=grid)
    moved = _largest_change(u, block.initial, grid)
    smallest = result.minimal_jacobian
    record |= {"largest_displacement_um": moved, "smallest_jacobian": smallest}
    if moved > 0.5 * float(sorted(block.fixed_grid.extent)[1]):
        return None, {**record, "status": "diverged"}
    if smallest <= 0:
        return None, {**record, "status": "folded"}
    if result.metric_before == result.metric_after == 0.0:
        return None, {**record, "status": "low_information"}
    if result.metric_after < result.metric_before:
        return None, {**record, "status": "metric_worse"}
    if result.metric_after == result.metric_before:
        return None, {**record, "status": "unchanged"}
    return u, {**record, "used": used}


def _largest_change(u: np.ndarray, initial: Initial, grid: Grid) -> float:
    """The largest length of what was added to the start, um."""
    start = None
    if initial.field is not None and initial.field_grid is not None:
        start = resample_field(initial.field, initial.field_grid, grid)
    largest = np.float32(0)
    for z in range(grid.shape[0]):  # small enough for the cache
        change = u[:, z] if start is None else u[:, z] - start[:, z]
        largest = max(largest, (change * change).sum(0).max())
    return float(np.sqrt(largest))
