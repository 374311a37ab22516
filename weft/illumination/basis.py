"""Smooth functions of the camera plane, in which the logarithm of a gain is written."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import legendre

DEGREE = 6
TERMS = [(p, q) for p in range(DEGREE + 1) for q in range(DEGREE + 1 - p) if p + q > 0]


def evaluate(y: np.ndarray, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Legendre products of total degree 1 ... 6 (no constant), (..., 27) float64.

    ``y`` and ``x`` are places on the camera, pixels (broadcast against each other); ``shape`` its (y, x).
    """
    lines = [
        legendre.legvander((2 * np.asarray(v, float) + 1) / n - 1, DEGREE)
        for v, n in zip((y, x), shape, strict=True)
    ]
    return np.stack([lines[0][..., p] * lines[1][..., q] for p, q in TERMS], -1)


def gain_plane(coefficients: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The gain, float32 (y, x) of mean 1, whose logarithm has these coefficients."""
    plane = np.empty(shape)
    for y in range(shape[0]):
        plane[y] = evaluate(np.array(y), np.arange(shape[1]), shape) @ coefficients
    gain = np.exp(plane - plane.mean())
    return (gain / gain.mean()).astype(np.float32)
