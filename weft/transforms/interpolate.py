"""Trilinear interpolation of displacement fields: at scattered points and on another grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numba
import numpy as np

from weft.grid import Grid
from weft.image import Region, box

# Samples of a stored field that are read at once for scattered points: 48 MB.
AT_ONCE = 4_000_000
TILE = 96  # edge, samples, of the parts in which a stored field is read where the points need more


@runtime_checkable
class Field(Protocol):
    """A displacement field, (3, z, y, x) float32 um, of which only the part that is asked for is read or computed.

    A NumPy array is one, and so are a Zarr array and `weft.transforms.reduce.BlendedField`.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, z, y, x)."""
        ...

    def __getitem__(self, region: Any, /) -> Any:
        """The part ``(slice(None), z, y, x)``, slices with steps of 1."""
        ...


def crop_field(field: Field, grid: Grid, lower: Any, upper: Any) -> tuple[np.ndarray, Grid]:
    """The part of a field that interpolation within a box needs, with one sample around.

    Interpolating in the part gives what interpolating in the whole gives, outside of the whole's grid too: there
    the part ends where the whole does.

    Parameters
    ----------
    field
        (3, z, y, x) float32, um.
    grid
        Where its samples lie.
    lower, upper
        Corners of the box, (3,) um.

    Returns
    -------
    part, part_grid
        (3, z, y, x) float32 um in memory, at least one sample along each axis, and its grid.
    """
    check_field(field, grid)
    part = _needed(grid, grid.to_index(lower), grid.to_index(upper))
    return _read(field, part), grid.crop(part)


def sample_field(field: Field, grid: Grid, points: np.ndarray) -> np.ndarray:
    """Vectors of a displacement field at scattered points.

    Parameters
    ----------
    field
        (3, z, y, x) float32, um, components z, y, x. Of one that is not in memory every part is read once, so that
        memory does not depend on its size.
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
    if isinstance(field, np.ndarray) and field.flags.writeable:
        return _sample(np.ascontiguousarray(field, np.float32), index)
    out = np.empty(index.shape)
    for rows in _groups(index, grid):
        part = _needed(grid, _nan_as(index[rows], np.inf).min(0), _nan_as(index[rows], -np.inf).max(0))
        # The difference of a float and a whole number below it is exact: parts give what the whole gives.
        out[rows] = _sample(_read(field, part), index[rows] - [p.start for p in part])
    return out


def resample_field(field: Field, grid: Grid, new_grid: Grid) -> np.ndarray:
    """A displacement field on another grid: trilinear, clamped at the border.

    Parameters
    ----------
    field
        (3, z, y, x) float32, um, components z, y, x; only the part that the new grid meets is read.
    grid
        Where its samples lie.
    new_grid
        Where samples are wanted, in the same space.

    Returns
    -------
    (3, z, y, x) float32, um, of the shape of ``new_grid``.
    """
    check_field(field, grid)
    steps = [axis_steps(grid, new_grid, axis) for axis in range(3)]
    # A weight of 1 is the upper sample itself, whatever the rounding.
    steps = [(lower + (weight == 1), np.where(weight == 1, np.float32(0), weight)) for lower, weight in steps]
    if all(
        not weight.any() and (np.diff(lower) == 1).all() for lower, weight in steps
    ):  # samples of the field
        whole = tuple(slice(lower[0], lower[-1] + 1) for lower, _ in steps)
        return np.array(field[(slice(None), *whole)], np.float32)
    part = box(
        [lower[0] for lower, _ in steps],
        [min(lower[-1] + 2, n) for (lower, _), n in zip(steps, grid.shape, strict=True)],
    )
    z_steps, y_steps, x_steps = (
        (lower - p.start, weight) for (lower, weight), p in zip(steps, part, strict=True)
    )
    out = np.empty((3, *new_grid.shape), np.float32)
    _resample(_read(field, part), z_steps, y_steps, x_steps, out)
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


def check_field(field: Field, grid: Grid) -> None:
    """Refuse a field that does not lie on its grid.

    Raises
    ------
    ValueError
        When the field's shape is not (3, z, y, x) of the grid.
    """
    if tuple(field.shape) != (3, *grid.shape):
        raise ValueError(
            f"a displacement field of shape {tuple(field.shape)} does not lie on its grid; wanted {(3, *grid.shape)}"
        )


def _read(field: Field, part: Region) -> np.ndarray:
    """A part of a field in memory, contiguous and writable."""
    values = np.ascontiguousarray(field[(slice(None), *part)], np.float32)
    return values if values.flags.writeable else values.copy()


