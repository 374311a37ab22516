"""What a tile shows where nothing is: dark and stray light, read off the empty parts of the tiles themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from weft.illumination import basis

# Blocks within this many standard deviations of the background belong to it ...
_NEAR = 2.5
# ... and are this many times as many as those in a band of the same width above it, or there is none.
_STANDS_OUT = 2.0
# They are no less than this part of all blocks, and lie in no fewer than this part of the frame's 8 x 8 fields.
_LEAST, _LEAST_COVER = 0.02, 0.75
_DEGREE = 4
_FIELDS = 8


@dataclass(frozen=True)
class Background:
    """A smooth plane that the empty parts of the tiles lie on.

    Parameters
    ----------
    coefficients
        Of `basis.polynomials` of degree 4, the constant first; counts.
    noise
        Standard deviation of a block about it.
    share
        Part of all blocks that belongs to it.
    """

    coefficients: np.ndarray
    noise: float
    share: float

    def at(self, y: np.ndarray, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Its value at places on the camera (pixels, broadcast against each other)."""
        return basis.polynomials(y, x, shape, _DEGREE) @ self.coefficients


def find_background(
    values: np.ndarray, y: np.ndarray, x: np.ndarray, shape: tuple[int, int]
) -> Background | None:
    """The plane that the dimmest blocks of all tiles share, where there is one.

    A smooth plane is laid below the blocks, then fitted to those within the noise of it. It is a
    background only when it is a mode: many blocks lie on it and few just above it, in all parts of the frame.
    Tissue that fills every tile has a darkest place too, but no such gap above it.

    Parameters
    ----------
    values
        Block means of raw slabs, (n, h, w), counts.
    y, x
        Centres of the blocks, pixels, (h,) and (w,).
    shape
        Of a tile, (y, x).
    """
    smooth = ndimage.uniform_filter(values, (0, 3, 3), mode="nearest").reshape(len(values), -1)
    flat = values.reshape(len(values), -1)
    noise = _block_noise(values)
    if noise <= 0:
        return None
    terms = basis.polynomials(y[:, None], x[None], shape, _DEGREE).reshape(flat.shape[1], -1)
    coefficients = _below(smooth.min(0).astype(float), terms)
    for _ in range(4):
        near = np.abs(smooth - terms @ coefficients) < _NEAR * noise
        count = near.sum(0)
        if count.sum() < _LEAST * near.size:
            return None
        mean = np.where(near, flat, 0).sum(0, dtype=float) / np.maximum(count, 1)
        matrix = (terms.T * count) @ terms + 1e-6 * count.sum() * np.eye(terms.shape[1])
        coefficients = np.linalg.solve(matrix, terms.T @ (count * mean))
    above = (smooth - terms @ coefficients) / noise
    near, next_to = np.abs(above) < _NEAR, (above >= _NEAR) & (above < 3 * _NEAR)
    covered = near.any(0).reshape(len(y), len(x))
    fields = [
        part.any()
        for rows in np.array_split(covered, min(_FIELDS, len(y)))
        for part in np.array_split(rows, min(_FIELDS, len(x)), 1)
    ]
    stands_out = near.sum() > _STANDS_OUT * next_to.sum()
    if not stands_out or near.mean() < _LEAST or np.mean(fields) < _LEAST_COVER:
        return None
    return Background(np.round(coefficients, 6), noise, float(near.mean()))


def _block_noise(values: np.ndarray) -> float:
    """Noise of a block, from neighbours among the dimmest tenth."""
    steps = np.abs(np.diff(values, axis=-1))
    dim = values[:, :, 1:] <= np.quantile(values, 0.1)
    return 1.4826 * float(np.median(steps[dim])) / 2**0.5 if dim.any() else 0.0


def _below(lowest: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Coefficients of a smooth plane through the lowest value of each block; those high above count little."""
    weights = np.ones(len(lowest))
    for _ in range(8):
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(terms * root[:, None], lowest * root, rcond=None)[0]
        residual = lowest - terms @ coefficients
        scale = 1.4826 * float(np.median(np.abs(residual))) + 1e-6
        weights = 1 / (1 + (np.where(residual > 0, residual, residual / 3) / scale) ** 2)
    return coefficients
