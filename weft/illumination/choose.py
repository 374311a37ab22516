"""How sure an estimate of the gain is, told by the tiles themselves; and which estimator to believe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weft.illumination import basis
from weft.illumination.basic import basic
from weft.illumination.check import Estimator, held_out_seams
from weft.illumination.log_fit import gradients, log_irls
from weft.illumination.log_gain import LogGain, Smooth
from weft.illumination.n4 import n4_mean
from weft.illumination.samples import Samples
from weft.illumination.seams import Seam, Shared, seams_of
from weft.illumination.statistics import mean, percentile, quantile_regression

# Parts of the tiles that are left out one after the other.
_PARTS = 8
# Degrees whose share of agreement is taken together; a lamp has less of the later ones than of the earlier.
_BANDS = ((1,), (2,), (3, 4), (5, 6))
# Estimators whose residual on held-out seams is within this factor of the least are as good.
_AS_GOOD = 1.1
# A difference whose square is this many times what scatter explains is bias.
_SIGNIFICANT = 4.0
# Tiles that are enough for their layout to average out of the mean: a small mosaic has its tissue in the middle.
_ENOUGH_TILES = 12
# Seams that say enough to choose by.
_ENOUGH_SEAMS = 4


@dataclass(frozen=True)
class Estimate:
    """A gain with what is known of its error.

    Parameters
    ----------
    method
        Name of the estimator.
    log_gain
        The estimate; of smooth ones, what the tiles agree on.
    kept
        By coefficient, the part of the estimate that was kept (27,); None of those that have none.
    error
        RMS error of the log gain expected from the scatter among tiles, and from its difference to the mean's
        estimate beyond what scatter explains.
    """

    method: str
    log_gain: LogGain
    kept: np.ndarray | None
    error: float | None


def estimators(percent: float) -> dict[str, Estimator]:
    """The estimators by their names in the settings."""
    return {
        "log_irls": log_irls,
        "gradients": gradients,
        "quantile": lambda samples, seams: quantile_regression(samples),
        "mean": lambda samples, seams: mean(samples),
        "median": lambda samples, seams: percentile(samples, 50),
        "percentile": lambda samples, seams: percentile(samples, percent),
        "n4": lambda samples, seams: n4_mean(samples),
        "basic": lambda samples, seams: basic(samples),
    }


# What `choose` chooses from: each is right where another is not.
CANDIDATES = ("log_irls", "gradients", "quantile", "mean")


def estimate(method: str, fit: Estimator, samples: Samples, seams: Sequence[Seam], seed: int) -> Estimate:
    """One estimator's gain; a smooth one is shrunk to what the tiles agree on."""
    found = fit(samples, seams)
    if not isinstance(found, Smooth):
        return Estimate(method, found, None, None)
    variance = _jackknife_variance(_replicates(fit, samples, seams, seed))
    kept = _agreed(found.coefficients, variance)
    return Estimate(method, Smooth(found.coefficients * kept), kept, _rms(variance * kept))


def with_or_without_background(samples: Samples, shared: Sequence[Shared]) -> tuple[Samples, list[Seam]]:
    """Samples and seams without what was taken for a background, or with it where overlaps agree better then.

    A background may be light that the camera or the lamp adds everywhere, which has to go, or dim content, which the
    lamp shades as it does any other: seams tell, by the part of their unevenness that `gradients` leaves on those
    that it did not see. Where seams are few, it goes.
    """
    seams = seams_of(shared, samples)
    if samples.background is None or len(seams) < _ENOUGH_SEAMS:
        return samples, seams
    whole = samples.with_background()
    others = seams_of(shared, whole)
    left = []
    for drawn, found in ((samples, seams), (whole, others)):
        before, after = held_out_seams(gradients, drawn, found)
        left.append(after / max(before, 1e-9))
    return (samples, seams) if left[0] <= left[1] else (whole, others)


