"""The elastix backend: a B-spline by itk-elastix for one block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.grid import Grid
from weft.registration.backends.pulled import (
    BINS,
    check_positive,
    pull_block,
    settings_of,
    total_result,
    unchanged,
)
from weft.registration.contract import Initial, Masks, Result
from weft.registration.elastix_process import elastix_version, run_elastix

_VERSION = "1"  # of this module's own results
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
        check_positive(self, "elastix", "control_spacing", "levels", "iterations", "samples")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ElastixSettings:
        """Settings from plain names and values; unknown names are refused."""
        return settings_of(cls, "elastix", settings)


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
    pulled = pull_block(fixed, fixed_grid, moving, moving_grid, initial, masks)
    if pulled.empty:
        return unchanged(pulled)
    # With nothing to leave out elastix is told of no masks: looking them up costs time.
    found = run_elastix(
        pulled.fixed,
        pulled.seen,
        (
            None if pulled.wanted.all() else pulled.wanted,
            None if pulled.covered.all() else pulled.covered,
        ),
        _parameters(options, seed),
        options.timeout,
    )
    return total_result(
        pulled,
        _bspline(found, fixed_grid, fixed_grid),
        options.metric,
        options.levels * options.iterations,
        _bspline(found, fixed_grid, fixed_grid.coarsen((2, 2, 2))),
    )


def backend_version() -> str:
    """Version of itk-elastix and of this module."""
    return f"{_VERSION}-itk-elastix-{elastix_version()}"


def _parameters(options: ElastixSettings, seed: int) -> dict[str, list[str]]:
    """elastix' parameter map; lengths are voxels."""
    return {
        # The multi-metric class crashes with a single metric.
        "Registration": ["MultiResolutionRegistration"],
        "Metric": [_METRICS[options.metric]],
        "NumberOfHistogramBins": [str(BINS)],
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
