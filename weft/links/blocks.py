"""Full-resolution blocks of an overlap: where each says that the other tile lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from weft.image import Region, box
from weft.links.balance import balanced
from weft.links.kernels import band_pass
from weft.links.model import LinkSettings
from weft.links.search import parabola, search

# Largest block, voxels (z, y, x), and the largest of tiles that are deformed, which a block does not show
# within itself; an axis of few voxels is taken whole.
BLOCK, SMALL_BLOCK = (48, 128, 128), (48, 64, 64)
# Blocks of one link differ by less than this from their median, voxels, unless their tiles are deformed.
_AGREE = 1.5


def match_blocks(
    displacement: np.ndarray,
    shape: np.ndarray,
    limits: tuple[Region, Region],
    margin: int,
    block: tuple[int, int, int],
    structure: Callable[[Region], float],
    logs: Callable[[Region, Region], Sequence[np.ndarray]],
    boxes: tuple[int, int],
    blocks: int,
    settings: LinkSettings,
) -> np.ndarray:
    """Displacement of tile j against tile i in a few blocks of their overlap.

    The overlap is divided along its longest axis into as many parts as blocks are wanted; of each part, the
    block of the most structure is taken, and searched for in tile j within ``margin`` of where the
    displacement so far puts it.

    Parameters
    ----------
    displacement
        So far, (3,) whole voxels.
    shape
        Of a tile, (3,).
    limits
        Parts of tiles i and j that may be looked at.
    margin
        How far the displacement may still be off, voxels.
    block
        Largest block, voxels (z, y, x).
    structure
        How much there is to see in a region of tile i.
    logs
        Voxels of a region of tile i and of one of tile j, on a logarithmic scale.
    boxes
        Of the band-pass.
    blocks
        How many, at most.
    settings
        The gates of a block.

    Returns
    -------
    ndarray, (k, 7)
        Middle of each matched block in tile i, displacement there, both voxels, and NCC.
    """
    d = np.asarray(displacement, int)
    low = np.maximum(np.maximum(0, d), [part.start for part in limits[0]])
    high = np.minimum(np.minimum(shape, d + shape), [part.stop for part in limits[0]])
    if (high <= low).any():
        return np.zeros((0, 7))
    size = np.minimum(block, high - low)
    bounds_j = (np.array([p.start for p in limits[1]]), np.array([p.stop for p in limits[1]]))
    found = []
    for start in _chosen(low, high, size, structure, blocks):
        stop = start + size
        start_j = np.maximum(start - d - margin, bounds_j[0])
        stop_j = np.minimum(stop - d + margin, bounds_j[1])
        if (stop_j - start_j < np.minimum(size, 4)).any():
            continue
        pair = logs(box(start, stop), box(start_j, stop_j))
        a, b = (band_pass(v, *boxes) for v in pair)
        # Voxel 0 of b lies here in a, if the displacement so far is right.
        center = (start_j + d - start).astype(float)
        shift, _, ratio = search(a, b, center, np.full(3, float(margin)), settings, binned=False)
        if shift is None or ratio > settings.max_peak_ratio:
            continue
        part, ncc = parabola(a, b, shift)
        part, _ = balanced(pair, boxes, shift, part)
        if ncc >= settings.min_ncc:
            found.append([*((start + stop - 1) / 2), *(d + shift + part - center), ncc])
    return np.array(found).reshape(-1, 7)


def agreed(matches: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """The mean displacement and NCC of the blocks near their median, weighted by NCC squared; which they are."""
    off = np.abs(matches[:, 3:6] - np.median(matches[:, 3:6], axis=0)).max(1)
    near = off <= max(_AGREE, float(np.sort(off)[(len(off) - 1) // 2]))
    weights = matches[near, 6] ** 2
    mean = (weights[:, None] * matches[near, 3:]).sum(0) / weights.sum()
    return mean[:3], float(mean[3]), near


def _chosen(
    low: np.ndarray, high: np.ndarray, size: np.ndarray, structure: Callable[[Region], float], blocks: int
) -> list[np.ndarray]:
    """First voxels of the most structured block of each part of the overlap."""
    counts = np.maximum(1, (high - low) // size)
    along = int(np.argmax(counts))
    counts[along] = max(counts[along], min(blocks, 2 * (high - low)[along] // size[along]))
    places = [
        np.unique(np.linspace(start, stop - edge, count).astype(int))
        for start, stop, edge, count in zip(low, high, size, counts, strict=True)
    ]
    best = []
    for part in np.array_split(places[along], min(blocks, len(places[along]))):
        axes = [part if axis == along else places[axis] for axis in range(3)]
        starts = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        scores = [structure(box(start, start + size)) for start in starts]
        best.append(starts[int(np.argmax(scores))])
    return best
