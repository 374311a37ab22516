"""What backends share that see the moving block resampled through the start: masks, similarity, the total field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from scipy.ndimage import map_coordinates, uniform_filter

from weft.grid import Grid
from weft.registration.contract import Initial, Masks, Result
from weft.registration.pull import physical_points, pull
from weft.transforms.interpolate import resample_field, sample_field

FEWEST_VOXELS = 1000
BINS = 32  # of the histograms of mutual information
WINDOW = 5  # voxels: the cube in which a local correlation is taken
NOISE_FLOOR = 1e-3  # share of an image's variance that is added to that of a window

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Pulled:
    """A block whose moving image is seen through the start transform.

    Parameters
    ----------
    fixed, seen
        (z, y, x) float32 on the fixed block's grid; the mean of the image where it does not count.
    wanted, covered
        (z, y, x) bool: where the fixed and where the moving image counts.
    grid
        The fixed block's grid.
    initial
        The start transform.
    """

    fixed: np.ndarray
    seen: np.ndarray
    wanted: np.ndarray
    covered: np.ndarray
    grid: Grid
    initial: Initial

    @property
    def axes(self) -> list[int]:
        """The axes of more than one voxel: a single plane is registered in its plane."""
        return [axis for axis in range(3) if self.grid.shape[axis] > 1]

    @property
    def empty(self) -> bool:
        """Whether there is too little, or nothing but one value, to compare."""
        common = self.wanted & self.covered
        if np.count_nonzero(common) < FEWEST_VOXELS:
            return True
        return not (np.ptp(self.fixed[common]) and np.ptp(self.seen[common]))


def pull_block(
    fixed: np.ndarray,
    fixed_grid: Grid,
    moving: np.ndarray,
    moving_grid: Grid,
    initial: Initial,
    masks: Masks,
) -> Pulled:
    """Resample the moving block through the start onto the fixed block's grid.

    Raises
    ------
    ValueError
        When an array does not fit its grid.
    """
    _check(fixed, fixed_grid, masks[0], "fixed")
    _check(moving, moving_grid, masks[1], "moving")
    masks = (None if masks[0] is None else masks[0] > 0, None if masks[1] is None else masks[1] > 0)
    seen, covered = pull(moving, moving_grid, masks[1], initial, fixed_grid)
    wanted = np.ones(fixed_grid.shape, bool) if masks[0] is None else masks[0]
    # Filters smooth across masks and histograms span whole images: nothing foreign may be left there.
    return Pulled(filled(fixed, wanted), filled(seen, covered), wanted, covered, fixed_grid, initial)


def unchanged(pulled: Pulled) -> Result:
    """The start as it is, for a block that holds nothing to compare."""
    grid = pulled.grid.coarsen((2, 2, 2))
    return _result(_compose(np.zeros((3, *grid.shape)), grid, pulled.initial), grid)


def total_result(
    pulled: Pulled,
    step: np.ndarray,
    metric: str,
    iterations: int,
) -> Result:
    """The result of a step on top of the start: u(x) = d(x) + u0(x + d(x)).

    Parameters
    ----------
    step
        d, (3, z, y, x) um, on the fixed block's grid.
    metric
        Similarity that is measured before and after: ``correlation``, ``mutual_information`` (turned into a
        correlation) or ``local_correlation`` (mean square over windows of 5 voxels).
    iterations
        At most so many were made.

    Returns
    -------
    Total displacements on ``grid.coarsen((2, 2, 2))``.
    """
    grid = pulled.grid.coarsen((2, 2, 2))
    coarse_step = resample_field(np.asarray(step, np.float32), pulled.grid, grid)
    before, after = _similarity(metric, pulled, step / np.c_[list(pulled.grid.spacing)][..., None, None])
    return _result(_compose(coarse_step, grid, pulled.initial), grid, iterations, before, after)


def filled(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """An image, (z, y, x), as float32, with its mean where the mask (None: everywhere true) is false."""
    values = np.asarray(values, np.float32)
    if mask is None or mask.all() or not mask.any():
        return values
    return np.where(mask, values, values[mask].mean(dtype=np.float64)).astype(np.float32)


def settings_of(kind: type[Settings], backend: str, settings: Mapping[str, Any]) -> Settings:
    """A dataclass of settings from plain names and values.

    Raises
    ------
    ValueError
        For an unknown name, or a value that the dataclass refuses.
    """
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(f"{backend}: unknown setting {unknown[0]!r}; known are {', '.join(known)}")
    return kind(**settings)


def check_positive(settings: Any, backend: str, *names: str) -> None:
    """Refuse settings that are not above 0.

    Raises
    ------
    ValueError
        For the first of these names whose value is not above 0.
    """
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{backend}: {name} is {getattr(settings, name)}; wanted a positive number")


def check_iterations(settings: Any, backend: str) -> None:
    """Make the setting ``iterations`` a tuple, and refuse one that is no list of counts.

    Raises
    ------
    ValueError
        When it is empty, holds a negative number, or nothing but zeros.
    """
    value = settings.iterations
    steps = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not steps or not all(isinstance(n, int) and n >= 0 for n in steps) or not any(steps):
        raise ValueError(
            f"{backend}: iterations is {value!r}; wanted counts of 0 or more, one per level, coarsest first"
        )
    object.__setattr__(settings, "iterations", steps)


def _check(array: np.ndarray, grid: Grid, mask: np.ndarray | None, name: str) -> None:
    """Refuse arrays that do not fit their grids."""
    if array.shape != grid.shape:
        raise ValueError(f"the {name} block is of shape {array.shape}, but its grid of shape {grid.shape}")
    if mask is not None and mask.shape != grid.shape:
        raise ValueError(f"the {name} mask is of shape {mask.shape}; wanted {grid.shape}, the block's")


def _compose(step: np.ndarray, grid: Grid, initial: Initial) -> np.ndarray:
    """Total displacements u(x) = d(x) + u0(x + d(x)), (3, z, y, x) float32 um."""
    if initial.field is None or initial.field_grid is None:
        return step.astype(np.float32)
    points = physical_points(grid) + step.reshape(3, -1)
    start = sample_field(initial.field, initial.field_grid, points.T).T.reshape(step.shape)
    return (step + start).astype(np.float32)


def _similarity(metric: str, pulled: Pulled, step: np.ndarray) -> tuple[float, float]:
    """Similarity before and after a step, (3, z, y, x) voxels, over the voxels valid in both."""
    index = np.indices(pulled.grid.shape, dtype=np.float64) + step
    after = map_coordinates(pulled.seen, index, order=1, mode="nearest")
    arrived = map_coordinates(pulled.covered.astype(np.float32), index, order=1, mode="constant") > 0.999
    valid = pulled.wanted & pulled.covered & arrived
    if np.count_nonzero(valid) < 2:
        return 0.0, 0.0
    if metric == "local_correlation":
        return (
            _local_correlation(pulled.fixed, pulled.seen, valid),
            _local_correlation(pulled.fixed, after, valid),
        )
    measure = _correlation if metric == "correlation" else _information
    return measure(pulled.fixed[valid], pulled.seen[valid]), measure(pulled.fixed[valid], after[valid])


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two lists of values; 0 when one is constant."""
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    deviations = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / deviations if deviations > 0 else 0.0


