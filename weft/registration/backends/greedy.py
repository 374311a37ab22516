"""The greedy backend: picsl-greedy's diffeomorphic registration for one block."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from weft.grid import Grid
from weft.registration.backends.pulled import (
    check_iterations,
    check_positive,
    filled,
    pull_block,
    settings_of,
    total_result,
    unchanged,
)
from weft.registration.contract import Initial, Masks, Result
from weft.registration.itk_image import itk_displacement, itk_image

own_process = True  # a crash of the engine must not end the job
_VERSION = "2"  # of this module's own results
_METRICS = {
    "local_correlation": "NCC",
    "mutual_information": "MI",
}
_MILLIMETRE = 1e-3  # um to mm, the unit that greedy expects
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class GreedySettings:
    """Settings of the backend.

    Parameters
    ----------
    metric
        ``local_correlation`` (in windows of 5 voxels) or ``mutual_information``.
    iterations
        Per level, coarsest first; the last entry is the block's own resolution. 0 there costs a quarter of
        the time and little accuracy on large blocks; on blocks of 40 voxels 10 to 20 are worth it.
    smooth_update
        Standard deviation of the Gaussian that smooths every step, voxels.
    smooth_total
        Standard deviation of the Gaussian that smooths the whole field after every step, voxels. Below 0.5
        fields fold.
    """

    metric: str = "local_correlation"
    iterations: tuple[int, ...] = (60, 20, 0)
    smooth_update: float = 3.0
    smooth_total: float = 0.5

    def __post_init__(self) -> None:
        if self.metric not in _METRICS:
            raise ValueError(f"greedy: metric is {self.metric!r}; wanted one of {', '.join(_METRICS)}")
        check_iterations(self, "greedy")
        check_positive(self, "greedy", "smooth_update", "smooth_total")


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
    """Register a block by greedy's composed steps (Yushkevich et al. 2016) on top of the start transform.

    Started from an affine alone, greedy interpolates the moving block once, through the affine; with a
    start field, the moving block is resampled through the start and greedy finds d on it:
    u(x) = d(x) + u0(x + d(x)). Without the noise that greedy adds by default, the same arguments give
    the same bytes. A single plane is registered in its plane. greedy holds Python's global lock, and has a process
    of its own for each thread.

    Parameters
    ----------
    fixed, fixed_grid, moving, moving_grid, initial, masks
        As `weft.registration.contract.Backend`.
    settings
        Names and values of `GreedySettings`.
    seed
        Not used: nothing is drawn at random.

    Returns
    -------
    Result
        Total displacements on ``fixed_grid.coarsen((2, 2, 2))``; the similarity is the mean square of the local
        correlation, or the mutual information turned into a correlation, before and after.

    Raises
    ------
    ValueError
        When a setting is not known or not valid, an array does not fit its grid, or picsl-greedy is not
        installed.
    RuntimeError
        When greedy fails on this block.
    """
    options = settings_of(GreedySettings, "greedy", settings)
    dimensions = sum(n > 1 for n in fixed_grid.shape)
    greedy = _greedy(dimensions)
    pulled = pull_block(fixed, fixed_grid, moving, moving_grid, initial, masks)
    if pulled.empty:
        return unchanged(pulled)
    axes = pulled.axes
    images = {"f": _image(pulled.fixed, fixed_grid, axes)}
    radius = f" {'x'.join('2' * dimensions)}" if options.metric == "local_correlation" else ""
    command = [
        "-threads 1 -V 0 -i f m -o w -noise 0 -wp 0",
        f"-m {_METRICS[options.metric]}{radius}",
        f"-n {'x'.join(str(n) for n in options.iterations)}",
        f"-s {options.smooth_update:g}vox {options.smooth_total:g}vox",
    ]
    affine_alone = initial.field is None and dimensions == 3
    if affine_alone:
        moving_mask, mask_grid = masks[1], moving_grid
        values = filled(moving, moving_mask)
        images["m"] = _image(values, moving_grid, axes)
        # Beyond its border, as under a mask, the moving image goes on with its mean. Were nothing compared there (NaN),
        # the field would flee across the border to where nothing counts.
        command.append(f"-bg {values.mean(dtype=np.float64):.9g}")
    else:
        images["m"] = _image(pulled.seen, fixed_grid, axes)
        moving_mask, mask_grid = (None if pulled.covered.all() else pulled.covered), fixed_grid
    for option, mask, grid in (("gm", masks[0], fixed_grid), ("mm", moving_mask, mask_grid)):
        if mask is not None:
            images[option] = _image(mask, grid, axes)
            command.append(f"-{option} {option}")
    with tempfile.TemporaryDirectory(prefix="weft-greedy-") as folder, open(os.devnull, "w") as nowhere:
        if affine_alone:
            path = Path(folder) / "affine.mat"
            np.savetxt(path, _ras_matrix(initial.affine), fmt="%.17g")
            command.append(f"-it {path}")
        try:
            greedy.execute(" ".join(command), out=nowhere, err=nowhere, w=None, **images)
        except Exception as error:  # whatever C++ throws
            raise RuntimeError(f"greedy failed on this block: {error}") from None
    # (z, y, x, 3) mm along LPS x, y, z, which are our axes turned round; of a plane (y, x, 2).
    warp = sitk.GetArrayFromImage(greedy["w"])
    step = itk_displacement(warp / _MILLIMETRE, pulled.grid.shape, pulled.axes)
    return total_result(pulled, step, options.metric, sum(options.iterations))


def backend_version() -> str:
    """Version of picsl-greedy and of this module."""
    try:
        return f"{_VERSION}-picsl-greedy-{version('picsl-greedy')}"
    except PackageNotFoundError:
        raise ValueError(_ABSENT) from None


_ABSENT = "backend greedy needs the package picsl-greedy, which is not installed"


def _greedy(dimensions: int) -> Any:
    """A new session of greedy: it holds the images of one call by their names."""
    try:
        from picsl_greedy import Greedy2D, Greedy3D
    except ImportError:
        raise ValueError(_ABSENT) from None
    return Greedy2D() if dimensions == 2 else Greedy3D()


def _image(array: np.ndarray, grid: Grid, axes: list[int]) -> sitk.Image:
    """An ITK image, float32, mm, with these axes of the grid."""
    values = np.asarray(array, np.float32).reshape([grid.shape[axis] for axis in axes])
    return itk_image(values, grid, axes, unit=_MILLIMETRE)


def _ras_matrix(affine: np.ndarray) -> np.ndarray:
    """An affine of (z, y, x) um as greedy's matrix files hold it: (x, y, z) mm, RAS."""
    matrix = affine[[2, 1, 0, 3]][:, [2, 1, 0, 3]].copy()
    matrix[:3, 3] *= _MILLIMETRE
    return _RAS_TO_LPS @ matrix @ _RAS_TO_LPS
