"""How much of a displacement field hangs on its finest samples, measured while the field is written."""

from __future__ import annotations

from itertools import product

import numpy as np

from weft.grid import Grid
from weft.image import Region, box
from weft.transforms.interpolate import resample_field

EDGE = 24  # samples of a part that is looked at
PARTS = 4  # parts along each axis


class LostDetail:
    """What is lost when every second sample of a field is left out and interpolated, on parts spread over the field.

    A part is held until all its samples have come and then judged, so that nothing is read back from where the field
    is written.

    Parameters
    ----------
    grid
        Where the field's samples lie.
    """

    def __init__(self, grid: Grid) -> None:
        starts = [sorted({int(s) for s in np.linspace(0, max(n - EDGE, 0), PARTS)}) for n in grid.shape]
        self._parts = [_Part(np.array(first), grid.shape) for first in product(*starts)]

    def add(self, region: Region, values: np.ndarray) -> None:
        """Take a part of the field that was not given yet.

        Parameters
        ----------
        region
            Slices (z, y, x) of the field's grid.
        values
            u there, (3, z, y, x) float32 um.
        """
        for part in self._parts:
            part.add(region, values)

    @property
    def percentile99(self) -> float:
        """99th percentile of the length of what is lost, um, over all parts; raises ValueError while one is incomplete."""
        if any(part.lost is None for part in self._parts):
            raise ValueError("the field was not given as a whole")
        return float(np.percentile(np.concatenate([part.lost for part in self._parts]), 99))


class _Part:
    """Samples of a field on their way to `lost`: the lengths, um, of what is lost there; None until all are there."""

    def __init__(self, first: np.ndarray, shape: tuple[int, ...]) -> None:
        self.first, self.last = first, np.minimum(first + EDGE, shape)
        self.lost: np.ndarray | None = None
        self._values: np.ndarray | None = None
        self._missing = int(np.prod(self.last - first))

    def add(self, region: Region, values: np.ndarray) -> None:
        start = np.array([s.start for s in region])
        low, high = np.maximum(self.first, start), np.minimum(self.last, [s.stop for s in region])
        if (low >= high).any():
            return
        if self._values is None:
            self._values = np.empty((3, *(self.last - self.first)), np.float32)
        here, there = box(low - self.first, high - self.first), box(low - start, high - start)
        self._values[(slice(None), *here)] = values[(slice(None), *there)]
        self._missing -= int(np.prod(high - low))
        if not self._missing:
            self.lost = _lost(self._values)
            self._values = None


def _lost(values: np.ndarray) -> np.ndarray:
    # An odd number of samples ends on one that is left.
    u = values[(slice(None), *(slice(n - (n + 1) % 2) for n in values.shape[1:]))]
    fine = Grid(u.shape[1:], (1.0, 1.0, 1.0))
    half = np.ascontiguousarray(u[:, ::2, ::2, ::2])
    coarse = Grid(half.shape[1:], (2.0, 2.0, 2.0))
    return np.sqrt(((u - resample_field(half, coarse, fine)) ** 2).sum(0)).ravel()
