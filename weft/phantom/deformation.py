"""The known map between the phantom's sample and its atlas, exact in both directions.

The sample is drawn by the *inverse* transform, which has a closed form: an affine plus a cubic B-spline,
``x = A^-1 y + v(y)``, from a sample point y to an atlas point x. The transform itself (the pull-back of a
registration, atlas to sample) is its inverse by Newton's method, to a thousandth of a micrometre.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from scipy.ndimage import gaussian_filter

from weft.grid import Grid
from weft.phantom.anatomy import Anatomy, regions_at, spline_weights
from weft.phantom.settings import PhantomSettings

CONTROL_FRACTION = 0.1  # control spacing of the spline, relative to the scan's width
SMOOTHNESS = 1.6  # of the control points, control spacings


class Deformation(NamedTuple):
    """``x = inverse_linear @ y + inverse_shift + v(y)``, um, (z, y, x)."""

    linear: np.ndarray  # (3, 3) of the true affine, atlas to sample
    shift: np.ndarray  # (3,)
    inverse_linear: np.ndarray  # (3, 3) of its inverse, sample to atlas
    inverse_shift: np.ndarray  # (3,)
    lattice: np.ndarray  # (3, z, y, x) control points of v, um of the atlas
    origin: np.ndarray  # (3,) um of the sample: where control point (0, 0, 0) sits
    spacing: float  # um between control points

    @property
    def affine(self) -> np.ndarray:
        """The true affine, (4, 4), atlas um to sample um."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.linear
        matrix[:3, 3] = self.shift
        return matrix


@numba.njit(cache=True, nogil=True)
def to_atlas(deformation, z, y, x, jacobian):
    """Atlas point of a sample point; fills ``jacobian`` (3, 3) with its derivative."""
    d = deformation
    point = (z, y, x)
    index = np.empty(3, np.int64)
    weight = np.empty((3, 4))
    slope = np.empty((3, 4))
    for a in range(3):
        u = (point[a] - d.origin[a]) / d.spacing
        u = min(max(u, 1.0), d.lattice.shape[a + 1] - 3.0)
        index[a] = int(u)
        t = u - index[a]
        weight[a, 0], weight[a, 1], weight[a, 2], weight[a, 3] = spline_weights(t)
        slope[a, 0] = -0.5 * (1.0 - t) ** 2
        slope[a, 1] = 1.5 * t * t - 2.0 * t
        slope[a, 2] = -1.5 * t * t + t + 0.5
        slope[a, 3] = 0.5 * t * t
    found = np.empty(3)
    for c in range(3):
        value, gz, gy, gx = 0.0, 0.0, 0.0, 0.0
        for i in range(4):
            for j in range(4):
                row, row_x = 0.0, 0.0
                for k in range(4):
                    p = d.lattice[c, index[0] + i - 1, index[1] + j - 1, index[2] + k - 1]
                    row += weight[2, k] * p
                    row_x += slope[2, k] * p
                value += weight[0, i] * weight[1, j] * row
                gz += slope[0, i] * weight[1, j] * row
                gy += weight[0, i] * slope[1, j] * row
                gx += weight[0, i] * weight[1, j] * row_x
        found[c] = value + d.inverse_shift[c]
        for a in range(3):
            found[c] += d.inverse_linear[c, a] * point[a]
            jacobian[c, a] = d.inverse_linear[c, a]
        jacobian[c, 0] += gz / d.spacing
        jacobian[c, 1] += gy / d.spacing
        jacobian[c, 2] += gx / d.spacing
    return found[0], found[1], found[2]


@numba.njit(cache=True, nogil=True)
def _newton(deformation, target, guess, jacobian):
    """Improve the sample point ``guess`` (3,) until it maps to the atlas point ``target``; the residual, um."""
    m = jacobian
    residual = np.inf
    for _ in range(50):
        z, y, x = to_atlas(deformation, guess[0], guess[1], guess[2], m)
        ez, ey, ex = target[0] - z, target[1] - y, target[2] - x
        residual = math.sqrt(ez * ez + ey * ey + ex * ex)
        if residual < 1e-3:
            break
        c00, c01, c02 = (
            m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1],
            m[0, 2] * m[2, 1] - m[0, 1] * m[2, 2],
            m[0, 1] * m[1, 2] - m[0, 2] * m[1, 1],
        )
        c10, c11, c12 = (
            m[1, 2] * m[2, 0] - m[1, 0] * m[2, 2],
            m[0, 0] * m[2, 2] - m[0, 2] * m[2, 0],
            m[0, 2] * m[1, 0] - m[0, 0] * m[1, 2],
        )
        c20, c21, c22 = (
            m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0],
            m[0, 1] * m[2, 0] - m[0, 0] * m[2, 1],
            m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0],
        )
        determinant = m[0, 0] * c00 + m[0, 1] * c10 + m[0, 2] * c20
        guess[0] += (c00 * ez + c01 * ey + c02 * ex) / determinant
        guess[1] += (c10 * ez + c11 * ey + c12 * ex) / determinant
        guess[2] += (c20 * ez + c21 * ey + c22 * ex) / determinant
    return residual


