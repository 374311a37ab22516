"""What a displacement field is like, measured part by part: change of volume, folds and seams between blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from weft.grid import Grid
from weft.image import Region, box
from weft.transforms.histogram import Histogram
from weft.transforms.interpolate import Field
from weft.transforms.jacobian import determinant

# Determinants are counted in bins of a thousandth from -1 to 9.
LOWEST, BIN, BINS = -1.0, 1e-3, 10_000
ROUNDING = 1e-4  # of a sample's spacing: smaller bends than this are rounding


class FieldSurvey:
    """Measures of a displacement field, collected from parts that tile it.

    Parameters
    ----------
    grid
        Where the field's samples lie.
    faces
        Per axis (z, y, x) the samples with which a block's core begins, but for the first.
    """

    def __init__(self, grid: Grid, faces: Sequence[Sequence[int]] = ((), (), ())) -> None:
        self.grid = grid
        self.faces = faces
        self.determinants = Histogram(LOWEST, BIN, BINS)
        self.folded_samples = 0
        # Per axis and plane across it: sum of the bends of the field along the axis, and their number.
        self._bends = [np.zeros((n, 2)) for n in grid.shape]

    def add(self, part: Region, wide: Region, values: np.ndarray) -> None:
        """Measure a part of the field.

        Parameters
        ----------
        part
            Slices (z, y, x) of the field's grid that were not measured yet.
        wide
            The part with one sample around it, as far as there is one (see `with_rim`).
        values
            u on ``wide``, (3, z, y, x) float32 um.
        """
        inner = tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(part, wide, strict=True))
        values = np.ascontiguousarray(values, np.float32)
        changes = determinant(values, self.grid.crop(wide))[inner]
        self.determinants.add(changes)
        self.folded_samples += int(np.count_nonzero(changes <= 0))
        first = np.array([i.start for i in inner])
        last = np.array([i.stop for i in inner])
        for axis, (planes, w) in enumerate(zip(self._bends, wide, strict=True)):
            _bend(values, axis, first, last, planes[w.start : w.stop])

    def survey(self, field: Field, parts: Sequence[Region]) -> FieldSurvey:
        """Measure a field in these parts; give the survey."""
        for part in parts:
            wide = with_rim(part, self.grid)
            self.add(part, wide, np.asarray(field[(slice(None), *wide)]))
        return self

    @property
    def folded(self) -> float:
        """Share of the samples with a determinant of 0 or less."""
        return self.folded_samples / max(self.determinants.size, 1)

    @property
    def jacobian(self) -> list[float]:
        """Smallest determinant (exact), 1st and 99th percentile (to a thousandth)."""
        return [
            self.determinants.smallest,
            self.determinants.percentile(1),
            self.determinants.percentile(99),
        ]

    @property
    def seam_ratio(self) -> float | None:
        """How much more the field bends at the blocks' faces than elsewhere; None without faces.

        The bend at a sample is the length of the second difference u[i - 1] - 2 u[i] + u[i + 1] along an axis. Its
        mean over the samples on both sides of the faces across the axis is divided by that over all others; of the
        three axes the largest ratio counts. 1 is a field in which faces cannot be told.
        """
        ratios = []
        for axis, planes in enumerate(self._bends):
            at = np.zeros(len(planes), bool)
            at[[i for face in self.faces[axis] for i in (face - 1, face) if 0 <= i < len(at)]] = True
            here, there = planes[at].sum(axis=0), planes[~at].sum(axis=0)
            if here[1] and there[1]:
                floor = ROUNDING * self.grid.spacing[axis]
                ratios.append((here[0] / here[1] + floor) / (there[0] / there[1] + floor))
        return float(max(ratios)) if ratios else None


def with_rim(part: Region, grid: Grid) -> Region:
    """A part of a grid with one sample around it, as far as the grid goes."""
    return box(
        [max(p.start - 1, 0) for p in part],
        [min(p.stop + 1, n) for p, n in zip(part, grid.shape, strict=True)],
    )


@numba.njit(cache=True, nogil=True)
def _bend(u, axis, first, last, planes):
    """Add the second differences along an axis of the samples first..last that have both neighbours, plane by plane."""
    step = np.zeros(3, np.int64)
    step[axis] = 1
    dz, dy, dx = step
    low, high = first.copy(), last.copy()
    low[axis], high[axis] = max(first[axis], 1), min(last[axis], u.shape[1 + axis] - 1)
    for z in range(low[0], high[0]):
        for y in range(low[1], high[1]):
            for x in range(low[2], high[2]):
                square = 0.0
                for c in range(3):
                    bend = (u[c, z - dz, y - dy, x - dx] - u[c, z, y, x]) + (
                        u[c, z + dz, y + dy, x + dx] - u[c, z, y, x]
                    )
                    square += float(bend) * float(bend)
                plane = (z, y, x)[axis]
                planes[plane, 0] += np.sqrt(square)
                planes[plane, 1] += 1
