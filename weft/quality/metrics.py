"""Likeness of images that are held as a whole, as published comparisons of registrations take it.

Arrays are (z, y, x); images that are compared lie on one grid. Sums run in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

Resample = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def ncc(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Normalised cross-correlation (Pearson's r) of two images, -1 to 1; NaN where one of them is constant.

    Parameters
    ----------
    a, b
        Images of one shape, any dtype.
    mask
        Voxels that count, bool; default all.
    """
    first, second = _voxels(a, b, mask)
    if first.size == 0:
        return float("nan")
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / scale) if scale > 0 else float("nan")


def mutual_information(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None, bins: int = 48) -> float:
    """Mutual information of two images in nats, from their joint histogram.

    Each image is first clipped at its 0.5 and 99.5 % quantiles inside the mask, so that a few bright voxels
    do not use up the bins.

    Parameters
    ----------
    a, b
        Images of one shape, any dtype.
    mask
        Voxels that count, bool; default all.
    bins
        Bins per image, equally wide.
    """
    first, second = _voxels(a, b, mask)
    if first.size == 0:
        return float("nan")
    first, second = (np.clip(v, *np.percentile(v, [0.5, 99.5])) for v in (first, second))
    joint = np.histogram2d(first, second, bins)[0]
    joint /= joint.sum()
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / apart[seen])).sum())


def atlas_scores(template: np.ndarray, warped: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """How like the template a warped sample is: ``{"ncc", "mi"}`` inside ``mask`` (annotation > 0).

    Both images are clipped to 0 and their own 99 % quantile (over the whole array) first, so that bright vessels or
    dirt do not decide.
    """
    first, second = (np.clip(v, 0, np.percentile(v, 99)) for v in (template, warped))
    return {"ncc": ncc(first, second, mask), "mi": mutual_information(first, second, mask)}


def band_pass(image: np.ndarray, fine: float = 1.5, coarse: float = 8.0) -> np.ndarray:
    """Difference of Gaussians of the logarithm of an image, float32, of unit standard deviation.

    The image is clipped at its 1 and 99.9 % quantiles before the logarithm; where the lower one is below 1,
    the image is lifted so that it becomes 1.

    Parameters
    ----------
    image
        (z, y, x), any dtype.
    fine, coarse
        Standard deviations of the two Gaussians, voxels.
    """
    image = np.asarray(image, np.float32)
    low, high = np.percentile(image, [1, 99.9])
    logarithm = np.log(np.clip(image, low, high) + max(0.0, 1.0 - low))
    band = gaussian_filter(logarithm, fine) - gaussian_filter(logarithm, coarse)
    spread = band.std(dtype=np.float64)
    return (band / spread).astype(np.float32) if spread > 0 else np.zeros_like(band)


def dog_ncc(fixed: np.ndarray, moving: np.ndarray, resample: Resample) -> tuple[float, float]:
    """NCC of the band-passed images, and the share of the fixed voxels that it was taken over.

    The moving image is filtered on its own grid and only then resampled, so that the border of the overlap
    makes no structure of its own.

    Parameters
    ----------
    fixed, moving
        Images on their own grids, any dtype.
    resample
        Takes an image on the moving grid, float32; gives it on the fixed grid, and where that is inside it (bool).

    Returns
    -------
    score, share
        NCC of `band_pass` images over the voxels inside; their share of all fixed voxels.
    """
    warped, inside = resample(band_pass(moving))
    return ncc(band_pass(fixed), warped, inside), float(np.mean(inside))


def _voxels(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a), np.asarray(b)
    _same_shape(a, b)
    if mask is not None:
        _same_shape(a, mask)
        a, b = a[mask], b[mask]
    return a.ravel().astype(np.float64), b.ravel().astype(np.float64)


def _same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"images to compare have the shapes {a.shape} and {b.shape}; wanted one shape")
