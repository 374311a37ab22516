"""Cross-validation of the native engine's steps: where one half of the cells does not confirm the other, steps end.

Steps that go on where there is nothing left to find fit noise, and what the model does not know; the similarity that
they are made for rises all the same. Whether a step tells something can be seen in cells that it was not made from (Stone,
1974): the cells of the displacement grid are divided like a chessboard of `FIELD`^3 cells, a step is made from either
colour, and at each cell the step v made from the other colour is judged by how it changes the sum of squares there,

    v'Hv - 2 r'v,    least for the multiple  r'v / v'Hv  of v.

Summed over the cells of a neighbourhood of about `WIDTH` cells, r'v / v'Hv is the *confirmed share*: about 1, or more, where
there is a displacement to be found, and below 0 where u follows chance already: what one half has added to u stands against the other
half's residuals. That is so from the first steps on a little, as u is made from all cells and not from the other half alone: hence the
real step, of all cells, is taken in full down to a share of `FULL`, 0, and not at all from `NONE`, -1, where the other half would
rather go back all the way. So steps come to rest by themselves, region by region, and neither noise nor the kind of the images must
be known.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from weft.registration.backends.native_field import gaussian_taps, smooth
from weft.registration.backends.native_jit import INLINED, JIT, U

VECTOR = 16  # floats that rows of the scratch are longer than the row of cells
LOADED = 15  # rows of the scratch that hold what is read
FIELD = 2  # cells along the edge of a field of the chessboard: windows of neighbouring cells share voxels
BLOCK = 4  # cells along the edge of a block, for each of which there is one share
WIDTH = 6.0  # cells: standard deviation of the neighbourhood that a share is measured in
FULL = 0.0
NONE = -1.0


@njit(**JIT)
def halve_cells(equations, spans, whole, half):
    """Before the equations are smoothed: copy r into `whole` and twice r of the fields of one colour into `half`.

    Parameters
    ----------
    equations
        (9, Z, Y, X) float32 of `native_pass.sum_tiles`.
    spans
        (Z, Y, 2) int64: first and last + 1 cell of each row that holds any; outside, nothing is read or written.
    whole, half
        (3, Z, Y, X) float32, overwritten.
    """
    _, Z, Y, _ = whole.shape
    two = np.float32(2)
    zero = np.float32(0)
    for c in range(3):
        for z in range(Z):
            for y in range(Y):
                first, last = spans[z, y]
                r = equations[6 + c, z, y]
                p = whole[c, z, y]
                q = half[c, z, y]
                colour = z // FIELD + y // FIELD
                for x in range(first, last):
                    p[x] = r[x]
                    q[x] = two * r[x] if (colour + x // FIELD) & 1 else zero


def confirmed_share(
    equations: np.ndarray, spans: np.ndarray, whole: np.ndarray, half: np.ndarray, own: float
) -> np.ndarray:
    """How much of a step is to be taken, from 0 to 1, for every block of `BLOCK`^3 cells.

    Parameters
    ----------
    equations
        (9, Z, Y, X) float32, smoothed.
    spans
        As of `halve_cells`.
    whole, half
        (3, Z, Y, X) float32 of `halve_cells`; `half` smoothed as the equations are.
    own
        What damping and prior add to the diagonal, per voxel.

    Returns
    -------
    (Z, Y, X) float32, one for each block. 0 where there are no cells around.
    """
    sums = np.zeros((2, *(-(-n // BLOCK) for n in whole.shape[1:])), np.float32)
    _judge(equations, spans, whole, half, np.float32(8 * own), sums)
    smooth(sums, gaussian_taps(WIDTH / BLOCK))
    share = np.divide(sums[0], sums[1], out=np.full_like(sums[0], NONE), where=sums[1] > 0)
    return np.clip((share - NONE) / (FULL - NONE), 0, 1).astype(np.float32)


@njit(**JIT)
def _judge(equations, spans, whole, half, own, sums):
    """Add r'v and v'Hv of the step v that the other colour's cells make, into the blocks."""
    _, Z, Y, X = whole.shape
    one = np.float32(1)
    two = np.float32(2)
    # Rows of the scratch: H, whole, half, r; the colours of a row, and of the row beside it; and the two results.
    P = U(X + VECTOR)
    B = np.zeros((LOADED + 4) * (X + VECTOR), np.float32)
    colours = U(LOADED) * P
    found = colours + P + P
    for k in range(X):
        colour = (k // FIELD) & 1
        B[colours + U(k)] = np.float32(colour)
        B[colours + P + U(k)] = np.float32(1 - colour)
    for z in range(Z):
        for y in range(Y):
            first, last = spans[z, y]
            n = last - first
            if n <= 0:
                continue
            for k in range(0, 6, 3):
                _load(equations, k, z, y, first, n, k, B, P)
            _load(whole, 0, z, y, first, n, 6, B, P)
            _load(half, 0, z, y, first, n, 9, B, P)
            _load(equations, 6, z, y, first, n, 12, B, P)
            # 1 in the colour that `half` holds.
            other = colours + U(first) + (P if (z // FIELD + y // FIELD) & 1 else U(0))
            for cell in range(n):
                x = U(cell)
                a = B[x] + own
                b = B[P + x]
                c = B[U(2) * P + x]
                d = B[U(3) * P + x] + own
                e = B[U(4) * P + x]
                f = B[U(5) * P + x] + own
                take = B[other + x]
                sign = one - two * take
                take *= two
                p = take * B[U(12) * P + x] + sign * B[U(9) * P + x]
                q = take * B[U(13) * P + x] + sign * B[U(10) * P + x]
                r = take * B[U(14) * P + x] + sign * B[U(11) * P + x]
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
                B[found + x] = B[U(6) * P + x] * i + B[U(7) * P + x] * j + B[U(8) * P + x] * h
                B[found + P + x] = (
                    i * ((a - own) * i + two * (b * j + c * h))
                    + j * ((d - own) * j + two * e * h)
                    + (f - own) * h * h
                )
            for c in range(2):
                line = sums[c, z // BLOCK, y // BLOCK]
                o = found + P if c else found
                for k in range(n):
                    line[(first + k) // BLOCK] += B[o + U(k)]


@njit(**INLINED)
def _load(a, c, z, y, first, n, row, B, P):
    """Three rows of arrays, from cell `first` on -> rows of the scratch."""
    p = a[c, z, y, first:]
    q = a[c + 1, z, y, first:]
    r = a[c + 2, z, y, first:]
    o = U(row) * P
    for i in range(n):
        x = o + U(i)
        B[x] = p[i]
        B[x + P] = q[i]
        B[x + P + P] = r[i]


@njit(**JIT)
def take_share(step, share):
    """Multiply a step (3, Z, Y, X) by the shares of its blocks, linear between their centres."""
    _, Z, Y, X = step.shape
    one = np.float32(1)
    rows = np.empty(share.shape[2] + 1, np.float32)  # the last one twice, so that every one has one after it
    row = np.empty(X, np.float32)
    block = np.empty(X, np.uint64)
    weight = np.empty(X, np.float32)
    for x in range(X):
        first, _, weight[x] = _between(x, share.shape[2])
        block[x] = first
    for z in range(Z):
        z0, z1, wz = _between(z, share.shape[0])
        for y in range(Y):
            y0, y1, wy = _between(y, share.shape[1])
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
def _between(x, n):
    """The blocks before and after a cell, and the weight of the latter."""
    at = (np.float32(x) + np.float32(0.5)) / np.float32(BLOCK) - np.float32(0.5)
    at = min(max(at, np.float32(0)), np.float32(n - 1))
    first = int(at)
    return first, min(first + 1, n - 1), at - np.float32(first)
