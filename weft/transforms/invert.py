"""Inverse of a displacement field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numba
import numpy as np

from weft.grid import Grid
from weft.transforms.formats.ngff import shard_regions
from weft.transforms.interpolate import (
    Field,
    blend,
    cell,
    check_field,
    crop_field,
    vector_at,
)
from weft.transforms.model import Displacements
from weft.transforms.round_trip import round_trip
from weft.transforms.unfold import WritableField

FINEST = 4  # samples of the inverse per sample of the field, at most, when it is chosen
# What a chosen inverse has to reach, voxel edges.
GOOD_P95, GOOD_MAX = 0.1, 0.5


@dataclass(frozen=True)
class Inverse:
    """An inverse and how good it is.

    Parameters
    ----------
    displacements
        v, where it was written to.
    supersample
        Samples of v per sample of u, along each axis.
    unsolved
        Samples of v at which the tolerance was not reached.
    residual
        The largest residual that was left at a sample, um.
    round_trip
        See `weft.transforms.round_trip.round_trip`.
    """

    displacements: Displacements
    supersample: int
    unsolved: int
    residual: float
    round_trip: dict[str, Any]


def find_inverse(
    u: Field,
    grid: Grid,
    fixed_grid: Grid,
    *,
    voxel: float,
    iterations: int = 40,
    tolerance: float = 0.01,
    supersample: int | Literal["auto"] = "auto",
    blocks: Sequence[np.ndarray] | None = None,
    create: Callable[[Grid], WritableField] | None = None,
) -> Inverse:
    """The inverse of a displacement field, and its round trip over every voxel of the fixed image.

    Everything is done part by part: memory does not depend on the size of the volume, but on the largest displacement.

    Parameters
    ----------
    u, grid
        The displacement field, (3, z, y, x) float32 um, and its grid.
    fixed_grid
        The voxels over which the round trip is measured.
    voxel
        Voxel edge, um, at which the images were registered: what ``auto`` measures by.
    iterations, tolerance
        As `invert_displacements`.
    supersample
        As `invert_displacements`. ``auto``: the coarsest of 1, 2 and 4 with a round trip of at most a tenth of a voxel
        for 95 % of the fixed voxels and half a voxel for all; the finest where none has. None is finer than ``voxel``.
    blocks
        As `weft.transforms.round_trip.round_trip`.
    create
        Makes what the inverse is written to, given its grid; called once more for every finer grid that is tried. None
        for arrays in memory.

    Raises
    ------
    ValueError
        When the field does not lie on its grid or holds values that are not finite.
    """
    factors: Sequence[int] = (supersample,) if supersample != "auto" else _factors(grid, voxel)
    lower, upper = _extremes(u, grid)
    for factor in factors:
        v_grid = _inverse_grid(grid, lower, upper, factor)
        v: WritableField = np.empty((3, *v_grid.shape), np.float32) if create is None else create(v_grid)
        solved = _solve_field(u, grid, (lower, upper), v, v_grid, iterations, tolerance)
        trip = round_trip(u, grid, v, v_grid, fixed_grid, blocks)
        if trip["p95"] <= GOOD_P95 * voxel and trip["max"] <= GOOD_MAX * voxel:
            break
    return Inverse(Displacements(v, v_grid), factor, *solved, trip)


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
        holds every point that u moves. Where it ends, every point comes from beyond the border of u, so that both
        go on as the same translations (`Displacements`): v undoes u everywhere.

    Raises
    ------
    ValueError
        When the field does not lie on its grid or holds values that are not finite.

    References
    ----------
    .. [1] M. Chen, W. Lu, Q. Chen, K. J. Ruchala, G. H. Olivera: A simple fixed-point approach to invert a
       deformation field. Medical Physics 35 (2008) 81-88.
    """
    lower, upper = _extremes(u, grid)
    v_grid = _inverse_grid(grid, lower, upper, supersample)
    v = np.empty((3, *v_grid.shape), np.float32)
    _solve_field(u, grid, (lower, upper), v, v_grid, iterations, tolerance)
    return v, v_grid


