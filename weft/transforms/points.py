"""Points through a transform: those outside its domain are flagged, never moved by a guess."""

from __future__ import annotations

from typing import Any

import numpy as np

from weft.grid import Grid
from weft.transforms.model import Sequence, as_points

# Of how far an image reaches from the origin: points that are all nearer to it are in other units, as in millimetres.
CLOSEST = 1 / 500
MANY = 3  # points that tell


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


def check_micrometres(points: np.ndarray, grid: Grid, what: str) -> None:
    """Refuse points that are in millimetres, as it seems: all of them lie beside the origin of their space.

    Parameters
    ----------
    points
        (n, 3) um, (z, y, x). One or two say nothing.
    grid
        The image in whose space they are wanted.
    what
        What the error begins with: the file, and the points.

    Raises
    ------
    ValueError
        When all points lie within 1/500 of the way from the origin to the image's farthest face.
    """
    reach = float(np.abs([grid.lower, grid.upper]).max())
    if len(points) < MANY or (farthest := float(np.abs(points).max())) > CLOSEST * reach:
        return
    raise ValueError(
        f"{what} lie within {farthest:.3g} um of the origin, and the image reaches {reach:.4g} um from there; "
        "wanted micrometres: are they millimetres?"
    )
