"""Resampling: an image or labels through affine and displacement field in one interpolation."""

from __future__ import annotations

from typing import Literal

import numba
import numpy as np

from weft.grid import Grid
from weft.image import Region
from weft.transforms.interpolate import (
    Field,
    axis_steps,
    blend,
    cell,
    crop_field,
    interpolate_row,
    vector_at,
)
from weft.transforms.model import Displacements, Sequence

# Positions on a tie (half way between two voxels, or on the outer face) must not depend on the rounding of
# the origin of the region that is computed.
TIE = 1e-6
# Voxels whose positions are computed at once: they stay in the cache until they are read.
CHUNK = 32768


def warp(
    moving: np.ndarray,
    moving_grid: Grid,
    affine: np.ndarray,
    field: Field | None,
    field_grid: Grid | None,
    out_grid: Grid,
    *,
    order: Literal[0, 1] = 1,
    fill: float = 0,
    before: np.ndarray | None = None,
    dtype: np.dtype | type | None = None,
) -> tuple[np.ndarray, int]:
    """Resample an image through x -> A(x + u(x)) (pull-back).

    A point up to half a voxel outside the outermost voxel centres takes the border's value; beyond that it
    takes ``fill``. The displacement outside its own grid is that of the border.

    Parameters
    ----------
    moving
        (z, y, x) array, or the part of one that `moving_region` asks for.
    moving_grid
        Where its voxels lie.
    affine
        A: (4, 4), um, from the fixed to the moving space, applied after the displacement.
    field, field_grid
        u: (3, z, y, x) float32, um, on a (coarse) grid in the fixed space; None for no displacement. Only what
        ``out_grid`` meets of it is read.
    out_grid
        Where values are wanted, in the fixed space.
    order
        1: trilinear, 0: nearest (labels: values are kept whatever their type).
    fill
        Value outside the moving image.
    before
        (4, 4) affine applied before the displacement, as in an inverse; None for the identity.
    dtype
        Of the result; by default that of ``moving``. Integers are rounded half up and clipped.

    Returns
    -------
    out, n_clipped
        (z, y, x) array, and how many values did not fit into ``dtype``.

    Raises
    ------
    ValueError
        When shapes do not fit their grids, values are no real numbers, order is neither 0 nor 1, labels would change their type, or
        ``fill`` does not fit into the result's.
    """
    moving = np.asarray(moving)
    out_type = np.dtype(dtype or moving.dtype)
    if moving.shape != moving_grid.shape:
        raise ValueError(
            f"moving image of shape {moving.shape} does not lie on its grid of shape {moving_grid.shape}"
        )
    if moving.dtype.kind not in "biuf":
        raise ValueError(f"moving image is an array of {moving.dtype}; wanted real numbers")
    if order not in (0, 1):
        raise ValueError(f"order is {order!r}; wanted 0 (nearest) or 1 (trilinear)")
    if order == 0 and out_type != moving.dtype:
        raise ValueError(f"labels keep their type; found {moving.dtype}, wanted as {out_type}")
    if moving.dtype == bool:
        out, clipped = warp(
            moving.view(np.uint8),
            moving_grid,
            affine,
            field,
            field_grid,
            out_grid,
            order=order,
            fill=fill,
            before=before,
        )
        return out.view(bool), clipped

    before = np.eye(4) if before is None else np.asarray(before, float)
    u, u_grid = _around(field, field_grid, out_grid, before)
    to_index = np.linalg.inv(moving_grid.matrix()) @ np.asarray(affine, float)
    out = np.empty(out_grid.shape, out_type)
    outside = _as_type(fill, out_type)
    source = np.ascontiguousarray(moving)
    turn = to_index[:3, :3].copy()
    limits = _limits(out_type)
    lines = out.reshape(-1, out_grid.shape[2])
    step = max(1, CHUNK // out_grid.shape[2])
    index = np.empty((3, step, out_grid.shape[2]))
    direct = np.array_equal(before, np.eye(4))
    steps = tuple(axis_steps(u_grid, out_grid, axis) for axis in range(3))
    to_field = np.linalg.inv(u_grid.matrix()) @ before @ out_grid.matrix()
    base = to_index @ before @ out_grid.matrix()
    clipped = 0
    for first in range(0, len(lines), step):
        part = lines[first : first + step]
        if direct:
            _locate_along_axes(u, steps, base, turn, first, out_grid.shape[1], index[:, : len(part)])
        else:
            _locate(u, to_field, base, turn, first, out_grid.shape[1], index[:, : len(part)])
        if order == 0:
            _take_nearest(source, index, outside, part)
        else:
            clipped += _interpolate(source, index, outside, *limits, part)
    return out, clipped


def warp_sequence(
    moving: np.ndarray,
    moving_grid: Grid,
    sequence: Sequence,
    out_grid: Grid,
    *,
    order: Literal[0, 1] = 1,
    fill: float = 0,
    dtype: np.dtype | type | None = None,
) -> tuple[np.ndarray, int]:
    """Resample an image through a transform or its inverse; see `warp`.

    ``sequence`` maps points of ``out_grid``'s space to points of the image's space: a transform brings the
    moving image onto the fixed grid, its inverse the fixed image onto the moving grid.
    """
    before, displacements, after = sequence.split()
    field, grid = (displacements.field, displacements.grid) if displacements else (None, None)
    return warp(
        moving, moving_grid, after, field, grid, out_grid, order=order, fill=fill, before=before, dtype=dtype
    )


def moving_region(
    out_grid: Grid,
    affine: np.ndarray,
    field: Field | None,
    field_grid: Grid | None,
    moving_grid: Grid,
    margin: int = 1,
    before: np.ndarray | None = None,
) -> Region | None:
    """The box of moving voxels that `warp` needs for an output region.

    The transform is trilinear between the field's samples, so that its values at the samples and where the
    region's faces cut between them bound it: the box is never too small.

    Parameters
    ----------
    out_grid
        The output region, in the fixed space.
    affine, field, field_grid, before
        As in `warp`.
    moving_grid
        Grid of the whole moving image.
    margin
        Voxels added on every side.

    Returns
    -------
    Slices (z, y, x) into the moving image, or None when the region lies outside of it.
    """
    before = np.eye(4) if before is None else np.asarray(before, float)
    u, grid = _around(field, field_grid, out_grid, before)
    corners = out_grid.corners() @ before[:3, :3].T + before[:3, 3]
    lower, upper = corners.min(0), corners.max(0)
    knots = []
    for axis in range(3):
        samples = grid.origin[axis] + np.arange(grid.shape[axis]) * grid.spacing[axis]
        within = samples[(samples > lower[axis]) & (samples < upper[axis])]
        knots.append(np.unique([lower[axis], *within, upper[axis]]))
    displacements, affine = Displacements(u, grid), np.asarray(affine)
    smallest, largest = np.full(3, np.inf), np.full(3, -np.inf)
    step = max(1, CHUNK // (len(knots[1]) * len(knots[2])))
    for start in range(0, len(knots[0]), step):
        planes = np.meshgrid(knots[0][start : start + step], *knots[1:], indexing="ij")
        moved = displacements.apply(np.stack(planes, -1).reshape(-1, 3)) @ affine[:3, :3].T + affine[:3, 3]
        index = moving_grid.to_index(moved)
        smallest = np.minimum(smallest, index.min(0))
        largest = np.maximum(largest, index.max(0))
    first = np.floor(smallest - TIE).astype(int) - margin
    last = np.ceil(largest + TIE).astype(int) + margin
    shape = np.array(moving_grid.shape)
    if (last < 0).any() or (first > shape - 1).any():
        return None
    first, last = np.maximum(first, 0), np.minimum(last, shape - 1)
    z, y, x = (slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
    return z, y, x


def _around(
    field: Field | None, grid: Grid | None, out_grid: Grid, before: np.ndarray
) -> tuple[np.ndarray, Grid]:
    """What an output region, sent through an affine, meets of a field; a field without displacement for None."""
    if field is None or grid is None:
        return np.zeros((3, 1, 1, 1), np.float32), Grid((1, 1, 1), (1.0, 1.0, 1.0))
    corners = out_grid.corners() @ before[:3, :3].T + before[:3, 3]
    return crop_field(field, grid, corners.min(0), corners.max(0))


def _as_type(fill: float, dtype: np.dtype) -> np.generic:
    """The fill value in the image's type."""
    if dtype.kind in "iu" and not (
        float(fill).is_integer() and np.iinfo(dtype).min <= fill <= np.iinfo(dtype).max
    ):
        raise ValueError(f"fill value {fill} does not fit into {dtype}")
    return dtype.type(fill)


def _limits(dtype: np.dtype) -> tuple[bool, float, float]:
    """Whether values are rounded, and the smallest and largest one that fits."""
    if dtype.kind not in "iu":
        return False, -np.inf, np.inf
    info = np.iinfo(dtype)
    # 2^63 and 2^64 are the nearest floats to the 64-bit limits, and one too large: take the float below.
    high = float(info.max) if info.bits < 64 else float(np.nextafter(float(info.max), 0))
    return True, float(info.min), high


@numba.njit(cache=True, nogil=True)
def _locate_along_axes(field, steps, base, turn, first, ny, index):
    """Moving indices of lines of output voxels, where the field's grid follows the output's axes."""
    (z_lower, z_weight), (y_lower, y_weight), (x_lower, x_weight) = steps
    nodes = field.shape[3]
    row = np.empty((3, nodes), np.float32)
    turned = np.empty(nodes + 1)  # the last node twice, so that every node has an upper neighbour
    for line in range(index.shape[1]):
        z, y = (first + line) // ny, (first + line) % ny
        interpolate_row(field, z_lower[z], z_weight[z], y_lower[y], y_weight[y], row)
        for c in range(3):
            # Being linear, the affine may act on the line's few nodes instead of on every voxel.
            for k in range(nodes):
                turned[k] = turn[c, 0] * row[0, k] + turn[c, 1] * row[1, k] + turn[c, 2] * row[2, k]
            turned[nodes] = turned[nodes - 1]
            start = base[c, 0] * z + base[c, 1] * y + base[c, 3]
            for x in range(index.shape[2]):
                k = x_lower[x]
                u = turned[k] + (turned[k + 1] - turned[k]) * x_weight[x]
                index[c, line, x] = start + base[c, 2] * x + u


@numba.njit(cache=True, nogil=True)
def _locate(field, to_field, base, turn, first, ny, index):
    """Moving indices of lines of output voxels, through an affine, the field and another affine."""
    p = np.empty(3)
    for line in range(index.shape[1]):
        z, y = (first + line) // ny, (first + line) % ny
        for x in range(index.shape[2]):
            for c in range(3):
                p[c] = to_field[c, 0] * z + to_field[c, 1] * y + to_field[c, 2] * x + to_field[c, 3]
            u = vector_at(field, p[0], p[1], p[2])
            for c in range(3):
                start = base[c, 0] * z + base[c, 1] * y + base[c, 2] * x + base[c, 3]
                index[c, line, x] = start + turn[c, 0] * u[0] + turn[c, 1] * u[1] + turn[c, 2] * u[2]


@numba.njit(cache=True, nogil=True, inline="always")
def _inside(position, n):
    return position >= -0.5 - TIE and position <= n - 0.5 + TIE


@numba.njit(cache=True, nogil=True, inline="always")
def _nearest(position, n):
    return min(max(int(np.floor(position + 0.5 + TIE)), 0), n - 1)


@numba.njit(cache=True, nogil=True)
def _take_nearest(moving, index, fill, out):
    nz, ny, nx = moving.shape
    for line in range(out.shape[0]):
        for i in range(out.shape[1]):
            z, y, x = index[0, line, i], index[1, line, i], index[2, line, i]
            if _inside(z, nz) and _inside(y, ny) and _inside(x, nx):
                out[line, i] = moving[_nearest(z, nz), _nearest(y, ny), _nearest(x, nx)]
            else:
                out[line, i] = fill


@numba.njit(cache=True, nogil=True)
def _interpolate(moving, index, fill, integer, low, high, out):
    nz, ny, nx = moving.shape
    clipped = 0
    for line in range(out.shape[0]):
        for i in range(out.shape[1]):
            z, y, x = index[0, line, i], index[1, line, i], index[2, line, i]
            if z >= 0 and z < nz - 1 and y >= 0 and y < ny - 1 and x >= 0 and x < nx - 1:
                z0, y0, x0 = int(z), int(y), int(x)
                z1, y1, x1 = z0 + 1, y0 + 1, x0 + 1
                wz, wy, wx = z - z0, y - y0, x - x0
            elif _inside(z, nz) and _inside(y, ny) and _inside(x, nx):
                z0, z1, wz = cell(z, nz)
                y0, y1, wy = cell(y, ny)
                x0, x1, wx = cell(x, nx)
            else:
                out[line, i] = fill
                continue
            value = blend(moving, z0, z1, wz, y0, y1, wy, x0, x1, wx)
            if integer:
                value = np.floor(value + 0.5)
                if value < low or value > high:
                    value = min(max(value, low), high)
                    clipped += 1
            out[line, i] = value
    return clipped
