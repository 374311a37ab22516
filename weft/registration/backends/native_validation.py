"""Cross-validation of the native engine's steps: where one half of the cells does not confirm the other, steps end.

Steps that go on where there is nothing left to find fit noise, and what the model does not know; the similarity that
they are made for rises all the same. Whether a step tells something can be seen in cells that it was not made from (Stone,
1974): the cells of the displacement grid are divided like a chessboard of `FIELD`^3 cells, a step is made from either
colour, and at each field the step v made from the other colour is judged by how it changes the sum of squares there,

    v'Hv - 2 r'v,    least for the multiple  r'v / v'Hv  of v.

Summed over the cells of a neighbourhood of about `WIDTH` cells, r'v / v'Hv is the *confirmed share*: about 1, or more, where
there is a displacement to be found, and below 0 where u follows chance already: what one half has added to u stands against the other
half's residuals. That is so from the first steps on a little, as u is made from all cells and not from the other half alone: hence the
real step, of all cells, is taken in full down to a share of `FULL`, and not at all from `NONE`, where the other half would
rather go back all the way. So steps come to rest by themselves, region by region, and neither noise nor the kind of the images must
be known.

What does not match at all, as tissue that one image lacks, is no chance: both halves agree on it, and steps go on there when all else
rests. So a level has settled when less than `SETTLED` of the texture confirms its steps, and then ends with the first step
that gains less than `SETTLED_GAIN`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from weft.registration.backends.native_field import gaussian_taps, smooth
from weft.registration.backends.native_jit import INLINED, JIT, U
from weft.registration.backends.native_prior import TEXTURED

VECTOR = 16  # floats that rows of the scratch are longer than the row of fields
LOADED = 15  # rows of the scratch that hold what is read
FIELD = 2  # cells along the edge of a field of the chessboard: windows of neighbouring cells share voxels
FIELDS = 2  # along the edge of a block, for each of which there is one share
BLOCK = FIELDS * FIELD  # cells
WIDTH = 6.0  # cells: standard deviation of the neighbourhood that a share is measured in
FULL = -0.2
NONE = -1.2
SETTLED = 0.7
SETTLED_GAIN = 8e-4  # of the mean of rho^2


def sum_fields(equations: np.ndarray, spans: np.ndarray, edge: int) -> tuple[np.ndarray, np.ndarray]:
    """Before the equations are smoothed: r summed over every field, and twice that of the fields of one colour.

    Parameters
    ----------
    equations
        (9, Z, Y, X) float32 of `native_pass.sum_tiles`.
    spans
        (Z, Y, 2) int64: first and last + 1 cell of each row that holds any; nothing else is read.
    edge
        How many of the equations there are along the edge of a field: `FIELD`, or 1 where they are of fields already.

    Returns
    -------
    whole, half
        (3, ceil(Z / edge), ceil(Y / edge), ceil(X / edge)) float32; `half` is 0 in the fields of the other colour.
    """
    shape = (3, *(-(-n // edge) for n in equations.shape[1:]))
    whole = np.zeros(shape, np.float32)
    _sum_residuals(equations, spans, edge, whole)
    half = np.zeros(shape, np.float32)
    for z, y in np.ndindex(2, 2):
        here = np.s_[:, z::2, y::2, (z + y + 1) % 2 :: 2]
        half[here] = 2 * whole[here]
    return whole, half


@njit(**JIT)
def _sum_residuals(equations, spans, edge, whole):
    """Add r of the cells in `spans` into the fields."""
    Z, Y, _ = spans.shape
    for c in range(3):
        for z in range(Z):
            for y in range(Y):
                first, last = spans[z, y]
                r = equations[6 + c, z, y]
                out = whole[c, z // edge, y // edge]
                if edge == 1:
                    for x in range(first, last):
                        out[x] = r[x]
                    continue
                if first & 1 and first < last:
                    out[first // FIELD] += r[first]
                    first += 1
                if last & 1 and first < last:
                    last -= 1
                    out[last // FIELD] += r[last]
                for k in range(first // FIELD, last // FIELD):
                    out[k] += r[FIELD * k] + r[FIELD * k + 1]


def confirmed_share(
    equations: np.ndarray,
    spans: np.ndarray,
    taps: np.ndarray,
    whole: np.ndarray,
    half: np.ndarray,
    own: float,
    edge: int,
) -> np.ndarray:
    """How much of a step is to be taken, from 0 to 1, for every block of `BLOCK`^3 cells.

    Parameters
    ----------
    equations
        (9, Z, Y, X) float32, smoothed.
    spans
        As of `sum_fields`.
    taps
        What the equations were smoothed by: half a kernel per axis, (3, r + 1) float32.
    whole, half
        Of `sum_fields`; `half` is smoothed in place.
    own
        What damping and prior add to the diagonal, per voxel.
    edge
        As of `sum_fields`.

    Returns
    -------
    (z, y, x) float32, one for each block of `FIELDS`^3 fields. 0 where there are no cells around.
    """
    smooth(half, taps if edge == 1 else _between_fields(taps, equations.shape[1:]))
    sums = np.zeros((2, *(-(-n // FIELDS) for n in whole.shape[1:])), np.float32)
    # Smoothed equations are means over the cells of a field, residuals were summed over these.
    cells = math.prod(FIELD if n > 1 else 1 for n in whole.shape[1:]) if edge == 1 else 1
    _judge(equations, spans, whole, half, np.float32(8 * own), edge, sums)
    sums[1] *= cells
    smooth(sums, gaussian_taps(WIDTH / BLOCK))
    share = np.divide(sums[0], sums[1], out=np.full_like(sums[0], NONE), where=sums[1] > 0)
    return np.clip((share - NONE) / (FULL - NONE), 0, 1).astype(np.float32)


def confirmed_texture(share: np.ndarray, equations: np.ndarray, spans: np.ndarray, edge: int) -> float:
    """The mean of the shares, weighted by texture as the prior weighs cells, from one cell of every block; 1 without any.

    Parameters
    ----------
    share
        Of `confirmed_share`.
    equations, spans, edge
        As of `confirmed_share`.
    """
    block = edge * FIELDS
    z, y, x = (
        np.minimum(block * np.arange(blocks) + block // 2, cells - 1)
        for blocks, cells in zip(share.shape, equations.shape[1:], strict=True)
    )
    first, last = np.moveaxis(spans[np.ix_(z, y)], 2, 0)[..., None]
    known = (first <= x) & (x < last)
    # Cells that are not known hold anything.
    trace = np.sum([np.where(known, equations[c][np.ix_(z, y, x)], 0) for c in (0, 3, 5)], axis=0)
    weight = trace / (trace + 8 * TEXTURED)
    total = float(weight.sum())
    return float((weight * share).sum()) / total if total > 0 else 1.0


def _between_fields(taps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A kernel over cells as one over fields: the mean of its values between the cells of one and of another field."""
    radius = taps.shape[1] // FIELD
    lags = FIELD * np.arange(radius + 1)
    padded = np.pad(taps, ((0, 0), (0, FIELD)))
    # In order of rows, as all taps are: kernels are compiled for each order of memory.
    found = np.ascontiguousarray(padded[:, abs(lags - 1)] + 2 * padded[:, lags] + padded[:, lags + 1])
    found /= np.float32(4)
    for axis, n in enumerate(shape):
        if n == 1:  # a field has one cell along this axis
            found[axis] = 0
            found[axis, 0] = taps[axis, 0]
    return found