def _extremes(u: Field, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest displacement along each axis, (3,) um, part by part."""
    check_field(u, grid)
    lower, upper, wrong = np.full(3, np.inf), np.full(3, -np.inf), 0
    for part in shard_regions(grid):
        values = np.asarray(u[(slice(None), *part)]).reshape(3, -1)
        wrong += int((~np.isfinite(values)).sum())
        lower, upper = np.minimum(lower, values.min(1)), np.maximum(upper, values.max(1))
    if wrong:
        raise ValueError(f"the displacement field holds {wrong} values that are not finite")
    return lower, upper


def _factors(grid: Grid, voxel: float) -> list[int]:
    """What ``auto`` tries: samples closer than the voxels that were registered would cost more than they tell."""
    close = (1 + 1e-6) * min(grid.spacing) / voxel
    return [1, *(factor for factor in (2, FINEST) if factor <= close)]


def _inverse_grid(grid: Grid, lower: np.ndarray, upper: np.ndarray, supersample: int) -> Grid:
    margin = np.ceil(np.maximum(-lower, upper).clip(0) / grid.spacing).astype(int) + 1
    enlarged = grid.pad((int(margin[0]), int(margin[1]), int(margin[2])))
    if supersample == 1:
        return enlarged
    z, y, x = (s / supersample for s in grid.spacing)
    return enlarged.resample((z, y, x))


class _Solved(NamedTuple):
    unsolved: int
    residual: float


def _solve_field(
    u: Field,
    grid: Grid,
    extremes: tuple[np.ndarray, np.ndarray],
    v: WritableField,
    v_grid: Grid,
    iterations: int,
    tolerance: float,
) -> _Solved:
    """Fill v shard by shard; how many samples were not solved, and the largest residual, um."""
    spacing = np.array(grid.spacing)
    unsolved, residual = 0, 0.0
    for shard in shard_regions(v_grid):
        part = v_grid.crop(shard)
        first, last = part.corners()[[0, -1]]
        # A point w comes from w - u: from no farther than the largest displacements.
        near, near_grid = crop_field(u, grid, first - extremes[1], last - extremes[0])
        # Solve in units of u's grid: indices and displacements in its voxels.
        scaled = near / spacing.astype(np.float32)[:, None, None, None]
        out = np.empty((3, *part.shape), np.float32)
        here, largest = _invert(
            scaled,
            near_grid.to_index(part.origin),
            np.array(part.spacing) / spacing,
            (spacing[0], spacing[1], spacing[2]),
            iterations,
            tolerance * float(spacing.min()),
            out,
        )
        v[(slice(None), *shard)] = out
        unsolved, residual = unsolved + here, max(residual, largest)
    return _Solved(unsolved, residual)


SLOW = 0.3**2  # of the residual's square: a step that leaves more asks for a better matrix


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
def _invert_matrix(j, out):
    """out = j^-1 by Cramer's rule; False, and nothing done, where j is close to singular or turned over."""
    a = j[1, 1] * j[2, 2] - j[1, 2] * j[2, 1]
    b = j[1, 2] * j[2, 0] - j[1, 0] * j[2, 2]
    c = j[1, 0] * j[2, 1] - j[1, 1] * j[2, 0]
    det = j[0, 0] * a + j[0, 1] * b + j[0, 2] * c
    if det < 0.02:
        return False
    out[0, 0], out[1, 0], out[2, 0] = a / det, b / det, c / det
    out[0, 1] = (j[0, 2] * j[2, 1] - j[0, 1] * j[2, 2]) / det
    out[1, 1] = (j[0, 0] * j[2, 2] - j[0, 2] * j[2, 0]) / det
    out[2, 1] = (j[0, 1] * j[2, 0] - j[0, 0] * j[2, 1]) / det
    out[0, 2] = (j[0, 1] * j[1, 2] - j[0, 2] * j[1, 1]) / det
    out[1, 2] = (j[0, 2] * j[1, 0] - j[0, 0] * j[1, 2]) / det
    out[2, 2] = (j[0, 0] * j[1, 1] - j[0, 1] * j[1, 0]) / det
    return True


@numba.njit(cache=True, nogil=True)
def _identity(out):
    for i in range(3):
        for k in range(3):
            out[i, k] = 1.0 if i == k else 0.0


@numba.njit(cache=True, nogil=True)
def _residual(u, w, p, spacing):
    """p + u(p) - w in voxels, and the square of its length in um."""
    d = vector_at(u, p[0], p[1], p[2])
    r = (p[0] + d[0] - w[0], p[1] + d[1] - w[1], p[2] + d[2] - w[2])
    return r, (r[0] * spacing[0]) ** 2 + (r[1] * spacing[1]) ** 2 + (r[2] * spacing[2]) ** 2


@numba.njit(cache=True, nogil=True)
def _invert(u, first, step, spacing, iterations, tolerance, v):
    """Fill v, um; the number of samples whose residual stayed above the tolerance, and the largest residual, um.

    A step is p <- p - M (p + u(p) - w). M is the identity (the fixed point) at the start of a row, and the inverse of
    the field's derivative (Newton) from where that was slow; the samples after go on with it, so that the derivative
    is rarely computed. What does not help is tried again with M made anew, then with ever smaller steps.
    """
    derivative, m = np.empty((3, 3)), np.empty((3, 3))
    unsolved, largest, enough = 0, 0.0, tolerance * tolerance
    for z in range(v.shape[1]):
        for y in range(v.shape[2]):
            w0, w1 = first[0] + step[0] * z, first[1] + step[1] * y
            here = vector_at(u, w0, w1, first[2])
            move = (-here[0], -here[1], -here[2])
            before = move
            _identity(m)
            for x in range(v.shape[3]):
                w = (w0, w1, first[2] + step[2] * x)
                # Along a row, the start is what the two answers before lead to.
                p = (
                    w[0] + 2 * move[0] - before[0],
                    w[1] + 2 * move[1] - before[1],
                    w[2] + 2 * move[2] - before[2],
                )
                r, error = _residual(u, w, p, spacing)
                damping = 1.0
                for _ in range(iterations):
                    if error <= enough:
                        break
                    tried = (
                        p[0] - damping * (m[0, 0] * r[0] + m[0, 1] * r[1] + m[0, 2] * r[2]),
                        p[1] - damping * (m[1, 0] * r[0] + m[1, 1] * r[1] + m[1, 2] * r[2]),
                        p[2] - damping * (m[2, 0] * r[0] + m[2, 1] * r[1] + m[2, 2] * r[2]),
                    )
                    r_tried, reached = _residual(u, w, tried, spacing)
                    slow = reached > SLOW * error
                    if reached < error:
                        p, r, error = tried, r_tried, reached
                        damping = min(1.0, 2 * damping)
                    else:
                        damping *= 0.5
                    if slow and error > enough:
                        _derivative(u, p, derivative)
                        if not _invert_matrix(derivative, m):
                            _identity(m)
                largest = max(largest, error)
                unsolved += error > enough
                before = move
                move = (p[0] - w[0], p[1] - w[1], p[2] - w[2])
                for c in range(3):
                    v[c, z, y, x] = move[c] * spacing[c]
    return unsolved, np.sqrt(largest)