def _needed(grid: Grid, first: np.ndarray, last: np.ndarray) -> Region:
    """The samples around a box of (fractional) indices, and one more on either side; at least one per axis."""
    top = np.asarray(grid.shape) - 1
    low = np.clip(np.floor(np.clip(first, 0, top)).astype(int) - 1, 0, top)
    high = np.clip(np.ceil(np.clip(last, 0, top)).astype(int) + 1, 0, top)
    return box(low, np.maximum(low, high) + 1)


def _nan_as(index: np.ndarray, value: float) -> np.ndarray:
    return np.where(np.isnan(index), value, index)


def _groups(index: np.ndarray, grid: Grid) -> Sequence[np.ndarray | slice]:
    """The points, (n, 3) indices, that are looked up together: all where they lie close, else those of each tile."""
    if not len(index):
        return []
    at = np.clip(np.nan_to_num(index), 0, np.asarray(grid.shape) - 1)
    if np.prod(at.max(0) - at.min(0) + 4) <= AT_ONCE:
        return [slice(None)]
    _, tile = np.unique((at // TILE).astype(np.int64), axis=0, return_inverse=True)
    order = np.argsort(tile.ravel(), kind="stable")
    return np.split(order, np.flatnonzero(np.diff(tile.ravel()[order])) + 1)


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
def vector_at(field, z, y, x):
    """The field's vector at an index position, clamped: three numbers."""
    z0, z1, fz = cell(z, field.shape[1])
    y0, y1, fy = cell(y, field.shape[2])
    x0, x1, fx = cell(x, field.shape[3])
    # Numbers and no loop over the components: what goes through an array is stored and loaded again.
    # In the samples' own precision: converting all 24 of them would cost more than the sums.
    one, fz, fy, fx = np.float32(1), np.float32(fz), np.float32(fy), np.float32(fx)
    gz, gy, gx = one - fz, one - fy, one - fx
    a, b, c, d = gz * gy, gz * fy, fz * gy, fz * fy
    near = a * gx, b * gx, c * gx, d * gx
    far = a * fx, b * fx, c * fx, d * fx
    return (
        _weighted(field[0], z0, z1, y0, y1, x0, near) + _weighted(field[0], z0, z1, y0, y1, x1, far),
        _weighted(field[1], z0, z1, y0, y1, x0, near) + _weighted(field[1], z0, z1, y0, y1, x1, far),
        _weighted(field[2], z0, z1, y0, y1, x0, near) + _weighted(field[2], z0, z1, y0, y1, x1, far),
    )


@numba.njit(cache=True, nogil=True)
def _weighted(component, z0, z1, y0, y1, x, weights):
    """Weighted sum of the 4 samples around a place in the plane of index x."""
    return (
        weights[0] * component[z0, y0, x]
        + weights[1] * component[z0, y1, x]
        + weights[2] * component[z1, y0, x]
        + weights[3] * component[z1, y1, x]
    )


@numba.njit(cache=True, nogil=True)
def _sample(field, index):
    out = np.empty((index.shape[0], 3))
    for i in range(index.shape[0]):
        out[i, 0], out[i, 1], out[i, 2] = vector_at(field, index[i, 0], index[i, 1], index[i, 2])
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
    """Along x first, whole planes of the field; then every row of the result is a mixture of four rows."""
    (z_lower, z_weight), (y_lower, y_weight), (x_lower, x_weight) = z_steps, y_steps, x_steps
    nz, ny, nx = field.shape[1:]
    planes = np.empty((2, ny, out.shape[3]), np.float32)
    held = np.empty(2, np.int64)
    for c in range(3):
        held[:] = -1
        for z in range(out.shape[1]):
            z0, z1 = z_lower[z], min(z_lower[z] + 1, nz - 1)
            for k in (z0, z1):
                if held[k % 2] != k:
                    held[k % 2] = k
                    for y in range(ny):
                        source, line = field[c, k, y], planes[k % 2, y]
                        for x in range(line.shape[0]):
                            p = source[x_lower[x]]
                            line[x] = p + x_weight[x] * (source[min(x_lower[x] + 1, nx - 1)] - p)
            fz = z_weight[z]
            for y in range(out.shape[2]):
                y0, y1 = y_lower[y], min(y_lower[y] + 1, ny - 1)
                fy = y_weight[y]
                a, b, d, e = planes[z0 % 2, y0], planes[z0 % 2, y1], planes[z1 % 2, y0], planes[z1 % 2, y1]
                line = out[c, z, y]
                for x in range(line.shape[0]):
                    p = a[x] + fy * (b[x] - a[x])
                    line[x] = p + fz * (d[x] + fy * (e[x] - d[x]) - p)
