"""What of an image level is visited: rows of cells with something to compare, and tiles of a fixed size.

A *span* is the range of cells, first .. last + 1, visited in a row of cells along x; spans of all rows are an
int64 array (Zc, Yc, 2). Rows without anything have first = last = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numba import njit

from weft.registration.backends.native_jit import INLINED, JIT
from weft.registration.backends.native_warp import TILE_X
from weft.registration.backends.native_windows import TILE_Y

TILE_Z = 32  # cells: a slab of 64 planes, whatever the number of threads
MERE_NOISE = 2.0  # times the noise's variance: cells with less hold nothing else
ROW_END = np.iinfo(np.int64).max


def tiles_of(spans: np.ndarray) -> np.ndarray:
    """The tiles of a level that hold anything: (n, 6) int64, first and last + 1 cell along z, y, x.

    Their size does not depend on the number of threads, so neither does the order in which anything is summed.
    """
    depth, height, _ = spans.shape
    nonempty = spans[..., 0] < spans[..., 1]
    if not nonempty.any():
        return np.zeros((0, 6), np.int64)
    first = int(spans[..., 0][nonempty].min()) // 2 * 2
    last = int(spans[..., 1][nonempty].max())
    columns = math.ceil((last - first) / TILE_X)
    if columns > 1:
        columns = math.ceil((last - first) / (TILE_X - 2))
    # No field of 2^3 cells lies in two tiles.
    edges = [first + (last - first) * k // columns // 2 * 2 for k in range(columns)] + [last]
    tiles = []
    for z in range(0, depth, TILE_Z):
        for y in range(0, height, TILE_Y):
            part = spans[z : z + TILE_Z, y : y + TILE_Y]
            for a, b in pairwise(edges):
                if (np.maximum(part[..., 0], a) < np.minimum(part[..., 1], b)).any():
                    tiles.append((z, min(z + TILE_Z, depth), y, min(y + TILE_Y, height), a, b))
    return np.array(tiles, np.int64).reshape(-1, 6)


def spans_of_fields(spans: np.ndarray) -> np.ndarray:
    """The fields of 2^3 cells that hold a cell in `spans`, and those between them: spans of half as many rows."""
    parts = []
    for z, y in np.ndindex(2, 2):
        part = np.zeros((-(-spans.shape[0] // 2), -(-spans.shape[1] // 2), 2), np.int64)
        rows = spans[z::2, y::2]
        part[: rows.shape[0], : rows.shape[1]] = rows // 2
        part[: rows.shape[0], : rows.shape[1], 1] = (rows[..., 1] + 1) // 2
        parts.append(part)
    return hull(parts)


def widen(spans: np.ndarray, reach: int, width: int) -> np.ndarray:
    """The spans of all cells that are at most `reach` cells from one in `spans` along each axis."""
    if reach == 0:
        return spans
    empty = spans[..., 0] >= spans[..., 1]
    first = np.where(empty, ROW_END, spans[..., 0])
    last = np.where(empty, 0, spans[..., 1])
    for axis in (0, 1):
        n = first.shape[axis]
        a, b = first.copy(), last.copy()
        for k in range(1, min(reach, n - 1) + 1):
            lower, upper = [slice(None)] * 2, [slice(None)] * 2
            lower[axis], upper[axis] = slice(0, n - k), slice(k, n)
            for here, there in ((tuple(lower), tuple(upper)), (tuple(upper), tuple(lower))):
                np.minimum(a[here], first[there], out=a[here])
                np.maximum(b[here], last[there], out=b[here])
        first, last = a, b
    empty = last == 0
    return np.stack(
        [
            np.where(empty, 0, np.maximum(first - reach, 0)),
            np.where(empty, 0, np.minimum(last + reach, width)),
        ],
        -1,
    )


def hull(spans: Sequence[np.ndarray]) -> np.ndarray:
    """The narrowest spans that hold all the given ones."""
    first = np.min([np.where(s[..., 0] < s[..., 1], s[..., 0], ROW_END) for s in spans], 0)
    last = np.max([np.where(s[..., 0] < s[..., 1], s[..., 1], 0) for s in spans], 0)
    return np.stack([np.where(last == 0, 0, first), last], -1)


def active_spans(
    fixed: np.ndarray, mask: np.ndarray, floor: float, noise: float = 0.0
) -> tuple[np.ndarray, float]:
    """The cells whose windows hold structure of the fixed image.

    A window of 5^3 voxels with varF < `floor` counts by s = varF / (varF + floor) < 1/2 and, as noise of
    that size has no partner in the moving image, by rho^2 of a hundredth of that. A cell is left out where this
    holds of the windows of all its 8 voxels: they lie in the 6^3 voxels of the cell and its neighbours, so
    that their sum of squared deviations is at most that of those. Nor does a cell count where the variance of these
    voxels is less than `MERE_NOISE` times that of the background's white noise.

    Parameters
    ----------
    fixed
        (Z, Y, X) float32.
    mask
        Weights of its voxels, or of size 0. Cells of weight 0 are left out.
    floor
        The noise floor, a variance.
    noise
        Variance of white noise in the background.

    Returns
    -------
    spans, share
        (Zc, Yc, 2) int64, and the share that the visited cells have of the sum of s.
    """
    Z, Y, X = fixed.shape
    shape = ((Z + 1) // 2, (Y + 1) // 2, (X + 1) // 2)
    spans = np.zeros((*shape[:2], 2), np.int64)
    bound = max(floor * 125 / 216, MERE_NOISE * noise)
    inside, total = _find_spans(fixed, mask, np.float32(floor), np.float32(bound), shape[2], spans)
    return spans, inside / total if total > 0 else 0.0


@njit(**JIT)
def _find_spans(fixed, mask, floor, bound, Xc, spans):
    """`active_spans`; returns the sums of s over the visited cells and over all."""
    Zc, Yc, _ = spans.shape
    ring = np.empty((3, 2, Yc, Xc), np.float32)  # sums of F and F^2 in the cells of three planes
    row = np.empty((2, Xc + 2), np.float32)
    s = np.empty(Xc, np.float32)
    n = np.float32(1 / 216)
    zero = np.float32(0)
    visited = 0.0
    total = 0.0
    for cz in range(Zc):
        for k in range(cz + 1 if cz else 0, min(cz + 2, Zc)):
            for cy in range(Yc):
                _sum_cells(fixed, k, cy, ring[k % 3, 0, cy], ring[k % 3, 1, cy])
        for cy in range(Yc):
            row[:] = zero
            for j in range(-1, 2):
                k = min(max(cz + j, 0), Zc - 1) % 3
                for c in range(2):
                    up = ring[k, c, max(cy - 1, 0)]
                    here = ring[k, c, cy]
                    down = ring[k, c, min(cy + 1, Yc - 1)]
                    out = row[c, 1:]
                    for x in range(Xc):
                        out[x] += up[x] + here[x] + down[x]
            for c in range(2):
                row[c, 0] = row[c, 1]
                row[c, Xc + 1] = row[c, Xc]
            for x in range(Xc):
                mean = (row[0, x] + row[0, x + 1] + row[0, x + 2]) * n
                s[x] = max((row[1, x] + row[1, x + 1] + row[1, x + 2]) * n - mean * mean, zero)
            if mask.size:
                for x in range(Xc):
                    if not _counts(mask, cz, cy, x):
                        s[x] = zero
            first = 0
            last = Xc
            while first < last and s[first] < bound:
                first += 1
            while first < last and s[last - 1] < bound:
                last -= 1
            for x in range(Xc):
                s[x] /= s[x] + floor
            row_total = zero
            for x in range(Xc):
                row_total += s[x]
            total += float(row_total)
            if first < last:
                spans[cz, cy, 0] = first
                spans[cz, cy, 1] = last
                row_total = zero
                for x in range(first, last):
                    row_total += s[x]
                visited += float(row_total)
    return visited, total


@njit(**INLINED)
def _sum_cells(a, cz, cy, out, squares):
    """Sums of a and of a^2 over the voxels of the cells of a row (the image's edge repeated)."""
    Z, Y, X = a.shape
    z1 = min(2 * cz + 1, Z - 1)
    y1 = min(2 * cy + 1, Y - 1)
    p = a[2 * cz, 2 * cy]
    q = a[2 * cz, y1]
    r = a[z1, 2 * cy]
    s = a[z1, y1]
    for x in range(X // 2):
        i = 2 * x
        j = i + 1
        out[x] = p[i] + p[j] + q[i] + q[j] + r[i] + r[j] + s[i] + s[j]
        squares[x] = (p[i] * p[i] + p[j] * p[j] + q[i] * q[i] + q[j] * q[j]) + (
            r[i] * r[i] + r[j] * r[j] + s[i] * s[i] + s[j] * s[j]
        )
    if X & 1:
        i = X - 1
        two = np.float32(2)
        out[X // 2] = two * (p[i] + q[i] + r[i] + s[i])
        squares[X // 2] = two * (p[i] * p[i] + q[i] * q[i] + r[i] * r[i] + s[i] * s[i])


@njit(**INLINED)
def _counts(mask, cz, cy, cx):
    """Whether any voxel of a cell has a weight."""
    Z, Y, X = mask.shape
    for z in range(2 * cz, min(2 * cz + 2, Z)):
        for y in range(2 * cy, min(2 * cy + 2, Y)):
            for x in range(2 * cx, min(2 * cx + 2, X)):
                if mask[z, y, x] > 0:
                    return True
    return False
