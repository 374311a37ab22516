"""Points through a transform: those outside its domain are flagged, never moved by a guess."""

from __future__ import annotations

from typing import Any

import numpy as np

from weft.transforms.model import Sequence, as_points


def warp_points(points: Any, transform: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Map points through a transform.

    Parameters
    ----------
    points
        (n, 3) um, (z, y, x), in the transform's input space. Points of the moving image need the inverse.
    transform
        The map.

    Returns
    -------
    warped, inside
        (n, 3) float64 um in the output space, NaN where the point (or its way) leaves the grid of a
        displacement field; and (n,) bool, False there.

    Raises
    ------
    ValueError
        When points are not of shape (n, 3).
    """
    points = as_points(points)
    inside = transform.inside(points)
    warped = np.full(points.shape, np.nan)
    warped[inside] = transform.apply(points[inside])
    return warped, inside
