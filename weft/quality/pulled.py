"""An image through a transform, of which only the part that is asked for is read and resampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from weft.grid import Grid
from weft.image import Image, Region
from weft.sampling import read_at
from weft.transforms.model import Sequence
from weft.warp import moving_region, warp_sequence


@dataclass(frozen=True)
class SlicedImage:
    """A volume that slices like a NumPy array; each slice is made when it is asked for.

    Parameters
    ----------
    grid
        Where its voxels lie.
    part
        Gives the voxels of a crop of the grid, (z, y, x).
    """

    grid: Grid
    part: Callable[[Grid], np.ndarray]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x)."""
        return self.grid.shape

    def __getitem__(self, index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        index = (*index, *(slice(None),) * (3 - len(index)))
        region = tuple(i if isinstance(i, slice) else slice(int(i), int(i) + 1) for i in index)
        values = self.part(self.grid.crop(region))  # type: ignore[arg-type]
        return values[tuple(slice(None) if isinstance(i, slice) else 0 for i in index)]


def sliced_fixed(image: Image, channel: int, grid: Grid) -> SlicedImage:
    """The fixed image on a grid of another voxel size, antialiased; NaN where no tile of a stitched image shows anything."""

    def part(there: Grid) -> np.ndarray:
        values, covered = read_at(image, channel, there), image.covered(there)
        return values if covered is None else np.where(covered, values.astype(np.float32), np.float32(np.nan))

    return SlicedImage(grid, part)


def sliced_moving(image: Image, channel: int, sequence: Sequence, grid: Grid) -> SlicedImage:
    """The moving image on the fixed grid, float32, antialiased to its voxel size; NaN where it shows nothing."""
    return SlicedImage(grid, lambda there: pull_image(image, channel, [sequence], grid, there)[0])


def pull_image(
    image: Image, channel: int, sequences: Iterable[Sequence], grid: Grid, there: Grid
) -> list[np.ndarray]:
    """A part of the moving image on the fixed grid through several transforms, as `sliced_moving`."""
    stage = moving_grid(image.grid, grid)

    def read(region: Region) -> np.ndarray:
        crop = stage.crop(region)
        values, covered = read_at(image, channel, crop).astype(np.float32), image.covered(crop)
        return values if covered is None else np.where(covered, values, np.float32(np.nan))

    return pull_parts(read, stage, sequences, there, fill=math.nan, dtype=np.float32)


def sliced_labels(image: Image, sequence: Sequence, grid: Grid) -> SlicedImage:
    """The moving labels on the fixed grid, by the nearest voxel; 0 outside of the moving image."""
    return SlicedImage(grid, lambda there: pull_labels(image, [sequence], grid, there)[0])


def pull_labels(image: Image, sequences: Iterable[Sequence], grid: Grid, there: Grid) -> list[np.ndarray]:
    """A part of the moving labels on the fixed grid through several transforms, as `sliced_labels`."""
    level = image.level_at(deep_spacing(grid))
    return pull_parts(
        lambda region: level.read(0, region), level.grid, sequences, there, order=0, dtype=image.dtype
    )


def pull_parts(
    read: Callable[[Region], np.ndarray],
    grid: Grid,
    sequences: Iterable[Sequence],
    there: Grid,
    *,
    dtype: np.dtype | type,
    order: Literal[0, 1] = 1,
    fill: float = 0,
) -> list[np.ndarray]:
    """Resample what a region needs of a moving image through several transforms; the image is read once.

    Parameters
    ----------
    read
        Gives the voxels, (z, y, x), of a region of the moving grid.
    grid
        The moving grid.
    sequences
        Maps from the space of ``there`` to that of the moving image.
    there
        Where values are wanted.
    dtype, order, fill
        Of the results; as in `weft.warp.warp`.
    """
    maps, regions = [sequence.within(there) for sequence in sequences], []
    for sequence in maps:
        before, displacements, after = sequence.split()
        field, at = (None, None) if displacements is None else (displacements.field, displacements.grid)
        regions.append(moving_region(there, after, field, at, grid, before=before))
    boxes = [region for region in regions if region is not None]
    if boxes:
        z, y, x = (
            slice(min(p.start for p in parts), max(p.stop for p in parts))
            for parts in zip(*boxes, strict=True)
        )
        voxels, around = read((z, y, x)), grid.crop((z, y, x))
    return [
        np.full(there.shape, fill, dtype)
        if region is None
        else warp_sequence(voxels, around, sequence, there, order=order, fill=fill)[0]
        for sequence, region in zip(maps, regions, strict=True)
    ]


def moving_grid(moving: Grid, grid: Grid) -> Grid:
    """The moving image's grid at a fixed grid's voxel size; an axis of one voxel keeps its own."""
    spacing = deep_spacing(grid)
    z, y, x = (spacing if n > 1 else s for s, n in zip(moving.spacing, moving.shape, strict=True))
    return moving.resample((z, y, x))


def deep_spacing(grid: Grid) -> float:
    """The largest voxel edge, um, along the axes of more than one voxel."""
    deep = [s for s, n in zip(grid.spacing, grid.shape, strict=True) if n > 1]
    return max(deep or grid.spacing)
