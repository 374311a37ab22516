"""Inverse of a displacement field, and what a round trip through both leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numba
import numpy as np

from weft.blocks import cut, region
from weft.grid import Grid
from weft.transforms.formats.ngff import shard_regions
from weft.transforms.histogram import Histogram
from weft.transforms.interpolate import (
    Field,
    axis_steps,
    blend,
    cell,
    check_field,
    crop_field,
    interpolate_row,
    vector_at,
)
from weft.transforms.model import Displacements
from weft.transforms.unfold import WritableField

ROUND_TRIP_BIN = 1e-3  # of a voxel
ROUND_TRIP_BINS = 1 << 15
TILE = (128, 256, 256)  # voxels of the fixed grid whose round trip is measured at once
FINEST = 4  # samples of the inverse per sample of the field, at most, when it is chosen
# What a chosen inverse has to reach, smallest voxel edges of the fixed grid.
GOOD_P95, GOOD_MAX = 0.1, 1.0


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
        See `round_trip`.
    """

    displacements: Displacements
    supersample: int
    unsolved: int
    residual: float
    round_trip: dict[str, float | int]


def invert(
    u: Field,
    grid: Grid,
    fixed_grid: Grid,
    *,
    iterations: int = 40,
    tolerance: float = 0.01,
    supersample: int | Literal["auto"] = "auto",
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
    iterations, tolerance
        As `invert_displacements`.
    supersample
        As `invert_displacements`. ``auto``: the coarsest of 1, 2 and 4 with a round trip of at most a tenth of a voxel
        for 95 % of the fixed voxels and of at most one voxel for all; 4 where none has.
    create
        Makes what the inverse is written to, given its grid; called once more for every finer grid that is tried. None
        for arrays in memory.

    Raises
    ------
    ValueError
        When the field does not lie on its grid or holds values that are not finite.
    """
    factors: Sequence[int] = (1, 2, FINEST) if supersample == "auto" else (supersample,)
    lower, upper = _extremes(u, grid)
    for factor in factors:
        v_grid = _inverse_grid(grid, lower, upper, factor)
        v: WritableField = np.empty((3, *v_grid.shape), np.float32) if create is None else create(v_grid)
        solved = _solve_field(u, grid, (lower, upper), v, v_grid, iterations, tolerance)
        trip = round_trip(u, grid, v, v_grid, fixed_grid)
        voxel = min(fixed_grid.spacing)
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


def round_trip(u: Field, grid: Grid, v: Field, grid_v: Grid, fixed_grid: Grid) -> dict[str, float | int]:
    """How far x -> x + u(x) -> back through v ends from x, over every voxel of a grid.

    Parameters
    ----------
    u, grid
        The displacement field, (3, z, y, x) float32 um, and its grid.
    v, grid_v
        Its inverse, and the inverse's grid.
    fixed_grid
        The voxels to try, in the fixed space; a part at a time.

    Returns
    -------
    ``p50``, ``p95`` (rounded up to a thousandth of a voxel), ``max`` (exact), um; ``voxels``, and
    ``outside``: how many landed outside the inverse's grid (they count in the others as well).

    Raises
    ------
    ValueError
        When a field does not lie on its grid.
    """
    check_field(v, grid_v)
    lengths = Histogram(0.0, ROUND_TRIP_BIN * min(fixed_grid.spacing), ROUND_TRIP_BINS)
    outside = 0
    for name in cut(fixed_grid.shape, TILE):
        z, y, x = region(name, fixed_grid.shape, TILE)
        part = fixed_grid.crop((z, y, x))
        there, there_grid = crop_field(u, grid, *_ends(part))
        # Where the part's points land: they are moved by no more than the samples around them.
        moved = there.reshape(3, -1)
        first, last = _ends(part)
        back, back_grid = crop_field(v, grid_v, first + moved.min(1), last + moved.max(1))
        to_back = np.linalg.inv(back_grid.matrix())
        found = np.empty(part.shape, np.float32)
        outside += _round_trip(
            there,
            back,
            tuple(axis_steps(there_grid, part, axis) for axis in range(3)),
            np.array(part.origin),
            np.array(part.spacing),
            np.diag(to_back)[:3].copy(),
            to_back[:3, 3].copy(),
            grid_v.lower,
            grid_v.upper,
            found,
        )
        lengths.add(found)
    return {
        "p50": lengths.percentile(50),
        "p95": lengths.percentile(95),
        "max": lengths.largest,
        "outside": int(outside),
        "voxels": fixed_grid.size,
    }


def _ends(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The centres of the first and of the last voxel."""
    corners = grid.corners()
    return corners[0], corners[-1]


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
        first, last = _ends(part)
        # A point w comes from w - u: from no farther than the largest displacements.
        near, near_grid = crop_field(u, grid, first - extremes[1], last - extremes[0])
        # Solve in units of u's grid: indices and displacements in its voxels.
        scaled = near / spacing.astype(np.float32)[:, None, None, None]
        out = np.empty((3, *part.shape), np.float32)
        here, largest = _invert(
            scaled,
            near_grid.to_index(part.origin),
            np.array(part.spacing) / spacing,
            spacing,
            iterations,
            tolerance * float(spacing.min()),
            out,
        )
        v[(slice(None), *shard)] = out
        unsolved, residual = unsolved + here, max(residual, largest)
    return _Solved(unsolved, residual)


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
    """Fill v, um; the number of samples whose residual stayed above the tolerance, and the largest residual, um."""
    w, p, best = np.empty(3), np.empty(3), np.empty(3)
    move, before = np.empty(3), np.empty(3)
    r, r_best, newton, r_newton = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    j = np.empty((3, 3))
    unsolved, largest = 0, 0.0
    for z in range(v.shape[1]):
        for y in range(v.shape[2]):
            for x in range(v.shape[3]):
                w[0], w[1], w[2] = first[0] + step[0] * z, first[1] + step[1] * y, first[2] + step[2] * x
                if x == 0:
                    vector_at(u, w[0], w[1], w[2], move)
                    for c in range(3):
                        move[c] = -move[c]
                        before[c] = move[c]
                # Along a row, the start is what the two answers before lead to.
                for c in range(3):
                    p[c] = w[c] + 2 * move[c] - before[c]
                error = _residual(u, w, p, spacing, r)
                damping = 1.0
                for _ in range(iterations):
                    if error <= tolerance:
                        break
                    for c in range(3):
                        best[c] = p[c] - damping * r[c]
                    reached = _residual(u, w, best, spacing, r_best)
                    if reached > 0.3 * error:
                        _derivative(u, p, j)
                        if _solve(j, r, newton):
                            for c in range(3):
                                newton[c] = p[c] - damping * newton[c]
                            by_newton = _residual(u, w, newton, spacing, r_newton)
                            if by_newton < reached:
                                best, newton = newton, best
                                r_best, r_newton = r_newton, r_best
                                reached = by_newton
                    if reached < error:
                        p, best = best, p
                        r, r_best = r_best, r
                        error = reached
                        damping = min(1.0, 2 * damping)
                    else:
                        damping *= 0.5
                largest = max(largest, error)
                if error > tolerance:
                    unsolved += 1
                for c in range(3):
                    before[c] = move[c]
                    move[c] = p[c] - w[c]
                    v[c, z, y, x] = move[c] * spacing[c]
    return unsolved, largest


@numba.njit(cache=True, nogil=True)
def _round_trip(u, v, steps, origin, spacing, scale, offset, lower, upper, lengths):
    """Fill lengths, um; the number of voxels that land outside the box from lower to upper."""
    (z_lower, z_weight), (y_lower, y_weight), (x_lower, x_weight) = steps
    nodes = u.shape[3]
    row = np.empty((3, nodes), np.float32)
    d, p, back = np.empty(3), np.empty(3), np.empty(3)
    outside = 0
    for z in range(z_lower.size):
        for y in range(y_lower.size):
            interpolate_row(u, z_lower[z], z_weight[z], y_lower[y], y_weight[y], row)
            for x in range(x_lower.size):
                k, f = x_lower[x], float(x_weight[x])
                for c in range(3):
                    d[c] = row[c, k] * (1 - f) + row[c, min(k + 1, nodes - 1)] * f
                p[0] = origin[0] + spacing[0] * z + d[0]
                p[1] = origin[1] + spacing[1] * y + d[1]
                p[2] = origin[2] + spacing[2] * x + d[2]
                inside = True
                for c in range(3):
                    inside = inside and lower[c] <= p[c] <= upper[c]
                    p[c] = p[c] * scale[c] + offset[c]
                outside += not inside
                vector_at(v, p[0], p[1], p[2], back)
                length = (d[0] + back[0]) ** 2 + (d[1] + back[1]) ** 2 + (d[2] + back[2]) ** 2
                lengths[z, y, x] = np.sqrt(length)
    return outside
