"""What a displacement field is like, measured part by part: change of volume, folds, seams between blocks, detail."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from weft.grid import Grid
from weft.image import Region, box
from weft.transforms.detail import LostDetail
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
    seams
        Where seams would lie: see `weft.transforms.reduce.BlendedField.seams`.
    measured
        False: nothing but `detail` is collected, a third of the work.
    """

    def __init__(
        self, grid: Grid, seams: Sequence[Sequence[Sequence[int]]] = (), *, measured: bool = True
    ) -> None:
        self.grid = grid
        self.measured = measured
        self.seams = seams
        self.determinants = Histogram(LOWEST, BIN, BINS)
        self.detail = LostDetail(grid)
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
        self.detail.add(part, values[(slice(None), *inner)])
        if not self.measured:
            return
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
        """How much more the field bends where blocks meet than elsewhere; None where they do not meet.

        The bend at a sample is the length of the second difference u[i - 1] - 2 u[i] + u[i + 1] along an axis. Its
        mean over the samples next to the seams across the axis is divided by that over all others, and the mean of the
        axes taken. The faces of the blocks and the ends of their halos are two kinds of seams: the larger ratio
        counts. 1 is a field in which seams cannot be told.
        """
        kinds = [
            [self._ratio(axis, planes) for axis, planes in enumerate(kind) if planes] for kind in self.seams
        ]
        return max((float(np.mean(ratios)) for ratios in kinds if ratios), default=None)

    def _ratio(self, axis: int, seams: Sequence[int]) -> float:
        bends = self._bends[axis]
        at = np.zeros(len(bends), bool)
        at[[i for seam in seams for i in (seam - 1, seam)]] = True
        # Samples at which nothing was measured count for nothing; what is smaller than rounding is no bend.
        here, there = (bends[planes].sum(axis=0) for planes in (at, ~at))
        floor = ROUNDING * self.grid.spacing[axis]
        return (here[0] / max(here[1], 1) + floor) / (there[0] / max(there[1], 1) + floor)


def with_rim(part: Region, grid: Grid) -> Region:
    """A part of a grid with one sample around it, as far as the grid goes."""
    return box(
        [max(p.start - 1, 0) for p in part],
        [min(p.stop + 1, n) for p, n in zip(part, grid.shape, strict=True)],
    )


@numba.njit(cache=True, nogil=True)
def _bend(u, axis, first, last, planes):
    """Add the second differences along an axis of the samples first..last that have both neighbours, plane by plane."""
    _, nz, ny, nx = u.shape
    step = (ny * nx, nx, 1)[axis]
    low, high = first.copy(), last.copy()
    low[axis], high[axis] = max(first[axis], 1), min(last[axis], u.shape[1 + axis] - 1)
    count = max(high[2] - low[2], 0)
    squares = np.empty(count, np.float32)
    flat = u.reshape(-1)
    for z in range(low[0], high[0]):
        for y in range(low[1], high[1]):
            squares[:] = 0
            for c in range(3):
                start = ((c * nz + z) * ny + y) * nx + low[2]
                before = flat[start - step : start - step + count]
                here = flat[start : start + count]
                after = flat[start + step : start + step + count]
                for x in range(count):
                    bend = (before[x] - here[x]) + (after[x] - here[x])
                    squares[x] += bend * bend
            if axis == 2:
                for x in range(count):
                    planes[low[2] + x, 0] += np.sqrt(squares[x])
                    planes[low[2] + x, 1] += 1
            else:
                plane = z if axis == 0 else y
                for x in range(count):
                    planes[plane, 0] += np.sqrt(squares[x])
                planes[plane, 1] += count
