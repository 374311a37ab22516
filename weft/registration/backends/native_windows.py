"""Sums over windows and what follows of them, a row of cells at a time: the inner part of the fused pass.

Its rows lie in a scratch that stays in the first-level cache, and in rings of rows that stay in the second-level one;
both are laid out here.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from weft.registration.backends.native_jit import INLINED, U
from weft.registration.backends.native_vectors import LANES, least, load, most, store
from weft.registration.backends.native_warp import PITCH, VOXELS, WARP_SCRATCH

ONE = U(1)
TILE_Y = 16  # cells
RING = 6  # planes, and rows, that two adjacent windows see
RING_ROWS = 2 * (TILE_Y + 2)
# Offsets into the scratch, floats: window sums over z and y, for two planes of two rows of voxels;
M, MM, FM, F, FF = (k * VOXELS for k in range(5))
SUMS = 5 * VOXELS
WINDOW = WARP_SCRATCH
# products on cells: nine equations, the score and its weight.
PRODUCTS = WINDOW + 4 * SUMS
SCORE, WEIGHT = 9, 10
SCRATCH = PRODUCTS + 11 * PITCH
# Offsets into the rings, an array of their own, so that the compiler can tell them apart from the scratch: sums over
# z, for two planes and two rows of cells, of both rows of voxels and of the latter; the rows of both images, the warped
# one before the fixed; and their weights.
COLUMNS = PITCH
LATTER = 2 * SUMS
CELL_SUMS = 2 * LATTER
IMAGES = COLUMNS + 2 * CELL_SUMS
FIXED = VOXELS
IMAGE_ROW = 2 * VOXELS
IMAGE_PLANE = RING_ROWS * IMAGE_ROW
VALID = IMAGES + RING * IMAGE_PLANE
VALID_RING = 4
VALID_PLANE = RING_ROWS * VOXELS
RINGS = VALID + VALID_RING * VALID_PLANE + PITCH


@njit(**INLINED)
def sum_windows(z, Z, cy, Y, y0, first, count, B, R):
    """Window sums over z and y for the row of cells before row cy, planes z and z + 1: `count` cells.

    Rows and planes beyond the image repeat its edge.
    """
    o = IMAGES + first
    row = U(o + (min(max(2 * cy, 0), Y - 1) - y0) * IMAGE_ROW)
    next_row = U(o + (min(max(2 * cy + 1, 0), Y - 1) - y0) * IMAGE_ROW)
    p0 = U((max(z - 2, 0) % RING) * IMAGE_PLANE)
    p1 = U((max(z - 1, 0) % RING) * IMAGE_PLANE)
    p2 = U((z % RING) * IMAGE_PLANE)
    p3 = U((min(z + 1, Z - 1) % RING) * IMAGE_PLANE)
    p4 = U((min(z + 2, Z - 1) % RING) * IMAGE_PLANE)
    p5 = U((min(z + 3, Z - 1) % RING) * IMAGE_PLANE)
    before = U(COLUMNS + (cy & 1) * CELL_SUMS + first)
    here = U(COLUMNS + (~cy & 1) * CELL_SUMS + first)
    window = U(WINDOW + first)
    for k in range(0, count, LANES):
        for side in range(2):
            x = U(k + side * PITCH)
            upper = _sum_planes(row + x, p0, p1, p2, p3, p4, p5, R)
            lower = _sum_planes(next_row + x, p0, p1, p2, p3, p4, p5, R)
            _slide(M, upper[0], lower[0], before + x, here + x, window + x, B, R)
            _slide(M + SUMS, upper[1], lower[1], before + x, here + x, window + x, B, R)
            _slide(MM, upper[2], lower[2], before + x, here + x, window + x, B, R)
            _slide(MM + SUMS, upper[3], lower[3], before + x, here + x, window + x, B, R)
            _slide(FM, upper[4], lower[4], before + x, here + x, window + x, B, R)
            _slide(FM + SUMS, upper[5], lower[5], before + x, here + x, window + x, B, R)
            _slide(F, upper[6], lower[6], before + x, here + x, window + x, B, R)
            _slide(F + SUMS, upper[7], lower[7], before + x, here + x, window + x, B, R)
            _slide(FF, upper[8], lower[8], before + x, here + x, window + x, B, R)
            _slide(FF + SUMS, upper[9], lower[9], before + x, here + x, window + x, B, R)


@njit(**INLINED)
def _slide(which, upper, lower, before, here, window, B, R):
    """From sums over z in the rows of voxels of a cell, and those kept of the two cells before: window sums of the latter.

    Its first window ends, and its second one, in the rows of this cell. This cell's sums take the place of the first one's.
    """
    k = U(which)
    both = upper + lower
    middle = load(R, here + k)
    store(B, window + k, load(R, before + k) + middle + upper)
    store(B, window + k + U(2 * SUMS), load(R, before + k + U(LATTER)) + middle + both)
    store(R, before + k, both)
    store(R, before + k + U(LATTER), lower)


@njit(**INLINED)
def _sum_planes(x, p0, p1, p2, p3, p4, p5, R):
    """Sums of M, M^2, F M, F, F^2, each over the first and over the last five of six planes."""
    M0, M1, M2, M3, M4, M5 = _six_planes(x, p0, p1, p2, p3, p4, p5, R)
    F0, F1, F2, F3, F4, F5 = _six_planes(x + U(FIXED), p0, p1, p2, p3, p4, p5, R)
    m = M1 + M2 + M3 + M4
    mm = M1 * M1 + M2 * M2 + M3 * M3 + M4 * M4
    fm = M1 * F1 + M2 * F2 + M3 * F3 + M4 * F4
    f = F1 + F2 + F3 + F4
    ff = F1 * F1 + F2 * F2 + F3 * F3 + F4 * F4
    return (
        m + M0, m + M5,
        mm + M0 * M0, mm + M5 * M5,
        fm + M0 * F0, fm + M5 * F5,
        f + F0, f + F5,
        ff + F0 * F0, ff + F5 * F5,
    )  # fmt: skip


@njit(**INLINED)
def _six_planes(x, p0, p1, p2, p3, p4, p5, R):
    """One vector of each of six planes of an image."""
    return (
        load(R, x + p0),
        load(R, x + p1),
        load(R, x + p2),
        load(R, x + p3),
        load(R, x + p4),
        load(R, x + p5),
    )


@njit(**INLINED)
def add_voxels(p, z, Z, y, Y, y0, first, count, floor_f, floor_m, kappa, B, R):
    """Add the products of the voxels of rows y and y + 1 of plane z, `count` cells."""
    o = IMAGES + (y - y0) * IMAGE_ROW + first
    here = U(o + (z % RING) * IMAGE_PLANE)
    before = U(o + (max(z - 1, 0) % RING) * IMAGE_PLANE)
    after = U(o + (min(z + 1, Z - 1) % RING) * IMAGE_PLANE)
    up = here - U(IMAGE_ROW) if y > 0 else here
    next_row = here + U(IMAGE_ROW) if y < Y - 1 else here
    down = here + U(2 * IMAGE_ROW) if y < Y - 2 else next_row
    v = U(VALID + (z % VALID_RING) * VALID_PLANE + (y - y0) * VOXELS + first)
    window = U(WINDOW + p * SUMS + first)
    out = U(PRODUCTS + first)
    for k in range(0, count, LANES):
        x = U(k)
        upper = _products(
            window + x,
            here + x,
            before + x,
            after + x,
            up + x,
            next_row + x,
            v + x,
            floor_f,
            floor_m,
            kappa,
            B,
            R,
        )
        lower = _products(
            window + U(2 * SUMS) + x, here + U(IMAGE_ROW) + x, before + U(IMAGE_ROW) + x, after + U(IMAGE_ROW) + x,
            here + x, down + x, v + U(VOXELS) + x, floor_f, floor_m, kappa, B, R,
        )  # fmt: skip
        _add(B, out + U(0 * PITCH) + x, upper[0] + lower[0])
        _add(B, out + U(1 * PITCH) + x, upper[1] + lower[1])
        _add(B, out + U(2 * PITCH) + x, upper[2] + lower[2])
        _add(B, out + U(3 * PITCH) + x, upper[3] + lower[3])
        _add(B, out + U(4 * PITCH) + x, upper[4] + lower[4])
        _add(B, out + U(5 * PITCH) + x, upper[5] + lower[5])
        _add(B, out + U(6 * PITCH) + x, upper[6] + lower[6])
        _add(B, out + U(7 * PITCH) + x, upper[7] + lower[7])
        _add(B, out + U(8 * PITCH) + x, upper[8] + lower[8])
        _add(B, out + U(9 * PITCH) + x, upper[9] + lower[9])
        _add(B, out + U(10 * PITCH) + x, upper[10] + lower[10])


@njit(**INLINED)
def _add(B, i, vector):
    store(B, i, load(B, i) + vector)


@njit(**INLINED)
def _products(window, m, before, after, up, down, v, floor_f, floor_m, kappa, B, R):
    """Products of the two voxels of a cell in one row, summed."""
    odd = U(PITCH)
    m_even, m_odd = _window_sums(window + U(M), B)
    mm_even, mm_odd = _window_sums(window + U(MM), B)
    fm_even, fm_odd = _window_sums(window + U(FM), B)
    f_even, f_odd = _window_sums(window + U(F), B)
    ff_even, ff_odd = _window_sums(window + U(FF), B)
    w, e, gain, s, s_rho2 = _fit(
        m_even,
        mm_even,
        fm_even,
        f_even,
        ff_even,
        load(R, m),
        load(R, m + U(FIXED)),
        load(R, v),
        floor_f,
        floor_m,
        kappa,
    )
    jz = gain * (load(R, after) - load(R, before))
    jy = gain * (load(R, down) - load(R, up))
    jx = gain * (load(R, m + odd) - load(R, m + odd - ONE))
    wz = w * jz
    wy = w * jy
    wx = w * jx
    w, d, gain, t, t_rho2 = _fit(
        m_odd,
        mm_odd,
        fm_odd,
        f_odd,
        ff_odd,
        load(R, m + odd),
        load(R, m + U(FIXED) + odd),
        load(R, v + odd),
        floor_f,
        floor_m,
        kappa,
    )
    kz = gain * (load(R, after + odd) - load(R, before + odd))
    ky = gain * (load(R, down + odd) - load(R, up + odd))
    kx = gain * (load(R, m + ONE) - load(R, m))
    vz = w * kz
    vy = w * ky
    vx = w * kx
    return (
        wz * jz + vz * kz,
        wz * jy + vz * ky,
        wz * jx + vz * kx,
        wy * jy + vy * ky,
        wy * jx + vy * kx,
        wx * jx + vx * kx,
        wz * e + vz * d,
        wy * e + vy * d,
        wx * e + vx * d,
        s_rho2 + t_rho2,
        s + t,
    )


@njit(**INLINED)
def _window_sums(i, B):
    """Sums over the five voxels around the even one of a cell, and around the odd one."""
    j = i + U(PITCH)
    common = load(B, j - ONE) + load(B, i) + load(B, j) + load(B, i + ONE)
    return common + load(B, i - ONE), common + load(B, j + ONE)


@njit(**INLINED)
def _fit(m, mm, fm, f, ff, here_m, here_f, valid, floor_f, floor_m, kappa):
    """Weight w, residual e, half the gain a, and the score's s and s rho^2, from the sums over a window."""
    tiny = np.float32(1e-12)
    one = np.float32(1)
    n = np.float32(1 / 125)
    mean_m = m * n
    mean_f = f * n
    var_m = most(mm * n - mean_m * mean_m, tiny) + floor_m
    var_f = most(ff * n - mean_f * mean_f, tiny)
    held_f = var_f + floor_f
    cov = fm * n - mean_f * mean_m
    k = one / (var_m * held_f)
    gain = cov * k * held_f
    w = valid * k * var_m
    rho2 = least(cov * cov * k, one)
    s = w * var_f
    w = w * (kappa / (kappa + one - rho2))
    e = (here_f - mean_f) - gain * (here_m - mean_m)
    return w, e, gain * np.float32(0.5), s, s * rho2
