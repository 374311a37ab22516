"""TeraStitcher's measure: the NCC of maximum projections, with a reliability from the peaks' height and width."""

from __future__ import annotations

import numpy as np

from weft.links.kernels import ncc_at
from weft.links.model import LinkSettings

# A peak is as wide as its NCC stays above this part of its height.
_WIDTH_AT = 0.75


def mip_ncc(
    a: np.ndarray, b: np.ndarray, center: np.ndarray, window: np.ndarray, settings: LinkSettings
) -> tuple[np.ndarray, float, float]:
    """The shift of two overlapping volumes by their maximum projections.

    Bria and Iannello (2012), "TeraStitcher": both volumes are projected along each axis, the NCC of two
    projections is mapped over the search window, and each of its two axes gets a reliability
    ``sqrt(0.5 w ** 2 + 0.5 p ** 2)`` of the peak's NCC p and its sharpness w = 1 - width / reach, where the width
    is how far the NCC stays above 3/4 of the peak. Every axis is seen in two projections: the more reliable
    one counts. Whole voxels, as there.

    Parameters
    ----------
    a, b
        Signals, float32 (z, y, x), without logarithm or band-pass.
    center, window
        Middle and half-width of the window of shifts (where voxel 0 of ``b`` lies in ``a``), (3,) voxels.
    settings
        The least share of the smaller projection that must overlap.

    Returns
    -------
    shift : ndarray, (3,)
        Voxels.
    ncc, reliability : float
        The least of the three axes each.
    """
    low, high = np.floor(center - window).astype(int), np.ceil(center + window).astype(int)
    shift = np.round(center)
    peaks, reliable = np.ones(3), np.full(3, -1.0)
    for axis in range(3):
        flat = [np.ascontiguousarray(v.max(axis=axis, keepdims=True)) for v in (a, b)]
        first, last = low.copy(), high.copy()
        first[axis] = last[axis] = 0
        if sum(n > 1 for n in flat[0].shape) < 2:
            continue  # a single plane: only its own projection shows something
        steps = np.array(
            np.meshgrid(*(np.arange(p, q + 1) for p, q in zip(first, last, strict=True)), indexing="ij")
        )
        least = settings.min_shared * min(flat[0].size, flat[1].size)
        heights = np.empty(steps.shape[1:])
        for place in np.ndindex(heights.shape):
            ncc, shared = ncc_at(flat[0], flat[1], steps[(slice(None), *place)])
            heights[place] = ncc if shared >= least else -1.0
        top = np.unravel_index(int(np.argmax(heights)), heights.shape)
        for other in range(3):
            if other == axis or a.shape[other] == 1:
                continue
            line = heights[tuple(slice(None) if k == other else top[k] for k in range(3))]
            peak = float(line[top[other]])
            sharp = 1 - _width(line, int(top[other])) / (len(line) // 2 + 1)
            value = float(np.sqrt(0.5 * max(sharp, 0) ** 2 + 0.5 * max(peak, 0) ** 2))
            if value > reliable[other]:
                shift[other], reliable[other], peaks[other] = steps[(other, *top)], value, peak
    seen = reliable >= 0
    return shift, float(peaks[seen].min(initial=1.0)), float(reliable[seen].min(initial=1.0))


def _width(line: np.ndarray, top: int) -> int:
    """Steps from a peak to where its line falls below 3/4 of it, on the wider side."""
    below = np.flatnonzero(line < _WIDTH_AT * line[top])
    left, right = below[below < top], below[below > top]
    return max(
        top - int(left[-1]) if left.size else len(line), int(right[0]) - top if right.size else len(line)
    )
