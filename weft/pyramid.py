"""Pyramid levels: which factors to bin by, and the kernels that bin."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numba
import numpy as np

from weft.grid import Shape, Triple

# An axis is binned while its voxels are smaller than this multiple of the smallest voxel side.
# sqrt(2) is the turning point where binning an axis by two makes the voxel no less isotropic.
_ISOTROPY = math.sqrt(2.0)


def plan_levels(shape: Shape, spacing: Triple, *, smallest: int = 64) -> list[Shape]:
    """Binning factors of every pyramid level, each relative to the level before.

    An axis is binned by two when its voxel side is within a factor sqrt(2) of the smallest one, so that
    anisotropic volumes become isotropic first. An axis of one voxel is left as it is and does not count.

    Parameters
    ----------
    shape
        Voxels of the finest level, (z, y, x).
    spacing
        Voxel size of the finest level, um, (z, y, x).
    smallest
        Levels are added until no axis is longer than this many voxels.

    Returns
    -------
    list of tuple
        Factors (z, y, x), 1 or 2, of level 1, 2, ...; empty when the finest level is small enough.

    Raises
    ------
    ValueError
        When ``smallest`` is less than one.
    """
    if smallest < 1:
        raise ValueError(
            f"the smallest pyramid level needs at least one voxel per axis; found smallest={smallest}"
        )
    size, side = list(shape), list(spacing)
    levels: list[Shape] = []
    while max(size) > smallest:
        factors = halving(size, side)
        levels.append(factors)
        size = [-(-n // f) for n, f in zip(size, factors, strict=True)]
        side = [s * f for s, f in zip(side, factors, strict=True)]
    return levels


def halving(shape: Sequence[int], spacing: Sequence[float]) -> Shape:
    """Binning factors (z, y, x), 1 or 2, of the next level.

    Two for the axes whose voxel side is within a factor sqrt(2) of the smallest one; an axis of one voxel is left
    as it is and does not count.
    """
    limit = _ISOTROPY * min((s for s, n in zip(spacing, shape, strict=True) if n > 1), default=0.0)
    z, y, x = (2 if n > 1 and s < limit else 1 for s, n in zip(spacing, shape, strict=True))
    return z, y, x


def downsample(array: np.ndarray, factors: Sequence[int], *, mode: str = "mean") -> np.ndarray:
    """Bin a volume.

    Parameters
    ----------
    array
        Voxels, (z, y, x), of any integer, bool or float type.
    factors
        Voxels per bin, (z, y, x).
    mode
        ``"mean"`` for images: the mean of the bin, accumulated in integers (or float64) and rounded half
        up for integer types. ``"mode"`` for labels: the most frequent value of the bin, the smallest of
        equally frequent ones; exact for 64-bit labels.

    Returns
    -------
    ndarray
        (ceil(z / fz), ceil(y / fy), ceil(x / fx)), dtype of ``array``. Incomplete bins at the upper
        edges take the voxels that are there.

    Raises
    ------
    ValueError
        When ``array`` is not a volume, a factor is not a positive integer, the mode is unknown, or a mean
        of 64-bit integers is asked for (those are labels).
    """
    if array.ndim != 3:
        raise ValueError(f"downsample takes a volume (z, y, x); found {array.ndim} axes")
    fz, fy, fx = (int(f) for f in factors)
    if min(fz, fy, fx) < 1:
        raise ValueError(f"binning factors must be positive integers; found {tuple(factors)}")
    if mode not in ("mean", "mode"):
        raise ValueError(f"downsample knows the modes mean and mode; found {mode!r}")
    if array.dtype.kind not in "buif":
        raise ValueError(f"downsample takes bool, integer or float voxels; found {array.dtype}")
    if mode == "mean" and array.dtype.kind in "ui" and array.dtype.itemsize == 8:
        raise ValueError(f"a mean of {array.dtype} voxels is not exact; bin labels with mode='mode'")
    if (fz, fy, fx) == (1, 1, 1):
        return array.copy()
    work = np.ascontiguousarray(array)
    if array.dtype == bool:
        work = work.view(np.uint8)
    elif array.dtype == np.float16:
        work = work.astype(np.float32)
    shape = (-(-work.shape[0] // fz), -(-work.shape[1] // fy), -(-work.shape[2] // fx))
    out = np.empty(shape, work.dtype)
    if mode == "mode":
        _bin_mode(work, out, fz, fy, fx)
    elif work.dtype.kind == "f":
        _bin_mean_float(work, out, fz, fy, fx)
    else:
        # 16-bit sums of up to 2**15 voxels fit 32 bits, which vectorises twice as wide.
        small = work.dtype.itemsize <= 2 and fz * fy * fx <= 1 << 15
        _bin_mean_int(work, out, fz, fy, fx, np.zeros(shape[2], np.int32 if small else np.int64))
    return out.view(bool) if array.dtype == bool else out.astype(array.dtype, copy=False)


@numba.njit(cache=True, nogil=True)
def _add_row(row, total, fx):
    """Add to ``total`` the bins of ``fx`` voxels along one row."""
    full = row.size // fx
    if fx == 1:
        for x in range(full):
            total[x] += row[x]
    elif fx == 2:
        for x in range(full):
            total[x] += total.dtype.type(row[2 * x]) + total.dtype.type(row[2 * x + 1])
    else:
        for x in range(full):
            for k in range(fx):
                total[x] += row[x * fx + k]
    for k in range(full * fx, row.size):
        total[full] += row[k]


@numba.njit(cache=True, nogil=True)
def _bin_mean_int(array, out, fz, fy, fx, total):
    nz, ny, nx = array.shape
    for z in range(out.shape[0]):
        z1 = min(nz, (z + 1) * fz)
        for y in range(out.shape[1]):
            y1 = min(ny, (y + 1) * fy)
            total[:] = 0
            for k in range(z * fz, z1):
                for j in range(y * fy, y1):
                    _add_row(array[k, j], total, fx)
            rows = (z1 - z * fz) * (y1 - y * fy)
            count = rows * fx
            half = count // 2
            if count & (count - 1) == 0:  # a power of two: floor division is a shift
                shift = 0
                while (1 << shift) < count:
                    shift += 1
                for x in range(out.shape[2]):
                    out[z, y, x] = (total[x] + half) >> shift
            else:
                for x in range(out.shape[2]):
                    out[z, y, x] = (total[x] + half) // count
            rest = nx - (out.shape[2] - 1) * fx
            if rest < fx:
                count = rows * rest
                out[z, y, out.shape[2] - 1] = (total[out.shape[2] - 1] + count // 2) // count


@numba.njit(cache=True, nogil=True)
def _bin_mean_float(array, out, fz, fy, fx):
    nz, ny, nx = array.shape
    total = np.zeros(out.shape[2], np.float64)
    for z in range(out.shape[0]):
        z1 = min(nz, (z + 1) * fz)
        for y in range(out.shape[1]):
            y1 = min(ny, (y + 1) * fy)
            total[:] = 0.0
            for k in range(z * fz, z1):
                for j in range(y * fy, y1):
                    _add_row(array[k, j], total, fx)
            rows = (z1 - z * fz) * (y1 - y * fy)
            for x in range(out.shape[2]):
                out[z, y, x] = total[x] / (rows * min(fx, nx - x * fx))


@numba.njit(cache=True, nogil=True, forceinline=True)
def _most_frequent(values, n):
    """The most frequent of the first ``n`` values, the smallest of equally frequent ones."""
    best, most = values[0], 0
    for i in range(n):
        count = 0
        for j in range(n):
            count += values[j] == values[i]
        if 2 * count > n:
            return values[i]
        if count > most or (count == most and values[i] < best):
            best, most = values[i], count
    return best


@numba.njit(cache=True, nogil=True, forceinline=True)
def _most_frequent_of_8(a, b, c, d, e, f, g, h):
    """As `_most_frequent`, for the bins that are most; says whether it knows, which it nearly always does.

    Without branches: where labels meet, none could be foretold.
    """
    first = 1 + (b == a) + (c == a) + (d == a) + (e == a) + (f == a) + (g == a) + (h == a)
    # Where four or fewer are like the first, one of these differs.
    other = b if b != a else c if c != a else d if d != a else e
    second = (
        (b == other) + (c == other) + (d == other) + (e == other) + (f == other) + (g == other) + (h == other)
    )
    value = a if first > second else other
    value = min(a, other) if first == second else value
    return max(first, second) > 8 - first - second, value


@numba.njit(cache=True, nogil=True, forceinline=True)
def _find_borders(row, first, borders, fx):
    """Mark the bins of a row that hold another value than the first of the bin's first row."""
    if fx == 2:
        for x in range(row.size // 2):
            borders[x] |= (row[2 * x] != first[2 * x]) | (row[2 * x + 1] != first[2 * x])
    else:
        for x in range(row.size // fx):
            for i in range(fx):
                borders[x] |= row[x * fx + i] != first[x * fx]


@numba.njit(cache=True, nogil=True)
def _bin_mode(array, out, fz, fy, fx):
    nz, ny, nx = array.shape
    values = np.empty(fz * fy * fx, array.dtype)
    borders = np.empty(out.shape[2], np.bool_)
    for z in range(out.shape[0]):
        z1 = min(nz, (z + 1) * fz)
        for y in range(out.shape[1]):
            y1 = min(ny, (y + 1) * fy)
            first = array[z * fz, y * fy]
            # Most bins hold one value: they are found row by row, and only the others are counted.
            borders[: nx // fx] = False
            borders[nx // fx :] = True
            for k in range(z * fz, z1):
                for j in range(y * fy, y1):
                    _find_borders(array[k, j], first, borders, fx)
            for x in range(out.shape[2]):
                if not borders[x]:
                    out[z, y, x] = first[x * fx]
                    continue
                if fx == 2 and z1 - z * fz == 2 and y1 - y * fy == 2 and x < nx // 2:
                    known, value = _most_frequent_of_8(
                        first[2 * x],
                        first[2 * x + 1],
                        array[z1 - 2, y1 - 1, 2 * x],
                        array[z1 - 2, y1 - 1, 2 * x + 1],
                        array[z1 - 1, y1 - 2, 2 * x],
                        array[z1 - 1, y1 - 2, 2 * x + 1],
                        array[z1 - 1, y1 - 1, 2 * x],
                        array[z1 - 1, y1 - 1, 2 * x + 1],
                    )
                    if known:
                        out[z, y, x] = value
                        continue
                n = 0
                for k in range(z * fz, z1):
                    for j in range(y * fy, y1):
                        for i in range(x * fx, min(nx, (x + 1) * fx)):
                            values[n] = array[k, j, i]
                            n += 1
                out[z, y, x] = _most_frequent(values, n)
