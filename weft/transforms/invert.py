"""Inverse of a displacement field, and what a round trip through both leaves."""

from __future__ import annotations

import numba
import numpy as np

from weft.grid import Grid
from weft.transforms.interpolate import (
    Field,
    axis_steps,
    blend,
    cell,
    check_field,
    interpolate_row,
    vector_at,
)

ROUND_TRIP_BIN = 1e-3  # of a voxel
ROUND_TRIP_BINS = 1 << 15


def invert_displacements(
    u: Field,
    grid: Grid,
    *,
    iterations: int = 30,
    tolerance: float = 1e-3,
    supersample: int = 1,
) -> tuple[np.ndarray, Grid]:
    """The field v that undoes u: with w = x + u(x), w + v(w) = x.

    Solved at every sample for itself: a fixed-point step v <- -u(w + v) [1]_ where it brings the residual
    down fast, else a damped Newton step with the field's own derivatives. Between samples v is trilinear,
    so that the error left comes from the grid: `round_trip` measures it, ``supersample`` lowers it.

    Parameters
    ----------
    u
        (3, z, y, x) float32, um, components z, y, x.
    grid
        Where its samples lie.
    iterations
        At most so many steps per sample.
    tolerance
        Stop when the residual is below this part of the smallest spacing.
    supersample
        v's grid has so many samples per sample of u along each axis.

    Returns
    -------
    v, grid_v
        (3, z, y, x) float32 um, and its grid: that of u, enlarged by the largest displacement, so that it
        holds every point that u moves.

    Raises
    ------
    ValueError
        When the field does not lie on its grid or holds values that are not finite.

    References
    ----------
    .. [1] M. Chen, W. Lu, Q. Chen, K. J. Ruchala, G. H. Olivera: A simple fixed-point approach to invert a
       deformation field. Medical Physics 35 (2008) 81-88.
    """
    check_field(u, grid)
    u = np.asarray(u[:], np.float32)
    if not np.isfinite(u).all():
        raise ValueError(
            f"the displacement field holds {int((~np.isfinite(u)).sum())} values that are not finite"
        )
    spacing = np.array(grid.spacing)
    margin = np.ceil(np.abs(u).reshape(3, -1).max(1) / spacing).astype(int) + 1
    grid_v = grid.pad(tuple(int(m) for m in margin))  # type: ignore[arg-type]
    if supersample > 1:
        grid_v = grid_v.resample(tuple(float(s) / supersample for s in spacing))  # type: ignore[arg-type]
    v = np.empty((3, *grid_v.shape), np.float32)
    # Solve in units of u's grid: indices and displacements in its voxels.
    first = grid.to_index(grid_v.origin)
    step = np.array(grid_v.spacing) / spacing
    scaled = (u / spacing[:, None, None, None]).astype(np.float32)
    _invert(scaled, first, step, spacing, iterations, tolerance * float(spacing.min()), v)
    return v, grid_v


def round_trip(u: Field, grid: Grid, v: Field, grid_v: Grid, fixed_grid: Grid) -> dict[str, float | int]:
    """How far x -> x + u(x) -> back through v ends from x, over every voxel of a grid.

    Parameters
    ----------
    u, grid
        The displacement field, (3, z, y, x) float32 um, and its grid.
    v, grid_v
        Its inverse, and the inverse's grid.
    fixed_grid
        The voxels to try, in the fixed space.

    Returns
    -------
    ``p50``, ``p95`` (rounded up to a thousandth of a voxel), ``max`` (exact), um; ``voxels``, and
    ``outside``: how many landed outside the inverse's grid (they count in the others as well).

    Raises
    ------
    ValueError
        When a field does not lie on its grid.
    """
    check_field(u, grid)
    check_field(v, grid_v)
    width = ROUND_TRIP_BIN * min(fixed_grid.spacing)
    histogram = np.zeros(ROUND_TRIP_BINS, np.int64)
    z_steps, y_steps, x_steps = (axis_steps(grid, fixed_grid, axis) for axis in range(3))
    to_v = np.linalg.inv(grid_v.matrix())
    largest, outside = _round_trip(
        np.ascontiguousarray(u[:], np.float32),
        np.ascontiguousarray(v[:], np.float32),
        (z_steps, y_steps, x_steps),
        np.array(fixed_grid.origin),
        np.array(fixed_grid.spacing),
        np.diag(to_v)[:3].copy(),
        to_v[:3, 3].copy(),
        1 / width,
        histogram,
    )
    passed = np.cumsum(histogram)

    def percentile(q: float) -> float:
        index = int(np.searchsorted(passed, q / 100 * fixed_grid.size))
        return min((index + 1) * width, largest) if index < ROUND_TRIP_BINS - 1 else largest

    return {
        "p50": percentile(50),
        "p95": percentile(95),
        "max": largest,
        "outside": int(outside),
        "voxels": fixed_grid.size,
    }


@numba.njit(cache=True, nogil=True)
def _derivative(u, p, j):
    """d(x + u)/dx at an index position: the trilinear field's in its cell, across the border the identity's."""
    z0, z1, fz = cell(p[0], u.shape[1])
    y0, y1, fy = cell(p[1], u.shape[2])
    x0, x1, fx = cell(p[2], u.shape[3])
    z1, y1, x1 = (z0 if p[0] < 0 else z1), (y0 if p[1] < 0 else y1), (x0 if p[2] < 0 else x1)
    for c in range(3):
        a = u[c]
        j[c, 0] = blend(a, z1, z1, 0.0, y0, y1, fy, x0, x1, fx) - blend(
            a, z0, z0, 0.0, y0, y1, fy, x0, x1, fx
        )
        j[c, 1] = blend(a, z0, z1, fz, y1, y1, 0.0, x0, x1, fx) - blend(
            a, z0, z1, fz, y0, y0, 0.0, x0, x1, fx
        )
        j[c, 2] = blend(a, z0, z1, fz, y0, y1, fy, x1, x1, 0.0) - blend(
            a, z0, z1, fz, y0, y1, fy, x0, x0, 0.0
        )
        j[c, c] += 1.0


