"""Unfold: smooth a displacement field where it folds, and only there."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from weft.grid import Grid
from weft.transforms.jacobian import smallest_determinant

REACH = 3  # samples around a fold that are smoothed with it


def unfold(
    u: np.ndarray, grid: Grid, *, threshold: float = 0.02, iterations: int = 20
) -> tuple[np.ndarray, int, int]:
    """Smooth a displacement field around its folds until none is left.

    Parameters
    ----------
    u
        (3, z, y, x) float32, um, components z, y, x.
    grid
        Where its samples lie.
    threshold
        A sample is folded where the smallest determinant of the cells around it is not above this.
    iterations
        At most so many passes; the smoothed neighbourhood grows with each.

    Returns
    -------
    u, folded, left
        The new field, (3, z, y, x) float32 um (the old one's values away from folds); how many samples were
        folded, and how many still are.
    """
    u = np.array(u, np.float32)
    folded = _folds(u, grid, threshold)
    count = left = int(folded.sum())
    for i in range(iterations):
        if left == 0:
            break
        reach = REACH + i // 2
        for box in ndimage.find_objects(ndimage.label(ndimage.binary_dilation(folded, iterations=reach))[0]):
            wide = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in box)
            weight = ndimage.gaussian_filter(
                ndimage.binary_dilation(folded[wide], iterations=reach).astype(np.float32), 1.0, truncate=4
            )
            for component in u[(slice(None), *wide)]:
                component += weight * (ndimage.gaussian_filter(component, 1.5, mode="nearest") - component)
        folded = _folds(u, grid, threshold)
        left = int(folded.sum())
    return u, count, left


def _folds(u: np.ndarray, grid: Grid, threshold: float) -> np.ndarray:
    return smallest_determinant(u, grid) <= threshold
