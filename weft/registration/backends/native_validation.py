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
from weft.registration.backends.native_jit import INLINED, JIT

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
    _, Z, Y, _ = whole.shape
    one = np.float32(1)
    two = np.float32(2)
    for z in range(Z):
        for y in range(Y):
            first, last = spans[z, y]
            colour = z // FIELD + y // FIELD
            for x in range(first, last):
                a = equations[0, z, y, x] + own
                b = equations[1, z, y, x]
                c = equations[2, z, y, x]
                d = equations[3, z, y, x] + own
                e = equations[4, z, y, x]
                f = equations[5, z, y, x] + own
                p = half[0, z, y, x]
                q = half[1, z, y, x]
                r = half[2, z, y, x]
                if (colour + x // FIELD) & 1:
                    p = two * equations[6, z, y, x] - p
                    q = two * equations[7, z, y, x] - q
                    r = two * equations[8, z, y, x] - r
                A = d * f - e * e
                B = c * e - b * f
                C = b * e - c * d
                k = one / (a * A + b * B + c * C)
                i = k * (A * p + B * q + C * r)
                j = k * (B * p + (a * f - c * c) * q + (b * c - a * e) * r)
                k *= C * p + (b * c - a * e) * q + (a * d - b * b) * r
                # No longer than a voxel, as the step itself.
                scale = one / max(np.sqrt(i * i + j * j + k * k), one)
                i *= scale
                j *= scale
                k *= scale
                here = (z // BLOCK, y // BLOCK, x // BLOCK)
                sums[0][here] += whole[0, z, y, x] * i + whole[1, z, y, x] * j + whole[2, z, y, x] * k
                sums[1][here] += (
                    i * ((a - own) * i + two * (b * j + c * k))
                    + j * ((d - own) * j + two * e * k)
                    + (f - own) * k * k
                )


@njit(**JIT)
def take_share(step, share):
    """Multiply a step (3, Z, Y, X) by the shares of its blocks, linear between their centres."""
    _, Z, Y, X = step.shape
    one = np.float32(1)
    rows = np.empty(share.shape[2], np.float32)
    row = np.empty(X, np.float32)
    for z in range(Z):
        z0, z1, wz = _between(z, share.shape[0])
        for y in range(Y):
            y0, y1, wy = _between(y, share.shape[1])
            for x in range(len(rows)):
                near = share[z0, y0, x] + wy * (share[z0, y1, x] - share[z0, y0, x])
                far = share[z1, y0, x] + wy * (share[z1, y1, x] - share[z1, y0, x])
                rows[x] = near + wz * (far - near)
            for x in range(X):
                x0, x1, w = _between(x, len(rows))
                row[x] = (one - w) * rows[x0] + w * rows[x1]
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
