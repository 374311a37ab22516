"""Operations of the native engine on its displacement grid: smooth, compose, upsample, check.

A displacement u is (3, Z, Y, X) float32. In the engine it is in voxels of an image level and its grid is
that of the next coarser level, so that neighbouring samples lie two voxels apart.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from weft.grid import Triple
from weft.registration.backends.native_jit import INLINED, JIT, U


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

    u, v, out are (3, Z, Y, X) float32 in voxels of the image level, whose grid is twice as fine.
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
    fraction = np.empty((3, X), np.float32)
    offsets = np.empty(X, np.int64)
    for z in range(Z):
        for y in range(Y):
            fz, fy, fx = fraction[0], fraction[1], fraction[2]
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
                more = v[c, z, y]
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


@njit(**JIT)
def upsample(u, shape, factor):
    """u on a grid twice as fine, of `shape` (Z, Y, X), linear (weights 3/4 and 1/4), times `factor`."""
    C, Zc, Yc, Xc = u.shape
    Z, Y, X = shape
    out = np.empty((C, Z, Y, X), np.float32)
    near = np.float32(0.75)
    far = np.float32(0.25)
    factor = np.float32(factor)
    row = np.empty(Xc + 2, np.float32)
    for c in range(C):
        for z in range(Z):
            z0 = z // 2
            z1 = min(z0 + 1, Zc - 1) if z & 1 else max(z0 - 1, 0)
            for y in range(Y):
                y0 = y // 2
                y1 = min(y0 + 1, Yc - 1) if y & 1 else max(y0 - 1, 0)
                p = u[c, z0, y0]
                q = u[c, z0, y1]
                r = u[c, z1, y0]
                s = u[c, z1, y1]
                for x in range(Xc):
                    row[x + 1] = factor * (
                        near * (near * p[x] + far * q[x]) + far * (near * r[x] + far * s[x])
                    )
                row[0] = row[1]
                row[Xc + 1] = row[Xc]
                o = out[c, z, y]
                for x in range(X // 2):
                    o[2 * x] = far * row[x] + near * row[x + 1]
                    o[2 * x + 1] = near * row[x + 1] + far * row[x + 2]
                if X & 1:
                    o[X - 1] = far * row[Xc - 1] + near * row[Xc]
    return out


def minimal_jacobian(u: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Smallest Jacobian determinant of x -> x + u(x) on the grid of u.

    The determinant is taken from one-sided differences at every corner of every cell: these are the
    derivatives, at that corner, of the u that linear interpolation gives in that cell.

    Parameters
    ----------
    u
        (3, z, y, x), components z, y, x, in the units of `spacing` (um, or voxels).
    spacing
        Distance between the samples, (z, y, x).

    Returns
    -------
    The determinant; 1 for a translation, 0 or less where the map folds. Along an axis of a single sample
    u counts as constant.
    """
    return float(_jacobian_below(*_with_cells(u, spacing), np.float32(np.inf)))


def folds(u: np.ndarray, spacing: tuple[float, float, float], limit: float) -> bool:
    """Whether any determinant of `minimal_jacobian` is below `limit`; much faster than to look for the smallest."""
    return bool(_jacobian_below(*_with_cells(u, spacing), np.float32(limit)) < limit)


def find_folds(u: np.ndarray, spacing: tuple[float, float, float], limit: float) -> np.ndarray:
    """The samples, bool (z, y, x), at which a determinant of `minimal_jacobian` is below `limit`."""
    v, v_spacing = _with_cells(u, spacing)
    rows = np.argwhere(_jacobian_of_rows(v, v_spacing) < limit)
    out = np.zeros(v.shape[1:], np.bool_)
    _mark_folds(v, v_spacing, rows, np.float32(limit), out)
    return out[: u.shape[1], : u.shape[2], : u.shape[3]]


