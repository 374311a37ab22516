"""Gains from statistics of many samples per place: mean, percentile, quantile regression."""

from __future__ import annotations

import numpy as np

from weft.illumination import basis
from weft.illumination.log_gain import Smooth
from weft.illumination.samples import Samples

# Pull of a coefficient towards zero, times its degree to the sixth power (as of a spline whose third derivatives
# cost): as much as so many blocks of mean brightness.
_RIDGE = 0.1
_ITERATIONS = 30


def mean(samples: Samples) -> Smooth:
    """The mean of all samples, as the exponential of a smooth function.

    A generalised linear model with logarithmic link whose variance is proportional to the mean (Wedderburn,
    Quasi-likelihood functions, 1974). It has no threshold that would have to tell tissue from the rest, so
    nothing biases it as long as content is equally likely at every place; sparse bright objects are what
    it is for. Half-empty tiles make it noisy.
    """
    plane = samples.signal.mean(0, dtype=float).ravel()
    terms = np.column_stack([np.ones(plane.size), _terms(samples)])
    level = max(plane.mean(), 1e-3)
    coefficients = np.zeros(terms.shape[1])
    coefficients[0] = np.log(level)
    ridge = np.diag(np.r_[0.0, basis.DEGREES**6]) * _RIDGE * level
    for _ in range(_ITERATIONS):
        expected = np.exp(np.clip(terms @ coefficients, -30, 30))
        working = terms @ coefficients + (plane - expected) / expected
        step = np.linalg.solve((terms.T * expected) @ terms + ridge, terms.T @ (expected * working))
        change = np.clip(step - coefficients, -1, 1)
        coefficients = coefficients + change
        if np.abs(change).max() < 1e-8:
            break
    return Smooth(np.round(coefficients[1:], 9))


def percentile(samples: Samples, percent: float) -> Smooth:
    """A percentile per place over the samples that hold any tissue, smoothed; 50 is the median.

    Right where every place of every sample holds tissue, and a high one where most do.
    """
    kept = samples.signal[samples.tissue.any((1, 2))]
    kept = kept if len(kept) else samples.signal
    plane = np.percentile(kept, percent, axis=0)
    terms = np.column_stack([np.ones(plane.size), _terms(samples)])
    target = np.log(np.maximum(plane, max(samples.noise, 1e-3))).ravel()
    return Smooth(np.round(np.linalg.lstsq(terms, target, rcond=None)[0][1:], 9))


def quantile_regression(samples: Samples) -> Smooth:
    """Sorted intensities of each place against those of the whole frame: slope = gain, offset = leftover dark.

    After CIDRE (Smith et al., CIDRE: an illumination-correction method for optical microscopy, Nature Methods
    2015), with gain and offset restricted to smooth functions and a Cauchy loss.
    """
    ordered = np.sort(samples.signal, axis=0).reshape(len(samples.signal), -1).astype(float)
    terms = np.column_stack([np.ones(ordered.shape[1]), _terms(samples)])
    orthogonal, _ = np.linalg.qr(terms)
    count = orthogonal.shape[1]
    slope, offset = np.ones(ordered.shape[1]), np.zeros(ordered.shape[1])
    weights = np.ones_like(ordered)
    for _ in range(8):
        level = (weights * slope * (ordered - offset)).sum(1) / (weights * slope**2).sum(1)
        residual = ordered - level[:, None] * slope - offset
        scale = 1.4826 * np.median(np.abs(residual), axis=1, keepdims=True) + max(samples.noise, 1e-3)
        # The variance grows with the level, as that of photons does.
        weights = 1 / (1 + (residual / (2 * scale)) ** 2)
        counted = weights / (np.abs(level) + 10 * max(samples.noise, 1e-3))[:, None]
        squared, linear, constant = (
            (orthogonal.T * (counted * level[:, None] ** power).sum(0)) @ orthogonal for power in (2, 1, 0)
        )
        matrix = np.block([[squared, linear], [linear, constant]])
        matrix += 1e-6 * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
        vector = np.r_[
            orthogonal.T @ (counted * level[:, None] * ordered).sum(0),
            orthogonal.T @ (counted * ordered).sum(0),
        ]
        found = np.linalg.solve(matrix, vector)
        slope, offset = orthogonal @ found[:count], orthogonal @ found[count:]
        slope = slope / slope.mean()
        tilt = slope - slope.mean()
        # What of the offset goes with the slope is light, not dark.
        offset = offset - (tilt @ offset) / max(tilt @ tilt, 1e-9) * tilt
    target = np.log(np.maximum(slope, 0.05))
    return Smooth(np.round(np.linalg.lstsq(terms, target, rcond=None)[0][1:], 9))


def _terms(samples: Samples) -> np.ndarray:
    terms = basis.evaluate(samples.y[:, None], samples.x[None], samples.shape)
    return terms.reshape(-1, terms.shape[-1])
