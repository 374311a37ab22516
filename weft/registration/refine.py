"""Levenberg-Marquardt refinement of an affine between two feature images."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from weft.registration.features import Feature
from weft.registration.linear_model import SPATIAL, Kind, LinearModel

_PARAMETERS = SPATIAL + 2  # and gain and offset between the images
_ATTEMPTS = 6  # larger and larger damping before an iteration gives up
_CONVERGED = 1e-5  # gain in score below which the ascent ends
_FEWEST_SAMPLES = 50


@dataclass(frozen=True)
class Fit:
    """An affine and how well it fits.

    Parameters
    ----------
    matrix
        (4, 4) float64, um, first image's space to second image's space.
    ncc
        Correlation over the voxels that lie in both masks; -1 where there are too few.
    overlap
        Share of the first image's mask that falls into the second image's mask.
    """

    matrix: np.ndarray
    ncc: float
    overlap: float

    @property
    def score(self) -> float:
        """NCC times the root of the overlap: correlation alone is largest for small overlaps."""
        return _ascended(self, 0.5)


class AffineRefiner:
    """Ascent of the score of one pair of features, from any number of starts.

    Minimises the squared difference between the fixed image and gain times the moving image plus offset,
    gain and offset solved for in every step (variable projection, Golub and Pereyra 1973), with
    Levenberg-Marquardt damping; a step is taken only when it raises the correlation (times a power of the
    overlap).

    Parameters
    ----------
    fixed, moving
        Features, each on an isotropic grid. Single planes are registered in their plane.
    stride
        Every so many voxels of the fixed feature are used, on each axis.
    """

    def __init__(self, fixed: Feature, moving: Feature, stride: int = 1) -> None:
        self._fixed_grid, self._moving_grid = fixed.grid, moving.grid
        self._planar = fixed.mask.shape[0] == moving.mask.shape[0] == 1
        sub = (slice(None, None, stride),) * 3
        index = np.argwhere(fixed.mask[sub]) * stride
        self._centre = index.mean(axis=0) if len(index) else np.zeros(3)
        self._unit = max(fixed.mask.shape) / 4.0
        self._points = ((index - self._centre) / self._unit).astype(np.float32)
        self._values = np.ascontiguousarray(fixed.image[sub][fixed.mask[sub]], np.float32)
        self._moving = np.ascontiguousarray(moving.image, np.float32)
        self._moving_mask = np.ascontiguousarray(moving.mask)

    def run(
        self,
        matrix: np.ndarray,
        kind: Kind = "affine",
        iterations: int = 15,
        overlap_power: float = 0.5,
        about: np.ndarray | None = None,
    ) -> Fit:
        """Refine an affine.

        Parameters
        ----------
        matrix
            (4, 4), um, fixed to moving: the start.
        kind
            Of the model: what may change. A start that it does not allow is replaced by the nearest one that it
            does; of a rigid motion the start's scale is kept.
        iterations
            At most so many steps.
        overlap_power
            What is ascended is ``ncc * overlap ** overlap_power``. A half keeps a poor start from sliding out
            of the overlap; 0 is right near the solution, where the overlap's own slope would shift it.
        about
            (3, 3), um: no step leads further from this linear part than `LinearModel.plausible` allows; None: from
            that of the start.

        Raises
        ------
        ValueError
            For an unknown kind.
        """
        model = LinearModel(kind, self._planar)
        linear, shift = self._to_parameters(matrix)
        linear = model.nearest(linear)
        scale = model.scale(linear) if model.kind == "rigid" else None
        gain, offset = _gain_and_offset(self._sums(linear, shift))
        hessian, gradient, sums = self._evaluate(linear, shift, gain, offset)
        best = self._fit(linear, shift, sums)
        around = linear if about is None else self._to_linear(about)
        back = np.linalg.inv(around)
        highest = _ascended(best, overlap_power)
        damping = 1e-2
        for _ in range(iterations):
            basis = _basis(linear, model)
            reduced, slope = basis.T @ hessian @ basis, basis.T @ gradient
            for _ in range(_ATTEMPTS):
                diagonal = np.diag(reduced) + 1e-9 * np.trace(reduced) + 1e-12
                step = basis @ np.linalg.solve(reduced + damping * np.diag(diagonal), slope)
                new_linear = model.nearest(linear + step[:9].reshape(3, 3), scale)
                new_shift = shift + step[9:SPATIAL]
                sums = self._sums(new_linear, new_shift)
                fit = self._fit(new_linear, new_shift, sums)
                height = _ascended(fit, overlap_power)
                if height > highest and model.plausible(new_linear @ back):
                    break
                damping *= 4
            else:
                break
            gained, highest, best = height - highest, height, fit
            linear, shift = new_linear, new_shift
            damping = max(damping / 6, 1e-6)
            if gained < _CONVERGED:
                break
            gain, offset = _gain_and_offset(sums)
            hessian, gradient, sums = self._evaluate(linear, shift, gain, offset)
        return best

    def measure(self, matrix: np.ndarray) -> Fit:
        """The fit of an affine as it is."""
        linear, shift = self._to_parameters(matrix)
        return self._fit(linear, shift, self._sums(linear, shift))

    def _to_linear(self, linear: np.ndarray) -> np.ndarray:
        """A linear part, (3, 3), in moving index per unit of `_points`."""
        moving, fixed = (np.diag(grid.spacing) for grid in (self._moving_grid, self._fixed_grid))
        return np.asarray(np.linalg.inv(moving) @ linear @ fixed * self._unit)

    def _to_parameters(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Linear part (moving index per unit of `_points`) and the moving index of the fixed centre."""
        index = np.linalg.inv(self._moving_grid.matrix()) @ matrix @ self._fixed_grid.matrix()
        linear, shift = index[:3, :3] * self._unit, index[:3, :3] @ self._centre + index[:3, 3]
        if self._planar:  # exactly, or rounding would leave the plane
            linear, shift[0] = LinearModel(planar=True).nearest(linear), 0.0
        return linear, shift

    def _fit(self, linear: np.ndarray, shift: np.ndarray, sums: np.ndarray) -> Fit:
        """The fit in physical units."""
        index = np.eye(4)
        index[:3, :3] = linear / self._unit
        index[:3, 3] = shift - index[:3, :3] @ self._centre
        matrix = self._moving_grid.matrix() @ index @ np.linalg.inv(self._fixed_grid.matrix())
        return Fit(matrix, _ncc(sums), float(sums[0]) / max(len(self._values), 1))

    def _sums(self, linear: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """The sums that the correlation is made of, (6,)."""
        sums = np.zeros(6)
        parameters = np.ascontiguousarray(linear), np.ascontiguousarray(shift)
        _correlate(self._points, self._values, self._moving, self._moving_mask, *parameters, sums)
        return sums

    def _evaluate(
        self, linear: np.ndarray, shift: np.ndarray, gain: float, offset: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Normal equations (14, 14) and (14,), and the sums that the correlation is made of, (6,)."""
        hessian = np.zeros((_PARAMETERS, _PARAMETERS))
        gradient = np.zeros(_PARAMETERS)
        sums = np.zeros(6)
        _accumulate(
            self._points,
            self._values,
            self._moving,
            self._moving_mask,
            np.ascontiguousarray(linear),
            np.ascontiguousarray(shift),
            gain,
            offset,
            hessian,
            gradient,
            sums,
        )
        return hessian, gradient, sums


def _ascended(fit: Fit, overlap_power: float) -> float:
    """What the refinement makes as large as it can."""
    return fit.ncc * fit.overlap**overlap_power if fit.ncc > 0 else fit.ncc


def _ncc(sums: np.ndarray) -> float:
    """Correlation from (n, sum f, sum m, sum ff, sum mm, sum fm)."""
    n, f, m, ff, mm, fm = sums
    if n < _FEWEST_SAMPLES:
        return -1.0
    variances = max(ff - f * f / n, 0.0) * max(mm - m * m / n, 0.0)
    return float((fm - f * m / n) / np.sqrt(variances)) if variances > 0 else -1.0


def _gain_and_offset(sums: np.ndarray) -> tuple[float, float]:
    """Least-squares line from moving to fixed values, its slope kept off zero and positive."""
    n, f, m, _, mm, fm = sums
    if n < _FEWEST_SAMPLES:
        return 1.0, 0.0
    gain = max(float((fm - f * m / n) / max(mm - m * m / n, 1e-9)), 0.05)
    return gain, float((f - gain * m) / n)


def _basis(linear: np.ndarray, model: LinearModel) -> np.ndarray:
    """Directions, (14, k), in which the parameters may move: those of the model, gain and offset."""
    spatial = model.directions(linear)
    basis = np.zeros((_PARAMETERS, spatial.shape[1] + 2))
    basis[:SPATIAL, :-2] = spatial
    basis[SPATIAL:, -2:] = np.eye(2)
    return basis


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _accumulate(points, values, moving, mask, linear, shift, gain, offset, hessian, gradient, sums):
    """Add up the normal equations of ``fixed - gain * moving(linear @ p + shift) - offset``, and the sums."""
    jacobian = np.zeros(14)
    for k in range(points.shape[0]):
        pz, py, px = points[k, 0], points[k, 1], points[k, 2]
        inside, value, gz, gy, gx = _sample(moving, mask, linear, shift, pz, py, px)
        if not inside:
            continue
        fixed = values[k]
        _add(sums, fixed, value)
        residual = fixed - gain * value - offset
        gz, gy, gx = gain * gz, gain * gy, gain * gx
        jacobian[0], jacobian[1], jacobian[2] = gz * pz, gz * py, gz * px
        jacobian[3], jacobian[4], jacobian[5] = gy * pz, gy * py, gy * px
        jacobian[6], jacobian[7], jacobian[8] = gx * pz, gx * py, gx * px
        jacobian[9], jacobian[10], jacobian[11] = gz, gy, gx
        jacobian[12], jacobian[13] = value, 1.0
        for i in range(14):
            gradient[i] += jacobian[i] * residual
            for j in range(14):
                hessian[i, j] += jacobian[i] * jacobian[j]


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _correlate(points, values, moving, mask, linear, shift, sums):
    """Add up the sums alone, at a fraction of the cost."""
    for k in range(points.shape[0]):
        pz, py, px = points[k, 0], points[k, 1], points[k, 2]
        inside, value, _, _, _ = _sample(moving, mask, linear, shift, pz, py, px)
        if inside:
            _add(sums, values[k], value)


@numba.njit(forceinline=True, fastmath={"contract", "reassoc", "nsz"})
def _sample(moving, mask, linear, shift, pz, py, px):
    """Whether ``linear @ p + shift`` lies in the moving mask, and value and slopes there, linear."""
    nz, ny, nx = moving.shape
    z = linear[0, 0] * pz + linear[0, 1] * py + linear[0, 2] * px + shift[0]
    y = linear[1, 0] * pz + linear[1, 1] * py + linear[1, 2] * px + shift[1]
    x = linear[2, 0] * pz + linear[2, 1] * py + linear[2, 2] * px + shift[2]
    # Out to the faces of the outer voxels: a thin slab has few others.
    if z < -0.5 or y < -0.5 or x < -0.5 or z > nz - 0.5 or y > ny - 0.5 or x > nx - 0.5:
        return False, 0.0, 0.0, 0.0, 0.0
    z, y, x = min(max(z, 0.0), nz - 1.0), min(max(y, 0.0), ny - 1.0), min(max(x, 0.0), nx - 1.0)
    if not mask[int(z + 0.5), int(y + 0.5), int(x + 0.5)]:
        return False, 0.0, 0.0, 0.0, 0.0
    iz, iy, ix = min(int(z), max(nz - 2, 0)), min(int(y), max(ny - 2, 0)), min(int(x), max(nx - 2, 0))
    jz, jy, jx = min(iz + 1, nz - 1), min(iy + 1, ny - 1), min(ix + 1, nx - 1)
    fz, fy, fx = z - iz, y - iy, x - ix
    d00 = moving[iz, iy, jx] - moving[iz, iy, ix]
    d01 = moving[iz, jy, jx] - moving[iz, jy, ix]
    d10 = moving[jz, iy, jx] - moving[jz, iy, ix]
    d11 = moving[jz, jy, jx] - moving[jz, jy, ix]
    c00 = moving[iz, iy, ix] + d00 * fx
    c01 = moving[iz, jy, ix] + d01 * fx
    c10 = moving[jz, iy, ix] + d10 * fx
    c11 = moving[jz, jy, ix] + d11 * fx
    c0 = c00 + (c01 - c00) * fy
    c1 = c10 + (c11 - c10) * fy
    gy = (c01 - c00) * (1 - fz) + (c11 - c10) * fz
    gx = (d00 * (1 - fy) + d01 * fy) * (1 - fz) + (d10 * (1 - fy) + d11 * fy) * fz
    return True, c0 + (c1 - c0) * fz, c1 - c0, gy, gx


@numba.njit(forceinline=True, fastmath={"contract", "reassoc", "nsz"})
def _add(sums, fixed, value):
    """One pair of values more, in (n, sum f, sum m, sum ff, sum mm, sum fm)."""
    sums[0] += 1.0
    sums[1] += fixed
    sums[2] += value
    sums[3] += fixed * fixed
    sums[4] += value * value
    sums[5] += fixed * value
