"""The demons backend: SimpleITK's fast symmetric forces for one block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from weft.grid import Grid
from weft.pyramid import downsample
from weft.registration.backends.pulled import (
    Pulled,
    check_iterations,
    check_positive,
    pull_block,
    settings_of,
    total_result,
    unchanged,
)
from weft.registration.contract import Initial, Masks, Result
from weft.registration.itk_image import itk_displacement, itk_image
from weft.transforms.interpolate import resample_field

own_process = True  # a crash of the engine must not end the job
_VERSION = "1"  # of this module's own results
_FEWEST = 8  # voxels along an axis: coarser levels are left out
_BINS, _MATCHES = 256, 16  # of the histograms, and how many of their quantiles are matched


@dataclass(frozen=True)
class DemonsSettings:
    """Settings of the backend.

    Parameters
    ----------
    iterations
        Per level, coarsest first; the last entry is the block's own resolution, each before it half of the
        next one's. Levels of fewer than 8 voxels along an axis are left out.
    smoothing
        Standard deviation of the Gaussian that smooths the field after every step, voxels of the level.
    match_histograms
        Give the moving image the values of the fixed one first: demons compare the values themselves.
    """

    iterations: tuple[int, ...] = (60, 40, 20)
    smoothing: float = 1.0
    match_histograms: bool = True

    def __post_init__(self) -> None:
        check_iterations(self, "demons")
        check_positive(self, "demons", "smoothing")


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
    """Register a block by demons with fast symmetric forces (Vercauteren et al. 2007) on top of the start.

    The moving block is resampled through the start onto the fixed block's grid; demons find d on it, level
    by level, and the total is u(x) = d(x) + u0(x + d(x)). Fit for images of one modality and brightness. A single plane is
    registered in its plane.

    Parameters
    ----------
    fixed, fixed_grid, moving, moving_grid, initial, masks
        As `weft.registration.contract.Backend`.
    settings
        Names and values of `DemonsSettings`.
    seed
        Not used: nothing is drawn at random.

    Returns
    -------
    Result
        Total displacements on ``fixed_grid.coarsen((2, 2, 2))``; the similarity is the correlation before and after.

    Raises
    ------
    ValueError
        When a setting is not known or not valid, or an array does not fit its grid.
    """
    options = settings_of(DemonsSettings, "demons", settings)
    pulled = pull_block(fixed, fixed_grid, moving, moving_grid, initial, masks)
    if pulled.empty:
        return unchanged(pulled)
    target, source = _comparable(pulled, options.match_histograms)
    # In voxels of the block: the forces then do not depend on the unit.
    voxels = Grid(fixed_grid.shape, (1.0, 1.0, 1.0))
    field: np.ndarray | None = None
    field_grid: Grid | None = None
    for n, iterations in enumerate(options.iterations):
        factor = 2 ** (len(options.iterations) - 1 - n)
        z, y, x = (min(factor, n) for n in voxels.shape)
        factors = (z, y, x)
        grid = voxels.coarsen(factors)
        if iterations == 0 or (factor > 1 and min(grid.shape[axis] for axis in pulled.axes) < _FEWEST):
            continue
        start = None if field is None or field_grid is None else resample_field(field, field_grid, grid)
        field = _demons(
            *(downsample(image, factors) if factor > 1 else image for image in (target, source)),
            grid=grid,
            axes=pulled.axes,
            start=start,
            iterations=iterations,
            smoothing=options.smoothing,
        )
        field_grid = grid
    if field is None or field_grid is None:
        return unchanged(pulled)
    step = resample_field(field, field_grid, voxels) * np.c_[list(fixed_grid.spacing)][..., None, None]
    return total_result(pulled, step, "correlation", sum(options.iterations))


def backend_version() -> str:
    """Version of SimpleITK and of this module."""
    return f"{_VERSION}-simpleitk-{sitk.Version.VersionString()}"


def _comparable(pulled: Pulled, match: bool) -> tuple[np.ndarray, np.ndarray]:
    """Fixed and moving values, scaled alike; alike where one of them does not count, so that nothing pulls there."""
    common = pulled.wanted & pulled.covered
    values = pulled.fixed[common]
    centre, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    target = (pulled.fixed - np.float32(centre)) / np.float32(deviation)
    seen = (pulled.seen - pulled.seen[common].mean(dtype=np.float64)) / pulled.seen[common].std(
        dtype=np.float64
    )
    if match:
        matched = sitk.HistogramMatching(
            sitk.GetImageFromArray(seen.astype(np.float32)),
            sitk.GetImageFromArray(target),
            _BINS,
            _MATCHES,
            False,
        )
        seen = sitk.GetArrayFromImage(matched)
    return target, np.where(common, seen, target).astype(np.float32)


def _demons(
    target: np.ndarray,
    source: np.ndarray,
    *,
    grid: Grid,
    axes: list[int],
    start: np.ndarray | None,
    iterations: int,
    smoothing: float,
) -> np.ndarray:
    """One level: (3, z, y, x) float32, voxels of the block, on the level's grid."""
    method = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    method.SetNumberOfThreads(1)
    method.SetNumberOfIterations(iterations)
    method.SetSmoothDisplacementField(True)
    method.SetStandardDeviations(smoothing)
    method.SetSmoothUpdateField(False)
    images = [itk_image(image.squeeze(), grid, axes) for image in (target, source)]
    if start is not None:
        vectors = np.moveaxis(start[axes[::-1]], 0, -1).astype(np.float64)
        images.append(itk_image(vectors.reshape(*images[0].GetSize()[::-1], -1), grid, axes, vectors=True))
    return itk_displacement(sitk.GetArrayFromImage(method.Execute(*images)), grid.shape, axes)
