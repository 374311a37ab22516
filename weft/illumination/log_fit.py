"""Robust fits of the logarithm of the gain in smooth functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weft.illumination import basis
from weft.illumination.log_gain import Smooth
from weft.illumination.samples import Samples
from weft.illumination.seams import Seam

# Pull of a coefficient towards zero, relative to one group of equations, times its degree squared.
_RIDGE = 1e-2
# Weight of a group of equations of the samples relative to one seam: enough for what narrow seams leave open.
_SAMPLES_SHARE = 10.0
_ITERATIONS = 10
# Samples with less tissue than this say nothing.
_LEAST_TISSUE = 0.02


@dataclass(frozen=True)
class Equations:
    """Rows ``value = terms @ coefficients (+ level of the measurement)``, many measurements (n) of each of m rows."""

    values: np.ndarray  # (n, m)
    weights: np.ndarray  # (n, m)
    terms: np.ndarray  # (m, 27)
    levels: bool = False


def log_irls(samples: Samples, seams: Sequence[Seam]) -> Smooth:
    """log(signal) = log(gain) + one level per sample inside the tissue, and what seams say.

    Iteratively reweighted least squares with Cauchy weights (Holland and Welsch, Robust regression using
    iteratively reweighted least-squares, 1977). A *seam* compares the same content in two tiles:
    log(signal i) - log(signal j) = log gain(p_i) - log gain(p_j), whatever the content is.
    Every sample has its own level, so that neither bright tiles nor those that are half empty count for more.
    """
    ground = _level_equations(samples)
    return _solve([(_SAMPLES_SHARE, ground), *((1.0, seam_equations(s, samples.shape)) for s in seams)])


def gradients(samples: Samples, seams: Sequence[Seam]) -> Smooth:
    """As `log_irls`, with the differences of neighbouring blocks in place of levels.

    A difference holds the gain's gradient plus the content's; borders of regions are outliers to it, so that
    a sample may hold many regions of different brightness. Noisier than levels where it does not.
    """
    groups = [(_SAMPLES_SHARE, group) for group in _gradient_equations(samples)]
    return _solve([*groups, *((1.0, seam_equations(s, samples.shape)) for s in seams)])


def seam_equations(seam: Seam, shape: tuple[int, int]) -> Equations:
    """What a seam says of the coefficients."""
    yi, xi, yj, xj = seam.places
    terms = basis.evaluate(yi[:, None], xi[None], shape) - basis.evaluate(yj[:, None], xj[None], shape)
    n = len(seam.ratio)
    weights = seam.weight.reshape(n, -1).astype(np.float32)
    return Equations(seam.ratio.reshape(n, -1), weights, terms.reshape(-1, terms.shape[-1]))


def _level_equations(samples: Samples) -> Equations:
    tissue = samples.tissue.reshape(len(samples.tissue), -1)
    kept = tissue.mean(1) > _LEAST_TISSUE
    terms = basis.evaluate(samples.y[:, None], samples.x[None], samples.shape)
    logs = samples.log().reshape(tissue.shape)
    return Equations(
        logs[kept], tissue[kept].astype(np.float32), terms.reshape(-1, terms.shape[-1]), levels=True
    )


def _gradient_equations(samples: Samples) -> list[Equations]:
    """Differences of neighbouring blocks along y and along x."""
    logs, tissue = samples.log(), samples.tissue
    terms = basis.evaluate(samples.y[:, None], samples.x[None], samples.shape)
    groups = []
    for axis in (0, 1):
        values = np.diff(logs, axis=axis + 1)
        first, second = ((slice(None),) * (axis + 1) + (part,) for part in (slice(None, -1), slice(1, None)))
        weights = tissue[first] & tissue[second]
        rows = np.diff(terms, axis=axis)
        n = len(values)
        groups.append(
            Equations(
                values.reshape(n, -1),
                weights.reshape(n, -1).astype(np.float32),
                rows.reshape(-1, rows.shape[-1]),
            )
        )
    return groups


def _solve(groups: Sequence[tuple[float, Equations]]) -> Smooth:
    groups = [(importance, group) for importance, group in groups if group.weights.any()]
    coefficients: np.ndarray = np.zeros(len(basis.TERMS))
    for _ in range(_ITERATIONS):
        matrix: np.ndarray = np.diag(_RIDGE * basis.DEGREES**2)
        vector = np.zeros(len(basis.TERMS))
        for importance, group in groups:
            values, weights, scale = _reweigh(group, coefficients)
            # However many rows a group has, it counts by its importance and the inverse of its variance.
            share = importance / (group.weights.sum() * scale**2)
            total = weights.sum(0, dtype=float)
            matrix += share * (group.terms.T * total) @ group.terms
            vector += share * group.terms.T @ (weights * values).sum(0, dtype=float)
        # Rounded, so that the order in which a BLAS adds up leaves no trace.
        coefficients = np.round(np.linalg.solve(matrix, vector), 9)
    return Smooth(coefficients)


def _reweigh(group: Equations, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Values without their levels, Cauchy weights of the residuals, and their scale."""
    values = group.values
    residual = values - (group.terms @ coefficients).astype(np.float32)
    if group.levels:
        weights = group.weights
        for _ in range(2):  # the first mean is not robust, the second is
            level = (weights * residual).sum(1, keepdims=True) / (weights.sum(1, keepdims=True) + 1e-6)
            weights = group.weights / (
                1 + ((residual - level) / (2 * _spread(residual - level, group.weights))) ** 2
            )
        values, residual = values - level, residual - level
    scale = _spread(residual, group.weights)
    return values, group.weights / (1 + (residual / (2 * scale)) ** 2), scale


def _spread(residual: np.ndarray, weights: np.ndarray) -> float:
    """Standard deviation of the residuals that count, from the median magnitude of some 50,000."""
    step = max(1, round(residual.size / 50_000))
    some, counts = residual.ravel()[::step], weights.ravel()[::step] > 0
    if not counts.any():
        some, counts = residual.ravel(), weights.ravel() > 0
    return 1.4826 * float(np.median(np.abs(some[counts]))) + 1e-4
