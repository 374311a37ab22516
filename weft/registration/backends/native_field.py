"""Operations of the native engine on its displacement grid: smooth, compose, upsample.

A displacement u is (3, Z, Y, X) float32. In the engine it is in voxels of an image level and its grid is
that of the next coarser level, so that neighbouring samples lie two voxels apart.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from weft.grid import Shape, Triple
from weft.registration.backends.native_jit import INLINED, JIT


def gaussian_taps(sigma: float | Triple) -> np.ndarray:
    """Half a Gaussian kernel per axis, (3, r + 1) float32 w0, w1 .. wr, r = ceil(2.5 of the largest sigma).

    The whole kernel sums to 1. A sigma of 0 leaves its axis as it is.
    """
    widths = np.broadcast_to(np.asarray(sigma, float), 3)
    radius = max(1, math.ceil(2.5 * widths.max()))
    steps = np.arange(radius + 1)
    taps = np.zeros((3, radius + 1))
    for axis, width in enumerate(widths):
        reach = steps <= max(1, math.ceil(2.5 * width))
        taps[axis] = np.exp(-0.5 * (steps / width) ** 2) * reach if width > 0 else steps == 0
        taps[axis] /= taps[axis, 0] + 2 * taps[axis, 1:].sum()
    return taps.astype(np.float32)


def widths(sigma: float, shape: Shape) -> Triple:
    """Standard deviations (z, y, x) of the Gaussian that averages as many samples as one of `sigma` does in a volume.

    A plane has one axis less to average over, so it is wider there. Where voxel edges differ it still counts
    samples: as wide in um along each axis, it would average too few of them where the noise is.
    """
    axes = max(sum(n > 1 for n in shape), 1)
    # An integral over `axes` axes: (2 pi)^(axes / 2) sigma^axes.
    width = (2 * np.pi) ** ((3 - axes) / (2 * axes)) * sigma ** (3 / axes)
    z, y, x = (width if n > 1 else 0.0 for n in shape)
    return z, y, x


def smooth(a: np.ndarray, taps: np.ndarray) -> None:
    """Convolve (C, Z, Y, X) float32 in place, separably; beyond the edges there is zero.

    Normal equations smoothed so need no correction at the edges: both sides lose the same share.
    """
    _, Z, Y, X = a.shape
    all_cells = np.empty((Z, Y, 2), np.int64)
    all_cells[:] = 0, X
    smooth_within(a, taps, all_cells, all_cells)


@njit(**JIT)
def smooth_within(a, taps, spans, reached):
    """`smooth` of what is zero outside some cells, whatever lies there.

    Parameters
    ----------
    spans
        (Z, Y, 2) int64: first and last + 1 cell of each row that is not zero.
    reached
        Those to be computed: `native_tiles.widen` of `spans` by the taps. The others are left alone; they are zero.
    """
    C, Z, Y, X = a.shape
    r = taps.shape[1] - 1
    depth = 2 * r + 1
    zero = np.float32(0)
    ring = np.zeros((depth, Y, X), np.float32)
    plane = np.zeros((Y + 2 * r, X), np.float32)
    row = np.empty(X + 2 * r, np.float32)
    for c in range(C):
        for z in range(-r, Z):
            # The ring holds the unsmoothed planes z - r .. z + r, zero outside the spans and the volume.
            k = z + r
            for y in range(Y):
                ring[k % depth, y] = zero
                if k < Z:
                    first, last = spans[k, y]
                    ring[k % depth, y, first:last] = a[c, k, y, first:last]
            if z < 0:
                if z == -r:
                    ring[r + 1 :] = zero
                continue
            for y in range(Y):
                plane[y + r] = zero
                first, last = reached[z, y]
                if first < last:
                    _sum_planes(ring, z, y, first, last, taps[0], plane[y + r, first:last])
            for y in range(Y):
                first, last = reached[z, y]
                if first < last:
                    row[:] = zero
                    inner = row[r + first : r + last]
                    _weigh(plane[y + r, first:last], taps[1, 0], inner)
                    for k in range(1, r, 2):
                        _add_pairs(
                            plane[y + r - k, first:last], plane[y + r + k, first:last], taps[1, k],
                            plane[y + r - k - 1, first:last], plane[y + r + k + 1, first:last], taps[1, k + 1], inner,
                        )  # fmt: skip
                    if r & 1:
                        _add_pair(plane[y, first:last], plane[y + 2 * r, first:last], taps[1, r], inner)
                    out = a[c, z, y, first:last]
                    n = last - first
                    o = row[first:]
                    _weigh(inner, taps[2, 0], out)
                    for k in range(1, r, 2):
                        _add_pairs(
                            o[r - k : r - k + n], o[r + k : r + k + n], taps[2, k],
                            o[r - k - 1 : r - k - 1 + n], o[r + k + 1 : r + k + 1 + n], taps[2, k + 1], out,
                        )  # fmt: skip
                    if r & 1:
                        _add_pair(o[:n], o[2 * r : 2 * r + n], taps[2, r], out)


@njit(**INLINED)
def _sum_planes(ring, z, y, first, last, taps, out):
    """out = the weighted sum of row y over the planes of the ring."""
    depth = ring.shape[0]
    r = depth // 2
    _weigh(ring[z % depth, y, first:last], taps[0], out)
    for k in range(1, r, 2):
        _add_pairs(
            ring[(z - k) % depth, y, first:last], ring[(z + k) % depth, y, first:last], taps[k],
            ring[(z - k - 1) % depth, y, first:last], ring[(z + k + 1) % depth, y, first:last], taps[k + 1], out,
        )  # fmt: skip
    if r & 1:
        _add_pair(ring[(z - r) % depth, y, first:last], ring[(z + r) % depth, y, first:last], taps[r], out)


@njit(**INLINED)
def _weigh(p, w, out):
    """out = w p."""
    for x in range(out.shape[0]):
        out[x] = w * p[x]


@njit(**INLINED)
def _add_pair(p, q, w, out):
    """out += w (p + q)."""
    for x in range(out.shape[0]):
        out[x] += w * (p[x] + q[x])


@njit(**INLINED)
def _add_pairs(p, q, v, r, s, w, out):
    """out += v (p + q) + w (r + s): two pairs at once, as `out` is read and written each time."""
    for x in range(out.shape[0]):
        out[x] += v * (p[x] + q[x]) + w * (r[x] + s[x])


@njit(**JIT)
def compose(u, v, out):
    """out = v + u o (id + v), linearly interpolated, clamped at the border.

    u, v, out are (3, Z, Y, X) float32 in voxels of the image level, whose grid is twice as fine; or v is on a grid that is
    coarser by 2 again, and in units of two voxels.
    """
    _, Z, Y, X = u.shape
    half = np.float32(0.5)
    zero = np.float32(0)
    end_z = np.float32(Z - 1)
    end_y = np.float32(Y - 1)
    end_x = np.float32(X - 1)
    last_z = max(Z - 2, 0)
    last_y = max(Y - 2, 0)
    last_x = max(X - 2, 0)
    # An axis of one sample has no second neighbour.
    step_z = X * Y if Z > 1 else 0
    step_y = X if Y > 1 else 0
    step_x = 1 if X > 1 else 0
    coarse = v.shape[1:] != u.shape[1:]
    fine = np.empty((3, X), np.float32)
    between = np.empty(v.shape[3] + 2, np.float32)
    fraction = np.empty((3, X), np.float32)
    offsets = np.empty(X, np.int64)
    for z in range(Z):
        for y in range(Y):
            fz, fy, fx = fraction[0], fraction[1], fraction[2]
            if coarse:
                for c in range(3):
                    _upsample_row(v, c, z, y, np.float32(2), between, fine[c])
                vz, vy, vx = fine[0], fine[1], fine[2]
            else:
                vz, vy, vx = v[0, z, y], v[1, z, y], v[2, z, y]
            for x in range(X):
                pz = min(max(np.float32(z) + half * vz[x], zero), end_z)
                iz = min(np.int32(pz), last_z)
                fz[x] = pz - np.float32(iz)
                offsets[x] = np.int64(iz) * Y
            for x in range(X):
                py = min(max(np.float32(y) + half * vy[x], zero), end_y)
                iy = min(np.int32(py), last_y)
                fy[x] = py - np.float32(iy)
                offsets[x] = (offsets[x] + np.int64(iy)) * X
            for x in range(X):
                px = min(max(np.float32(x) + half * vx[x], zero), end_x)
                ix = min(np.int32(px), last_x)
                fx[x] = px - np.float32(ix)
                offsets[x] += np.int64(ix)
            for c in range(3):
                # The eight corners, from four shifted views with the same two offsets.
                p00 = u[c].reshape(-1)
                p01 = p00[step_y:]
                p10 = p00[step_z:]
                p11 = p10[step_y:]
                more = vz if c == 0 else vy if c == 1 else vx
                o = out[c, z, y]
                for x in range(X):
                    i = np.uint64(offsets[x])
                    j = i + np.uint64(step_x)
                    p = p00[i]
                    q = p01[i]
                    r = p10[i]
                    s = p11[i]
                    p += fx[x] * (p00[j] - p)
                    q += fx[x] * (p01[j] - q)
                    r += fx[x] * (p10[j] - r)
                    s += fx[x] * (p11[j] - s)
                    p += fy[x] * (q - p)
                    r += fy[x] * (s - r)
                    o[x] = more[x] + p + fz[x] * (r - p)


def rate(step: np.ndarray, before: np.ndarray) -> float:
    """What part of the step before a step is, if they go on shrinking like that; both (3, Z, Y, X) float32.

    With steps of d, r d, r^2 d .. it is r, and all from the second on are r d / (1 - r) together (Anderson, 1965, of depth one;
    Walker and Ni, 2011). 0 where the step leads elsewhere, 1 where it is longer.
    """
    own, both, earlier = _products(step, before)
    return min(max((both - own) / (earlier - both), 0.0), 1.0) if earlier > both else 1.0


@njit(**JIT)
def _products(a, b):
    """a.a, a.b and b.b; always summed in the same order, unlike by a library with threads of its own."""
    _, Z, Y, X = a.shape
    aa = ab = bb = 0.0
    for c in range(3):
        for z in range(Z):
            for y in range(Y):
                p = a[c, z, y]
                q = b[c, z, y]
                row_aa = row_ab = row_bb = np.float32(0)
                for x in range(X):
                    row_aa += p[x] * p[x]
                    row_ab += p[x] * q[x]
                    row_bb += q[x] * q[x]
                aa += float(row_aa)
                ab += float(row_ab)
                bb += float(row_bb)
    return aa, ab, bb


@njit(**JIT)
def upsample(u, shape, factor):
    """u on a grid twice as fine, of `shape` (Z, Y, X), linear (weights 3/4 and 1/4), times `factor`."""
    C, _, _, Xc = u.shape
    Z, Y, X = shape
    out = np.empty((C, Z, Y, X), np.float32)
    row = np.empty(Xc + 2, np.float32)
    for c in range(C):
        for z in range(Z):
            for y in range(Y):
                _upsample_row(u, c, z, y, np.float32(factor), row, out[c, z, y])
    return out


@njit(**INLINED)
def _upsample_row(u, c, z, y, factor, row, o):
    """Row (z, y) of `upsample` of u[c]; `row` is scratch of two more samples than u has."""
    _, Zc, Yc, Xc = u.shape
    X = o.shape[0]
    near = np.float32(0.75)
    far = np.float32(0.25)
    z0 = z // 2
    z1 = min(z0 + 1, Zc - 1) if z & 1 else max(z0 - 1, 0)
    y0 = y // 2
    y1 = min(y0 + 1, Yc - 1) if y & 1 else max(y0 - 1, 0)
    p = u[c, z0, y0]
    q = u[c, z0, y1]
    r = u[c, z1, y0]
    s = u[c, z1, y1]
    for x in range(Xc):
        row[x + 1] = factor * (near * (near * p[x] + far * q[x]) + far * (near * r[x] + far * s[x]))
    row[0] = row[1]
    row[Xc + 1] = row[Xc]
    for x in range(X // 2):
        o[2 * x] = far * row[x] + near * row[x + 1]
        o[2 * x + 1] = near * row[x + 1] + far * row[x + 2]
    if X & 1:
        o[X - 1] = far * row[Xc - 1] + near * row[Xc]