@njit(**JIT)
def _judge(equations, spans, whole, half, own, edge, sums):
    """Add r'v and v'Hv of the step v that the other colour's fields make, into the blocks."""
    _, Z, Y, X = equations.shape
    _, Zf, Yf, Xf = whole.shape
    one = np.float32(1)
    two = np.float32(2)
    # Rows of the scratch: H, r, whole, half; how many equations are a field's; the colours of a row, and of the row beside it; the
    # two results; and a row of cells.
    P = U(Xf + VECTOR)
    B = np.zeros((LOADED + 7) * (Xf + VECTOR), np.float32)
    cells = U(LOADED) * P
    colours = cells + P
    found = colours + P + P
    row = found + P + P
    for k in range(Xf):
        B[cells + U(k)] = np.float32(min(edge, X - edge * k))
        B[colours + U(k)] = np.float32(k & 1)
        B[colours + P + U(k)] = np.float32(1 - (k & 1))
    for z in range(Zf):
        z1 = min(edge * z + edge, Z)
        for y in range(Yf):
            y1 = min(edge * y + edge, Y)
            first = Xf
            last = np.int64(0)
            for i in range(edge * z, z1):
                for j in range(edge * y, y1):
                    a, b = spans[i, j]
                    if a < b:
                        first = min(first, a // edge)
                        last = max(last, (b + edge - 1) // edge)
            n = last - first
            if n <= 0:
                continue
            for c in range(9):
                if edge == 1:
                    p = equations[c, z, y, first:]
                    for k in range(n):
                        B[U(c) * P + U(k)] = p[k]
                else:
                    _sum_cells(equations, c, edge * z, z1, edge * y, y1, edge * first, n, U(c) * P, row, B)
            for c in range(3):
                for k in range(n):
                    B[U(9 + c) * P + U(k)] = whole[c, z, y, first + k]
                    B[U(12 + c) * P + U(k)] = half[c, z, y, first + k]
            # 1 in the colour that `half` holds.
            other = colours + U(first) + (P if (z + y) & 1 else U(0))
            rows = np.float32((z1 - edge * z) * (y1 - edge * y))
            for k in range(n):
                x = U(k)
                count = rows * B[cells + U(first) + x]
                more = own * count
                a = B[x] + more
                b = B[P + x]
                c = B[U(2) * P + x]
                d = B[U(3) * P + x] + more
                e = B[U(4) * P + x]
                f = B[U(5) * P + x] + more
                take = B[other + x]
                sign = (one - two * take) * count
                take *= two
                p = take * B[U(6) * P + x] + sign * B[U(12) * P + x]
                q = take * B[U(7) * P + x] + sign * B[U(13) * P + x]
                r = take * B[U(8) * P + x] + sign * B[U(14) * P + x]
                A00 = d * f - e * e
                A01 = c * e - b * f
                A02 = b * e - c * d
                A11 = a * f - c * c
                A12 = b * c - a * e
                A22 = a * d - b * b
                k00 = one / (a * A00 + b * A01 + c * A02)
                i = k00 * (A00 * p + A01 * q + A02 * r)
                j = k00 * (A01 * p + A11 * q + A12 * r)
                h = k00 * (A02 * p + A12 * q + A22 * r)
                # No longer than a voxel, as the step itself.
                scale = one / max(np.sqrt(i * i + j * j + h * h), one)
                i *= scale
                j *= scale
                h *= scale
                B[found + x] = B[U(9) * P + x] * i + B[U(10) * P + x] * j + B[U(11) * P + x] * h
                B[found + P + x] = (
                    i * ((a - more) * i + two * (b * j + c * h))
                    + j * ((d - more) * j + two * e * h)
                    + (f - more) * h * h
                )
            for c in range(2):
                line = sums[c, z // FIELDS, y // FIELDS]
                o = found + P if c else found
                for k in range(n):
                    line[(first + k) // FIELDS] += B[o + U(k)]


@njit(**INLINED)
def _sum_cells(a, c, z0, z1, y0, y1, first, n, out, row, B):
    """Sums over the cells of n fields of a row, from cell `first` on -> scratch; `row` is that of cells."""
    count = min(FIELD * n, a.shape[3] - first)
    B[row + U(FIELD * n - 1)] = np.float32(0)
    p = a[c, z0, y0, first:]
    for i in range(count):
        B[row + U(i)] = p[i]
    for z in range(z0, z1):
        for y in range(y0, y1):
            if z > z0 or y > y0:
                p = a[c, z, y, first:]
                for i in range(count):
                    B[row + U(i)] += p[i]
    for i in range(n):
        k = row + U(FIELD * i)
        B[out + U(i)] = B[k] + B[k + U(1)]


@njit(**JIT)
def take_share(step, share, edge):
    """Multiply a step (3, Z, Y, X) by the shares of its blocks of `edge`^3 samples, linear between their centres."""
    _, Z, Y, X = step.shape
    one = np.float32(1)
    rows = np.empty(share.shape[2] + 1, np.float32)  # the last one twice, so that every one has one after it
    row = np.empty(X, np.float32)
    block = np.empty(X, np.uint64)
    weight = np.empty(X, np.float32)
    for x in range(X):
        first, _, weight[x] = _between(x, share.shape[2], edge)
        block[x] = first
    for z in range(Z):
        z0, z1, wz = _between(z, share.shape[0], edge)
        for y in range(Y):
            y0, y1, wy = _between(y, share.shape[1], edge)
            least = one
            for x in range(share.shape[2]):
                near = share[z0, y0, x] + wy * (share[z0, y1, x] - share[z0, y0, x])
                far = share[z1, y0, x] + wy * (share[z1, y1, x] - share[z1, y0, x])
                rows[x] = near + wz * (far - near)
                least = min(least, rows[x])
            if least >= one:
                continue
            rows[share.shape[2]] = rows[share.shape[2] - 1]
            for x in range(X):
                p = rows[block[x]]
                row[x] = p + weight[x] * (rows[block[x] + U(1)] - p)
            for c in range(3):
                v = step[c, z, y]
                for x in range(X):
                    v[x] *= row[x]


@njit(**INLINED)
def _between(x, n, edge):
    """The blocks before and after a sample, and the weight of the latter."""
    at = (np.float32(x) + np.float32(0.5)) / np.float32(edge) - np.float32(0.5)
    at = min(max(at, np.float32(0)), np.float32(n - 1))
    first = int(at)
    return first, min(first + 1, n - 1), at - np.float32(first)