def choose(samples: Samples, seams: Sequence[Seam], seed: int) -> tuple[Estimate, dict[str, float]]:
    """The estimator with the least expected error, and the expected errors of all candidates (RMS, log gain).

    The variance of an estimate comes from a delete-a-group jackknife over tiles. Its bias comes from a test of
    specification (Hausman, Econometrica 1978): the mean of all samples is noisy but assumes least (where there are
    enough seams, or too few tiles for a mean, `gradients` assumes less), so what an estimate significantly differs from it, beyond the jackknife's scatter of that difference, is counted as its bias. Where there are
    enough seams, only estimators count that leave held-out seams about as flat as the best does.
    """
    fits = estimators(50)
    found, scatter = {}, {}
    for name in CANDIDATES:
        smooth = fits[name](samples, seams)
        assert isinstance(smooth, Smooth)
        found[name], scatter[name] = smooth.coefficients, _replicates(fits[name], samples, seams, seed)
    variance = {name: _jackknife_variance(scatter[name]) for name in CANDIDATES}
    kept = {name: _agreed(found[name], variance[name]) for name in CANDIDATES}
    few = len(np.unique(samples.tile)) < _ENOUGH_TILES
    reference = "gradients" if few or len(seams) >= _ENOUGH_SEAMS else "mean"
    trusted = kept[reference]  # the test looks at no more than the reference knows
    errors = {}
    for name in CANDIDATES:
        apart = _power((found[name] - found[reference]) * trusted)
        expected = _rms(_jackknife_variance(scatter[name] - scatter[reference]) * trusted**2) ** 2
        bias = apart - expected if apart > _SIGNIFICANT * expected else 0.0
        errors[name] = float(np.sqrt(bias + _rms(variance[name] * kept[name]) ** 2))
        if not found[name].any():  # nothing to fit to
            errors[name] = max(errors[name], float(np.sqrt(_power(found["mean"]))))
    allowed = set(CANDIDATES)
    if len(seams) >= _ENOUGH_SEAMS:
        left = {name: held_out_seams(fits[name], samples, seams)[1] for name in CANDIDATES}
        allowed = {name for name in CANDIDATES if left[name] <= _AS_GOOD * min(left.values())}
    best = min(sorted(allowed, key=CANDIDATES.index), key=lambda name: errors[name])
    gain = Smooth(found[best] * kept[best])
    return Estimate(best, gain, kept[best], errors[best]), {k: round(v, 6) for k, v in errors.items()}


def _replicates(fit: Estimator, samples: Samples, seams: Sequence[Seam], seed: int) -> np.ndarray:
    """Coefficients with one part of the tiles (of the samples, where tiles are few) left out, (parts, 27)."""
    owners = np.unique(samples.tile)
    units = np.searchsorted(owners, samples.tile) if len(owners) >= _PARTS else np.arange(len(samples.tile))
    count = int(units.max()) + 1
    parts = min(_PARTS, count)
    part = np.random.default_rng(seed).permutation(count)[units] % parts
    if parts < 2:
        return np.zeros((1, len(basis.TERMS)))
    left = [fit(samples.part(part != k), seams) for k in range(parts)]
    return np.array([value.coefficients for value in left if isinstance(value, Smooth)])


def _jackknife_variance(replicates: np.ndarray) -> np.ndarray:
    """Variance of each coefficient (Tukey's jackknife)."""
    parts = len(replicates)
    return (parts - 1) / parts * ((replicates - replicates.mean(0)) ** 2).sum(0)


def _agreed(coefficients: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """The part of each coefficient to keep: by band of degrees, signal / (signal + scatter), as James and Stein shrink."""
    kept, bound = np.ones(len(coefficients)), 1.0
    for band in _BANDS:
        members = np.isin(basis.DEGREES, band)
        power = _power(coefficients * members)
        scatter = _rms(variance * members) ** 2
        share = max(0.0, 1 - scatter / power) if power > 0 else 0.0
        if band[0] > 2:
            bound = share = min(share, bound)
        kept[members] = share
    return np.round(kept, 9)


def _power(coefficients: np.ndarray) -> float:
    """Mean square over the frame of the function with these coefficients (its terms are orthogonal)."""
    return float(((coefficients * basis.SIZES) ** 2).sum())


def _rms(variance: np.ndarray) -> float:
    return float(np.sqrt((variance * basis.SIZES**2).sum()))
