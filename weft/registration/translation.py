"""Masked normalised cross-correlation over all translations at once."""

from __future__ import annotations

import numpy as np
from scipy.fft import irfftn, next_fast_len, rfftn

_VARIANCE_FLOOR = 1e-4  # of the largest product of deviations: below it float32 sums are rounding noise
_STEP = 4  # voxels: lengths that differ by less share the fixed image's spectra
_Shape = tuple[int, ...]


class TranslationSearch:
    """NCC of a fixed image with moving images at every whole-voxel shift (Padfield 2012).

    Only voxels inside both masks count. The spectra of the fixed image are kept, so that many rotated
    and scaled versions of a moving image can be tried against it.

    Parameters
    ----------
    fixed
        (z, y, x) float32.
    fixed_mask
        (z, y, x) bool.
    min_overlap
        Least number of common voxels, as a share of the smaller mask; other shifts are not considered.
    """

    def __init__(self, fixed: np.ndarray, fixed_mask: np.ndarray, min_overlap: float) -> None:
        self._box = _occupied(fixed_mask)
        self._mask = fixed_mask[self._box].astype(np.float32)
        self._image = fixed[self._box].astype(np.float32) * self._mask
        self._voxels = float(np.count_nonzero(fixed_mask))
        self._min_overlap = min_overlap
        self._spectra: dict[_Shape, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def __call__(
        self, moving: np.ndarray, moving_mask: np.ndarray, peaks: int = 1, distance: int = 3
    ) -> list[tuple[float, np.ndarray]]:
        """The best shifts of a moving image.

        Parameters
        ----------
        moving
            (z, y, x) float32, any shape, same voxel size as the fixed image.
        moving_mask
            (z, y, x) bool.
        peaks
            How many shifts are wanted at most.
        distance
            Peaks lie more than this many voxels apart on some axis.

        Returns
        -------
        list of (float, ndarray)
            Score and shift d, (3,) int64 voxels, best first: ``fixed[i]`` goes with ``moving[i - d]``. The score is
            the NCC times the root of the overlap (the share of the smaller mask that is covered): the chance
            correlation of few voxels is as much larger as it is made smaller.
            Empty when no shift has enough overlap.
        """
        box = _occupied(moving_mask)
        mask = moving_mask[box].astype(np.float32)
        image = moving[box].astype(np.float32) * mask
        smaller = min(self._voxels, float(mask.sum()))
        ranges = _possible_shifts(self._mask, mask, self._min_overlap * smaller)
        if ranges is None:
            return []
        score = self._scores(image, mask, smaller, ranges)
        origin = np.array([first for first, _ in ranges]) + _corner(self._box) - _corner(box)
        found: list[tuple[float, np.ndarray]] = []
        for _ in range(peaks):
            place = np.unravel_index(int(score.argmax()), score.shape)
            best = float(score[place])
            if best <= -1:
                break
            found.append((best, np.array(place) + origin))
            score[tuple(slice(max(i - distance, 0), i + distance + 1) for i in place)] = -1
        return found

    def _scores(
        self, image: np.ndarray, mask: np.ndarray, smaller: float, ranges: list[tuple[int, int]]
    ) -> np.ndarray:
        """Score of every shift of the ranges; -1 where the overlap or the variance is too small."""
        # So long that none of the other shifts, which come round as these do, is taken for one of them.
        lengths = tuple(
            n if n == 1 else next_fast_len(-(-n // _STEP) * _STEP, real=True)
            for n in (
                max(a, b, a - first, last + b)
                for a, b, (first, last) in zip(self._mask.shape, mask.shape, ranges, strict=True)
            )
        )
        wanted = np.ix_(
            *[np.arange(first, last + 1) % n for n, (first, last) in zip(lengths, ranges, strict=True)]
        )
        fixed_ones, fixed_sum, fixed_squares = self._fixed_spectra(lengths)
        ones, values, squares = (np.conj(rfftn(a, lengths)) for a in (mask, image, image * image))

        def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return irfftn(a * b, lengths)[wanted]

        count = np.maximum(correlate(fixed_ones, ones), 0.5)
        sum_fixed = correlate(fixed_sum, ones)
        sum_moving = correlate(fixed_ones, values)
        covariance = correlate(fixed_sum, values) - sum_fixed * sum_moving / count
        variance_fixed = np.maximum(correlate(fixed_squares, ones) - sum_fixed**2 / count, 0)
        variance_moving = np.maximum(correlate(fixed_ones, squares) - sum_moving**2 / count, 0)
        deviations = np.sqrt(variance_fixed * variance_moving)
        enough = count > self._min_overlap * smaller
        valid = enough & (deviations > _VARIANCE_FLOOR * deviations.max())
        ncc = covariance / np.maximum(deviations, 1e-12)
        share = np.minimum(count / smaller, 1.0)
        return np.where(valid, ncc * np.sqrt(share), -1).astype(np.float32)

    def _fixed_spectra(self, lengths: _Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Spectra of the fixed mask, image and squared image."""
        if lengths not in self._spectra:
            self._spectra[lengths] = (
                rfftn(self._mask, lengths),
                rfftn(self._image, lengths),
                rfftn(self._image**2, lengths),
            )
        return self._spectra[lengths]


def _occupied(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds a mask; empty where the mask is."""
    others = [tuple(k for k in range(mask.ndim) if k != axis) for axis in range(mask.ndim)]
    planes = [np.flatnonzero(mask.any(axis=axes)) for axes in others]
    return tuple(slice(int(p[0]), int(p[-1]) + 1) if len(p) else slice(0, 0) for p in planes)


def _corner(box: tuple[slice, ...]) -> np.ndarray:
    return np.array([side.start for side in box])


def _possible_shifts(fixed: np.ndarray, moving: np.ndarray, needed: float) -> list[tuple[int, int]] | None:
    """First and last shift d along each axis at which two masks may have more than so many voxels in common.

    ``fixed[i]`` goes with ``moving[i - d]``: two planes that meet have no more voxels in common than the emptier of them
    holds. None where no shift will do.
    """
    ranges = []
    for axis in range(fixed.ndim):
        others = tuple(k for k in range(fixed.ndim) if k != axis)
        here, there = fixed.sum(axis=others), moving.sum(axis=others)
        if not len(here) or not len(there):
            return None
        around = len(there) - 1
        meeting = np.lib.stride_tricks.sliding_window_view(np.pad(here, around), len(there))
        enough = np.flatnonzero(np.minimum(meeting, there).sum(axis=1) > needed)
        if not len(enough):
            return None
        ranges.append((int(enough[0]) - around, int(enough[-1]) - around))
    return ranges
