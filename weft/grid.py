"""Grids: shape, spacing and origin of a voxel array; the only place that knows half-voxel rules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """A regular grid of voxels in a named physical space.

    Axis order is (z, y, x); units are micrometres. The integer index of a voxel is its centre, so
    index (0, 0, 0) lies at ``origin`` and a voxel covers half a spacing on either side of its centre.

    Parameters
    ----------
    shape
        Number of voxels per axis, (z, y, x).
    spacing
        Distance between voxel centres, um, (z, y, x).
    origin
        Physical position of the centre of voxel (0, 0, 0), um, (z, y, x).
    """

    shape: Shape
    spacing: Triple
    origin: Triple = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "spacing", tuple(float(s) for s in self.spacing))
        object.__setattr__(self, "origin", tuple(float(o) for o in self.origin))
        if len(self.shape) != 3 or len(self.spacing) != 3 or len(self.origin) != 3:
            raise ValueError(f"a grid has three axes (z, y, x); found shape {self.shape}")
        if min(self.shape) < 1:
            raise ValueError(f"a grid needs at least one voxel per axis; found shape {self.shape}")
        if not all(math.isfinite(s) and s > 0 for s in self.spacing):
            raise ValueError(f"voxel sizes must be positive; found {self.spacing} um (z, y, x)")

    # ------------------------------------------------------------------ index <-> physical
    def to_physical(self, index: Any) -> np.ndarray:
        """Physical points, (n, 3) float64 um, of (fractional) indices, (n, 3)."""
        return np.asarray(index, float) * self.spacing + self.origin

    def to_index(self, points: Any) -> np.ndarray:
        """Fractional indices, (n, 3) float64, of physical points, (n, 3) um."""
        return (np.asarray(points, float) - self.origin) / self.spacing

    def matrix(self) -> np.ndarray:
        """The (4, 4) float64 matrix that maps homogeneous indices to physical points."""
        matrix = np.diag([*self.spacing, 1.0])
        matrix[:3, 3] = self.origin
        return matrix

    def contains(self, points: Any) -> np.ndarray:
        """Which points, (n, 3) um, lie in the volume of a voxel: (n,) bool."""
        index = self.to_index(points)
        return np.all((index >= -0.5) & (index <= np.asarray(self.shape) - 0.5), axis=-1)

    # ------------------------------------------------------------------ extent
    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def finest(self) -> float:
        """The smallest voxel edge, um; an axis of one voxel does not count unless all are."""
        return min(
            (s for s, n in zip(self.spacing, self.shape, strict=True) if n > 1), default=min(self.spacing)
        )

    @property
    def extent(self) -> np.ndarray:
        """Physical lengths, (3,) um, from face to face."""
        return np.asarray(self.shape) * np.asarray(self.spacing)

    @property
    def lower(self) -> np.ndarray:
        """Physical position, (3,) um, of the lower face of the first voxel."""
        return np.asarray(self.origin) - 0.5 * np.asarray(self.spacing)

    @property
    def upper(self) -> np.ndarray:
        """Physical position, (3,) um, of the upper face of the last voxel."""
        return self.lower + self.extent

    def corners(self) -> np.ndarray:
        """The 8 outermost voxel centres, (8, 3) um."""
        ends = [(0, n - 1) for n in self.shape]
        index = np.array([(z, y, x) for z in ends[0] for y in ends[1] for x in ends[2]])
        return self.to_physical(index)

    # ------------------------------------------------------------------ derived grids
    def crop(self, region: tuple[slice, slice, slice]) -> Grid:
        """The grid of ``array[region]`` (steps of 1; open ends allowed)."""
        bounds = [part.indices(n) for part, n in zip(region, self.shape, strict=True)]
        start = np.array([b[0] for b in bounds])
        shape = _shape(b[1] - b[0] for b in bounds)
        return Grid(shape, self.spacing, tuple(self.to_physical(start)))

    def pad(self, voxels: int | tuple[int, int, int]) -> Grid:
        """The grid enlarged by ``voxels`` on either side of every axis."""
        margin = np.broadcast_to(np.asarray(voxels), 3)
        shape = _shape(n + 2 * m for n, m in zip(self.shape, margin, strict=True))
        return Grid(shape, self.spacing, tuple(self.to_physical(-margin)))

    def coarsen(self, factors: tuple[int, int, int]) -> Grid:
        """The grid after binning by ``factors``: ceil(shape / factors), origin moved to the bin's centre.

        The centre of a bin of f voxels lies (f - 1) / 2 voxels after its first voxel (the half-voxel
        rule of OME-NGFF). An incomplete last bin keeps the regular grid's centre.
        """
        f = np.asarray(factors)
        shape = _shape(-(-np.asarray(self.shape) // f))
        spacing = tuple(np.asarray(self.spacing) * f)
        return Grid(shape, spacing, tuple(self.to_physical((f - 1) / 2)))

    def resample(self, spacing: float | Triple) -> Grid:
        """A grid of another spacing, um, that starts at the same lower face and covers this one."""
        new = np.broadcast_to(np.asarray(spacing, float), 3)
        shape = _shape(np.maximum(1, np.ceil(self.extent / new - 1e-6)))
        return Grid(shape, tuple(new), tuple(self.lower + new / 2))

    # ------------------------------------------------------------------ JSON
    def to_json(self) -> dict[str, list]:
        """Plain lists, for receipts."""
        return {"shape": list(self.shape), "spacing": list(self.spacing), "origin": list(self.origin)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Grid:
        """The grid that `to_json` wrote."""
        return cls(tuple(value["shape"]), tuple(value["spacing"]), tuple(value["origin"]))


def breadth_of(shape: tuple[int, ...]) -> int:
    """Voxels along the second longest axis: a thin slab has as much to compare as the plane of it."""
    return sorted(shape)[1]


def _shape(sizes: Iterable[Any]) -> Shape:
    z, y, x = (int(n) for n in sizes)
    return z, y, x