def _information(a: np.ndarray, b: np.ndarray) -> float:
    """Mutual information as a correlation: sqrt(1 - exp(-2 MI)), 0 to 1 (Linfoot 1957)."""
    joint, _, _ = np.histogram2d(a, b, BINS)
    joint /= joint.sum()
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    found = joint > 0
    information = float((joint[found] * np.log(joint[found] / apart[found])).sum())
    return float(np.sqrt(max(0.0, 1 - np.exp(-2 * information))))


def _local_correlation(a: np.ndarray, b: np.ndarray, valid: np.ndarray) -> float:
    """Mean over the valid voxels of the square of the correlation in the window around each."""

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, WINDOW, mode="constant")

    share = np.maximum(mean(valid.astype(np.float64)), 1e-9)
    # Around the mean, so that the variances below are no differences of large numbers.
    a = np.where(valid, a - a[valid].mean(dtype=np.float64), 0)
    b = np.where(valid, b - b[valid].mean(dtype=np.float64), 0)
    mean_a, mean_b = mean(a) / share, mean(b) / share
    shared = mean(a * b) / share - mean_a * mean_b
    variances = []
    for image, centre in ((a, mean_a), (b, mean_b)):
        floor = NOISE_FLOOR * float((image[valid] ** 2).mean()) + 1e-12
        variances.append(np.maximum(mean(image * image) / share - centre * centre, 0) + floor)
    return float((shared * shared / (variances[0] * variances[1]))[valid].mean())


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
    )
