"""Folds of a displacement field: where x + u(x) turns space inside out.

Looked for at every corner of every cell between samples, in float32 kernels that vectorise along x;
`weft.transforms.jacobian` gives the determinants themselves.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from weft.jit import INLINED, JIT, U

PART = 48  # samples of a row that are looked at together


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
    if not _jacobian_below(v, v_spacing, np.float32(limit)) < limit:
        return np.zeros(u.shape[1:], np.bool_)
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
    """The smallest determinant, if it is below `limit`; where u is too flat to hold such a one it is not looked at closely.

    Where a gradient G of u has the singular values g < 1, log det(I + G) is the sum of +-tr(G^k) / k, of which none is
    larger than the sum of g^k / k (Weyl 1949): the determinant is no less than the product of 1 - g.
    """
    _, Z, Y, X = u.shape
    lowest = np.float32(np.inf)
    # |du/dz|^2 before and behind a plane, |du/dy|^2 before and behind a row, |du/dx|^2 before and behind its samples.
    before_z, behind_z = np.zeros((Y, X), np.float32), np.zeros((Y, X), np.float32)
    before_y, behind_y = np.zeros(X, np.float32), np.zeros(X, np.float32)
    along_x = np.zeros(X + 1, np.float32)
    B = np.empty(15 * (PART + 2), np.float32)
    for z in range(Z):
        for y in range(Y):
            _squares(u, z, y, 0, min(z + 1, Z - 1), y, scale[0], behind_z[y])
            _squares(u, z, y, 0, z, min(y + 1, Y - 1), scale[1], behind_y)
            _squares(u, z, y, 1, z, y, scale[2], along_x[1:X])
            if y == 0:
                before_y[:] = np.float32(0)
            flat = _flat(min(limit, lowest))
            for first in range(0, X, PART):
                n = min(PART, X - first)
                za, zb = before_z[y, first : first + n], behind_z[y, first : first + n]
                ya, yb = before_y[first : first + n], behind_y[first : first + n]
                xa, xb = along_x[first : first + n], along_x[first + 1 : first + 1 + n]
                steep = np.int32(0)
                for x in range(n):
                    square = max(za[x], zb[x]) + max(ya[x], yb[x]) + max(xa[x], xb[x])
                    steep += np.int32(not square < flat)
                if steep:
                    start, stop = max(first - 1, 0), min(first + n + 1, X)
                    lowest = min(lowest, _jacobian_of_row(u, z, y, start, stop - start, scale, B))
            before_y, behind_y = behind_y, before_y
        before_z, behind_z = behind_z, before_z
    return lowest


@njit(**INLINED)
def _squares(u, z0, y0, x0, z1, y1, scale, out):
    """|difference|^2 of the vectors of two rows of u, one from x0 on, times scale^2."""
    p0, p1, p2 = u[0, z0, y0, x0:], u[1, z0, y0, x0:], u[2, z0, y0, x0:]
    q0, q1, q2 = u[0, z1, y1], u[1, z1, y1], u[2, z1, y1]
    for x in range(out.size):
        a = q0[x] - p0[x]
        b = q1[x] - p1[x]
        c = q2[x] - p2[x]
        out[x] = (a * a + b * b + c * c) * (scale * scale)


@njit(**INLINED)
def _flat(limit):
    """The sum of squares of a, b, c from 0 to 1 below which (1 - a) (1 - b) (1 - c) is above `limit`.

    With s = a + b + c the product is 1 - s + (s^2 - the sum of squares) / 2 - a b c, and a b c is at most (s / 3)^3.
    That falls with s up to (9 - 3 sqrt 5) / 2, and s^2 is at most three times the sum of squares.
    """
    # By somewhat more, as all this is rounded.
    limit = min(max(limit + np.float32(1e-4), np.float32(0)), np.float32(1))
    if limit > np.float32(0.2361):
        return np.float32(3) * (np.float32(1) - limit ** np.float32(1 / 3)) ** 2
    return np.float32((13 - 5 * 5**0.5) / 2) - np.float32(2) * limit


@njit(**JIT)
def _jacobian_of_rows(u, scale):
    """(Z, Y) float32: the smallest determinant at the samples of each row (z, y)."""
    _, Z, Y, X = u.shape
    out = np.empty((Z, Y), np.float32)
    B = np.empty(15 * X, np.float32)
    for z in range(Z):
        for y in range(Y):
            out[z, y] = _jacobian_of_row(u, z, y, 0, X, scale, B)
    return out


@njit(**INLINED)
def _jacobian_of_row(u, z, y, first, X, scale, B):
    """The smallest determinant at X samples of one row, from x = first on; B is scratch of 15 X.

    First the columns of I + grad u, from the differences to either side along z and y, and along x; then the
    determinants at both ends of every step along x.
    """
    _, Z, Y, _ = u.shape
    for c in range(3):
        p = u[c, z, y, first:]
        for side in range(2):
            own = np.float32(1) if c == 0 else np.float32(0)
            q = u[c, min(max(z + 2 * side - 1, 0), Z - 1), y, first:]
            sign = scale[0] if side else -scale[0]
            o = U((3 * side + c) * X)
            for x in range(X):
                B[o + U(x)] = own + sign * (q[x] - p[x])
            own = np.float32(1) if c == 1 else np.float32(0)
            q = u[c, z, min(max(y + 2 * side - 1, 0), Y - 1), first:]
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
                    one = one if one < other else other
                    lowest = one if one < lowest else lowest
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
