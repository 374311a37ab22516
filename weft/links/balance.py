"""Place a link between voxels: where the difference of what two tiles share pulls neither way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from weft.image import box
from weft.links.kernels import band_pass, forces_at

# The parts of an overlap that are looked at for how it is bent: at most so many along its longer and its shorter
# axis in the plane, of at least so many voxels each.
_PARTS, _LEAST = (4, 2), 16

_NOWHERE = np.zeros(3, np.int64)


def balanced(
    logs: Sequence[np.ndarray], boxes: tuple[int, int], shift: np.ndarray, part: np.ndarray
) -> tuple[np.ndarray, float]:
    """Refine a shift of two volumes to a part of a voxel.

    What they share at the whole shift is cut out and band-passed anew: band-passes of the volumes themselves
    differ along their borders, which lie at different places of the specimen. The forces (see `forces_at`)
    are taken there and one voxel on along each axis, and vanish in between (a secant step). So tiles that show
    the same voxels are placed exactly, however thin their overlap is.

    Parameters
    ----------
    logs
        Both volumes on a logarithmic scale, float32 (z, y, x).
    boxes
        Of the band-pass.
    shift
        Where voxel 0 of the second lies in the first, (3,) whole voxels.
    part
        A first guess of the answer, which is kept where the forces say nothing.

    Returns
    -------
    part : ndarray, (3,)
        What lies beyond the whole shift, voxels.
    bend : float
        How far parts of the overlap, each by its own forces, lie from their median: the median distance, voxels.
        What is much more than a voxel reads as a voxel or two.
    """
    low, high = np.maximum(0, shift), np.minimum(logs[0].shape, shift + logs[1].shape)
    shared = logs[0][box(low, high)], logs[1][box(low - shift, high - shift)]
    a, b = (band_pass(np.ascontiguousarray(v), *boxes) for v in shared)
    here = forces_at(a, b, _NOWHERE)
    axes = np.flatnonzero(here)
    side = np.where(part >= 0, 1, -1)
    slopes = np.zeros((3, 3))
    for axis in axes:
        step = side * (np.arange(3) == axis)
        slopes[:, axis] = side[axis] * (forces_at(a, b, step) - here)
    inner = slopes[np.ix_(axes, axes)]
    if not len(axes) or (np.linalg.eigvalsh(inner + inner.T) <= 0).any():
        return part, 0.0
    local = np.array([forces_at(p, q, _NOWHERE)[axes] for p, q in _parts(a, b)])
    local = -np.linalg.solve(inner, local.T).T
    bend = float(np.median(np.linalg.norm(local - np.median(local, axis=0), axis=1)))
    found = np.zeros(3)
    found[axes] = -np.linalg.solve(inner, here[axes])
    return (part if np.abs(found).max() > 1 else found), bend


def _parts(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Parts of two volumes of one shape, side by side in the plane."""
    rows, columns = a.shape[1:]
    counts = _PARTS if rows >= columns else _PARTS[::-1]
    edges = [
        np.linspace(0, size, max(1, min(count, size // _LEAST)) + 1).astype(int)
        for size, count in zip((rows, columns), counts, strict=True)
    ]
    for top, bottom in zip(edges[0], edges[0][1:], strict=False):
        for left, right in zip(edges[1], edges[1][1:], strict=False):
            part = (slice(None), slice(top, bottom), slice(left, right))
            yield np.ascontiguousarray(a[part]), np.ascontiguousarray(b[part])
