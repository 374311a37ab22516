"""Masked normalised cross-correlation over all translations at once."""

from __future__ import annotations

import numpy as np
from scipy.fft import irfftn, next_fast_len, rfftn

_VARIANCE_FLOOR = 1e-4  # of the largest product of deviations: below it float32 sums are rounding noise
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
        self._mask = fixed_mask.astype(np.float32)
        self._image = fixed.astype(np.float32) * self._mask
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
        # Lengths in steps of 8 let candidates of nearly the same size share the fixed image's spectra. Planes stay planes.
        reach = [a + b - 1 for a, b in zip(self._image.shape, moving.shape, strict=True)]
        lengths = tuple(n if n == 1 else next_fast_len(-(-n // 8) * 8, real=True) for n in reach)
        score = self._scores(moving, moving_mask, lengths)
        found: list[tuple[float, np.ndarray]] = []
        for _ in range(peaks):
            place = np.unravel_index(int(score.argmax()), score.shape)
            best = float(score[place])
            if best <= -1:
                break
            shift = [i if i < a else i - n for i, a, n in zip(place, self._image.shape, lengths, strict=True)]
            found.append((best, np.array(shift)))
            around = [
                np.arange(i - distance, i + distance + 1) % n for i, n in zip(place, lengths, strict=True)
            ]
            score[np.ix_(*around)] = -1
        return found

    def _scores(self, moving: np.ndarray, moving_mask: np.ndarray, lengths: _Shape) -> np.ndarray:
        """Score of every cyclic shift; -1 where the overlap or the variance is too small."""
        mask = moving_mask.astype(np.float32)
        image = moving.astype(np.float32) * mask
        fixed_ones, fixed_sum, fixed_squares = self._fixed_spectra(lengths)
        ones, values, squares = (np.conj(rfftn(a, lengths)) for a in (mask, image, image * image))

        def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return irfftn(a * b, lengths)

        count = np.maximum(correlate(fixed_ones, ones), 0.5)
        sum_fixed = correlate(fixed_sum, ones)
        sum_moving = correlate(fixed_ones, values)
        covariance = correlate(fixed_sum, values) - sum_fixed * sum_moving / count
        variance_fixed = np.maximum(correlate(fixed_squares, ones) - sum_fixed**2 / count, 0)
        variance_moving = np.maximum(correlate(fixed_ones, squares) - sum_moving**2 / count, 0)
        deviations = np.sqrt(variance_fixed * variance_moving)
        smaller = min(self._voxels, float(np.count_nonzero(moving_mask)))
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
