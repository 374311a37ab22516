"""An image through a transform, of which only the part that is asked for is read and resampled."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    """The fixed image on a grid of another voxel size, antialiased."""
    return SlicedImage(grid, lambda there: read_at(image, channel, there))


def sliced_moving(image: Image, channel: int, sequence: Sequence, grid: Grid) -> SlicedImage:
    """The moving image on the fixed grid, float32, antialiased to its voxel size; NaN outside of the moving image."""
    stage = moving_grid(image.grid, grid)

    def part(there: Grid) -> np.ndarray:
        def read(region: Region) -> np.ndarray:
            return read_at(image, channel, stage.crop(region)).astype(np.float32)

        return pull_part(read, stage, sequence, there, fill=math.nan, dtype=np.float32)

    return SlicedImage(grid, part)


def sliced_labels(image: Image, sequence: Sequence, grid: Grid) -> SlicedImage:
    """The moving labels on the fixed grid, by the nearest voxel; 0 outside of the moving image."""
    level = image.level_at(max(grid.spacing))

    def part(there: Grid) -> np.ndarray:
        return pull_part(
            lambda region: level.read(0, region), level.grid, sequence, there, order=0, dtype=image.dtype
        )

    return SlicedImage(grid, part)


def pull_part(
    read: Callable[[Region], np.ndarray],
    grid: Grid,
    sequence: Sequence,
    there: Grid,
    *,
    dtype: np.dtype | type,
    order: Literal[0, 1] = 1,
    fill: float = 0,
) -> np.ndarray:
    """Resample what a region needs of a moving image through a sequence of maps.

    Parameters
    ----------
    read
        Gives the voxels, (z, y, x), of a region of the moving grid.
    grid
        The moving grid.
    sequence
        From the space of ``there`` to that of the moving image.
    there
        Where values are wanted.
    dtype, order, fill
        Of the result; as in `weft.warp.warp`.
    """
    before, displacements, after = sequence.split()
    field, field_grid = (None, None) if displacements is None else (displacements.field, displacements.grid)
    region = moving_region(there, after, field, field_grid, grid, before=before)
    if region is None:
        return np.full(there.shape, fill, dtype)
    return warp_sequence(read(region), grid.crop(region), sequence, there, order=order, fill=fill)[0]


def moving_grid(moving: Grid, grid: Grid) -> Grid:
    """The moving image's grid at a fixed grid's voxel size; an axis of one voxel keeps its own."""
    spacing = deep_spacing(grid)
    z, y, x = (spacing if n > 1 else s for s, n in zip(moving.spacing, moving.shape, strict=True))
    return moving.resample((z, y, x))


def deep_spacing(grid: Grid) -> float:
    """The largest voxel edge, um, along the axes of more than one voxel."""
    deep = [s for s, n in zip(grid.spacing, grid.shape, strict=True) if n > 1]
    return max(deep or grid.spacing)
