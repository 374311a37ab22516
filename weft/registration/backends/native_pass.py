"""The fused pass of the native engine over a pair of images: warp, window sums, normal equations.

Model. Inside every window of 5^3 voxels the fixed image F is an affine function of the warped moving
image, F ~ a Mw + b. Eliminating a and b leaves varF (1 - rho^2), with rho the local correlation. Its
Gauss-Newton equations for a step v of the displacement, weighted by w ~ 1 / varF, are, per voxel,

    (w J J') v = w e J      with  a = cov / varM,  J = a grad Mw,  e = (F - mean F) - a (Mw - mean Mw).

The sign of `a` follows the data, so inverted contrast needs no care. This is the iterative registration
of Lucas and Kanade (1981) with the local gain and offset projected out.

Layout. An image level has shape (Z, Y, X); the equations belong to cells of 2^3 voxels, (Zc, Yc, Xc) =
ceil(half). The level is worked off in tiles (`native_tiles`) whose rings of six warped planes and six rows of
sums stay in the second-level cache; two planes and two rows are summed into their cells before these are
stored. Only the span of cells with something to compare is visited in a row of cells.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from weft.registration.backends.native_jit import INLINED, JIT, U
from weft.registration.backends.native_warp import AXES, PAD, PITCH, warp_row

ONE, TWO, THREE, FOUR = U(1), U(2), U(3), U(4)
TILE_Y = 16  # cells
RING = 6  # planes, and rows, that two adjacent windows see
RING_ROWS = 2 * (TILE_Y + 2)
# Offsets into the scratch, floats. Window sums over z and y, two rows of voxels at a time:
M, MM, FM, F, FF = range(5)
SUMS = 5
WINDOW = AXES * PITCH
# products on voxels, summed over the rows of a cell: nine equations, the score and its weight;
PRODUCTS = WINDOW + 2 * SUMS * PITCH
SCORE, WEIGHT = 9, 10
# terms of one row: w, e, J.
TERMS = PRODUCTS + 11 * PITCH
SCRATCH = TERMS + 5 * PITCH
# Offsets into the rings, an array of their own, so that the compiler can tell them apart from the scratch: sums over
# z, for two planes and six rows; and the warped planes and their weights.
COLUMNS = 0
WARPED = COLUMNS + RING * 2 * SUMS * PITCH
VALID = WARPED + RING * RING_ROWS * PITCH
RINGS = VALID + RING * RING_ROWS * PITCH


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
    Yc = active.shape[1]
    in_fields = equations.shape[1:] != u.shape[1:]
    B = np.zeros(SCRATCH, np.float32)
    R = np.zeros(RINGS, np.float32)
    C = np.zeros(AXES * PITCH, np.float32)
    offsets = np.empty(PITCH, np.int64)
    floor_f = np.float32(floor_f)
    floor_m = np.float32(floor_m)
    kappa = np.float32(robustness)
    for t in range(tiles.shape[0]):
        cz0, cz1, cy0, cy1, cx0, cx1 = tiles[t]
        x0 = 2 * cx0
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
                    if a < b:
                        row = ((k % RING) * RING_ROWS + y - y0) * PITCH + PAD - x0
                        for pick in range(0 if other.size else 1, 2):
                            warp_row(
                                k, y, a, b, u if pick else other, linear, shift, moving, fixed_mask, moving_mask,
                                pick and other.size, pick, B, C, offsets, R, WARPED + row + 2 * a, VALID + row + 2 * a,
                            )  # fmt: skip
                        if a == 0:
                            R[WARPED + row - 1] = R[WARPED + row]
                        if 2 * b >= X:
                            R[WARPED + row + X] = R[WARPED + row + X - 1]
            ready = min(z + 4, Z)
            for cy in range(cy0 - 1, cy1 + 1):
                # Rows of this cell, for the windows of the cells before, at and after it.
                a = u.shape[3]
                b = np.int64(0)
                for k in range(max(cy - 1, cy0), min(cy + 2, cy1)):
                    if active[cz, k, 0] < active[cz, k, 1]:
                        a = min(a, active[cz, k, 0])
                        b = max(b, active[cz, k, 1])
                a = max(a - 1, left)
                b = min(b + 1, right)
                if 0 <= cy < Yc and a < b:
                    for y in range(2 * cy, min(2 * cy + 2, Y)):
                        _sum_planes(fixed, z, y, y0, x0, 2 * a, min(2 * b, X), R)
                cell = cy - 1
                if cell < cy0:
                    continue
                a = max(active[cz, cell, 0], cx0)
                b = min(active[cz, cell, 1], cx1)
                if a >= b:
                    continue
                end = min(2 * b, X)
                for k in range(PRODUCTS, PRODUCTS + 11 * PITCH):
                    B[k] = np.float32(0)
                for p in range(min(2, Z - z)):
                    _sum_rows(p, 2 * cell, x0, a, b, X, Y, B, R)
                    y = 2 * cell
                    _add_voxels(fixed, z + p, y, 0, y0, x0, 2 * a, end, floor_f, floor_m, kappa, B, R)
                    if y + 1 < Y:
                        _add_voxels(fixed, z + p, y + 1, 1, y0, x0, 2 * a, end, floor_f, floor_m, kappa, B, R)
                for k in range(9):
                    o = U(PRODUCTS + k * PITCH + 2 * (a - cx0))
                    if in_fields:
                        _add_to_fields(B, o, a, b, equations[k, cz // 2, cell // 2])
                        continue
                    row_out = equations[k, cz, cell, a:b]
                    for x in range(b - a):
                        i = o + U(2 * x)
                        row_out[x] = B[i] + B[i + ONE]
                row_score = np.float32(0)
                row_weight = np.float32(0)
                o = U(PRODUCTS + 2 * (a - cx0))
                for x in range(2 * (b - a)):
                    i = o + U(x)
                    row_score += B[i + U(SCORE * PITCH)]
                    row_weight += B[i + U(WEIGHT * PITCH)]
                score += float(row_score)
                weight += float(row_weight)
        sums[t, 0] = score
        sums[t, 1] = weight


@njit(**INLINED)
def _add_to_fields(B, o, a, b, out):
    """Add the voxels of the cells a .. b - 1, in the scratch from `o` on, to a row of fields of two cells."""
    if a & 1:
        out[a // 2] += B[o] + B[o + ONE]
        o += TWO
        a += 1
    for x in range((b - a) // 2):
        i = o + U(4 * x)
        out[a // 2 + x] += B[i] + B[i + ONE] + B[i + TWO] + B[i + THREE]
    if (b - a) & 1 and a < b:
        i = o + U(2 * (b - 1 - a))
        out[b // 2] += B[i] + B[i + ONE]


@njit(**INLINED)
def _sum_planes(fixed, z, y, y0, x0, a, b, R):
    """Sums of M, M^2, F M, F, F^2 over the five planes around z, and around z + 1, voxels a .. b - 1 of row y.

    Planes beyond the image repeat its edge.
    """
    Z = fixed.shape[0]
    k0 = max(z - 2, 0)
    k1 = max(z - 1, 0)
    k3 = min(z + 1, Z - 1)
    k4 = min(z + 2, Z - 1)
    k5 = min(z + 3, Z - 1)
    o = WARPED + (y - y0) * PITCH + PAD - x0 + a
    pitch = RING_ROWS * PITCH
    m0 = U(o + (k0 % RING) * pitch)
    m1 = U(o + (k1 % RING) * pitch)
    m2 = U(o + (z % RING) * pitch)
    m3 = U(o + (k3 % RING) * pitch)
    m4 = U(o + (k4 % RING) * pitch)
    m5 = U(o + (k5 % RING) * pitch)
    F0 = fixed[k0, y, a:b]
    F1 = fixed[k1, y, a:b]
    F2 = fixed[z, y, a:b]
    F3 = fixed[k3, y, a:b]
    F4 = fixed[k4, y, a:b]
    F5 = fixed[k5, y, a:b]
    o = COLUMNS + (y % RING) * 2 * SUMS * PITCH + PAD - x0 + a
    s = U(o)
    s_mm = U(o + MM * PITCH)
    s_fm = U(o + FM * PITCH)
    s_f = U(o + F * PITCH)
    s_ff = U(o + FF * PITCH)
    o += SUMS * PITCH
    t = U(o)
    t_mm = U(o + MM * PITCH)
    t_fm = U(o + FM * PITCH)
    t_f = U(o + F * PITCH)
    t_ff = U(o + FF * PITCH)
    # Few rows in a loop: with more it is not vectorised.
    for i in range(b - a):
        x = U(i)
        common = R[m1 + x] + R[m2 + x] + R[m3 + x] + R[m4 + x]
        R[s + x] = common + R[m0 + x]
        R[t + x] = common + R[m5 + x]
        common = R[m1 + x] * R[m1 + x] + R[m2 + x] * R[m2 + x] + R[m3 + x] * R[m3 + x] + R[m4 + x] * R[m4 + x]
        R[s_mm + x] = common + R[m0 + x] * R[m0 + x]
        R[t_mm + x] = common + R[m5 + x] * R[m5 + x]
    for i in range(b - a):
        x = U(i)
        common = F1[x] + F2[x] + F3[x] + F4[x]
        R[s_f + x] = common + F0[x]
        R[t_f + x] = common + F5[x]
        common = F1[x] * F1[x] + F2[x] * F2[x] + F3[x] * F3[x] + F4[x] * F4[x]
        R[s_ff + x] = common + F0[x] * F0[x]
        R[t_ff + x] = common + F5[x] * F5[x]
    for i in range(b - a):
        x = U(i)
        common = R[m1 + x] * F1[x] + R[m2 + x] * F2[x] + R[m3 + x] * F3[x] + R[m4 + x] * F4[x]
        R[s_fm + x] = common
        R[t_fm + x] = common
    for i in range(b - a):
        x = U(i)
        R[s_fm + x] += R[m0 + x] * F0[x]
        R[t_fm + x] += R[m5 + x] * F5[x]


@njit(**INLINED)
def _sum_rows(p, y, x0, a, b, X, Y, B, R):
    """Sums over the five rows around y, and around y + 1, of plane p of the column sums; cells a .. b - 1.

    They reach two voxels further to either side; beyond the image they repeat its edge.
    """
    first = max(2 * a - 2, 0)
    last = min(2 * b + 2, X)
    pitch = 2 * SUMS * PITCH
    for c in range(SUMS):
        o = COLUMNS + (p * SUMS + c) * PITCH + PAD - x0 + first
        r0 = U(o + (max(y - 2, 0) % RING) * pitch)
        r1 = U(o + (max(y - 1, 0) % RING) * pitch)
        r2 = U(o + (y % RING) * pitch)
        r3 = U(o + (min(y + 1, Y - 1) % RING) * pitch)
        r4 = U(o + (min(y + 2, Y - 1) % RING) * pitch)
        r5 = U(o + (min(y + 3, Y - 1) % RING) * pitch)
        o = WINDOW + c * PITCH + PAD - x0 + first
        s = U(o)
        t = U(o + SUMS * PITCH)
        for i in range(last - first):
            x = U(i)
            common = R[r1 + x] + R[r2 + x] + R[r3 + x] + R[r4 + x]
            B[s + x] = common + R[r0 + x]
            B[t + x] = common + R[r5 + x]
    for c in range(2 * SUMS):
        o = WINDOW + c * PITCH + PAD - x0
        if first == 0:
            B[o - 1] = B[o]
            B[o - 2] = B[o]
        if last == X:
            B[o + X] = B[o + X - 1]
            B[o + X + 1] = B[o + X - 1]


@njit(**INLINED)
def _add_voxels(fixed, z, y, q, y0, x0, a, b, floor_f, floor_m, kappa, B, R):
    """Add the products of the voxels a .. b - 1 of row (z, y), the q-th row of its cell.

    For a literal q the rows of the scratch lie at distances known when the loop is compiled.
    """
    Z, Y, _ = fixed.shape
    tiny = np.float32(1e-12)
    one = np.float32(1)
    half = np.float32(0.5)
    n = np.float32(1 / 125)
    kappa1 = kappa + one
    t_m = U(WINDOW + q * SUMS * PITCH + PAD - 2)
    t_mm = t_m + U(MM * PITCH)
    t_fm = t_m + U(FM * PITCH)
    t_f = t_m + U(F * PITCH)
    t_ff = t_m + U(FF * PITCH)
    row = (y - y0) * PITCH + PAD
    pitch = RING_ROWS * PITCH
    plane = WARPED + (z % RING) * pitch
    left = U(plane + row - 1)
    before = U(WARPED + (max(z - 1, 0) % RING) * pitch + row)
    after = U(WARPED + (min(z + 1, Z - 1) % RING) * pitch + row)
    up = U(plane + row + (max(y - 1, 0) - y) * PITCH)
    down = U(plane + row + (min(y + 1, Y - 1) - y) * PITCH)
    v = U(VALID + (z % RING) * pitch + row)
    f = fixed[z, y, x0:]
    for i in range(a - x0, b - x0):
        x = U(i)
        mean_m = _sum_of_five(B, t_m + x) * n
        var_m = _sum_of_five(B, t_mm + x) * n
        cov = _sum_of_five(B, t_fm + x) * n
        mean_f = _sum_of_five(B, t_f + x) * n
        var_f = _sum_of_five(B, t_ff + x) * n
        var_m = max(var_m - mean_m * mean_m, tiny) + floor_m
        var_f = max(var_f - mean_f * mean_f, tiny)
        held_f = var_f + floor_f
        cov -= mean_f * mean_m
        k = one / (var_m * held_f)
        gain = cov * k * held_f
        w = R[v + x] * k * var_m
        rho2 = min(cov * cov * k, one)
        s = w * var_f
        w *= kappa / (kappa1 - rho2)
        e = (f[x] - mean_f) - gain * (R[left + x + ONE] - mean_m)
        gain *= half
        jz = gain * (R[after + x] - R[before + x])
        jy = gain * (R[down + x] - R[up + x])
        jx = gain * (R[left + x + TWO] - R[left + x])
        B[U(TERMS) + x] = w
        B[U(TERMS + PITCH) + x] = e
        B[U(TERMS + 2 * PITCH) + x] = jz
        B[U(TERMS + 3 * PITCH) + x] = jy
        B[U(TERMS + 4 * PITCH) + x] = jx
        B[U(PRODUCTS + SCORE * PITCH) + x] += s * rho2
        B[U(PRODUCTS + WEIGHT * PITCH) + x] += s
    for i in range(a - x0, b - x0):
        x = U(i)
        w = B[U(TERMS) + x]
        e = B[U(TERMS + PITCH) + x]
        jz = B[U(TERMS + 2 * PITCH) + x]
        jy = B[U(TERMS + 3 * PITCH) + x]
        jx = B[U(TERMS + 4 * PITCH) + x]
        wz = w * jz
        wy = w * jy
        wx = w * jx
        out = U(PRODUCTS) + x
        B[out] += wz * jz
        B[out + U(PITCH)] += wz * jy
        B[out + U(2 * PITCH)] += wz * jx
        B[out + U(3 * PITCH)] += wy * jy
        B[out + U(4 * PITCH)] += wy * jx
        B[out + U(5 * PITCH)] += wx * jx
        B[out + U(6 * PITCH)] += wz * e
        B[out + U(7 * PITCH)] += wy * e
        B[out + U(8 * PITCH)] += wx * e


@njit(**INLINED)
def _sum_of_five(B, i):
    return B[i] + B[i + ONE] + B[i + TWO] + B[i + THREE] + B[i + FOUR]
