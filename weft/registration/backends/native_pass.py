"""The fused pass of the native engine over a pair of images: warp, window sums, normal equations.

Model. Inside every window of 5^3 voxels the fixed image F is an affine function of the warped moving
image, F ~ a Mw + b. Eliminating a and b leaves varF (1 - rho^2), with rho the local correlation. Its
Gauss-Newton equations for a step v of the displacement, weighted by w ~ 1 / varF, are, per voxel,

    (w J J') v = w e J      with  a = cov / varM,  J = a grad Mw,  e = (F - mean F) - a (Mw - mean Mw).

The sign of `a` follows the data, so inverted contrast needs no care. This is the iterative registration
of Lucas and Kanade (1981) with the local gain and offset projected out.

Layout. An image level has shape (Z, Y, X); the equations belong to cells of 2^3 voxels, (Zc, Yc, Xc) =
ceil(half). The level is worked off in tiles (`native_tiles`) whose rings of six planes of both images, and of
two rows of cells of sums, stay in the second-level cache; two planes and two rows are summed into their cells before
these are stored. Only the span of cells with something to compare is visited in a row of cells.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from weft.registration.backends.native_jit import INLINED, JIT, U, prefetch
from weft.registration.backends.native_vectors import LANES, apart, load, load_first, store, store_first
from weft.registration.backends.native_warp import PAD, PITCH, VOXELS, warp_row
from weft.registration.backends.native_windows import (
    FIXED,
    IMAGE_PLANE,
    IMAGE_ROW,
    IMAGES,
    ONE,
    PRODUCTS,
    RING,
    RINGS,
    SCORE,
    SCRATCH,
    VALID,
    VALID_PLANE,
    VALID_RING,
    WEIGHT,
    add_voxels,
    sum_windows,
)  # fmt: skip


@njit(**JIT)
def sum_tiles(
    tiles, active, needed, fixed, moving, fixed_mask, moving_mask, linear, shift,
    u, other, floor_f, floor_m, robustness, sums, equations,
):  # fmt: skip
    """Sum the normal equations of every voxel into the cells, tile by tile.

    Parameters
    ----------
    tiles
        (n, 6) int64: first and last + 1 cell of each tile along z, y, x.
    active, needed
        (Zc, Yc, 2) int64: first and last + 1 cell of each row that is summed, and that must be warped for it.
    fixed, moving
        (Z, Y, X) and (Zm, Ym, Xm) float32.
    fixed_mask, moving_mask
        Weights, float32, of the images' shapes, or of size 0.
    linear, shift
        (3, 3) and (3,) float64: fixed index -> moving index, i -> linear i + shift.
    u
        (3, Zc, Yc, Xc) float32, voxels of the fixed level; a voxel i is compared with
        linear (i + u(i)) + shift.
    other
        A second displacement, or of size 0: what it brings outside the moving image does not count.
    floor_f, floor_m
        Variances added to the local ones, so that windows of mere noise count little.
    robustness
        kappa: a window counts by kappa / (kappa + 1 - rho^2), so badly explained ones count less.
    sums
        (n, 2) float64, overwritten: per tile the sum of s rho^2 and of s, with s = varF / (varF + floor_f)
        where both images count.
    equations
        (9, Zc, Yc, Xc) float32, overwritten in `active`: w J J' (zz, zy, zx, yy, yx, xx) and w e J
        (z, y, x), summed over the 2^3 voxels of a cell; or, where they have half as many, rounded up, along each
        axis, added to those of the fields of 2^3 cells.
    """
    Z, Y, X = fixed.shape
    in_fields = equations.shape[1:] != u.shape[1:]
    B = _aligned(SCRATCH)
    R = _aligned(RINGS)
    offsets = np.empty(VOXELS, np.int64)
    floor_f = np.float32(floor_f)
    floor_m = np.float32(floor_m)
    kappa = np.float32(robustness)
    for t in range(tiles.shape[0]):
        cz0, cz1, cy0, cy1, cx0, cx1 = tiles[t]
        y0 = 2 * cy0 - 2
        left = max(cx0 - 1, 0)
        right = min(cx1 + 1, u.shape[3])
        ready = 0  # planes below are warped
        score = 0.0
        weight = 0.0
        for cz in range(cz0, cz1):
            z = 2 * cz
            busy = False
            for cy in range(cy0, cy1):
                busy |= max(active[cz, cy, 0], cx0) < min(active[cz, cy, 1], cx1)
            if not busy:
                continue
            for k in range(max(ready, z - 2, 0), min(z + 4, Z)):
                for y in range(max(y0, 0), min(2 * cy1 + 2, Y)):
                    a = max(needed[k // 2, y // 2, 0], left)
                    b = min(needed[k // 2, y // 2, 1], right)
                    if a >= b:
                        continue
                    first = PAD + a - cx0
                    m = IMAGES + (k % RING) * IMAGE_PLANE + (y - y0) * IMAGE_ROW + first
                    v = VALID + (k % VALID_RING) * VALID_PLANE + (y - y0) * VOXELS + first
                    for pick in range(0 if other.size else 1, 2):
                        warp_row(
                            k, y, a, b, u if pick else other, linear, shift, moving, fixed_mask, moving_mask,
                            pick and other.size, pick, B, offsets, R, m, v,
                        )  # fmt: skip
                    _copy_row(fixed[k, y], a, b, R, m + FIXED)
                    # Rows go on by a cell over the edges of the image, without weight.
                    _extend_row(a, b, X, R, m)
                    _extend_row(a, b, X, R, m + FIXED)
                    if 2 * b > X:
                        R[v + b - a - 1 + PITCH] = np.float32(0)
                    if y == Y - 1 and Y & 1:
                        for x in range(b - a):
                            R[U(v + VOXELS) + U(x)] = np.float32(0)
                            R[U(v + VOXELS + PITCH) + U(x)] = np.float32(0)
            ready = min(z + 4, Z)
            for cy in range(cy0 - 1, cy1 + 1):
                # Rows of this cell, for the windows of the cells before, at and after it.
                a = u.shape[3]
                b = np.int64(0)
                for k in range(max(cy - 1, cy0), min(cy + 2, cy1)):
                    if active[cz, k, 0] < active[cz, k, 1]:
                        a = min(a, active[cz, k, 0])
                        b = max(b, active[cz, k, 1])
                a = max(a, cx0)
                b = min(b, cx1)
                if a < b:
                    sum_windows(z, Z, cy, Y, y0, PAD + a - 1 - cx0, b - a + 2, B, R)
                cell = cy - 1
                if cell < cy0:
                    continue
                a = max(active[cz, cell, 0], cx0)
                b = min(active[cz, cell, 1], cx1)
                if a >= b:
                    continue
                y = 2 * cell
                first = PAD + a - cx0
                for k in range(PRODUCTS, PRODUCTS + 11 * PITCH):
                    B[k] = np.float32(0)
                for p in range(min(2, Z - z)):
                    add_voxels(p, z + p, Z, y, Y, y0, first, b - a, floor_f, floor_m, kappa, B, R)
                for k in range(9):
                    o = U(PRODUCTS + k * PITCH + first)
                    if in_fields:
                        _add_to_fields(B, o, a, b, equations[k, cz // 2, cell // 2])
                        continue
                    row_out = equations[k, cz, cell, a:b]
                    for x in range(b - a):
                        row_out[x] = B[o + U(x)]
                row_score = np.float32(0)
                row_weight = np.float32(0)
                o = U(PRODUCTS + first)
                for x in range(b - a):
                    i = o + U(x)
                    row_score += B[i + U(SCORE * PITCH)]
                    row_weight += B[i + U(WEIGHT * PITCH)]
                score += float(row_score)
                weight += float(row_weight)
        sums[t, 0] = score
        sums[t, 1] = weight


@njit(**INLINED)
def _aligned(size):
    """Zeros that begin with a line of the cache, as rows then do: vectors across two lines take a twentieth longer."""
    line = 16
    a = np.zeros(size + line, np.float32)
    return a[-(np.int64(a.ctypes.data) // 4) % line :]


@njit(**INLINED)
def _add_to_fields(B, o, a, b, out):
    """Add the cells a .. b - 1, in the scratch from `o` on, to a row of fields of two cells. Overwrites them."""
    # Cells before and after that share a field with these.
    if a & 1:
        o -= ONE
        B[o] = np.float32(0)
    if b & 1:
        B[o + U(b - a // 2 * 2)] = np.float32(0)
    first = a // 2
    count = (b + 1) // 2 - first
    for k in range(0, count, LANES):
        i = o + U(2 * k)
        even, odd = apart(load(B, i), load(B, i + U(LANES)))
        x = U(first + k)
        store_first(out, x, count - k, load_first(out, x, count - k) + even + odd)


@njit(**INLINED)
def _copy_row(row, a, b, R, o):
    """The voxels of the cells a .. b - 1 of a row of an image -> R[o:], even ones apart from odd ones."""
    even = U(o)
    odd = U(o + PITCH)
    voxels = row[2 * a : 2 * b]
    count = voxels.size
    for k in range(0, count, 2 * LANES):
        i = U(k)
        j = U(k + LANES)
        # The next row is asked for as this one is read.
        prefetch(voxels, i + U(row.size))
        prefetch(voxels, j + U(row.size))
        first, second = apart(load_first(voxels, i, count - k), load_first(voxels, j, count - k - LANES))
        x = U(k // 2)
        store(R, even + x, first)
        store(R, odd + x, second)


@njit(**INLINED)
def _extend_row(a, b, X, R, o):
    """Repeat the voxels at the edges of the image in the cells beyond; the cells a .. b - 1 are in R[o:]."""
    if a == 0:
        R[o - 1] = R[o]
        R[o - 1 + PITCH] = R[o]
    if 2 * b >= X:
        last = o + b - a
        if X & 1:
            R[last - 1 + PITCH] = R[last - 1]
        R[last] = R[last - 1 + PITCH]
        R[last + PITCH] = R[last]
