"""Tell the padding of a stitched image from the dark around a specimen, where nothing says what its tiles cover."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation

_LEAST, _MOST = 1e-3, 0.5  # share of the field that padding has if it can mislead, and if it is no background
_GAP = 0.5  # of the median of what was looked at: its darkest voxels stand at least so far off the padding
_DARKEST = 5.0  # per cent: a coarser level has mixed some voxels with thin padding
_MIXED = 10.0  # the same, before the voxels along the padding are left out
_SAMPLED = 200_000
_FLAT = 0.7  # share of the padding's faces with neighbours in their own plane: a specimen's outline is round


def seen(array: np.ndarray) -> np.ndarray | None:
    """Where somebody looked, if an image is padded with one value as stitching leaves it.

    Padding has exactly the lowest value, reaches the field's border, is bounded by planes along the axes, and all
    other voxels stand clear of it. The zeros around the brain of an atlas fail at the planes, those of a camera without
    offset at the gap: they are the dark around a specimen, and count.

    Parameters
    ----------
    array
        (z, y, x), any real dtype, finite.

    Returns
    -------
    (z, y, x) bool, a voxel off the padding, whose value a coarser level may have mixed with its neighbours'; None
    for an image without padding.
    """
    lowest = float(array.min())
    padding = array == lowest
    if not _LEAST < np.count_nonzero(padding) / padding.size < _MOST or not _at_border(padding):
        return None
    rest = array[~padding]
    # The quick look lets pass what a coarser level has mixed.
    if not _stands_clear(rest, _MIXED, lowest) or _flatness(padding) < _FLAT:
        return None
    found = ~binary_dilation(padding, np.ones([min(n, 3) for n in padding.shape], bool))
    return found if found.any() and _stands_clear(array[found], _DARKEST, lowest) else None


def _at_border(padding: np.ndarray) -> bool:
    """Whether padding reaches a face of the field; the faces of a plane are its edges."""
    deep = [axis for axis in range(3) if padding.shape[axis] > 1]
    return any(np.take(padding, end, axis).any() for axis in deep for end in (0, -1))


def _stands_clear(values: np.ndarray, darkest: float, lowest: float) -> bool:
    """Whether even the darkest of the values are far above the lowest one."""
    sample = values[:: max(1, values.size // _SAMPLED)]
    dark, middle = np.percentile(sample, [darkest, 50])
    return bool(dark - lowest > _GAP * (middle - lowest))


def _flatness(padding: np.ndarray) -> float:
    """Share of the faces between padding and the rest whose neighbours along both axes of their plane are such faces."""
    flat = faces = 0
    for axis in range(3):
        inner = np.moveaxis(padding, axis, 0)
        edge = inner[1:] != inner[:-1]
        faces += int(np.count_nonzero(edge))
        for other in (1, 2):
            if edge.shape[other] > 2:
                side = np.moveaxis(edge, other, 1)
                around = side[:, 1:-1] & side[:, :-2] & side[:, 2:]
                # A line of faces ends at the field's border, too.
                whole = np.concatenate([side[:, :1] & side[:, 1:2], around, side[:, -1:] & side[:, -2:-1]], 1)
                edge = np.moveaxis(whole, 1, other)
        flat += int(np.count_nonzero(edge))
    return flat / max(faces, 1)