def _with_cells(u: np.ndarray, spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """u with at least two samples per axis, and the reciprocal of the spacing."""
    for axis in range(1, 4):
        if u.shape[axis] == 1:
            u = np.repeat(u, 2, axis)
    return np.ascontiguousarray(u, np.float32), (1 / np.asarray(spacing, np.float64)).astype(np.float32)


@njit(**JIT)
def _jacobian_below(u, scale, limit):
    """The smallest determinant, if it is below `limit`; rows that cannot hold such a one are not looked at closely.

    With |G| the largest Frobenius norm of a gradient of u in the row, no determinant there is below
    (1 - |G|)^3: the singular values of I + G are at least 1 - |G|.
    """
    _, Z, Y, X = u.shape
    lowest = np.float32(np.inf)
    one = np.float32(1)
    # The largest |difference|^2 to the rows behind: of the next plane, at z - 1 and at z, and of the next row.
    below = np.zeros(Y, np.float32)
    above = np.zeros(Y, np.float32)
    beside = np.zeros(Y + 1, np.float32)
    B = np.empty(15 * X, np.float32)
    for z in range(Z):
        for y in range(Y):
            if z < Z - 1:
                above[y] = _steepest(u, z, z + 1, y, y, scale[0])
            if y < Y - 1:
                beside[y + 1] = _steepest(u, z, z, y, y + 1, scale[1])
        beside[Y] = np.float32(0)
        for y in range(Y):
            along_x = np.float32(0)
            for x in range(X - 1):
                a = u[0, z, y, x + 1] - u[0, z, y, x]
                b = u[1, z, y, x + 1] - u[1, z, y, x]
                c = u[2, z, y, x + 1] - u[2, z, y, x]
                along_x = max(along_x, a * a + b * b + c * c)
            steepest = max(below[y], above[y]) + max(beside[y], beside[y + 1])
            norm = np.sqrt(steepest + along_x * scale[2] * scale[2])
            # Somewhat less, as all this is rounded.
            if not (norm < one and (one - norm) ** 3 * np.float32(0.999) > min(limit, lowest)):
                lowest = min(lowest, _jacobian_of_row(u, z, y, scale, B))
        below, above = above, below
        if z == Z - 2:
            above[:] = np.float32(0)
    return lowest


@njit(**INLINED)
def _steepest(u, z0, z1, y0, y1, scale):
    """Largest |difference|^2 between two rows of u, over the square of their distance."""
    p0, p1, p2 = u[0, z0, y0], u[1, z0, y0], u[2, z0, y0]
    q0, q1, q2 = u[0, z1, y1], u[1, z1, y1], u[2, z1, y1]
    largest = np.float32(0)
    for x in range(u.shape[3]):
        a = q0[x] - p0[x]
        b = q1[x] - p1[x]
        c = q2[x] - p2[x]
        largest = max(largest, a * a + b * b + c * c)
    return largest * scale * scale


@njit(**JIT)
def _jacobian_of_rows(u, scale):
    """(Z, Y) float32: the smallest determinant at the samples of each row (z, y)."""
    _, Z, Y, X = u.shape
    out = np.empty((Z, Y), np.float32)
    B = np.empty(15 * X, np.float32)
    for z in range(Z):
        for y in range(Y):
            out[z, y] = _jacobian_of_row(u, z, y, scale, B)
    return out


@njit(**INLINED)
def _jacobian_of_row(u, z, y, scale, B):
    """The smallest determinant at the samples of one row; B is scratch of 15 rows.

    First the columns of I + grad u, from the differences to either side along z and y, and along x; then the
    determinants at both ends of every step along x.
    """
    _, Z, Y, X = u.shape
    for c in range(3):
        p = u[c, z, y]
        for side in range(2):
            own = np.float32(1) if c == 0 else np.float32(0)
            q = u[c, min(max(z + 2 * side - 1, 0), Z - 1), y]
            sign = scale[0] if side else -scale[0]
            o = U((3 * side + c) * X)
            for x in range(X):
                B[o + U(x)] = own + sign * (q[x] - p[x])
            own = np.float32(1) if c == 1 else np.float32(0)
            q = u[c, z, min(max(y + 2 * side - 1, 0), Y - 1)]
            sign = scale[1] if side else -scale[1]
            o = U((6 + 3 * side + c) * X)
            for x in range(X):
                B[o + U(x)] = own + sign * (q[x] - p[x])
        own = np.float32(1) if c == 2 else np.float32(0)
        o = U((12 + c) * X)
        for x in range(X - 1):
            B[o + U(x)] = own + scale[2] * (p[x + 1] - p[x])
    lowest = np.float32(np.inf)
    for i in range(2):
        for j in range(2):
            if 0 <= z + 2 * i - 1 < Z and 0 <= y + 2 * j - 1 < Y:
                a = U(3 * i * X)
                b = U((6 + 3 * j) * X)
                c0 = U(12 * X)
                row = U(X)
                for x in range(X - 1):
                    k = U(x)
                    n = k + U(1)
                    cz = B[c0 + k]
                    cy = B[c0 + row + k]
                    cx = B[c0 + row + row + k]
                    az, ay, ax = B[a + k], B[a + row + k], B[a + row + row + k]
                    bz, by, bx = B[b + k], B[b + row + k], B[b + row + row + k]
                    one = cz * (ay * bx - ax * by) + cy * (ax * bz - az * bx) + cx * (az * by - ay * bz)
                    az, ay, ax = B[a + n], B[a + row + n], B[a + row + row + n]
                    bz, by, bx = B[b + n], B[b + row + n], B[b + row + row + n]
                    other = cz * (ay * bx - ax * by) + cy * (ax * bz - az * bx) + cx * (az * by - ay * bz)
                    lowest = min(lowest, min(one, other))
    return lowest


@njit(**JIT)
def _mark_folds(u, scale, rows, limit, out):
    """Set `out` (Z, Y, X) where a determinant of the given rows, (n, 2), is below `limit`."""
    _, Z, Y, X = u.shape
    for k in range(rows.shape[0]):
        z, y = rows[k]
        for dz in range(-1, 2, 2):
            for dy in range(-1, 2, 2):
                if 0 <= z + dz < Z and 0 <= y + dy < Y:
                    for x in range(X):
                        if x > 0 and _determinant(u, z, y, dz, dy, x, -1, scale) < limit:
                            out[z, y, x] = True
                        if x < X - 1 and _determinant(u, z, y, dz, dy, x, 1, scale) < limit:
                            out[z, y, x] = True


@njit(**INLINED)
def _determinant(u, z, y, dz, dy, x, dx, scale):
    """det(I + grad u) at the sample (z, y, x), from the differences to z + dz, y + dy and x + dx."""
    one = np.float32(1)
    kz = np.float32(dz) * scale[0]
    ky = np.float32(dy) * scale[1]
    kx = np.float32(dx) * scale[2]
    az = one + kz * (u[0, z + dz, y, x] - u[0, z, y, x])
    ay = kz * (u[1, z + dz, y, x] - u[1, z, y, x])
    ax = kz * (u[2, z + dz, y, x] - u[2, z, y, x])
    bz = ky * (u[0, z, y + dy, x] - u[0, z, y, x])
    by = one + ky * (u[1, z, y + dy, x] - u[1, z, y, x])
    bx = ky * (u[2, z, y + dy, x] - u[2, z, y, x])
    cz = kx * (u[0, z, y, x + dx] - u[0, z, y, x])
    cy = kx * (u[1, z, y, x + dx] - u[1, z, y, x])
    cx = one + kx * (u[2, z, y, x + dx] - u[2, z, y, x])
    return cz * (ay * bx - ax * by) + cy * (ax * bz - az * bx) + cx * (az * by - ay * bz)
