"""The fused pass of the native engine over a pair of images: warp, window sums, normal equations.

Model. Inside every window of 5^3 voxels the fixed image F is an affine function of the warped moving
image, F ~ a Mw + b. Eliminating a and b leaves varF (1 - rho^2), with rho the local correlation. Its
Gauss-Newton equations for a step v of the displacement, weighted by w ~ 1 / varF, are, per voxel,

    (w J J') v = w e J      with  a = cov / varM,  J = a grad Mw,  e = (F - mean F) - a (Mw - mean Mw).

The sign of `a` follows the data, so inverted contrast needs no care. This is the iterative registration
of Lucas and Kanade (1981) with the local gain and offset projected out.

Layout. An image level has shape (Z, Y, X), the displacement lives on the grid of the next coarser level,
(Zc, Yc, Xc) = ceil(half), in voxels of the image level; it is upsampled row by row inside the warp, and
the affine is applied inside the coordinates, so that the moving image is interpolated once. Nothing of
the size of the image is allocated: a ring of five warped planes and a few rows hold all intermediates.

Rows of intermediates lie in *one* 1-D buffer at the constant pitch `PITCH`: the compiler then proves that
they do not overlap and vectorises without run-time checks. Everything is float32, in one thread and in a
fixed order.

Kernels called by kernels are inlined by force: `fastmath` lets the compiler round a shared copy and an inlined
one differently, and which of them is linked would depend on what else was compiled in the process.

The kernels stay in one file: a cached kernel is compiled anew when its own file changes, not when that of a
kernel it calls does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

JIT: dict[str, Any] = {
    "fastmath": True,
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "boundscheck": False,
}

PITCH = 8240
LONGEST_ROW = PITCH - 8
NO_MASK = np.zeros((0, 0, 0), np.float32)

# Rows of the scratch buffer. The first five hold sums over z and y with two border voxels on either side.
SUM_M, SUM_MM, SUM_FM, SUM_F, SUM_FF = range(5)
WEIGHT, JACOBIAN_Z, JACOBIAN_Y, JACOBIAN_X, ERROR, SCORE_WEIGHT, SCORE = range(5, 12)
ROWS = 12


@njit(**JIT)
def normal_equations(
    fixed, moving, fixed_mask, moving_mask, linear, shift, u, floor_f, floor_m, robustness, equations
):
    """Sum the normal equations of every voxel into the cells of the displacement grid.

    Parameters
    ----------
    fixed, moving
        (Z, Y, X) and (Zm, Ym, Xm) float32.
    fixed_mask, moving_mask
        Weights, float32, of the images' shapes, or `NO_MASK`.
    linear, shift
        (3, 3) and (3,) float32: fixed index -> moving index, i -> linear i + shift.
    u
        (3, Zc, Yc, Xc) float32, voxels of the fixed level; a voxel i is compared with
        linear (i + u(i)) + shift.
    floor_f, floor_m
        Variances added to the local ones, so that windows of mere noise count little.
    robustness
        kappa: a window counts by kappa / (kappa + 1 - rho^2), so badly explained ones count less.
    equations
        (9, Zc, Yc, Xc) float32, overwritten: w J J' (zz, zy, zx, yy, yx, xx) and w e J (z, y, x), summed
        over the 2^3 voxels of a cell.

    Returns
    -------
    Sum of s rho^2 and sum of s over all voxels, with s = varF / (varF + floor_f) where both images count.
    """
    Z, Y, X = fixed.shape
    warped = np.empty((5, Y, X + 2), np.float32)
    valid = np.empty((5, Y, X), np.float32)
    coarse = np.empty((3, u.shape[2], u.shape[3]), np.float32)
    coordinates = np.empty(4 * PITCH, np.float32)
    offsets = np.empty(PITCH, np.int32)
    sums = np.empty((5, 5, X), np.float32)
    T = np.zeros(ROWS * PITCH, np.float32)
    half = np.float32(0.5)
    tiny = np.float32(1e-12)
    one = np.float32(1)
    n = np.float32(1 / 125)
    floor_f = np.float32(floor_f)
    floor_m = np.float32(floor_m)
    kappa = np.float32(robustness)
    kappa1 = np.float32(1 + robustness)
    score = 0.0
    weight = 0.0
    equations[:] = np.float32(0)
    for z in range(min(2, Z)):
        _warp_plane(
            z,
            u,
            linear,
            shift,
            moving,
            fixed_mask,
            moving_mask,
            warped[z],
            valid[z],
            coarse,
            coordinates,
            offsets,
        )
    for z in range(Z):
        if z + 2 < Z:
            k = (z + 2) % 5
            _warp_plane(
                z + 2,
                u,
                linear,
                shift,
                moving,
                fixed_mask,
                moving_mask,
                warped[k],
                valid[k],
                coarse,
                coordinates,
                offsets,
            )
        before = warped[max(z - 1, 0) % 5]
        here = warped[z % 5]
        after = warped[min(z + 1, Z - 1) % 5]
        for row in range(Y + 2):
            if row < Y:
                _sum_over_z(fixed, warped, z, row, sums[row % 5])
            y = row - 2
            if y < 0:
                continue
            _sum_over_y(sums, y, Y, T)
            f = fixed[z, y]
            v = valid[z % 5, y]
            m = here[y]
            m_up = here[max(y - 1, 0)]
            m_down = here[min(y + 1, Y - 1)]
            m_before = before[y]
            m_after = after[y]
            for x in range(X):
                mean_m = (T[x] + T[x + 1] + T[x + 2] + T[x + 3] + T[x + 4]) * n
                i = SUM_MM * PITCH + x
                var_m = (T[i] + T[i + 1] + T[i + 2] + T[i + 3] + T[i + 4]) * n
                i = SUM_FM * PITCH + x
                cov = (T[i] + T[i + 1] + T[i + 2] + T[i + 3] + T[i + 4]) * n
                i = SUM_F * PITCH + x
                mean_f = (T[i] + T[i + 1] + T[i + 2] + T[i + 3] + T[i + 4]) * n
                i = SUM_FF * PITCH + x
                var_f = (T[i] + T[i + 1] + T[i + 2] + T[i + 3] + T[i + 4]) * n
                var_m = max(var_m - mean_m * mean_m, tiny)
                var_f = max(var_f - mean_f * mean_f, tiny)
                cov -= mean_f * mean_m
                gain = cov / (var_m + floor_m)
                w = v[x] / (var_f + floor_f)
                s = w * var_f
                rho2 = min(gain * cov / (var_f + floor_f), one)
                T[WEIGHT * PITCH + x] = w * kappa / (kappa1 - rho2)
                T[ERROR * PITCH + x] = (f[x] - mean_f) - gain * (m[x + 1] - mean_m)
                gain *= half
                T[JACOBIAN_Z * PITCH + x] = gain * (m_after[x + 1] - m_before[x + 1])
                T[JACOBIAN_Y * PITCH + x] = gain * (m_down[x + 1] - m_up[x + 1])
                T[JACOBIAN_X * PITCH + x] = gain * (m[x + 2] - m[x])
                T[SCORE_WEIGHT * PITCH + x] = s
                T[SCORE * PITCH + x] = s * rho2
            if X & 1:
                T[WEIGHT * PITCH + X] = np.float32(0)
            row_weight = np.float32(0)
            row_score = np.float32(0)
            for x in range(X):
                row_weight += T[SCORE_WEIGHT * PITCH + x]
                row_score += T[SCORE * PITCH + x]
            weight += float(row_weight)
            score += float(row_score)
            zc = z // 2
            yc = y // 2
            _add_products(T, JACOBIAN_Z, JACOBIAN_Z, equations[0, zc, yc])
            _add_products(T, JACOBIAN_Z, JACOBIAN_Y, equations[1, zc, yc])
            _add_products(T, JACOBIAN_Z, JACOBIAN_X, equations[2, zc, yc])
            _add_products(T, JACOBIAN_Y, JACOBIAN_Y, equations[3, zc, yc])
            _add_products(T, JACOBIAN_Y, JACOBIAN_X, equations[4, zc, yc])
            _add_products(T, JACOBIAN_X, JACOBIAN_X, equations[5, zc, yc])
            _add_products(T, JACOBIAN_Z, ERROR, equations[6, zc, yc])
            _add_products(T, JACOBIAN_Y, ERROR, equations[7, zc, yc])
            _add_products(T, JACOBIAN_X, ERROR, equations[8, zc, yc])
    return score, weight


@njit(**JIT)
def compare(fixed, moving, fixed_mask, moving_mask, linear, shift, u_a, u_b, floor_f, floor_m, stride):
    """Similarity under two displacements with the same weights, on every `stride`-th plane.

    Parameters are those of `normal_equations`, with two displacements in place of one.

    Returns
    -------
    Sums of s rho_a^2, of s rho_b^2 and of s, with s as there, where both displacements stay inside.
    """
    Z, Y, X = fixed.shape
    warped = np.empty((2, 5, Y, X + 2), np.float32)
    valid = np.empty((2, Y, X), np.float32)
    ignored = np.empty((Y, X), np.float32)
    coarse = np.empty((3, u_a.shape[2], u_a.shape[3]), np.float32)
    coordinates = np.empty(4 * PITCH, np.float32)
    offsets = np.empty(PITCH, np.int32)
    sums = np.empty((5, 5, X), np.float32)
    T = np.zeros(ROWS * PITCH, np.float32)
    n = np.float32(1 / 125)
    tiny = np.float32(1e-12)
    one = np.float32(1)
    floor_f = np.float32(floor_f)
    floor_m = np.float32(floor_m)
    scores = np.zeros(2)
    weight = 0.0
    for z in range(min(stride // 2, Z - 1), Z, stride):
        for k in range(max(z - 2, 0), min(z + 3, Z)):
            target = valid[0] if k == z else ignored
            _warp_plane(
                k,
                u_a,
                linear,
                shift,
                moving,
                fixed_mask,
                moving_mask,
                warped[0, k % 5],
                target,
                coarse,
                coordinates,
                offsets,
            )
            target = valid[1] if k == z else ignored
            _warp_plane(
                k,
                u_b,
                linear,
                shift,
                moving,
                fixed_mask,
                moving_mask,
                warped[1, k % 5],
                target,
                coarse,
                coordinates,
                offsets,
            )
        for c in range(2):
            for row in range(Y + 2):
                if row < Y:
                    _sum_over_z(fixed, warped[c], z, row, sums[row % 5])
                y = row - 2
                if y < 0:
                    continue
                _sum_over_y(sums, y, Y, T)
                v0 = valid[0, y]
                v1 = valid[1, y]
                row_weight = np.float32(0)
                row_score = np.float32(0)
                for x in range(X):
                    mean_m = (T[x] + T[x + 1] + T[x + 2] + T[x + 3] + T[x + 4]) * n
                    i = SUM_MM * PITCH + x
                    var_m = (T[i] + T[i + 1] + T[i + 2] + T[i + 3] + T[i + 4]) * n
                    i = SUM_FM * PITCH + x
                    cov = (T[i] + T[i + 1] + T[i + 2] + T[i + 3] + T[i + 4]) * n
                    i = SUM_F * PITCH + x
                    mean_f = (T[i] + T[i + 1] + T[i + 2] + T[i + 3] + T[i + 4]) * n
                    i = SUM_FF * PITCH + x
                    var_f = (T[i] + T[i + 1] + T[i + 2] + T[i + 3] + T[i + 4]) * n
                    var_m = max(var_m - mean_m * mean_m, tiny)
                    var_f = max(var_f - mean_f * mean_f, tiny)
                    cov -= mean_f * mean_m
                    s = min(v0[x], v1[x]) * var_f / (var_f + floor_f)
                    row_score += s * min(cov * cov / ((var_m + floor_m) * (var_f + floor_f)), one)
                    row_weight += s
                scores[c] += float(row_score)
                if c == 0:
                    weight += float(row_weight)
    return scores[0], scores[1], weight


@njit(forceinline=True, **JIT)
def _warp_plane(z, u, linear, shift, moving, fixed_mask, moving_mask, out, valid, coarse, B, offsets):
    """Plane z of the moving image pulled back.

    out (Y, X + 2): the values, edges repeated in x. valid (Y, X): the weight of the voxel, 0 outside the
    moving image, which reaches half a voxel beyond its outermost centres (values are clamped there).
    coarse (3, Yc, Xc), B (4 rows) and offsets (1 row) are scratch.
    """
    Y, X = valid.shape
    Zc, Yc, Xc = u.shape[1:]
    Zm, Ym, Xm = moving.shape
    # The eight corners of a cell are gathered from four shifted views with the same two offsets.
    m00 = moving.reshape(-1)
    m01 = m00[Xm:]
    m10 = m00[Xm * Ym :]
    m11 = m00[Xm * Ym + Xm :]
    near = np.float32(0.75)
    far = np.float32(0.25)
    zero = np.float32(0)
    one = np.float32(1)
    two = np.float32(2)
    z0, z1, a0, a1 = _neighbours(z, Zc)
    for c in range(3):
        for y in range(Yc):
            d = coarse[c, y]
            s0 = u[c, z0, y]
            s1 = u[c, z1, y]
            for x in range(Xc):
                d[x] = a0 * s0[x] + a1 * s1[x]
    end_z = np.float32(Zm - 1)
    end_y = np.float32(Ym - 1)
    end_x = np.float32(Xm - 1)
    last_z = np.int32(Zm - 2)
    last_y = np.int32(Ym - 2)
    last_x = np.int32(Xm - 2)
    pitch_y = np.int32(Xm)
    pitch_z = np.int32(Xm * Ym)
    R = 3 * PITCH
    for y in range(Y):
        y0, y1, b0, b1 = _neighbours(y, Yc)
        for c in range(3):
            A0 = linear[c, 0]
            A1 = linear[c, 1]
            A2 = linear[c, 2]
            uz0 = coarse[0, y0]
            uz1 = coarse[0, y1]
            uy0 = coarse[1, y0]
            uy1 = coarse[1, y1]
            ux0 = coarse[2, y0]
            ux1 = coarse[2, y1]
            for x in range(Xc):
                B[R + x + 1] = (
                    A0 * (b0 * uz0[x] + b1 * uz1[x])
                    + A1 * (b0 * uy0[x] + b1 * uy1[x])
                    + A2 * (b0 * ux0[x] + b1 * ux1[x])
                )
            B[R] = B[R + 1]
            B[R + Xc + 1] = B[R + Xc]
            base = A0 * np.float32(z) + A1 * np.float32(y) + shift[c]
            o = c * PITCH
            for x in range(Xc):
                f = base + A2 * np.float32(2 * x)
                B[o + 2 * x] = far * B[R + x] + near * B[R + x + 1] + f
                B[o + 2 * x + 1] = near * B[R + x + 1] + far * B[R + x + 2] + f + A2
        v = valid[y]
        for x in range(X):
            pz = B[x]
            py = B[PITCH + x]
            px = B[2 * PITCH + x]
            dz = abs(two * pz - end_z) - end_z
            dy = abs(two * py - end_y) - end_y
            dx = abs(two * px - end_x) - end_x
            v[x] = one if max(max(dz, dy), dx) < one else zero
            pz = min(max(pz, zero), end_z)
            py = min(max(py, zero), end_y)
            px = min(max(px, zero), end_x)
            iz = min(np.int32(pz), last_z)
            iy = min(np.int32(py), last_y)
            ix = min(np.int32(px), last_x)
            B[x] = pz - np.float32(iz)
            B[PITCH + x] = py - np.float32(iy)
            B[2 * PITCH + x] = px - np.float32(ix)
            offsets[x] = iz * pitch_z + iy * pitch_y + ix
        if fixed_mask.size:
            mask_row = fixed_mask[z, y]
            for x in range(X):
                v[x] *= mask_row[x]
        if moving_mask.size:
            mask = moving_mask.reshape(-1)
            for x in range(X):
                k = np.int64(offsets[x])
                k += np.int64(B[x] + np.float32(0.5)) * np.int64(pitch_z)
                k += np.int64(B[PITCH + x] + np.float32(0.5)) * np.int64(pitch_y)
                v[x] *= mask[k + np.int64(B[2 * PITCH + x] + np.float32(0.5))]
        o_row = out[y]
        for x in range(X):
            i = np.uint64(np.uint32(offsets[x]))
            j = i + np.uint64(1)
            fz = B[x]
            fy = B[PITCH + x]
            fx = B[2 * PITCH + x]
            p = m00[i]
            q = m01[i]
            r = m10[i]
            s = m11[i]
            p += fx * (m00[j] - p)
            q += fx * (m01[j] - q)
            r += fx * (m10[j] - r)
            s += fx * (m11[j] - s)
            p += fy * (q - p)
            r += fy * (s - r)
            o_row[x + 1] = p + fz * (r - p)
        o_row[0] = o_row[1]
        o_row[X + 1] = o_row[X]


@njit(forceinline=True, **JIT)
def _neighbours(i, n):
    """The two coarse samples, and their weights, between which fine index i lies (edges repeated)."""
    c = i // 2
    if i & 1:
        return c, min(c + 1, n - 1), np.float32(0.75), np.float32(0.25)
    return max(c - 1, 0), c, np.float32(0.25), np.float32(0.75)


@njit(forceinline=True, **JIT)
def _sum_over_z(fixed, warped, z, y, out):
    """Sums over the planes z - 2 .. z + 2 (edges repeated) of row y: M, M^2, F M, F, F^2 -> out (5, X)."""
    Z, _, X = fixed.shape
    k0 = max(z - 2, 0)
    k1 = max(z - 1, 0)
    k3 = min(z + 1, Z - 1)
    k4 = min(z + 2, Z - 1)
    M0 = warped[k0 % 5, y, 1:]
    M1 = warped[k1 % 5, y, 1:]
    M2 = warped[z % 5, y, 1:]
    M3 = warped[k3 % 5, y, 1:]
    M4 = warped[k4 % 5, y, 1:]
    F0 = fixed[k0, y]
    F1 = fixed[k1, y]
    F2 = fixed[z, y]
    F3 = fixed[k3, y]
    F4 = fixed[k4, y]
    m = out[SUM_M]
    mm = out[SUM_MM]
    fm = out[SUM_FM]
    f = out[SUM_F]
    ff = out[SUM_FF]
    # One loop per sum, and two for the products: more arrays in a loop than this and it is not vectorised.
    for x in range(X):
        m[x] = M0[x] + M1[x] + M2[x] + M3[x] + M4[x]
    for x in range(X):
        mm[x] = M0[x] * M0[x] + M1[x] * M1[x] + M2[x] * M2[x] + M3[x] * M3[x] + M4[x] * M4[x]
    for x in range(X):
        fm[x] = M0[x] * F0[x] + M1[x] * F1[x] + M2[x] * F2[x]
    for x in range(X):
        fm[x] += M3[x] * F3[x] + M4[x] * F4[x]
    for x in range(X):
        f[x] = F0[x] + F1[x] + F2[x] + F3[x] + F4[x]
    for x in range(X):
        ff[x] = F0[x] * F0[x] + F1[x] * F1[x] + F2[x] * F2[x] + F3[x] * F3[x] + F4[x] * F4[x]


@njit(forceinline=True, **JIT)
def _sum_over_y(sums, y, Y, T):
    """Sums over the rows y - 2 .. y + 2 (edges repeated) -> the first five rows of T, padded by two in x."""
    X = sums.shape[2]
    y0 = max(y - 2, 0) % 5
    y1 = max(y - 1, 0) % 5
    y2 = y % 5
    y3 = min(y + 1, Y - 1) % 5
    y4 = min(y + 2, Y - 1) % 5
    for c in range(5):
        s0 = sums[y0, c]
        s1 = sums[y1, c]
        s2 = sums[y2, c]
        s3 = sums[y3, c]
        s4 = sums[y4, c]
        o = c * PITCH
        for x in range(X):
            T[o + x + 2] = s0[x] + s1[x] + s2[x] + s3[x] + s4[x]
        T[o] = T[o + 2]
        T[o + 1] = T[o + 2]
        T[o + X + 2] = T[o + X + 1]
        T[o + X + 3] = T[o + X + 1]


@njit(forceinline=True, **JIT)
def _add_products(T, i, j, out):
    """out[x] += weight * row i * row j, summed over the voxels 2 x and 2 x + 1."""
    p = i * PITCH
    q = j * PITCH
    w = WEIGHT * PITCH
    for x in range(out.shape[0]):
        k = 2 * x
        out[x] += T[w + k] * T[p + k] * T[q + k] + T[w + k + 1] * T[p + k + 1] * T[q + k + 1]
