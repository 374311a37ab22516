"""Which pairs of tiles are worth a measurement."""

from __future__ import annotations

import numpy as np

from weft.grid import Shape, Triple

# Neighbours along an axis share most of their extent on the other axes: less than this on two axes is a
# diagonal pair. Rows that are shifted by half a tile (share 0.5) still link to both their neighbours.
_AXIAL_SHARE = 0.35

# With fewer links per tile than this there are few cycles: a 2-D grid has up to 4 without its diagonals.
_FEW_LINKS = 5.0


def candidate_links(
    positions: np.ndarray,
    shape: Shape,
    spacing: Triple,
    *,
    diagonal: bool | None = False,
    minimum_voxels: int = 4,
) -> list[tuple[int, int]]:
    """Pairs of tiles that overlap, from their positions alone (no rows or columns needed).

    Parameters
    ----------
    positions
        Stage positions, (n, 3) um.
    shape, spacing
        Of a tile: voxels (z, y, x) and um.
    diagonal
        Also pairs that share little on two axes (corners); None: where the others make few cycles, fewer
        than five links to a tile. A wrong link is found out by the cycles that it breaks.
    minimum_voxels
        Least overlap on every axis.

    Returns
    -------
    list of (int, int)
        Pairs (i, j) with i < j, sorted.
    """
    if diagonal is None:
        straight = candidate_links(positions, shape, spacing, minimum_voxels=minimum_voxels)
        if 2 * len(straight) >= _FEW_LINKS * len(np.atleast_2d(positions)):
            return straight
        diagonal = True
    places = np.asarray(positions, float).reshape(-1, 3) / spacing
    size = np.asarray(shape)
    least = np.minimum(minimum_voxels, size)
    order = np.argsort(places[:, 2], kind="stable")
    pairs = []
    for n, i in enumerate(order):
        # Sorted along x: partners are among those that start before this tile ends.
        end = np.searchsorted(places[order, 2], places[i, 2] + size[2])
        partners = order[n + 1 : end]
        overlap = size - np.abs(places[partners] - places[i])
        wanted = (overlap >= least).all(1)
        if not diagonal:
            wanted &= (overlap < _AXIAL_SHARE * size).sum(1) <= 1
        pairs += [(int(min(i, j)), int(max(i, j))) for j in partners[wanted]]
    return sorted(pairs)
