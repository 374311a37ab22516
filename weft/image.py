"""Images and tile sets as the readers hand them out: lazy arrays with their grids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from weft.coverage import Coverage
from weft.grid import Grid, Shape, Triple

Region = tuple[slice, slice, slice]


def box(start: Any, stop: Any) -> Region:
    """Slices (z, y, x) from ``start`` to ``stop``, three whole numbers each."""
    z, y, x = (slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    return z, y, x


@dataclass(frozen=True)
class Level:
    """One resolution of an image.

    Parameters
    ----------
    data
        Lazy array, (c, z, y, x): a Zarr array or a dask array. Slicing it reads only what is asked for.
    grid
        Where its voxels lie, um.

    Raises
    ------
    ValueError
        When the array is of another shape.
    """

    data: Any
    grid: Grid

    def __post_init__(self) -> None:
        shape = tuple(getattr(self.data, "shape", (1, *self.grid.shape)))  # what only slices says none
        if len(shape) != 4 or shape[1:] != self.grid.shape:
            raise ValueError(
                f"an image's level is an array of shape {shape}; wanted (channels, z, y, x) with its grid's {self.grid.shape} voxels"
            )

    def read(self, channel: int = 0, region: Region | None = None) -> np.ndarray:
        """Voxels of one channel, (z, y, x), in ``region`` (slices of steps of 1; default: all)."""
        return np.asarray(self.data[(channel, *(region or (slice(None),) * 3))])


@dataclass(frozen=True)
class Image:
    """A volume at one or more resolutions.

    Parameters
    ----------
    levels
        Finest first.
    channels
        Name of each channel.
    orientation
        Three letters of r/l, a/p, s/i, one per axis (z, y, x): where the axis points as its index
        grows; None when nothing says so.
    labels
        True for a label image: values are names, never interpolated.
    coverage
        What the tiles of a stitched image cover; None where all of it was looked at, or nothing is known.
    stated_spacing
        Voxel size, (z, y, x), that the source states, in um where it states its unit too; None where it states none. The grid
        has another one where the reader was given one.
    stated_um
        Whether the source states the unit.
    """

    levels: tuple[Level, ...]
    channels: tuple[str, ...] = ("0",)
    orientation: str | None = None
    labels: bool = False
    coverage: Coverage | None = None
    stated_spacing: Triple | None = None
    stated_um: bool = False

    @property
    def grid(self) -> Grid:
        """The grid of the finest level."""
        return self.levels[0].grid

    @property
    def dtype(self) -> np.dtype:
        """Type of a voxel."""
        return np.dtype(self.levels[0].data.dtype)

    def channel(self, name: str | int) -> int:
        """Index of a channel given by name (or number).

        Raises
        ------
        ValueError
            When there is no such channel.
        """
        if str(name) in self.channels:
            return self.channels.index(str(name))
        raise ValueError(
            f"channel {name!r} is not in the image; its channels are called {', '.join(self.channels)}"
        )

    def covered(self, grid: Grid) -> np.ndarray | None:
        """Where the voxels of a grid in the image's space show what was looked at, (z, y, x) bool; None: everywhere."""
        covered = None if self.coverage is None else self.coverage.on(grid)
        return None if covered is None or covered.all() else covered

    def level_at(self, spacing: float | Triple) -> Level:
        """The coarsest level whose voxels are no larger than ``spacing`` um, (z, y, x) or the same for all.

        An axis whose voxels are larger in the finest level already does not count, nor one of a single voxel.
        """
        wanted = np.maximum(spacing, self.grid.spacing) * 1.001
        counts = np.asarray(self.grid.shape) > 1
        fit = [v for v in self.levels if (np.asarray(v.grid.spacing) <= wanted)[counts].all()]
        return fit[-1] if fit else self.levels[0]


@dataclass(frozen=True)
class Tile:
    """A camera tile: a stack of planes at one stage position.

    Parameters
    ----------
    name
        Unique in its tile set, e.g. ``LOC004``.
    position
        Stage position of its first voxel's centre, um, (z, y, x).
    row, column
        Place in the scan grid, where there is one.
    """

    name: str
    position: Triple
    row: int | None = None
    column: int | None = None


@dataclass(frozen=True)
class TileSet:
    """Tiles of one shape, as a microscope leaves them.

    Parameters
    ----------
    tiles
        In acquisition order.
    shape
        Voxels of a tile, (z, y, x).
    spacing
        Voxel size, um, (z, y, x).
    dtype
        Type of a voxel.
    channels
        Name of each channel.
    reader
        ``reader(tile_index, channel_index, region)`` gives the voxels, (z, y, x), of a region of a tile;
        it reads only the planes (or chunks) that the region touches.
    orientation
        As in `Image`.
    missing
        Names of grid cells that the microscope did not scan.
    """

    tiles: tuple[Tile, ...]
    shape: Shape
    spacing: Triple
    dtype: np.dtype
    channels: tuple[str, ...]
    reader: Callable[[int, int, Region], np.ndarray] = field(repr=False)
    orientation: str | None = None
    missing: tuple[str, ...] = ()

    def read(self, tile: int, channel: int = 0, region: Region | None = None) -> np.ndarray:
        """Voxels, (z, y, x), of a tile (by its place in ``tiles``); all of it by default."""
        full = tuple(
            slice(*part.indices(n)) for part, n in zip(region or (slice(None),) * 3, self.shape, strict=True)
        )
        return self.reader(tile, channel, full)  # type: ignore[arg-type]

    def part(self, chosen: Sequence[int]) -> TileSet:
        """The tiles at these places in ``tiles``, in this order."""

        def read(tile: int, channel: int, region: Region) -> np.ndarray:
            return self.reader(chosen[tile], channel, region)

        return replace(self, tiles=tuple(self.tiles[n] for n in chosen), reader=read)

    def positions(self) -> np.ndarray:
        """Stage positions, (n, 3) float64 um."""
        return np.array([tile.position for tile in self.tiles], float).reshape(-1, 3)
