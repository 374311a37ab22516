"""Smooth functions of the camera plane, in which the logarithm of a gain is written."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import legendre

DEGREE = 6
TERMS = [(p, q) for p in range(DEGREE + 1) for q in range(DEGREE + 1 - p) if p + q > 0]
DEGREES = np.array([p + q for p, q in TERMS], float)
# Root mean square of each term over the frame.
SIZES = np.array([((2 * p + 1) * (2 * q + 1)) ** -0.5 for p, q in TERMS])


def evaluate(y: np.ndarray, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Legendre products of total degree 1 ... 6 (no constant), (..., 27) float64.

    ``y`` and ``x`` are places on the camera, pixels (broadcast against each other); ``shape`` its (y, x).
    """
    lines = _lines(y, x, shape, DEGREE)
    return np.stack([lines[0][..., p] * lines[1][..., q] for p, q in TERMS], -1)


def polynomials(y: np.ndarray, x: np.ndarray, shape: tuple[int, int], degree: int) -> np.ndarray:
    """Legendre products of total degree 0 ... ``degree``, the constant first."""
    lines = _lines(y, x, shape, degree)
    terms = [(p, q) for p in range(degree + 1) for q in range(degree + 1 - p)]
    return np.stack([lines[0][..., p] * lines[1][..., q] for p, q in terms], -1)


def _lines(y: np.ndarray, x: np.ndarray, shape: tuple[int, int], degree: int) -> list[np.ndarray]:
    return [
        legendre.legvander((2 * np.asarray(v, float) + 1) / n - 1, degree)
        for v, n in zip((y, x), shape, strict=True)
    ]
