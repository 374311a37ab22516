"""The elastix backend: a B-spline by itk-elastix for one block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.ndimage import map_coordinates

from weft.grid import Grid
from weft.registration.backends.native_field import minimal_jacobian
from weft.registration.contract import Initial, Masks, Result
from weft.registration.elastix_process import elastix_version, run_elastix
from weft.registration.pull import physical_points, pull, sample_field

_VERSION = "1"  # of this module's own results
_FEWEST_VOXELS = 1000
_BINS = 32  # of the histograms of mutual information
_METRICS = {
    "mutual_information": "AdvancedMattesMutualInformation",
    "correlation": "AdvancedNormalizedCorrelation",
}


@dataclass(frozen=True)
class ElastixSettings:
    """Settings of the backend.

    Parameters
    ----------
    metric
        ``mutual_information`` or ``correlation``.
    control_spacing
        Distance of the B-spline's control points at the last level, voxels; doubled on each coarser one.
    levels
        Resolutions.
    iterations
        Per level.
    samples
        Voxels drawn in each iteration.
    timeout
        Seconds after which a block is given up; None: never.
    """

    metric: str = "mutual_information"
    control_spacing: float = 12.0
    levels: int = 4
    iterations: int = 250
    samples: int = 4096
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.metric not in _METRICS:
            raise ValueError(f"elastix: metric is {self.metric!r}; wanted one of {', '.join(_METRICS)}")
        for name in ("control_spacing", "levels", "iterations", "samples"):
            if not getattr(self, name) > 0:
                raise ValueError(f"elastix: {name} is {getattr(self, name)}; wanted a positive number")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ElastixSettings:
        """Settings from plain names and values; unknown names are refused."""
        known = [item.name for item in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(f"elastix: unknown setting {unknown[0]!r}; known are {', '.join(known)}")
        return cls(**settings)


def register(
    fixed: np.ndarray,
    fixed_grid: Grid,
    moving: np.ndarray,
    moving_grid: Grid,
    initial: Initial,
    masks: Masks,
    settings: Mapping[str, Any],
    seed: int,
) -> Result:
    """Register a block by a B-spline (Klein et al. 2010) on top of the start transform.

    The moving block is resampled through the start onto the fixed block's grid; elastix finds d on it, and
    the total is u(x) = d(x) + u0(x + d(x)). What elastix draws at random depends on `seed` alone, and each
    block has a process of its own, with one thread: the same arguments give the same bytes.

    Parameters
    ----------
    fixed, fixed_grid, moving, moving_grid, initial, masks, seed
        As `weft.registration.contract.Backend`.
    settings
        Names and values of `ElastixSettings`.

    Returns
    -------
    Result
        Total displacements on ``fixed_grid.coarsen((2, 2, 2))``; the similarity is the correlation, or
        the mutual information turned into one, of the voxels that can be compared before and after.

    Raises
    ------
    ValueError
        When a setting is not known or not valid, or an array does not fit its grid.
    RuntimeError
        When elastix fails or crashes on this block.
    TimeoutError
        When the time set for a block is over.
    """
    options = ElastixSettings.of(settings)
    _check(fixed, fixed_grid, masks[0], "fixed")
    _check(moving, moving_grid, masks[1], "moving")
    masks = (None if masks[0] is None else masks[0] > 0, None if masks[1] is None else masks[1] > 0)
    grid = fixed_grid.coarsen((2, 2, 2))
    seen, covered = pull(moving, moving_grid, masks[1], initial, fixed_grid)
    target = np.asarray(fixed, np.float32)
    wanted = np.ones(fixed_grid.shape, bool) if masks[0] is None else masks[0]
    common = wanted & covered
    if np.count_nonzero(common) < _FEWEST_VOXELS or not np.ptp(target[common]) or not np.ptp(seen[common]):
        return _result(_compose(np.zeros((3, *grid.shape)), grid, initial), grid)
    # elastix smooths across its masks and spans its histogram over whole images: nothing foreign may be there.
    target = np.where(wanted, target, target[wanted].mean(dtype=np.float64)).astype(np.float32)
    seen = np.where(covered, seen, seen[covered].mean(dtype=np.float64)).astype(np.float32)
    # With nothing to leave out elastix is told of no masks: looking them up costs time.
    found = run_elastix(
        target,
        seen,
        (None if wanted.all() else wanted, None if covered.all() else covered),
        _parameters(options, seed),
        options.timeout,
    )
    step = _bspline(found, fixed_grid, fixed_grid)
    before, after = _similarity(
        options.metric, target, seen, wanted, covered, step / np.c_[list(fixed_grid.spacing)][..., None, None]
    )
    total = _compose(_bspline(found, fixed_grid, grid), grid, initial)
    return _result(total, grid, options.levels * options.iterations, before, after)


def backend_version() -> str:
    """Version of itk-elastix and of this module."""
    return f"{_VERSION}-itk-elastix-{elastix_version()}"


def _check(array: np.ndarray, grid: Grid, mask: np.ndarray | None, name: str) -> None:
    """Refuse arrays that do not fit their grids."""
    if array.shape != grid.shape:
        raise ValueError(f"the {name} block is of shape {array.shape}, but its grid of shape {grid.shape}")
    if mask is not None and mask.shape != grid.shape:
        raise ValueError(f"the {name} mask is of shape {mask.shape}; wanted {grid.shape}, the block's")


def _parameters(options: ElastixSettings, seed: int) -> dict[str, list[str]]:
    """elastix' parameter map; lengths are voxels."""
    return {
        # The multi-metric class crashes with a single metric.
        "Registration": ["MultiResolutionRegistration"],
        "Metric": [_METRICS[options.metric]],
        "NumberOfHistogramBins": [str(_BINS)],
        "Transform": ["BSplineTransform"],
        "FinalGridSpacingInPhysicalUnits": [str(float(options.control_spacing))],
        "HowToCombineTransforms": ["Compose"],
        "Optimizer": ["AdaptiveStochasticGradientDescent"],
        "AutomaticParameterEstimation": ["true"],
        "MaximumNumberOfIterations": [str(int(options.iterations))],
        "NumberOfResolutions": [str(int(options.levels))],
        "FixedImagePyramid": ["FixedSmoothingImagePyramid"],
        "MovingImagePyramid": ["MovingSmoothingImagePyramid"],
        "ImageSampler": ["RandomCoordinate"],
        "NumberOfSpatialSamples": [str(int(options.samples))],
        "NewSamplesEveryIteration": ["true"],
        "MaximumNumberOfSamplingAttempts": ["8"],
        "RequiredRatioOfValidSamples": ["0.05"],
        "Interpolator": ["LinearInterpolator"],
        "ErodeMask": ["false"],
        "RandomSeed": [str(seed % 2**31 or 1)],
        "WriteResultImage": ["false"],
    }


