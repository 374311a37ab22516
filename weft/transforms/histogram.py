"""Percentiles of more values than fit into memory, to within a bin."""

from __future__ import annotations

import numba
import numpy as np


class Histogram:
    """Counts of values in bins of one width, and the smallest and the largest exactly.

    Parameters
    ----------
    low
        Lower end of the first bin; what lies below is counted in it.
    width
        Of a bin.
    bins
        Number of bins; what lies above the last is counted in it.
    """

    def __init__(self, low: float, width: float, bins: int) -> None:
        self.low, self.width = float(low), float(width)
        self.counts = np.zeros(bins, np.int64)
        self.smallest, self.largest = np.inf, -np.inf

    @property
    def size(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    def add(self, values: np.ndarray) -> None:
        """Count an array's values."""
        flat = np.ascontiguousarray(values).reshape(-1)
        smallest, largest = _count(flat, self.low, 1 / self.width, self.counts)
        self.smallest, self.largest = min(self.smallest, smallest), max(self.largest, largest)

    def percentile(self, q: float) -> float:
        """The value that q % of all do not exceed: rounded up to the end of its bin, never beyond the extremes."""
        place = int(np.searchsorted(np.cumsum(self.counts), q / 100 * self.size))
        if place >= len(self.counts) - 1:
            return self.largest
        return float(min(max(self.low + (place + 1) * self.width, self.smallest), self.largest))


@numba.njit(cache=True, nogil=True)
def _count(values, low, per_width, counts):
    smallest, largest = np.inf, -np.inf
    for i in range(values.size):
        value = float(values[i])
        smallest, largest = min(smallest, value), max(largest, value)
        # Compared as a float: a value far out has no place that fits into a whole number.
        place = min(max((value - low) * per_width, 0.0), counts.size - 1.0)
        counts[int(place)] += 1
    return smallest, largest
