"""Jacobian determinants: how much a transform grows or shrinks volume, and where it folds."""

from __future__ import annotations

import numba
import numpy as np

from weft.grid import Grid
from weft.transforms.interpolate import check_field
from weft.transforms.model import Affine, Sequence

SLAB = 16


def determinant(field: np.ndarray, grid: Grid) -> np.ndarray:
    """Determinant of d(x + u(x)) / dx at the samples of a displacement field.

    Central differences, one-sided at the border. 1 means that volume is kept, below 0 that space folds.

    Parameters
    ----------
    field
        (3, z, y, x) float32, um, components z, y, x.
    grid
        Where its samples lie.

    Returns
    -------
    (z, y, x) float32.
    """
    check_field(field, grid)
    out = np.empty(grid.shape, np.float32)
    _central(np.asarray(field), np.array(grid.spacing), 0, grid.shape[0], out)
    return out


def smallest_determinant(field: np.ndarray, grid: Grid) -> np.ndarray:
    """The smallest determinant in the 8 cells around each sample of a displacement field.

    Between samples the field is trilinear; at a cell's corner its derivatives are one-sided differences.
    Where this is positive, upsampling the field to any finer grid does not show a fold that central
    differences on the coarse grid miss.

    Parameters
    ----------
    field
        (3, z, y, x) float32, um, components z, y, x.
    grid
        Where its samples lie.

    Returns
    -------
    (z, y, x) float32.
    """
    check_field(field, grid)
    out = np.empty(grid.shape, np.float32)
    _smallest(np.asarray(field), np.array(grid.spacing), out)
    return out


def sequence_determinant(sequence: Sequence, grid: Grid, *, affine: bool = False) -> np.ndarray:
    """Determinant of the derivative of a sequence of maps, central differences on ``grid``.

    Parameters
    ----------
    sequence
        The map.
    grid
        Where the determinant is wanted, in the sequence's input space.
    affine
        Whether the affine steps count. By default the determinant is divided by theirs, so that it speaks
        of the displacement alone and a flip of axes is no fold.

    Returns
    -------
    (z, y, x) float32.
    """
    factor = 1.0
    for step in sequence.steps:
        if isinstance(step, Affine) and not affine:
            factor /= float(np.linalg.det(step.matrix[:3, :3]))
    out = np.empty(grid.shape, np.float32)
    yx = np.indices(grid.shape[1:]).reshape(2, -1).T
    for start in range(0, grid.shape[0], SLAB):
        stop = min(start + SLAB, grid.shape[0])
        low, high = max(start - 1, 0), min(stop + 1, grid.shape[0])
        index = np.column_stack([np.repeat(np.arange(low, high), len(yx)), np.tile(yx, (high - low, 1))])
        points = grid.to_physical(index)
        moved = (sequence.apply(points) - points).T.reshape(3, high - low, *grid.shape[1:])
        _central(
            np.ascontiguousarray(moved), np.array(grid.spacing), start - low, stop - low, out[start:stop]
        )
    return out * np.float32(factor)


@numba.njit(cache=True, nogil=True, inline="always")
def _det(a, b, c, d, e, f, g, h, i):
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


@numba.njit(cache=True, nogil=True)
def _central(u, spacing, z_start, z_stop, out):
    _, nz, ny, nx = u.shape
    j = np.empty((3, 3))
    for z in range(z_start, z_stop):
        z0, z1 = max(z - 1, 0), min(z + 1, nz - 1)
        rz = 1.0 / (max(z1 - z0, 1) * spacing[0])
        for y in range(ny):
            y0, y1 = max(y - 1, 0), min(y + 1, ny - 1)
            ry = 1.0 / (max(y1 - y0, 1) * spacing[1])
            for x in range(nx):
                x0, x1 = max(x - 1, 0), min(x + 1, nx - 1)
                rx = 1.0 / (max(x1 - x0, 1) * spacing[2])
                for c in range(3):
                    j[c, 0] = (float(u[c, z1, y, x]) - float(u[c, z0, y, x])) * rz
                    j[c, 1] = (float(u[c, z, y1, x]) - float(u[c, z, y0, x])) * ry
                    j[c, 2] = (float(u[c, z, y, x1]) - float(u[c, z, y, x0])) * rx
                    j[c, c] += 1.0
                out[z - z_start, y, x] = _det(
                    j[0, 0], j[0, 1], j[0, 2], j[1, 0], j[1, 1], j[1, 2], j[2, 0], j[2, 1], j[2, 2]
                )


@numba.njit(cache=True, nogil=True)
def _smallest(u, spacing, out):
    _, nz, ny, nx = u.shape
    d = np.empty((3, 2, 3))  # axis, side, component
    rz, ry, rx = 1.0 / spacing[0], 1.0 / spacing[1], 1.0 / spacing[2]
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                for c in range(3):
                    here = float(u[c, z, y, x])
                    d[0, 0, c] = (here - float(u[c, max(z - 1, 0), y, x])) * rz
                    d[0, 1, c] = (float(u[c, min(z + 1, nz - 1), y, x]) - here) * rz
                    d[1, 0, c] = (here - float(u[c, z, max(y - 1, 0), x])) * ry
                    d[1, 1, c] = (float(u[c, z, min(y + 1, ny - 1), x]) - here) * ry
                    d[2, 0, c] = (here - float(u[c, z, y, max(x - 1, 0)])) * rx
                    d[2, 1, c] = (float(u[c, z, y, min(x + 1, nx - 1)]) - here) * rx
                # A cell beyond the border does not exist; its derivative is the inner one's.
                for axis, i, n in ((0, z, nz), (1, y, ny), (2, x, nx)):
                    if i == 0:
                        d[axis, 0] = d[axis, 1]
                    if i == n - 1:
                        d[axis, 1] = d[axis, 0]
                smallest = np.inf
                for sz in range(2):
                    for sy in range(2):
                        for sx in range(2):
                            a, b, c3 = d[0, sz], d[1, sy], d[2, sx]
                            value = _det(1 + a[0], b[0], c3[0], a[1], 1 + b[1], c3[1], a[2], b[2], 1 + c3[2])
                            smallest = min(smallest, value)
                out[z, y, x] = smallest
