"""The robust solve: cycles vote, the loss is narrowed step by step, and blocks of tiles change sides."""

from __future__ import annotations

import numpy as np

from weft.poses.graph import FORCED, Claims, System, components
from weft.poses.kernels import count_votes, settle_blocks
from weft.poses.model import PoseSettings

# Closing cycles beyond which no more are counted for a claim.
_ENOUGH = 3
# Weight, at first and later, of a claim that no closing cycle vouches for.
_DOUBT = (4e-4, 0.3)
_ROUNDS = 12


def robust_weights(system: System, claims: Claims, settings: PoseSettings) -> tuple[np.ndarray, np.ndarray]:
    """Weight of every claim, 0 to 1 (more where forced), and the closing cycles of each.

    Three steps. (1) Cycles of three or four claims that close vouch for their claims; wrong displacements
    close none but by chance. (2) Graduated non-convexity with the Geman-McClure loss (Yang et al., 2020,
    "Graduated Non-Convexity for Spatial Perception"), in which the others begin with little weight: the
    loss starts nearly quadratic and is narrowed, so that the outcome does not hang on a starting guess.
    (3) What is left are tiles, and blocks of tiles, that hang by few claims which disagree: each is tried
    at every place that one of its outer claims proposes (as iterated conditional modes do; Besag, 1986),
    under a truncated quadratic loss with the stage's displacements as a weak prior. So the majority
    decides, and where there is none, the stage does. A link's rival displacement is a claim like others:
    where it agrees with the rest and the first one does not, it takes its place.
    """
    first, partner, claim, sign = claims.neighbours(len(system.start), claims.trusted)
    votes = count_votes(
        first, partner, claim, sign, claims.ends, claims.measured, settings.closure, _ENOUGH
    ) * claims.trusted  # fmt: skip
    weights = _graduated(system, claims, votes > 0, settings)
    positions = system.solve(weights / settings.link_sigma**2)
    positions = _settled(system, claims, positions, settings)
    return _narrow(system, claims, positions, settings), votes


def _graduated(system: System, claims: Claims, vouched: np.ndarray, settings: PoseSettings) -> np.ndarray:
    scale = (3 * settings.link_sigma) ** 2
    base = np.where(claims.forced, FORCED, np.where(vouched, 1.0, _DOUBT[0])) * claims.trusted
    base[claims.rival & ~vouched] = 0.0
    weights, convexity = base, None
    while True:
        gaps = system.gaps(system.solve(weights / settings.link_sigma**2))
        if convexity is None:
            convexity = max(1.0, min(30.0, 2 * gaps[base > 0].max(initial=0.0) / scale))
        # What the cycles doubted comes back by agreeing with the others.
        base[claims.trusted & ~vouched & ~claims.rival & ~claims.forced] = _DOUBT[1]
        loss = (convexity * scale / (gaps + convexity * scale)) ** 2
        weights = base * np.where(claims.forced, 1.0, loss)
        if convexity == 1.0:
            return weights
        convexity = max(1.0, convexity / 1.4)


def _settled(system: System, claims: Claims, positions: np.ndarray, settings: PoseSettings) -> np.ndarray:
    """Positions after blocks, and then single tiles, have gone where most of their outer claims put them."""
    tiles = len(positions)
    positions = np.ascontiguousarray(positions)
    outer = claims.neighbours(tiles, claims.trusted)
    forced = np.where(claims.forced, FORCED, 1.0)
    inverse, cost = forced * settings.link_sigma**-2.0, forced * settings.outlier**2
    around = system.around()
    # Errors of single tiles have half the variance of the difference between two.
    prior = 2.0 / settings.stage_sigma**2
    facts = (
        *outer,
        claims.measured,
        inverse,
        cost,
        around.indptr,
        around.indices,
        prior,
        0.9 * settings.outlier**2,
    )
    for single in [False] * _ROUNDS + [True] * _ROUNDS:
        agree = claims.trusted & (system.gaps(positions) < (settings.outlier * settings.link_sigma) ** 2)
        label = np.arange(tiles) if single else components(tiles, claims.ends[agree])
        label[system.pinned] = label.max() + 1  # one block that stays: it comes last
        sizes = np.bincount(label)
        order = np.lexsort((label, sizes[label] + tiles * system.pinned))
        if not settle_blocks(positions, system.start, label, order, *facts) and single:
            break
    return positions


def _narrow(system: System, claims: Claims, positions: np.ndarray, settings: PoseSettings) -> np.ndarray:
    """Geman-McClure weights around positions, of the better claim of each link."""
    scale = (3 * settings.link_sigma) ** 2
    base = np.where(claims.forced, FORCED, 1.0) * claims.trusted
    for _ in range(8):
        gaps = system.gaps(positions)
        best = np.full(claims.link.max() + 1, np.inf)
        np.minimum.at(best, claims.link, np.where(claims.trusted, gaps, np.inf))
        weights = base * np.where(claims.forced, 1.0, (scale / (gaps + scale)) ** 2)
        weights[gaps > best[claims.link]] = 0.0
        positions = system.solve(weights / settings.link_sigma**2)
    return weights
