"""Poses: one position per tile from many links, robust against wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import splu

from weft.grid import Triple
from weft.links.model import Link


@dataclass(frozen=True)
class PoseSettings:
    """How positions are solved, in voxels.

    Parameters
    ----------
    link_sigma
        Expected error of a good link.
    stage_sigma
        Expected error of the stage between two neighbouring tiles (weak edges).
    closure
        Cycles of three or four links that close within this vouch for their links.
    doubt
        Weight of a link that lies on cycles none of which closes, before the robust solve.
    used
        A link whose robust weight is below this does not tie its tiles together.
    iterations
        Of the graduated solve.
    """

    link_sigma: float = 0.5
    stage_sigma: float = 8.0
    closure: float = 1.5
    doubt: float = 4e-4
    used: float = 0.1
    iterations: int = 40


@dataclass(frozen=True)
class Poses:
    """Where the tiles lie.

    Parameters
    ----------
    positions
        Of the first voxel's centre of each tile, (n, 3) float64 um.
    status
        Per tile: ``"ok"`` (tied by a link), ``"neighbours"`` (no trusted link: moved as its neighbours
        are), ``"stage_only"`` (nothing near it: where the stage says).
    residual
        Per link, as given: distance between its displacement and the solved one, um.
    weight
        Per link: 0 (rejected, or not ``"ok"`` in the first place) to 1.
    component
        Per tile: number of the set of tiles that trusted links tie together.
    """

    positions: np.ndarray
    status: tuple[str, ...]
    residual: np.ndarray
    weight: np.ndarray
    component: np.ndarray


def solve_poses(
    stage_positions: np.ndarray,
    links: Sequence[Link],
    spacing: Triple,
    *,
    settings: PoseSettings | None = None,
) -> Poses:
    """Solve one position per tile.

    Weighted least squares over the trusted links, made robust by graduated non-convexity with the
    Geman-McClure loss (Yang et al., 2020, "Graduated Non-Convexity for Robust Spatial Perception"): the
    loss starts nearly quadratic and is narrowed, so that the outcome does not hang on a starting guess.
    Links of which no cycle closes start with little weight. Every pair that has a link, trusted or not,
    is also tied by a weak edge of the stage's own displacement. The mean position is the stage's.

    Parameters
    ----------
    stage_positions
        (n, 3) um.
    links
        Measured pairs, of any status; their order does not matter.
    spacing
        Voxel size, um; errors are weighed in voxels.
    settings
        Expected errors; None takes the defaults.

    Returns
    -------
    Poses
        Positions with what they rest on.

    Raises
    ------
    ValueError
        When positions are not finite or a link names a tile that is not there.
    """
    settings = settings or PoseSettings()
    stage = np.asarray(stage_positions, float).reshape(-1, 3)
    if not np.isfinite(stage).all():
        raise ValueError(
            f"stage positions must be finite; tile {int(np.argmax(~np.isfinite(stage).all(1)))} is not"
        )
    n = len(stage)
    for link in links:
        if not (0 <= link.i < n and 0 <= link.j < n and link.i != link.j):
            raise ValueError(f"a link names the tiles {link.i} and {link.j}; there are {n} tiles")
    if not links:
        return Poses(stage.copy(), ("stage_only",) * n, np.zeros(0), np.zeros(0), np.arange(n))

    order = sorted(range(len(links)), key=lambda k: (links[k].i, links[k].j))
    ends = np.array([(links[k].i, links[k].j) for k in order])
    measured = np.array([links[k].displacement for k in order], float) / spacing
    trusted = np.array([links[k].status == "ok" for k in order])
    start = stage / spacing
    expected = start[ends[:, 1]] - start[ends[:, 0]]
    system = _System(start, ends, expected, 0.5 / settings.stage_sigma**2)

    doubted = _doubted(ends, measured, trusted, settings.closure)
    robust = _graduated(system, measured, trusted, doubted, settings)
    positions = system.solve(measured, robust / settings.link_sigma**2)
    residual = np.linalg.norm((positions[ends[:, 1]] - positions[ends[:, 0]] - measured) * spacing, axis=1)

    used = robust > settings.used
    component = _components(n, ends[used])
    tied = np.zeros(n, bool)
    tied[ends[used].ravel()] = True
    near = np.zeros(n, bool)
    near[ends.ravel()] = True
    status = tuple(
        "ok" if t else "neighbours" if m else "stage_only" for t, m in zip(tied, near, strict=True)
    )

    place = np.empty(len(links), int)
    place[order] = np.arange(len(links))
    # Rounded far below what matters, so that the last bits of a solver are not part of a result.
    positions = np.round(positions * spacing, 6)
    return Poses(positions, status, np.round(residual, 6)[place], np.round(robust, 9)[place], component)


class _System:
    """Normal equations of the graph: links and stage edges on the same pairs."""

    def __init__(
        self, start: np.ndarray, ends: np.ndarray, expected: np.ndarray, stage_weight: float
    ) -> None:
        self.start, self.expected, self.stage_weight = start, expected, stage_weight
        rows = np.arange(len(ends))
        signs = np.concatenate([-np.ones(len(ends)), np.ones(len(ends))])
        self.incidence = sparse.csr_matrix(
            (signs, (np.tile(rows, 2), ends.T.ravel())), shape=(len(ends), len(start))
        )

    def solve(self, measured: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Positions, (n, 3) voxels."""
        laplacian = self.incidence.T @ sparse.diags(weights + self.stage_weight) @ self.incidence
        pulls = weights[:, None] * (measured - self.expected)
        # Unknowns are moves from the stage; a tiny anchor makes the common shift definite.
        anchor = 1e-6 * sparse.identity(len(self.start))
        moves = splu(sparse.csc_matrix(laplacian + anchor)).solve(self.incidence.T @ pulls)
        return self.start + moves - moves.mean(0)


