"""Find the shift of one band-passed volume on another: windowed phase correlation, then uphill on the NCC."""

from __future__ import annotations

import itertools

import numpy as np
import scipy.fft
from scipy import ndimage

from weft.links.kernels import ncc_at
from weft.links.model import LinkSettings
from weft.pyramid import downsample

_STEPS = np.array([step for step in itertools.product((-1, 0, 1), repeat=3) if sum(map(abs, step)) == 1])

# Search at half resolution along axes that are long enough to have plenty of voxels left.
_BIN_FROM = 48

# A rival peak of less than this part of the best one's significance rests on too few voxels to count.
_SLIVER = 0.6


def search(
    a: np.ndarray,
    b: np.ndarray,
    center: np.ndarray,
    window: np.ndarray,
    settings: LinkSettings,
    *,
    binned: bool = True,
) -> tuple[np.ndarray | None, np.ndarray | None, float]:
    """The best shift inside a window, its best rival, and the ratio of their NCCs.

    Parameters
    ----------
    a, b
        Band-passed volumes, float32 (z, y, x). A shift is where voxel 0 of ``b`` lies in ``a``.
    center, window
        Middle and half-width of the window, (3,) voxels.
    settings
        How many peaks are looked at, and how many voxels must be shared.
    binned
        Bin long axes by two first: an eighth of the work for one voxel of accuracy.

    Returns
    -------
    shift, rival : ndarray of int or None
        Whole voxels; no shift when none shares enough voxels, no rival when no other peak counts.
    ratio : float
        NCC of the rival by that of the shift, 0 to 1; 1 when nothing correlates.
    """
    long = (np.minimum(a.shape, b.shape) >= _BIN_FROM) & (window >= 4)
    factors = np.where(long & binned, 2, 1)
    if (factors > 1).any():
        a, b = downsample(a, tuple(factors)), downsample(b, tuple(factors))
    center, window = center / factors, window / factors
    low, high = np.floor(center - window).astype(int), np.ceil(center + window).astype(int)
    shape = [
        scipy.fft.next_fast_len(int(max(p, q) + max(abs(lo), abs(hi))), real=True)
        for p, q, lo, hi in zip(a.shape, b.shape, low, high, strict=True)
    ]
    spectrum = scipy.fft.rfftn(a, shape) * np.conj(scipy.fft.rfftn(b, shape))
    magnitude = np.abs(spectrum)
    spectrum /= magnitude + 1e-6 * magnitude.max()
    correlation = scipy.fft.irfftn(spectrum, shape)
    allowed = [np.arange(lo, hi + 1) for lo, hi in zip(low, high, strict=True)]
    correlation = correlation[np.ix_(*(g % n for g, n in zip(allowed, shape, strict=True)))]
    tops = np.argwhere(ndimage.maximum_filter(correlation, 5) == correlation)
    order = np.argsort(-correlation[tuple(tops.T)], kind="stable")[: settings.peaks]
    least = settings.min_shared * min(a.size, b.size)
    scored = []
    for top in tops[order]:
        shift = top + low
        ncc, shared = ncc_at(a, b, shift)
        if shared >= least:
            scored.append((_significance(ncc, shared), ncc, shift))
    if not scored:
        return None, None, 1.0
    _, best, shift = max(scored, key=lambda entry: entry[0])
    if best <= 0:
        return shift * factors, None, 1.0
    summit, best = climb(a, b, shift, least)
    height = _significance(best, ncc_at(a, b, summit)[1])
    rival, ratio = None, 0.0
    for _, _, start in scored:
        # A shoulder of the best peak (as along an edge) leads up to it; what stays apart is a rival,
        # unless its NCC rests on a sliver.
        other, ncc = climb(a, b, start, least)
        apart = np.abs(other - summit).max() > 2 and (other >= low).all() and (other <= high).all()
        if apart and ncc / best > ratio and _significance(ncc, ncc_at(a, b, other)[1]) > _SLIVER * height:
            rival, ratio = other * factors, min(1.0, float(ncc / best))
    return summit * factors, rival, ratio


def _significance(ncc: float, shared: int) -> float:
    """Fisher's z of a correlation over so many voxels, up to a constant: a high NCC of few is worth less."""
    return float(np.arctanh(np.clip(ncc, -0.999, 0.999)) * np.sqrt(shared))


def climb(a, b, shift, least: float, limit: int = 12) -> tuple[np.ndarray, float]:
    """Follow the NCC uphill, one voxel along one axis at a time, where ``least`` voxels are shared."""

    def height(place) -> float:
        ncc, shared = ncc_at(a, b, np.array(place))
        return ncc if shared >= least else -1.0

    seen = {tuple(shift): height(shift)}
    for _ in range(limit):
        around = [tuple(shift + step) for step in _STEPS]
        for place in around:
            if place not in seen:
                seen[place] = height(place)
        best = max(around, key=seen.__getitem__)
        if seen[best] <= seen[tuple(shift)]:
            break
        shift = np.array(best)
    return shift, seen[tuple(shift)]


def parabola(a: np.ndarray, b: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, float]:
    """Sub-voxel part of the peak, (3,), from the NCC one voxel to either side, and the NCC at its top."""
    ncc = ncc_at(a, b, shift)[0]
    part, top = np.zeros(3), ncc
    for axis in range(3):
        step = np.zeros(3, int)
        step[axis] = 1
        before, after = ncc_at(a, b, shift - step)[0], ncc_at(a, b, shift + step)[0]
        curvature = before - 2 * ncc + after
        if curvature < 0 and a.shape[axis] > 2:
            part[axis] = np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)
            top -= 0.25 * (before - after) * part[axis]
    return part, float(top)
