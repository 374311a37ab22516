"""The elastix backend: any list of parameter maps, run by itk-elastix on one block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.grid import Grid
from weft.registration.backends.pulled import (
    check_positive,
    pull_block,
    settings_of,
    total_result,
    unchanged,
)
from weft.registration.contract import Initial, Masks, Result
from weft.registration.elastix_maps import ParameterMap, given_map, own_map, read_parameter_file, steps_of
from weft.registration.itk_elastix import elastix_version, run_elastix

# Of the process that has loaded elastix for all blocks of a job, with a worker forked from it.
engine_mb = 950
_VERSION = "2"  # of this module's own results
_METRICS = {
    "mutual_information": "AdvancedMattesMutualInformation",
    "correlation": "AdvancedNormalizedCorrelation",
}
_TRANSFORMS = {
    "rigid": "EulerTransform",
    "similarity": "SimilarityTransform",
    "affine": "AffineTransform",
    "bspline": "BSplineTransform",
}


@dataclass(frozen=True)
class ElastixSettings:
    """Settings of the backend.

    Parameters
    ----------
    parameter_maps
        What runs, one on top of the other: ``rigid``, ``similarity``, ``affine``, ``bspline`` (weft's own maps, made of the
        settings below), an elastix parameter file (relative to ``data_root``), or a map of elastix' names and values.
    metric
        ``mutual_information`` or ``correlation``: of weft's own maps, and of what is measured before and after.
    control_spacing
        Distance of the control points of ``bspline`` at the last level, voxels; doubled on each coarser one.
    levels
        Resolutions of weft's own maps.
    iterations
        Per level of weft's own maps.
    samples
        Voxels drawn in each iteration of weft's own maps.
    unit
        Size, um, of a unit of length in files and maps: 1000 where they are written for mm; None: the block's finest voxel
        edge.
    timeout
        Seconds after which a block is given up; None: never.
    """

    parameter_maps: tuple[str | Mapping[str, Any], ...] = ("bspline",)
    metric: str = "mutual_information"
    control_spacing: float = 12.0
    levels: int = 4
    iterations: int = 250
    samples: int = 4096
    unit: float | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.metric not in _METRICS:
            raise ValueError(f"elastix: metric is {self.metric!r}; wanted one of {', '.join(_METRICS)}")
        check_positive(self, "elastix", "control_spacing", "levels", "iterations", "samples")
        if self.unit is not None:
            check_positive(self, "elastix", "unit")
        maps = self.parameter_maps
        if not isinstance(maps, (list, tuple)) or not maps:
            raise ValueError(
                f"elastix: parameter_maps is {maps!r}; wanted a list of {', '.join(_TRANSFORMS)}, files and maps"
            )
        for item in maps:
            if isinstance(item, Mapping):
                given_map(item)
            elif not isinstance(item, str):
                raise ValueError(f"elastix: parameter_maps holds {item!r}; wanted a name, a file or a map")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ElastixSettings:
        """Settings from plain names and values; unknown names are refused."""
        return settings_of(cls, "elastix", settings)

    @classmethod
    def with_files(cls, settings: Mapping[str, Any], path: Callable[[str], str]) -> dict[str, Any]:
        """Settings with the contents of the parameter files that they name, so that these are in the name of a result.

        Parameters
        ----------
        settings
            Names and values.
        path
            Where a file lies that is named.

        Raises
        ------
        ValueError
            When a file is not there, or is no parameter file.
        """
        maps = [
            read_parameter_file(path(item)) if isinstance(item, str) and item not in _TRANSFORMS else item
            for item in settings.get("parameter_maps", ())
        ]
        return {**settings, "parameter_maps": maps} if maps else dict(settings)

    @property
    def maps(self) -> list[ParameterMap]:
        """The parameter maps for elastix."""
        return [self._map(item) for item in self.parameter_maps]

    def _map(self, item: str | Mapping[str, Any]) -> ParameterMap:
        if isinstance(item, Mapping):
            return given_map(item)
        if item not in _TRANSFORMS:
            return read_parameter_file(item)
        transform = _TRANSFORMS[item]
        found = own_map(
            transform,
            _METRICS[self.metric],
            levels=self.levels,
            iterations=self.iterations,
            samples=self.samples,
        )
        if item == "bspline":
            found["FinalGridSpacingInVoxels"] = [str(float(self.control_spacing))]
        return found


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
    """Register a block by elastix (Klein et al. 2010) on top of the start transform: by default a B-spline.

    The moving block is resampled through the start onto the fixed block's grid; elastix finds d on it, and
    the total is u(x) = d(x) + u0(x + d(x)). What elastix draws at random depends on `seed` alone, and it has one
    thread of another process: the same arguments give the same bytes. A single plane is
    registered in its plane.

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
    maps = options.maps
    pulled = pull_block(fixed, fixed_grid, moving, moving_grid, initial, masks)
    if pulled.empty:
        return unchanged(pulled)
    # elastix' step lengths go by the voxels' size: that is about 1 whatever the unit of the images.
    unit = options.unit or fixed_grid.finest
    # With nothing to leave out elastix is told of no masks: looking them up costs time.
    _, found = run_elastix(
        pulled.fixed,
        pulled.seen,
        (
            None if pulled.wanted.all() else pulled.wanted,
            None if pulled.covered.all() else pulled.covered,
        ),
        maps,
        seed,
        options.timeout,
        spacing=tuple(s / unit for s in fixed_grid.spacing),
        displacement=True,
    )
    assert found is not None
    return total_result(pulled, found * np.float32(unit), options.metric, steps_of(maps))


def backend_version() -> str:
    """Version of itk-elastix and of this module."""
    return f"{_VERSION}-itk-elastix-{elastix_version()}"
