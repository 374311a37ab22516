"""What the affine start compares: isotropic levels, tissue masks, locally normalised images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter, label

from weft.grid import Grid
from weft.sampling import resample

_ACCEPTED_TISSUE = (0.002, 0.90)  # a mask outside this share of the field says nothing
_ONE_PIECE = 0.4  # nor does one whose largest piece has a smaller share of it: cells, not a specimen
_SOLID = (
    0.45  # nor one that keeps less without its outermost voxels: cells that touch. A thin slab keeps half
)
_HISTOGRAM_BINS = 256
_DECADES = 1e2  # the logarithm resolves this range below the brightest voxels, whatever the camera's gain


@dataclass(frozen=True)
class Feature:
    """An image made comparable: structure without brightness and shading.

    Parameters
    ----------
    image
        (z, y, x) float32, about zero mean and unit deviation in any neighbourhood; 0 outside the mask.
    mask
        (z, y, x) bool, where the image counts.
    grid
        Where its voxels lie, um, isotropic (in the plane, of a single plane).
    """

    image: np.ndarray
    mask: np.ndarray
    grid: Grid

    @property
    def volume(self) -> float:
        """Volume of the mask, um^3."""
        return float(np.count_nonzero(self.mask) * np.prod(self.grid.spacing))

    @property
    def longest(self) -> float:
        """Length, um, of the longest side of the box that holds all but a hundredth of the mask on either side."""
        sides: list[float] = []
        for axis in range(3):
            share = np.cumsum(self._profile(axis)) / np.count_nonzero(self.mask)
            inside = int(np.count_nonzero((share > 0.01) & (share < 0.99))) + 1
            sides.append(min(inside, len(share)) * self.grid.spacing[axis])
        return max(sides)

    @property
    def centroid(self) -> np.ndarray:
        """Centre of mass of the mask, (3,) um."""
        counts = [self._profile(axis) for axis in range(3)]
        index = [float(np.arange(len(count)) @ count / count.sum()) for count in counts]
        return self.grid.to_physical(np.array(index))

    def _profile(self, axis: int) -> np.ndarray:
        """Voxels of the mask in every plane along an axis."""
        return self.mask.sum(axis=tuple(a for a in range(3) if a != axis))


def local_feature(
    array: np.ndarray, grid: Grid, spacing: float, window: float, counts: np.ndarray | None = None
) -> Feature:
    """The feature of an image at one resolution.

    Antialiased isotropic level, logarithm, clipping at 99.5 % of the tissue, local normalisation in the
    tissue mask.

    Parameters
    ----------
    array
        (z, y, x), any real dtype; NaN and infinities count as 0.
    grid
        Its grid, um.
    spacing
        Voxel size of the feature, um.
    window
        Standard deviation of the Gaussian window of the local normalisation, um.
    counts
        (z, y, x) bool, where the image counts; None: everywhere.
    """
    if counts is not None:
        # What does not count must reach neither its neighbours nor the scale of the logarithm.
        array = np.where(counts, array, finite(array)[counts].mean(dtype=np.float64))
    # Isotropic even where that is finer than the voxels: rotations and similarities are such in voxels too.
    level_grid = grid.resample((grid.spacing[0], spacing, spacing) if grid.shape[0] == 1 else spacing)
    level = log_intensity(resample(finite(array), grid, level_grid))
    seen = np.ones(level.shape, bool) if counts is None else resample(counts, grid, level_grid) > 0.5
    mask = tissue_mask(level, seen)
    clipped = np.minimum(level, np.percentile(level[mask], 99.5))
    return Feature(local_normalisation(clipped, mask, window / spacing), mask, level_grid)


def finite(array: np.ndarray) -> np.ndarray:
    """An image, (z, y, x), of any real dtype, with 0 for NaN and infinities."""
    if np.issubdtype(array.dtype, np.integer) or np.isfinite(array).all():
        return array
    return np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)


def log_intensity(array: np.ndarray) -> np.ndarray:
    """Logarithm of an image, (z, y, x) float32: 0 for the darkest voxel, the same for any gain and offset."""
    array = np.asarray(array, np.float32)
    lowest = float(array.min())
    scale = float(np.percentile(array, 99.9)) - lowest
    return np.log1p((array - lowest) * np.float32(_DECADES / max(scale, 1e-12)))


def tissue_mask(logarithm: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Where tissue is: Otsu's threshold of the smoothed logarithm of an image.

    Parameters
    ----------
    logarithm
        (z, y, x) float32, as `log_intensity` gives it.
    counts
        (z, y, x) bool, where the image counts; None: everywhere.

    Returns
    -------
    ndarray
        (z, y, x) bool. All that counts when the threshold would leave less than 0.2 % or more than 90 % of the field,
        or scattered or touching cells: then the image has no background to be told from tissue.
    """
    field = np.ones(logarithm.shape, bool) if counts is None or not counts.any() else counts
    smooth = gaussian_filter(logarithm, 1.0, mode="nearest")
    mask = (smooth > otsu_threshold(smooth[field])) & field
    low, high = _ACCEPTED_TISSUE
    if low <= np.count_nonzero(mask) / np.count_nonzero(field) <= high:
        share = np.bincount(label(mask)[0].ravel())[1:].max() / np.count_nonzero(mask)
        if share >= _ONE_PIECE and _solidity(mask) >= _SOLID:
            return mask
    return field


def _solidity(mask: np.ndarray) -> float:
    """Share of a mask that is left without its outermost voxels, faces of the field and of planes not counted."""
    inner = binary_erosion(mask[0] if len(mask) == 1 else mask, border_value=1)
    return float(np.count_nonzero(inner) / np.count_nonzero(mask))


def otsu_threshold(array: np.ndarray) -> float:
    """The value that best splits a histogram in two (Otsu 1979: largest variance between the classes)."""
    counts, edges = np.histogram(array, _HISTOGRAM_BINS)
    centres = 0.5 * (edges[1:] + edges[:-1])
    below = np.cumsum(counts)[:-1].astype(float)
    above = counts.sum() - below
    sum_below = np.cumsum(counts * centres)[:-1]
    mean_below = sum_below / np.maximum(below, 1)
    mean_above = ((counts * centres).sum() - sum_below) / np.maximum(above, 1)
    return float(edges[1 + np.argmax(below * above * (mean_below - mean_above) ** 2)])


def local_normalisation(
    array: np.ndarray, mask: np.ndarray, sigma: float, epsilon: float = 0.15
) -> np.ndarray:
    """Subtract the local mean and divide by the local deviation, inside a mask.

    Means are normalised convolutions (Knutsson and Westin 1993): voxels outside the mask do not count.

    Parameters
    ----------
    array
        (z, y, x) float32.
    mask
        (z, y, x) bool.
    sigma
        Standard deviation of the Gaussian window, voxels.
    epsilon
        Share of the whole mask's deviation added to the local one: keeps flat places from becoming noise.

    Returns
    -------
    ndarray
        (z, y, x) float32; 0 outside the mask.
    """

    def smooth(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, sigma, mode="constant", truncate=3.0)

    weight = mask.astype(np.float32)
    # Around the mask's mean, so that the variance below is no difference of large numbers.
    centred = (array - array[mask].mean(dtype=np.float64)).astype(np.float32) * weight
    total = np.maximum(smooth(weight), 1e-4)
    mean = smooth(centred) / total
    deviation = np.sqrt(np.maximum(smooth(centred * centred) / total - mean * mean, 0))
    floor = epsilon * float(centred[mask].std(dtype=np.float64)) + 1e-9
    return np.where(mask, (centred - mean) / (deviation + floor), 0).astype(np.float32)
