"""The graph of tiles and what links claim about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import splu

from weft.links.model import Link

# What a link that was forced by hand weighs, relative to a measured one.
FORCED = 1e4
# Holds a tile that was pinned by hand, relative to a measured link.
PINNED = 1e8
# The least and the most that a link weighs, relative to the others.
_INFORMATION = (0.02, 50.0)


@dataclass(frozen=True)
class Claims:
    """Displacements that the solve may believe: one for each link, and one more for each rival.

    Parameters
    ----------
    link
        Place of the link among the links given, (m,).
    ends
        Tiles i and j, (m, 2).
    measured, expected
        Displacement from i to j as measured and as the stage says, (m, 3) voxels.
    trusted
        Whether the claim may be believed at all; the others are only weak edges.
    rival
        Whether it is a link's second displacement.
    forced
        Whether it was set by hand.
    confidence
        Of the link, 0 to 1.
    """

    link: np.ndarray
    ends: np.ndarray
    measured: np.ndarray
    expected: np.ndarray
    trusted: np.ndarray
    rival: np.ndarray
    forced: np.ndarray
    confidence: np.ndarray

    @classmethod
    def of(cls, links: Sequence[Link], start: np.ndarray, spacing: np.ndarray) -> Claims:
        """The claims of links, sorted by tiles, so that their order does not matter."""
        rows = []
        for n, link in enumerate(links):
            good = link.status in ("ok", "forced")
            rows.append((link.i, link.j, 0, n, link.displacement, good, link.status == "forced"))
            if link.status == "ok" and link.rival is not None:
                rows.append((link.i, link.j, 1, n, link.rival, True, False))
        rows.sort(key=lambda row: row[:4])
        ends = np.array([row[:2] for row in rows])
        return cls(
            link=np.array([row[3] for row in rows]),
            ends=ends,
            measured=np.array([row[4] for row in rows], float) / spacing,
            expected=start[ends[:, 1]] - start[ends[:, 0]],
            trusted=np.array([row[5] for row in rows]),
            rival=np.array([row[2] for row in rows], bool),
            forced=np.array([row[6] for row in rows]),
            confidence=np.array([links[row[3]].confidence for row in rows]),
        )

    def information(self, links: Sequence[Link]) -> np.ndarray:
        """What each claim weighs among those that are believed, (m,), 1 in the median.

        The variance of a shift falls with the voxels that it rests on and with the square of their correlation.
        """
        known = np.array([links[k].overlap * links[k].confidence ** 2 for k in self.link])
        counts = self.trusted & ~self.forced & (known > 0)
        if not counts.any():
            return np.ones(len(known))
        return np.where(counts, np.clip(known / np.median(known[counts]), *_INFORMATION), 1.0)

    def neighbours(self, tiles: int, which: np.ndarray) -> tuple[np.ndarray, ...]:
        """Entries ``first``, ``partner``, ``claim``, ``sign`` of the kernels, of the claims in ``which``."""
        tile = np.concatenate([self.ends[which, 0], self.ends[which, 1]])
        partner = np.concatenate([self.ends[which, 1], self.ends[which, 0]])
        claim = np.tile(np.flatnonzero(which), 2)
        sign = np.repeat([1.0, -1.0], which.sum())
        order = np.lexsort((claim, partner, tile))
        first = np.searchsorted(tile[order], np.arange(tiles + 1))
        return first, partner[order], claim[order], sign[order]


class System:
    """Normal equations of the graph: claims, and one weak edge of the stage per linked pair.

    Parameters
    ----------
    start
        Stage positions, (n, 3) voxels.
    claims
        What links say.
    stage_weight
        Of a weak edge.
    pins
        Where tiles are held, (n, 3) voxels, NaN for those that are free.
    """

    def __init__(self, start: np.ndarray, claims: Claims, stage_weight: float, pins: np.ndarray) -> None:
        self.start, self.claims = start, claims
        self.pinned = np.isfinite(pins).all(1)
        count = len(claims.ends)
        signs = np.concatenate([-np.ones(count), np.ones(count)])
        where = (np.tile(np.arange(count), 2), claims.ends.T.ravel())
        self.incidence = sparse.csr_matrix((signs, where), shape=(count, len(start)))
        self.stage = np.where(claims.rival, 0.0, stage_weight)
        # A tiny anchor makes the common shift definite.
        self.anchor = np.where(self.pinned, PINNED, 1e-6)
        self.pulls = np.where(self.pinned[:, None], PINNED * (pins - start), 0.0)

    def solve(self, weights: np.ndarray, tied: np.ndarray | None = None) -> np.ndarray:
        """Positions, (n, 3) voxels, for a weight of each claim; their mean is the stage's where none is pinned.

        Weak edges between tiles that links tie together (``tied``, one number per set) are left out.
        """
        stage = self.stage
        if tied is not None:
            stage = np.where(tied[self.claims.ends[:, 0]] == tied[self.claims.ends[:, 1]], 0.0, stage)
        laplacian = self.incidence.T @ sparse.diags(weights + stage) @ self.incidence
        pulls = self.incidence.T @ (weights[:, None] * (self.claims.measured - self.claims.expected))
        factors = splu(
            sparse.csc_matrix(laplacian + sparse.diags(self.anchor)),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        # The unknowns are moves from the stage.
        moves = factors.solve(pulls + self.pulls)
        return self.start + (moves if self.pinned.any() else moves - moves.mean(0))

    def around(self) -> sparse.csr_matrix:
        """Tiles that are at most two links away from each tile, as a sparse matrix of its rows' pattern."""
        linked = abs(self.incidence.T @ self.incidence)
        return sparse.csr_matrix(linked @ linked)

    def gaps(self, positions: np.ndarray) -> np.ndarray:
        """Squared distance of each claim from positions, voxels squared."""
        return ((self.incidence @ positions - self.claims.measured) ** 2).sum(1)


def components(tiles: int, ends: np.ndarray) -> np.ndarray:
    """Number of each tile's connected set: the largest is 0, among equals that of the first tile."""
    graph = sparse.coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(tiles, tiles))
    label = csgraph.connected_components(graph, directed=False)[1]
    sizes = np.bincount(label)
    first = np.full(len(sizes), tiles)
    np.minimum.at(first, label, np.arange(tiles))
    rank = np.empty(len(sizes), int)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[label]
