"""One row of the moving image pulled back: coordinates on the fly, one trilinear interpolation.

The displacement lies on the grid of the next coarser level, in voxels of the image level, and is upsampled
row by row; the affine acts on the coordinates. Coordinates are counted from a voxel near the row's own start, so
that float32 holds them as well in a volume of any size, and offsets into the moving image are of 64 bits.

Rows of intermediates lie in *one* 1-D buffer at the constant pitch `PITCH`: the compiler then proves that
they do not overlap and vectorises without run-time checks.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from weft.registration.backends.native_jit import INLINED, LANES, U, interpolate, prefetch

TILE_X = 128  # cells of 2 voxels: the longest row
PITCH = 2 * TILE_X + 32  # floats from row to row of the scratch
PAD = 4  # floats before a row's first voxel
ASKED = 2  # voxels of a row from one prefetched to the next: with one in a line (16 floats) a fifth of the pass is lost
AXES = 3  # rows of scratch for the coordinates, and for the displacement on cells


@njit(**INLINED)
def warp_row(
    z, y, a, b, u, linear, shift, moving, fixed_mask, moving_mask, narrow, values, B, C, offsets, R, m, v
):
    """Pull back the voxels of the cells a .. b - 1 of row (z, y): values -> R[m:], weights -> R[v:].

    Values go on by one voxel over the edges of the image. A weight is the product of both masks, and 0
    outside the moving image, which reaches half a voxel beyond its outermost centres (values are clamped
    there). With `narrow` the weights that R[v:] holds are multiplied by it; without `values` there are weights alone.

    Parameters
    ----------
    u
        (3, Zc, Yc, Xc) float32 on cells of 2^3 voxels.
    linear, shift
        (3, 3) and (3,) float64: fixed index -> moving index.
    B, C, offsets
        Scratch: at least `AXES` rows of `PITCH` floats each, and one row of int64.
    """
    Zm, Ym, Xm = moving.shape
    X = fixed_mask.shape[2] if fixed_mask.size else np.int64(2) * u.shape[3]
    count = 2 * (b - a)
    padded = (count + LANES - 1) // LANES * LANES
    zero = np.float32(0)
    one = np.float32(1)
    half = np.float32(0.5)
    PY = U(PITCH)
    PX = U(2 * PITCH)
    nz, ny, nx = _positions(z, y, a, b, u, linear, shift, B, C)
    # The image's first and last voxel in the row's own coordinates.
    first_z = np.float32(-nz)
    first_y = np.float32(-ny)
    first_x = np.float32(-nx)
    last_z = np.float32(Zm - 1 - nz)
    last_y = np.float32(Ym - 1 - ny)
    last_x = np.float32(Xm - 1 - nx)
    m = U(m)
    v = U(v)
    if not narrow:
        for k in range(count):
            R[v + U(k)] = one
    for k in range(count):
        x = U(k)
        pz = B[x]
        py = B[PY + x]
        px = B[PX + x]
        out = max(first_z - pz, pz - last_z)
        out = max(out, max(first_y - py, py - last_y))
        out = max(out, max(first_x - px, px - last_x))
        R[v + x] *= one if out < half else zero
    corner_z = np.int32(Zm - 2 - nz)
    corner_y = np.int32(Ym - 2 - ny)
    corner_x = np.int32(Xm - 2 - nx)
    pitch_y = np.int64(Xm)
    pitch_z = np.int64(Xm) * np.int64(Ym)
    start = nz * pitch_z + ny * pitch_y + nx
    # Voxels after the last one, up to a multiple of what is interpolated at once, lie anywhere in the image.
    for k in range(padded):
        x = U(k)
        pz = min(max(B[x], first_z), last_z)
        py = min(max(B[PY + x], first_y), last_y)
        px = min(max(B[PX + x], first_x), last_x)
        iz = min(np.int32(np.floor(pz)), corner_z)
        iy = min(np.int32(np.floor(py)), corner_y)
        ix = min(np.int32(np.floor(px)), corner_x)
        B[x] = pz - np.float32(iz)
        B[PY + x] = py - np.float32(iy)
        B[PX + x] = px - np.float32(ix)
        offsets[x] = start + np.int64(iz) * pitch_z + np.int64(iy) * pitch_y + np.int64(ix)
    if fixed_mask.size:
        mask_row = fixed_mask[z, y]
        for k in range(min(count, X - 2 * a)):
            R[v + U(k)] *= mask_row[2 * a + k]
    if moving_mask.size:
        mask = moving_mask.reshape(-1)
        for k in range(count):
            x = U(k)
            i = offsets[x] + np.int64(B[x] + half) * pitch_z
            i += np.int64(B[PY + x] + half) * pitch_y
            R[v + x] *= mask[i + np.int64(B[PX + x] + half)]
    if not values:
        return
    # The eight corners of a voxel are found in four shifted views with the same offset.
    m00 = moving.reshape(-1)
    m01 = m00[Xm:]
    m10 = m00[pitch_z:]
    m11 = m00[pitch_z + Xm :]
    # What the next row is the first to need lies at its last corner: it comes while this one is worked off.
    ahead = np.int64(np.rint(linear[0, 1])) * pitch_z + np.int64(np.rint(linear[1, 1])) * pitch_y
    ahead += np.int64(np.rint(linear[2, 1]))
    for k in range(0, count, ASKED):
        prefetch(m11, U(offsets[U(k)] + ahead))
    prefetch(m11, U(offsets[U(count - 1)] + ahead))
    for k in range(0, padded, LANES):
        interpolate(m00, m01, m10, m11, offsets, B, PY, U(k), R, m + U(k))


@njit(**INLINED)
def _positions(z, y, a, b, u, linear, shift, B, C):
    """Where the voxels of the cells a .. b - 1 of row (z, y) lie in the moving image.

    Writes three rows of float32 to B (and the displacement on cells to C), counted from the voxel (nz, ny, nx), which is returned.
    """
    Zc, Yc, Xc = u.shape[1:]
    z0, z1, a0, a1 = neighbours(z, Zc)
    y0, y1, b0, b1 = neighbours(y, Yc)
    w00 = a0 * b0
    w01 = a0 * b1
    w10 = a1 * b0
    w11 = a1 * b1
    n = b - a
    lower = max(a - 1, 0)
    upper = min(b + 1, Xc)
    start = 1 + lower - a
    for c in range(3):
        p = u[c, z0, y0, lower:upper]
        q = u[c, z0, y1, lower:upper]
        r = u[c, z1, y0, lower:upper]
        s = u[c, z1, y1, lower:upper]
        o = U(start + c * PITCH)
        for k in range(upper - lower):
            x = U(k)
            C[o + x] = w00 * p[x] + w01 * q[x] + w10 * r[x] + w11 * s[x]
        row = c * PITCH
        if a == 0:
            C[row] = C[row + 1]
        if b == Xc:
            C[row + n + 1] = C[row + n]
    return (
        _position(0, z, y, a, n, linear, shift, B, C),
        _position(1, z, y, a, n, linear, shift, B, C),
        _position(2, z, y, a, n, linear, shift, B, C),
    )


@njit(**INLINED)
def _position(axis, z, y, a, n, linear, shift, B, C):
    """One row of coordinates, from the displacement on cells; the voxel that they are counted from."""
    first = linear[axis, 0] * z + linear[axis, 1] * y + linear[axis, 2] * (2 * a) + shift[axis]
    origin = np.floor(first)
    base = np.float32(first - origin)
    A0 = np.float32(linear[axis, 0])
    A1 = np.float32(linear[axis, 1])
    A2 = np.float32(linear[axis, 2])
    near = np.float32(0.75)
    far = np.float32(0.25)
    o = U(axis * PITCH)
    p = U(0)
    q = p + U(PITCH)
    r = q + U(PITCH)
    for k in range(n):
        x = U(k)
        f = base + A2 * np.float32(2 * k)
        left = A0 * C[p + x] + A1 * C[q + x] + A2 * C[r + x]
        here = A0 * C[p + x + U(1)] + A1 * C[q + x + U(1)] + A2 * C[r + x + U(1)]
        right = A0 * C[p + x + U(2)] + A1 * C[q + x + U(2)] + A2 * C[r + x + U(2)]
        i = o + x + x
        B[i] = far * left + near * here + f
        B[i + U(1)] = near * here + far * right + f + A2
    return np.int64(origin)


@njit(**INLINED)
def neighbours(i, n):
    """The two coarse samples, and their weights, between which fine index i lies (edges repeated)."""
    c = i // 2
    if i & 1:
        return c, min(c + 1, n - 1), np.float32(0.75), np.float32(0.25)
    return max(c - 1, 0), c, np.float32(0.25), np.float32(0.75)
