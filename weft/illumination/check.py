"""Checks of a gain that need no truth: the shading it leaves on tiles and overlaps that it was not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from weft.illumination.log_gain import LogGain, Smooth
from weft.illumination.samples import Samples
from weft.illumination.seams import Seam

Estimator = Callable[[Samples, Sequence[Seam]], LogGain]


def held_out_shading(
    fit: Estimator, samples: Samples, seams: Sequence[Seam], kept: np.ndarray | None
) -> tuple[float, float]:
    """RMS log shading of held-out tiles, before and after the correction fitted to the others; two folds.

    The shading of tiles is the gain that they ask for by themselves.
    """
    owners = np.unique(samples.tile)
    part = np.isin(samples.tile, owners[::2]) if len(owners) > 1 else np.arange(len(samples.tile)) % 2 == 0
    y, x = (np.linspace(0, n - 1, 32) for n in samples.shape)
    planes = []
    for fold, chosen in enumerate((part, ~part)):
        found = fit(samples.part(chosen), seams[fold::2])
        wanted = found.at(y[:, None], x[None], samples.shape)
        used = found if kept is None or not isinstance(found, Smooth) else Smooth(found.coefficients * kept)
        planes.append((wanted, used.at(y[:, None], x[None], samples.shape)))
    before = np.mean([wanted.var() for wanted, _ in planes])
    after = np.mean([(planes[k][0] - planes[1 - k][1]).var() for k in (0, 1)])
    return float(np.sqrt(before)), float(np.sqrt(after))


def held_out_seams(fit: Estimator, samples: Samples, seams: Sequence[Seam]) -> tuple[float, float]:
    """RMS log ratio of the same content in two tiles, before and after a correction that did not see that seam."""
    before, after = [], []
    for fold in (0, 1):
        found = fit(samples, seams[1 - fold :: 2])
        for held in seams[fold::2]:
            before.append(seam_shading(held, None, samples.shape))
            after.append(seam_shading(held, found, samples.shape))
    return float(np.sqrt(np.mean(before))), float(np.sqrt(np.mean(after)))


def seam_shading(seam: Seam, log_gain: LogGain | None, shape: tuple[int, int]) -> float:
    """Mean square of the log ratio per block, each the median over the slabs."""
    residual = seam.ratio
    if log_gain is not None:
        yi, xi, yj, xj = seam.places
        there = log_gain.at(yi[:, None], xi[None], shape) - log_gain.at(yj[:, None], xj[None], shape)
        residual = residual - there.astype(np.float32)
    count = seam.weight.sum(0)
    seen = count > 0.25 * count.max()
    middle = np.ma.median(np.ma.masked_array(residual, seam.weight == 0), axis=0).filled(0)
    return float(np.mean(middle[seen] ** 2))
