"""TeraStitcher's way to positions: a threshold on the reliability of links, and a minimum spanning tree."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from weft.poses.graph import FORCED, Claims, System
from weft.poses.model import PoseSettings


def spanning_tree_weights(
    system: System, claims: Claims, settings: PoseSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Weight 1 for the claims of the tree, 0 for all others; no cycle has a vote.

    Bria and Iannello (2012), "TeraStitcher - A tool for fast automatic 3D-stitching of teravoxel-sized
    microscopy images": links less reliable than a threshold fall back to the stage's displacement
    (``displthres``), and the tree of the least ``1 - reliability`` gives the positions (``placetiles``).
    """
    reliability = np.where(claims.forced, 1.0, claims.confidence)
    usable = claims.trusted & ~claims.rival & (reliability >= settings.threshold)
    # A sparse graph has no edges of weight zero, so each gets a little.
    graph = sparse.coo_matrix(
        (1.0 + 1e-9 - reliability[usable], tuple(claims.ends[usable].T)), shape=(len(system.start),) * 2
    )
    tree = csgraph.minimum_spanning_tree(graph.tocsr())
    kept = {(int(i), int(j)) for i, j in zip(*tree.nonzero(), strict=True)}
    weights = np.zeros(len(usable))
    for row in np.flatnonzero(usable):
        if (int(claims.ends[row, 0]), int(claims.ends[row, 1])) in kept:
            weights[row] = FORCED
    return weights, np.zeros(len(usable), int)