@numba.njit(cache=True, nogil=True)
def to_sample(deformation, points):
    """Sample points of atlas points, both (n, 3) um, and the inverse's Jacobian determinants there, (n,).

    Neighbouring points should follow each other: each search starts from the last one's answer.
    """
    n = points.shape[0]
    found = np.empty((n, 3))
    determinants = np.empty(n)
    jacobian = np.empty((3, 3))
    guess = np.empty(3)
    step = np.zeros(3)
    for i in range(n):
        for a in range(3):
            affine = deformation.shift[a]
            for b in range(3):
                affine += deformation.linear[a, b] * points[i, b]
            guess[a] = affine + step[a]
        if _newton(deformation, points[i], guess, jacobian) > 1e-3:
            for a in range(3):
                guess[a] -= step[a]
            _newton(deformation, points[i], guess, jacobian)
        for a in range(3):
            affine = deformation.shift[a]
            for b in range(3):
                affine += deformation.linear[a, b] * points[i, b]
            step[a] = guess[a] - affine
            found[i, a] = guess[a]
        determinants[i] = np.linalg.det(jacobian)
    return found, determinants


def make_deformation(
    settings: PhantomSettings, anatomy: Anatomy, atlas: Grid, rng: np.random.Generator
) -> Deformation:
    """Draw an affine and a smooth invertible deformation of the given size.

    Sample planes run against the atlas's, and its columns too (orientations `air` and `pil`); beyond that
    the affine turns by a few degrees and scales by a few per cent. Its linear part is the best one: what
    the deformation moves, no affine can undo.
    """
    angle = np.deg2rad(np.array([-5.0, -3.0, 3.0]) + rng.uniform(-1.0, 1.0, 3))
    scale = np.array([1.02, 0.97, 1.01]) + rng.uniform(-0.01, 0.01, 3)
    linear = _rotation(angle) @ np.diag(scale) @ np.diag([-1.0, 1.0, -1.0])
    spacing = np.asarray(settings.spacing)
    frame = np.asarray(settings.frame)
    middle = (np.asarray(atlas.shape) - 1) / 2 * np.asarray(atlas.spacing)
    # the trunk leans towards the left edge, so that the last cell of the scan stays empty
    shift = (frame - spacing) / 2 + [0.0, -0.025 * frame[1], -0.06 * frame[2]] - linear @ middle
    inverse_linear = np.linalg.inv(linear)

    control = CONTROL_FRACTION * frame[2]
    corners = np.concatenate([atlas.corners() @ linear.T + shift, [np.zeros(3), frame]])
    lower = corners.min(axis=0) - 4 * control
    count = np.ceil((corners.max(axis=0) + 4 * control - lower) / control).astype(int) + 1
    noise = rng.standard_normal((3, *count))
    lattice = np.stack([gaussian_filter(part, SMOOTHNESS, mode="nearest") for part in noise])
    deformation = Deformation(
        linear, shift, inverse_linear, -inverse_linear @ shift, lattice / lattice.std(), lower, float(control)
    )
    points = rng.uniform(0.0, np.asarray(atlas.upper), (150_000, 3))
    points = points[regions_at(anatomy, points) >= 0]
    size = settings.deformation * settings.registration_voxel
    nodes = np.stack(
        np.meshgrid(*(lower[a] + control * np.arange(count[a]) for a in range(3)), indexing="ij")
    )
    for _ in range(6):
        there, _ = to_sample(deformation, points)
        moved = there - (points @ linear.T + shift)
        # what of it is affine, as a function of the sample point, is taken out of the control points
        design = np.column_stack([there, np.ones(len(there))])
        fit = np.linalg.lstsq(design, -moved @ inverse_linear.T, rcond=None)[0]
        affine_part = np.einsum("azyx,ac->czyx", nodes, fit[:3]) + fit[3][:, None, None, None]
        factor = size / np.percentile(np.linalg.norm(moved, axis=1), 95)
        deformation = deformation._replace(lattice=(deformation.lattice - affine_part) * factor)
    return _clear_last_cell(settings, deformation, to_sample(deformation, points)[0])


def _clear_last_cell(settings: PhantomSettings, deformation: Deformation, tissue: np.ndarray) -> Deformation:
    """Move the sample up and left, if need be, until none of ``tissue`` (n, 3) lies in the scan's last tile."""
    spacing = np.asarray(settings.spacing)
    cell = np.array([settings.rows - 1, settings.columns - 1]) * settings.step * spacing[1:]
    margin = settings.jitter * spacing[1:] + settings.registration_voxel
    excess = max(0.0, float((tissue[:, 1:] - (cell - margin)).min(axis=1).max()))
    move = np.array([0.0, -excess, -excess])
    shift = deformation.shift + move
    return deformation._replace(
        shift=shift,
        inverse_shift=-deformation.inverse_linear @ shift,
        origin=deformation.origin + move,
    )


def _rotation(angle: np.ndarray) -> np.ndarray:
    """Rotation about z, then y, then x by ``angle`` (radians), for (z, y, x) vectors."""
    total = np.eye(3)
    for axis, a in enumerate(angle):
        j, k = (i for i in range(3) if i != axis)
        turn = np.eye(3)
        turn[j, j] = turn[k, k] = np.cos(a)
        turn[j, k], turn[k, j] = -np.sin(a), np.sin(a)
        total = turn @ total
    return total
