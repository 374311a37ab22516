"""Trilinear interpolation of displacement fields: at scattered points and on another grid."""

from __future__ import annotations

import numba
import numpy as np

from weft.grid import Grid


def sample_field(field: np.ndarray, grid: Grid, points: np.ndarray) -> np.ndarray:
    """Vectors of a displacement field at scattered points.

    Parameters
    ----------
    field
        (3, z, y, x) float32, um, components z, y, x.
    grid
        Where its samples lie.
    points
        (n, 3) um, (z, y, x). A point outside the grid takes the value at the nearest border sample.

    Returns
    -------
    (n, 3) float64, um.
    """
    check_field(field, grid)
    index = np.ascontiguousarray(grid.to_index(points).reshape(-1, 3))
    return _sample(np.ascontiguousarray(field), index)


def resample_field(field: np.ndarray, grid: Grid, new_grid: Grid) -> np.ndarray:
    """A displacement field on another grid: trilinear, clamped at the border.

    Parameters
    ----------
    field
        (3, z, y, x) float32, um, components z, y, x.
    grid
        Where its samples lie.
    new_grid
        Where samples are wanted, in the same space.

    Returns
    -------
    (3, z, y, x) float32, um, of the shape of ``new_grid``.
    """
    check_field(field, grid)
    if grid == new_grid:
        return field.astype(np.float32)
    z_steps, y_steps, x_steps = (axis_steps(grid, new_grid, axis) for axis in range(3))
    out = np.empty((3, *new_grid.shape), np.float32)
    _resample(np.ascontiguousarray(field, np.float32), z_steps, y_steps, x_steps, out)
    return out


def axis_steps(grid: Grid, new_grid: Grid, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Per index of ``new_grid`` along ``axis``: the lower sample of ``grid`` and the upper one's weight.

    Both grids follow the axes, so that interpolation splits into one table per axis. Positions outside
    take the border sample.

    Returns
    -------
    lower, weight
        (n,) int64 and (n,) float32.
    """
    position = np.arange(new_grid.shape[axis]) * new_grid.spacing[axis] + new_grid.origin[axis]
    index = (position - grid.origin[axis]) / grid.spacing[axis]
    index = np.clip(index, 0, grid.shape[axis] - 1)
    # Rounding of the two origins must not turn a position that is a sample into a mixture of two.
    index = np.where(np.abs(index - np.rint(index)) < 1e-6, np.rint(index), index)
    lower = np.minimum(index.astype(np.int64), max(grid.shape[axis] - 2, 0))
    return lower, (index - lower).astype(np.float32)


def check_field(field: np.ndarray, grid: Grid) -> None:
    """Refuse a field that does not lie on its grid.

    Raises
    ------
    ValueError
        When the field's shape is not (3, z, y, x) of the grid.
    """
    if field.shape != (3, *grid.shape):
        raise ValueError(
            f"a displacement field of shape {field.shape} does not lie on its grid; wanted {(3, *grid.shape)}"
        )


@numba.njit(cache=True, nogil=True)
def cell(position, n):
    """Lower sample, upper sample and the upper one's weight of a position along an axis of n samples."""
    if not position > 0.0:  # NaN too
        return 0, min(1, n - 1), 0.0
    if position >= n - 1:
        return n - 1, n - 1, 0.0
    lower = int(position)
    return lower, lower + 1, position - lower


@numba.njit(cache=True, nogil=True)
def blend(component, z0, z1, fz, y0, y1, fy, x0, x1, fx):
    """Trilinear mean of the 8 samples around a point."""
    a = component[z0, y0, x0] * (1 - fx) + component[z0, y0, x1] * fx
    b = component[z0, y1, x0] * (1 - fx) + component[z0, y1, x1] * fx
    c = component[z1, y0, x0] * (1 - fx) + component[z1, y0, x1] * fx
    d = component[z1, y1, x0] * (1 - fx) + component[z1, y1, x1] * fx
    return (a * (1 - fy) + b * fy) * (1 - fz) + (c * (1 - fy) + d * fy) * fz


@numba.njit(cache=True, nogil=True)
def vector_at(field, z, y, x, out):
    """The field's vector at an index position, clamped: fills ``out`` (3,)."""
    z0, z1, fz = cell(z, field.shape[1])
    y0, y1, fy = cell(y, field.shape[2])
    x0, x1, fx = cell(x, field.shape[3])
    a, b, c, d = (1 - fz) * (1 - fy), (1 - fz) * fy, fz * (1 - fy), fz * fy
    gx = 1 - fx
    for k in range(3):
        near = (
            a * field[k, z0, y0, x0]
            + b * field[k, z0, y1, x0]
            + c * field[k, z1, y0, x0]
            + d * field[k, z1, y1, x0]
        )
        far = (
            a * field[k, z0, y0, x1]
            + b * field[k, z0, y1, x1]
            + c * field[k, z1, y0, x1]
            + d * field[k, z1, y1, x1]
        )
        out[k] = near * gx + far * fx


@numba.njit(cache=True, nogil=True)
def _sample(field, index):
    out = np.empty((index.shape[0], 3))
    for i in range(index.shape[0]):
        vector_at(field, index[i, 0], index[i, 1], index[i, 2], out[i])
    return out


@numba.njit(cache=True, nogil=True)
def interpolate_row(field, z0, fz, y0, fy, row):
    """The field's samples along x at a position between samples in z and y: fills ``row`` (3, x) float32."""
    nz, ny, nx = field.shape[1:]
    z1, y1 = min(z0 + 1, nz - 1), min(y0 + 1, ny - 1)
    w00, w01 = (1 - fz) * (1 - fy), (1 - fz) * fy
    w10, w11 = fz * (1 - fy), fz * fy
    for c in range(3):
        a, b, d, e = field[c, z0, y0], field[c, z0, y1], field[c, z1, y0], field[c, z1, y1]
        for x in range(nx):
            row[c, x] = w00 * a[x] + w01 * b[x] + w10 * d[x] + w11 * e[x]


@numba.njit(cache=True, nogil=True)
def _resample(field, z_steps, y_steps, x_steps, out):
    (z_lower, z_weight), (y_lower, y_weight), (x_lower, x_weight) = z_steps, y_steps, x_steps
    nx = field.shape[3]
    row = np.empty((3, nx), np.float32)
    for z in range(out.shape[1]):
        for y in range(out.shape[2]):
            interpolate_row(field, z_lower[z], z_weight[z], y_lower[y], y_weight[y], row)
            for c in range(3):
                for x in range(out.shape[3]):
                    x0 = x_lower[x]
                    f = x_weight[x]
                    out[c, z, y, x] = row[c, x0] * (np.float32(1) - f) + row[c, min(x0 + 1, nx - 1)] * f
