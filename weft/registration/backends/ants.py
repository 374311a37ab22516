"""The ants backend: symmetric normalisation (SyN) by antspyx for one block."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk

from weft.grid import Grid
from weft.registration.backends.pulled import (
    check_iterations,
    check_positive,
    pull_block,
    settings_of,
    total_result,
    unchanged,
)
from weft.registration.contract import Initial, Masks, Result
from weft.registration.itk_image import itk_displacement

own_process = True  # a crash of the engine must not end the job
_VERSION = "1"  # of this module's own results
_METRICS = {"local_correlation": "CC", "mutual_information": "mattes", "mean_squares": "meansquares"}
_SAMPLING = {"local_correlation": 2, "mutual_information": 32, "mean_squares": 0}  # radius, or bins
_SIMILARITIES = {"mean_squares": "correlation"}
_THREADS = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"


@dataclass(frozen=True)
class AntsSettings:
    """Settings of the backend.

    Parameters
    ----------
    metric
        ``local_correlation`` (in windows of 5 voxels), ``mutual_information`` or ``mean_squares``.
    iterations
        Per level, coarsest first; the last entry is the block's own resolution.
    gradient_step
        Length of a step.
    smooth_update
        Variance of the Gaussian that smooths every step, square voxels.
    smooth_total
        Variance of the Gaussian that smooths the whole field, square voxels; 0 for none.
    """

    metric: str = "local_correlation"
    iterations: tuple[int, ...] = (40, 20, 5)
    gradient_step: float = 0.2
    smooth_update: float = 3.0
    smooth_total: float = 0.0

    def __post_init__(self) -> None:
        if self.metric not in _METRICS:
            raise ValueError(f"ants: metric is {self.metric!r}; wanted one of {', '.join(_METRICS)}")
        check_iterations(self, "ants")
        check_positive(self, "ants", "gradient_step", "smooth_update")
        if not self.smooth_total >= 0:
            raise ValueError(f"ants: smooth_total is {self.smooth_total}; wanted 0 or more")


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
    """Register a block by SyN (Avants et al. 2008) on top of the start transform.

    The moving block is resampled through the start onto the fixed block's grid; SyN finds d on it, and the
    total is u(x) = d(x) + u0(x + d(x)).

    Parameters
    ----------
    fixed, fixed_grid, moving, moving_grid, initial, masks, seed
        As `weft.registration.contract.Backend`.
    settings
        Names and values of `AntsSettings`.

    Returns
    -------
    Result
        Total displacements on ``fixed_grid.coarsen((2, 2, 2))``; the similarity is the mean square of the local
        correlation, or the mutual information turned into a correlation, or the correlation, before and
        after.

    Raises
    ------
    ValueError
        When a setting is not known or not valid, an array does not fit its grid, or antspyx is not
        installed.
    RuntimeError
        When ANTs fails on this block.
    """
    options = settings_of(AntsSettings, "ants", settings)
    ants = _ants()
    pulled = pull_block(fixed, fixed_grid, moving, moving_grid, initial, masks)
    if pulled.empty:
        return unchanged(pulled)
    # Lengths are voxels. antspyx' arrays are (x, y, z), and its images start at 0 with a spacing of 1.
    shape = [fixed_grid.shape[axis] for axis in pulled.axes]  # a single plane is registered in its plane
    images = [ants.from_numpy(np.ascontiguousarray(i.reshape(shape).T)) for i in (pulled.fixed, pulled.seen)]
    common = (pulled.wanted & pulled.covered).reshape(shape)
    mask = None if common.all() else ants.from_numpy(np.ascontiguousarray(common.T, np.float32))
    with TemporaryDirectory(prefix="weft-ants-") as folder:
        try:
            found = ants.registration(
                *images,
                type_of_transform="SyNOnly",
                initial_transform="identity",
                outprefix=f"{folder}/",
                mask=mask,
                syn_metric=_METRICS[options.metric],
                syn_sampling=_SAMPLING[options.metric],
                reg_iterations=options.iterations,
                grad_step=options.gradient_step,
                flow_sigma=options.smooth_update,
                total_sigma=options.smooth_total,
                random_seed=seed % 2**31 or 1,
            )
            fields = [path for path in found["fwdtransforms"] if path.endswith(".nii.gz")]
            warp = sitk.GetArrayFromImage(sitk.ReadImage(str(Path(fields[0]))))
        except Exception as error:  # whatever C++ throws
            raise RuntimeError(f"ANTs failed on this block: {error}") from None
    # Of a volume (z, y, x, 3); of a plane (y, x, 2).
    step = (
        itk_displacement(warp, pulled.grid.shape, pulled.axes)
        * np.c_[list(fixed_grid.spacing)][..., None, None]
    )
    similarity = _SIMILARITIES.get(options.metric, options.metric)
    return total_result(pulled, step, similarity, sum(options.iterations))


def backend_version() -> str:
    """Version of antspyx and of this module."""
    try:
        return f"{_VERSION}-antspyx-{version('antspyx')}"
    except PackageNotFoundError:
        raise ValueError(_ABSENT) from None


_ABSENT = (
    "backend ants needs the package antspyx, which is not installed; install it, or let Snakemake make its environment "
    "(envs/ants.yaml) with --sdm conda"
)


def _ants() -> Any:
    """antspyx, loaded on demand: that takes seconds."""
    # Read by ITK when it makes its first filter; more threads would change the order of sums.
    os.environ[_THREADS] = "1"
    try:
        import ants
    except ImportError:
        raise ValueError(_ABSENT) from None
    return ants
