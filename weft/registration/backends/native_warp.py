"""One row of the moving image pulled back: coordinates on the fly, one trilinear interpolation.

The displacement lies on the grid of the next coarser level, in voxels of the image level, and is upsampled
row by row; the affine acts on the coordinates. Coordinates are counted from a voxel near the row's own start, so
that float32 holds them as well in a volume of any size, and offsets into the moving image are of 64 bits.

Rows of intermediates lie in *one* 1-D buffer at the constant pitch `PITCH`: the compiler then proves that
they do not overlap and vectorises without run-time checks. A row of voxels is held as two rows, its even voxels and
`PITCH` later its odd ones: both are rows of cells, as the displacement and the equations are, and nothing need
be shuffled between them. Loops run on to whole vectors where they write to such rows alone.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from weft.registration.backends.native_jit import INLINED, U, prefetch
from weft.registration.backends.native_vectors import (
    LANES,
    count_lanes,
    floor,
    highest,
    integers,
    least,
    less,
    load,
    load_first,
    load_pairs,
    lowest,
    most,
    store,
    whole,
)

TILE_X = 128  # cells of 2 voxels: the longest row
PAD = 1  # cells before a tile's first
PITCH = TILE_X + 2 * LANES  # floats from row to row: a tile with its neighbours, and up to whole vectors
VOXELS = 2 * PITCH
# Offsets into the scratch: rows of voxels with the coordinates, and of cells with the displacement.
PLACES = 0
CELLS = 3 * VOXELS
WARP_SCRATCH = CELLS + 3 * PITCH


@njit(**INLINED)
def warp_row(
    z, y, a, b, u, linear, shift, moving, fixed_mask, moving_mask, narrow, values, B, offsets, R, m, v
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
    B, offsets
        Scratch: at least `WARP_SCRATCH` floats, and `VOXELS` int64.
    """
    Zm, Ym, Xm = moving.shape
    count = b - a
    padded = whole(count)
    half = np.float32(0.5)
    odd = U(PITCH)
    PY = U(PLACES + VOXELS)
    PX = U(PLACES + 2 * VOXELS)
    _displace(z, y, a, b, u, linear, B)
    # Coordinates are counted from the voxel (nz, ny, nx); bases are those of the row's first voxel, displaced by nothing.
    nz, base_z = _origin(0, z, y, a, linear, shift)
    ny, base_y = _origin(1, z, y, a, linear, shift)
    nx, base_x = _origin(2, z, y, a, linear, shift)
    step_z = np.float32(linear[0, 2])
    step_y = np.float32(linear[1, 2])
    step_x = np.float32(linear[2, 2])
    # The image's first and last voxel.
    first_z = np.float32(-nz)
    first_y = np.float32(-ny)
    first_x = np.float32(-nx)
    last_z = np.float32(Zm - 1 - nz)
    last_y = np.float32(Ym - 1 - ny)
    last_x = np.float32(Xm - 1 - nx)
    pitch_y = np.int64(Xm)
    pitch_z = np.int64(Xm) * np.int64(Ym)
    start = nz * pitch_z + ny * pitch_y + nx
    m = U(m)
    v = U(v)
    inside = (
        _stays_inside(CELLS, count, base_z, step_z, first_z, last_z, B)
        and _stays_inside(CELLS + PITCH, count, base_y, step_y, first_y, last_y, B)
        and _stays_inside(CELLS + 2 * PITCH, count, base_x, step_x, first_x, last_x, B)
    )
    for k in range(0, padded, LANES):
        x = U(k)
        # Voxels after the row's last, up to a whole vector, lie where that does.
        voxel = least(np.float32(2) * count_lanes() + np.float32(2 * k), np.float32(2 * count - 2))
        even_z, odd_z = _upsample(CELLS, x, base_z + voxel * step_z, step_z, B)
        even_y, odd_y = _upsample(CELLS + PITCH, x, base_y + voxel * step_y, step_y, B)
        even_x, odd_x = _upsample(CELLS + 2 * PITCH, x, base_x + voxel * step_x, step_x, B)
        for side in range(2):
            x = U(k + side * PITCH)
            pz = odd_z if side else even_z
            py = odd_y if side else even_y
            px = odd_x if side else even_x
            if inside:
                if not narrow:
                    store(R, v + x, np.float32(1))
                iz = floor(pz)
                iy = floor(py)
                ix = floor(px)
            else:
                out = most(most(first_z - pz, pz - last_z), most(first_y - py, py - last_y))
                weight = less(most(out, most(first_x - px, px - last_x)), half)
                store(R, v + x, weight * load(R, v + x) if narrow else weight)
                pz = least(most(pz, first_z), last_z)
                py = least(most(py, first_y), last_y)
                px = least(most(px, first_x), last_x)
                iz = least(floor(pz), last_z - np.float32(1))
                iy = least(floor(py), last_y - np.float32(1))
                ix = least(floor(px), last_x - np.float32(1))
            store(B, U(PLACES) + x, pz - iz)
            store(B, PY + x, py - iy)
            store(B, PX + x, px - ix)
            store(offsets, x, integers(iz) * pitch_z + integers(iy) * pitch_y + integers(ix) + start)
    if fixed_mask.size:
        mask_row = fixed_mask[z, y]
        for k in range(count):
            R[v + U(k)] *= mask_row[2 * (a + k)]
        for k in range(min(count, mask_row.size // 2 - a)):
            R[v + odd + U(k)] *= mask_row[2 * (a + k) + 1]
    if moving_mask.size:
        mask = moving_mask.reshape(-1)
        for side in range(2):
            for k in range(count):
                x = U(k + side * PITCH)
                i = offsets[x] + np.int64(B[U(PLACES) + x] + half) * pitch_z
                i += np.int64(B[PY + x] + half) * pitch_y
                R[v + x] *= mask[i + np.int64(B[PX + x] + half)]
    if not values:
        return
    # The eight corners of a voxel are found in four shifted views with the same offset.
    m00 = moving.reshape(-1)
    m01 = m00[Xm:]
    m10 = m00[pitch_z:]
    m11 = m00[pitch_z + Xm :]
    # What the next row is the first to need lies at its last corner: it comes while this one is worked off. Asked for
    # every other voxel: with one in a line (16 floats) a fifth of the pass is lost.
    ahead = np.int64(np.rint(linear[0, 1])) * pitch_z + np.int64(np.rint(linear[1, 1])) * pitch_y
    ahead += np.int64(np.rint(linear[2, 1]))
    for k in range(count):
        prefetch(m11, U(offsets[U(k)] + ahead))
    prefetch(m11, U(offsets[U(count - 1) + odd] + ahead))
    for side in range(0, VOXELS, PITCH):
        for k in range(side, side + padded, LANES):
            x = U(k)
            fz = load(B, U(PLACES) + x)
            fy = load(B, PY + x)
            fx = load(B, PX + x)
            p = _between(load_pairs(m00, offsets, x), fx)
            q = _between(load_pairs(m01, offsets, x), fx)
            r = _between(load_pairs(m10, offsets, x), fx)
            s = _between(load_pairs(m11, offsets, x), fx)
            store(R, m + x, _between((_between((p, q), fy), _between((r, s), fy)), fz))


@njit(**INLINED)
def _between(values, fraction):
    first, second = values
    return first + fraction * (second - first)


@njit(**INLINED)
def _displace(z, y, a, b, u, linear, B):
    """The displacement at row (z, y) of voxels on the cells a - 1 .. b (edges repeated), in voxels of the moving image."""
    Zc, Yc, Xc = u.shape[1:]
    z0, z1, a0, a1 = neighbours(z, Zc)
    y0, y1, b0, b1 = neighbours(y, Yc)
    w00 = a0 * b0
    w01 = a0 * b1
    w10 = a1 * b0
    w11 = a1 * b1
    lower = max(a - 1, 0)
    upper = min(b + 1, Xc)
    for c in range(3):
        p = u[c, z0, y0, lower:upper]
        q = u[c, z0, y1, lower:upper]
        r = u[c, z1, y0, lower:upper]
        s = u[c, z1, y1, lower:upper]
        row = CELLS + c * PITCH
        o = U(row + 1 + lower - a)
        n = upper - lower
        for k in range(0, n, LANES):
            x = U(k)
            value = w00 * load_first(p, x, n - k) + w01 * load_first(q, x, n - k)
            store(B, o + x, value + w10 * load_first(r, x, n - k) + w11 * load_first(s, x, n - k))
        if a == 0:
            B[row] = B[row + 1]
        # Up to whole vectors, and over the edge of the image.
        store(B, o + U(n), B[o + U(n - 1)])
    zz, zy, zx = _row(linear, 0)
    yz, yy, yx = _row(linear, 1)
    xz, xy, xx = _row(linear, 2)
    # The cells after the row's last too, up to a whole vector of voxels: what lies there is read, though not used.
    for k in range(0, whole(b - a) + 2, LANES):
        x = U(k)
        uz = load(B, U(CELLS) + x)
        uy = load(B, U(CELLS + PITCH) + x)
        ux = load(B, U(CELLS + 2 * PITCH) + x)
        store(B, U(CELLS) + x, zz * uz + zy * uy + zx * ux)
        store(B, U(CELLS + PITCH) + x, yz * uz + yy * uy + yx * ux)
        store(B, U(CELLS + 2 * PITCH) + x, xz * uz + xy * uy + xx * ux)


@njit(**INLINED)
def _row(linear, axis):
    return np.float32(linear[axis, 0]), np.float32(linear[axis, 1]), np.float32(linear[axis, 2])


@njit(**INLINED)
def _origin(axis, z, y, a, linear, shift):
    """Where the first voxel of cell a of row (z, y) comes to lie without displacement: a voxel, and how far beyond it."""
    place = linear[axis, 0] * z + linear[axis, 1] * y + linear[axis, 2] * (2 * a) + shift[axis]
    origin = np.floor(place)
    return np.int64(origin), np.float32(place - origin)


@njit(**INLINED)
def _upsample(row, x, place, step, B):
    """Coordinates of the two voxels of a cell, from what a row of the scratch holds of the cells around it."""
    o = U(row) + x
    quarter = np.float32(0.25)
    place = place + np.float32(0.75) * load(B, o + U(1))
    return place + quarter * load(B, o), place + step + quarter * load(B, o + U(2))


@njit(**INLINED)
def _stays_inside(row, count, place, step, first, last, B):
    """Whether `count` cells lie between the first and last voxel along an axis, by more than what is rounded off."""
    low = load(B, U(row))
    high = low
    for k in range(LANES, count + 2, LANES):
        here = load(B, U(row) + U(k))
        low = least(low, here)
        high = most(high, here)
    way = step * np.float32(2 * count - 1)
    margin = np.float32(0.125)
    before = place + lowest(low) + min(way, np.float32(0))
    after = place + highest(high) + max(way, np.float32(0))
    return before > first + margin and after < last - margin


@njit(**INLINED)
def neighbours(i, n):
    """The two coarse samples, and their weights, between which fine index i lies (edges repeated)."""
    c = i // 2
    if i & 1:
        return c, min(c + 1, n - 1), np.float32(0.75), np.float32(0.25)
    return max(c - 1, 0), c, np.float32(0.25), np.float32(0.75)