@numba.njit(cache=True, nogil=True)
def _solve(j, r, out):
    """out = j^-1 r by Cramer's rule; False where j is close to singular or turned over."""
    a = j[1, 1] * j[2, 2] - j[1, 2] * j[2, 1]
    b = j[1, 2] * j[2, 0] - j[1, 0] * j[2, 2]
    c = j[1, 0] * j[2, 1] - j[1, 1] * j[2, 0]
    det = j[0, 0] * a + j[0, 1] * b + j[0, 2] * c
    if det < 0.02:
        return False
    d, e = j[0, 2] * j[2, 1] - j[0, 1] * j[2, 2], j[0, 1] * j[1, 2] - j[0, 2] * j[1, 1]
    f, g = j[0, 0] * j[2, 2] - j[0, 2] * j[2, 0], j[0, 2] * j[1, 0] - j[0, 0] * j[1, 2]
    h, i = j[0, 1] * j[2, 0] - j[0, 0] * j[2, 1], j[0, 0] * j[1, 1] - j[0, 1] * j[1, 0]
    out[0] = (a * r[0] + d * r[1] + e * r[2]) / det
    out[1] = (b * r[0] + f * r[1] + g * r[2]) / det
    out[2] = (c * r[0] + h * r[1] + i * r[2]) / det
    return True


@numba.njit(cache=True, nogil=True)
def _residual(u, w, p, spacing, r):
    """r = p + u(p) - w in voxels; its length in um."""
    vector_at(u, p[0], p[1], p[2], r)
    length = 0.0
    for c in range(3):
        r[c] += p[c] - w[c]
        length += (r[c] * spacing[c]) ** 2
    return np.sqrt(length)


@numba.njit(cache=True, nogil=True)
def _invert(u, first, step, spacing, iterations, tolerance, v):
    w, p, move = np.empty(3), np.empty(3), np.empty(3)
    r, r_new, best, newton = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    j = np.empty((3, 3))
    for z in range(v.shape[1]):
        for y in range(v.shape[2]):
            for x in range(v.shape[3]):
                w[0], w[1], w[2] = first[0] + step[0] * z, first[1] + step[1] * y, first[2] + step[2] * x
                if x == 0:
                    vector_at(u, w[0], w[1], w[2], move)
                    move[:] = -move
                # Along a row, the neighbour's answer is the start.
                p[:] = w + move
                error = _residual(u, w, p, spacing, r)
                damping = 1.0
                for _ in range(iterations):
                    if error <= tolerance:
                        break
                    best[:] = p - damping * r
                    reached = _residual(u, w, best, spacing, r_new)
                    if reached > 0.3 * error:
                        _derivative(u, p, j)
                        if _solve(j, r, newton):
                            newton[:] = p - damping * newton
                            by_newton = _residual(u, w, newton, spacing, r_new)
                            if by_newton < reached:
                                best[:] = newton
                                reached = by_newton
                    if reached < error:
                        p[:] = best
                        error = _residual(u, w, p, spacing, r)
                        damping = min(1.0, 2 * damping)
                    else:
                        damping *= 0.5
                for c in range(3):
                    move[c] = p[c] - w[c]
                    v[c, z, y, x] = move[c] * spacing[c]


@numba.njit(cache=True, nogil=True)
def _round_trip(u, v, steps, origin, spacing, scale, offset, per_width, histogram):
    (z_lower, z_weight), (y_lower, y_weight), (x_lower, x_weight) = steps
    nodes = u.shape[3]
    vz, vy, vx = v.shape[1:]
    row = np.empty((3, nodes), np.float32)
    d, p, back = np.empty(3), np.empty(3), np.empty(3)
    largest, outside = 0.0, 0
    for z in range(z_lower.size):
        for y in range(y_lower.size):
            interpolate_row(u, z_lower[z], z_weight[z], y_lower[y], y_weight[y], row)
            for x in range(x_lower.size):
                k, f = x_lower[x], float(x_weight[x])
                for c in range(3):
                    d[c] = row[c, k] * (1 - f) + row[c, min(k + 1, nodes - 1)] * f
                p[0] = (origin[0] + spacing[0] * z + d[0]) * scale[0] + offset[0]
                p[1] = (origin[1] + spacing[1] * y + d[1]) * scale[1] + offset[1]
                p[2] = (origin[2] + spacing[2] * x + d[2]) * scale[2] + offset[2]
                if not (-0.5 <= p[0] <= vz - 0.5 and -0.5 <= p[1] <= vy - 0.5 and -0.5 <= p[2] <= vx - 0.5):
                    outside += 1
                vector_at(v, p[0], p[1], p[2], back)
                length = (d[0] + back[0]) ** 2 + (d[1] + back[1]) ** 2 + (d[2] + back[2]) ** 2
                length = np.sqrt(length)
                largest = max(largest, length)
                histogram[min(int(length * per_width), histogram.size - 1)] += 1
    return largest, outside
