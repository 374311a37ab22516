"""The affine of a block: what is tried when its deformable registration failed."""

from __future__ import annotations

import numpy as np

from weft.grid import Grid
from weft.registration.contract import Initial, Masks, Result
from weft.registration.features import Feature, finite, local_normalisation, log_intensity
from weft.registration.pull import physical_points, pull
from weft.registration.refine import AffineRefiner
from weft.sampling import resample, stage_grid
from weft.transforms.interpolate import sample_field

LONGEST_AXIS = 40  # voxels of the features' longer axis: an affine has 12 numbers, and needs no more
WINDOW = 6.0  # standard deviation of the local normalisation, voxels of the features
ITERATIONS = 15
FEWEST = 500  # voxels of a feature that can tell anything
LEAST_CORRELATION = 0.2  # below it an affine may have been fitted to noise


def register_block_affine(
    fixed: np.ndarray,
    fixed_grid: Grid,
    moving: np.ndarray,
    moving_grid: Grid,
    initial: Initial,
    masks: Masks = (None, None),
) -> Result:
    """An affine correction of a block on top of the start transform.

    The moving block is resampled through the start; both are normalised locally; M is refined from the
    identity (`weft.registration.refine`), and the total is u(x) = M x - x + u0(M x).

    Parameters
    ----------
    fixed, fixed_grid, moving, moving_grid, initial, masks
        As `weft.registration.contract.Backend`.

    Returns
    -------
    Result
        Total displacements on ``fixed_grid.coarsen((2, 2, 2))``; the similarity is the correlation of the
        features, 0 before and after where there is too little to compare or nothing that fits: then
        the start is unchanged.
    """
    grid = fixed_grid.coarsen((2, 2, 2))
    counts, moving_counts = (None if mask is None else np.asarray(mask) > 0 for mask in masks)
    seen, covered = pull(moving, moving_grid, moving_counts, initial, fixed_grid)
    matrix, before, after = np.eye(4), 0.0, 0.0
    if np.count_nonzero(covered) >= FEWEST and np.ptp(fixed) > 0 and np.ptp(seen[covered]) > 0:
        spacing = max(max(fixed_grid.extent) / LONGEST_AXIS, max(fixed_grid.spacing))
        one = _feature(fixed, counts, fixed_grid, spacing)
        other = _feature(seen, covered, fixed_grid, spacing)
        if min(np.count_nonzero(one.mask), np.count_nonzero(other.mask)) >= FEWEST:
            refiner = AffineRefiner(one, other)
            start = refiner.measure(matrix)
            # At a given start, the overlap's own slope would shift the result.
            fit = refiner.run(matrix, iterations=ITERATIONS, overlap_power=0.0)
            if fit.ncc >= LEAST_CORRELATION:
                matrix, before, after = fit.matrix, start.ncc, fit.ncc
    points = physical_points(grid)
    moved = matrix[:3, :3] @ points + matrix[:3, 3:]
    step = moved - points
    if initial.field is not None and initial.field_grid is not None:
        step = step + sample_field(initial.field, initial.field_grid, moved.T).T
    u = step.reshape(3, *grid.shape).astype(np.float32)
    return Result(u, grid, [], ITERATIONS, before, after)


def _feature(array: np.ndarray, covered: np.ndarray | None, grid: Grid, spacing: float) -> Feature:
    """A block, locally normalised where it is covered. A block has no background to be told from tissue."""
    level_grid = stage_grid(grid, spacing)
    level = resample(log_intensity(finite(np.asarray(array, np.float32))), grid, level_grid)
    if covered is None:
        mask = np.ones(level.shape, bool)
    else:
        mask = resample(covered, grid, level_grid) > 0.99
    if not mask.any():
        return Feature(np.zeros(level.shape, np.float32), mask, level_grid)
    return Feature(local_normalisation(level, mask, WINDOW), mask, level_grid)