def _bspline(found: Mapping[str, list[str]], fixed_grid: Grid, grid: Grid) -> np.ndarray:
    """Displacements, (3, z, y, x) float64 um, of elastix' B-spline at the voxels of a grid in fixed space."""

    def numbers(name: str) -> np.ndarray:
        return np.array([float(v) for v in found[name]])[::-1]  # ITK's (x, y, z) turned to (z, y, x)

    shape = tuple(int(n) for n in numbers("GridSize"))
    coefficients = np.array([float(v) for v in found["TransformParameters"]]).reshape(3, *shape)[::-1]
    weights = []
    for axis in range(3):
        physical = grid.origin[axis] + grid.spacing[axis] * np.arange(grid.shape[axis])
        voxel = (physical - fixed_grid.origin[axis]) / fixed_grid.spacing[axis]
        place = (voxel - numbers("GridOrigin")[axis]) / numbers("GridSpacing")[axis]
        weights.append(_cubic(place[:, None] - np.arange(shape[axis])))
    # Plain einsum, one axis after the other: no BLAS, whose threads could change the order of the sums.
    voxels = np.einsum("cijk,xk->cijx", coefficients, weights[2])
    voxels = np.einsum("cijx,yj->ciyx", voxels, weights[1])
    voxels = np.einsum("ciyx,zi->czyx", voxels, weights[0])
    return voxels * np.asarray(fixed_grid.spacing)[:, None, None, None]


def _cubic(distance: np.ndarray) -> np.ndarray:
    """The cubic B-spline."""
    d = np.abs(distance)
    return np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.where(d < 2, (2 - d) ** 3 / 6, 0.0))


def _compose(step: np.ndarray, grid: Grid, initial: Initial) -> np.ndarray:
    """Total displacements u(x) = d(x) + u0(x + d(x)), (3, z, y, x) float32 um."""
    if initial.field is None or initial.field_grid is None:
        return step.astype(np.float32)
    points = physical_points(grid) + step.reshape(3, -1)
    return (step + sample_field(initial.field, initial.field_grid, points).reshape(step.shape)).astype(
        np.float32
    )


def _similarity(
    metric: str,
    fixed: np.ndarray,
    seen: np.ndarray,
    wanted: np.ndarray,
    covered: np.ndarray,
    step: np.ndarray,
) -> tuple[float, float]:
    """Similarity before and after a step, (3, z, y, x) voxels, over the voxels valid in both."""
    index = np.indices(fixed.shape, dtype=np.float64) + step
    after = map_coordinates(seen, index, order=1, mode="nearest")
    arrived = map_coordinates(covered.astype(np.float32), index, order=1, mode="constant") > 0.999
    valid = wanted & covered & arrived
    if np.count_nonzero(valid) < 2:
        return 0.0, 0.0
    measure = _ncc if metric == "correlation" else _information
    return measure(fixed[valid], seen[valid]), measure(fixed[valid], after[valid])


def _ncc(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two lists of values; 0 when one is constant."""
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    deviations = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / deviations if deviations > 0 else 0.0


def _information(a: np.ndarray, b: np.ndarray) -> float:
    """Mutual information as a correlation: sqrt(1 - exp(-2 MI)), 0 to 1 (Linfoot 1957)."""
    joint, _, _ = np.histogram2d(a, b, _BINS)
    joint /= joint.sum()
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    found = joint > 0
    information = float((joint[found] * np.log(joint[found] / apart[found])).sum())
    return float(np.sqrt(max(0.0, 1 - np.exp(-2 * information))))


def _result(
    total: np.ndarray, grid: Grid, iterations: int = 0, before: float = 0.0, after: float = 0.0
) -> Result:
    """What the contract asks for."""
    metrics = [{"level": 0, "iterations": iterations, "before": before, "after": after}] if iterations else []
    return Result(
        displacement=total,
        grid=grid,
        metrics=metrics,
        iterations=iterations,
        metric_before=before,
        metric_after=after,
        minimal_jacobian=minimal_jacobian(total, grid.spacing),
    )