def _graduated(system, measured, trusted, doubted, settings) -> np.ndarray:
    """Robust weight, 0 ... 1, of every link."""
    scale = (3 * settings.link_sigma) ** 2
    prior = np.where(trusted, np.where(doubted, settings.doubt, 1.0), 0.0)
    weights = prior
    convexity = None
    for _ in range(settings.iterations):
        positions = system.solve(measured, weights / settings.link_sigma**2)
        squares = ((system.incidence @ positions - measured) ** 2).sum(1)
        if convexity is None:
            largest = squares[trusted].max(initial=0.0)
            convexity = max(1.0, min(30.0, 2 * largest / scale))
        weights = prior * (convexity * scale / (squares + convexity * scale)) ** 2
        # What the cycles doubted comes back by agreeing with the others.
        prior = np.where(trusted, np.where(doubted, 0.3, 1.0), 0.0)
        if convexity == 1.0 and np.allclose(weights, prior, atol=1e-3):
            break
        convexity = max(1.0, convexity / 1.25)
    return weights


def _doubted(ends: np.ndarray, measured: np.ndarray, trusted: np.ndarray, closure: float) -> np.ndarray:
    """Links that lie on cycles of three or four trusted links, none of which closes."""
    step: dict[int, dict[int, tuple[int, np.ndarray]]] = {}
    for k in np.flatnonzero(trusted).tolist():
        i, j = (int(e) for e in ends[k])
        step.setdefault(i, {})[j] = (k, measured[k])
        step.setdefault(j, {})[i] = (k, -measured[k])
    votes = np.zeros((len(ends), 2), int)  # cycles, cycles that close
    for k in np.flatnonzero(trusted).tolist():
        i, j = (int(e) for e in ends[k])
        for a, (_, first) in step[j].items():
            if a == i:
                continue
            around = measured[k] + first
            if i in step[a]:
                votes[k] += 1, np.linalg.norm(around + step[a][i][1]) < closure
            for b, (_, second) in step[a].items():
                if b not in (i, j) and i in step[b]:
                    votes[k] += 1, np.linalg.norm(around + second + step[b][i][1]) < closure
    return (votes[:, 0] > 0) & (votes[:, 1] == 0)


def _components(n: int, ends: np.ndarray) -> np.ndarray:
    """Number of each tile's connected set, counted in the order of their first tiles."""
    graph = sparse.coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n))
    return csgraph.connected_components(graph, directed=False)[1]
