"""The search of an affine: larger and larger efforts until one start is convincing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from weft.registration.candidates import Candidate, CandidateSearch, rotation_set, smoothed
from weft.registration.confidence import Thresholds
from weft.registration.features import Feature
from weft.registration.linear_model import LinearModel
from weft.registration.refine import AffineRefiner

# How many rotations, which scales, how many starts are refined, and the score that makes a larger effort needless:
# tried in turn. A poor match may well beat its rivals while the right rotation has not yet been tried.
_EFFORTS: tuple[tuple[int, tuple[float, ...], int, float], ...] = (
    (1, (1.0,), 8, 0.6),
    (13, (0.78, 1.0, 1.26), 8, 0.5),
    (33, (0.72, 0.85, 1.0, 1.18, 1.4), 16, 0.4),
    (33, (0.70, 0.78, 0.92, 1.08, 1.28, 1.48), 40, 0.0),
)
_CLEAR = 0.8  # a score that no larger effort will better; close rivals (a thin slab's other side) stay close
_ORIENTATIONS_KEPT = 6  # of those searched, how many go on to the larger efforts
_FINALISTS = 3
_RIVALS = 4  # starts refined for the sake of the margin, where the best ones are all the same
_DIFFERENT = 0.06  # mean distance, share of the tissue's longest side, from which two affines are rivals


def search(
    reference: Feature,
    other: Feature,
    directions: Sequence[np.ndarray],
    min_overlap: float,
    model: LinearModel,
    thresholds: Thresholds,
    tell: Callable[[str], None],
    most: int | None = None,
) -> list[Candidate]:
    """Refined starts of larger and larger efforts, best score first, until one is convincing; `most` of them, if given."""
    efforts = _EFFORTS[:most]
    starter = CandidateSearch(reference, other, min_overlap, model)
    ratio = float((other.volume / reference.volume) ** (1 / model.axes))
    tissue_known = not (reference.mask.all() or other.mask.all())
    by_volume = (ratio,) if tissue_known and 0.5 < ratio < 2 and abs(ratio - 1) > 0.04 else ()
    numbered = list(enumerate(directions))
    hands = [np.linalg.det(direction) > 0 for direction in directions]
    pool: list[Candidate] = []
    for effort, (rotations, scales, refined, enough) in enumerate(efforts, 1):
        what = f"affine, effort {effort} of at most {len(efforts)}"
        factors = (1.0,) if model.kind == "rigid" else scales + by_volume
        turns = rotation_set(rotations, model.planar)
        starts = starter.starts(numbered, turns, factors, moments=tissue_known, what=what)
        tell(
            f"{len(numbered)} orientations, {rotations} rotations, {len(factors)} scales: {len(starts)} starts"
        )
        pool = sorted(pool + starter.refine(starts[:refined], what), key=lambda c: -c.fit.score)
        if pool and not _different(reference, pool, pool[0]):
            # All starts lead to one place: how much better that is than another is not known yet.
            elsewhere = _different(reference, starts, pool[0])[:_RIVALS]
            pool = sorted(pool + starter.refine(elsewhere, what), key=lambda c: -c.fit.score)
        ranked = list(dict.fromkeys(start.orientation for start in starts))
        if ranked:
            numbered = [(number, directions[number]) for number in sorted(ranked[:_ORIENTATIONS_KEPT])]
        if pool and pool[0].fit.score >= _CLEAR:
            break
        if pool and pool[0].fit.score >= thresholds.least:
            # More effort will not tell a mirror image from the best.
            hand = hands[pool[0].orientation]
            margin = margin_of(reference, [c for c in pool if hands[c.orientation] == hand])
            clear = pool[0].fit.score >= max(enough, thresholds.min_score) and (
                margin is None or margin >= thresholds.accept_margin
            )
            if clear or (rotations > 1 and margin is not None and margin >= thresholds.enough_margin):
                break
    return pool


def margin_of(reference: Feature, pool: Sequence[Candidate]) -> float | None:
    """Score of the first of a pool, best score first, over that of the next one that differs; None without such."""
    rivals = _different(reference, pool, pool[0])
    return pool[0].fit.score / max(rivals[0].fit.score, 1e-3) if rivals else None


def finalists(
    reference: Feature, other: Feature, pool: Sequence[Candidate], model: LinearModel, about: np.ndarray
) -> tuple[Candidate, Candidate | None]:
    """The best affine at the search level and the best one that differs from it."""
    chosen: list[Candidate] = []
    for candidate in pool:
        if len(chosen) < _FINALISTS and all(_different(reference, [candidate], c) for c in chosen):
            chosen.append(candidate)
    smooth = AffineRefiner(smoothed(reference, 1.0), smoothed(other, 1.0))
    sharp = AffineRefiner(reference, other)
    final = [
        replace(
            c,
            fit=sharp.run(
                smooth.run(c.fit.matrix, model.kind, about=about).matrix, model.kind, 10, about=about
            ),
        )
        for c in chosen
    ]
    final.sort(key=lambda c: -c.fit.score)
    rivals = _different(reference, final, final[0])
    return final[0], rivals[0] if rivals else None


def _different(reference: Feature, pool: Sequence[Candidate], best: Candidate) -> list[Candidate]:
    """Those of a pool that send the reference's tissue elsewhere than `best` does."""
    index = np.argwhere(reference.mask)
    points = reference.grid.to_physical(index[:: max(1, len(index) // 2000)])

    def distance(candidate: Candidate) -> float:
        difference = candidate.fit.matrix - best.fit.matrix
        return float(np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1).mean())

    # Measured in the other image, in units of the reference: a small scale must not make rivals equal.
    size = abs(np.linalg.det(best.fit.matrix[:3, :3])) ** (1 / 3)
    limit = _DIFFERENT * reference.longest * min(size, 1.0)
    return [candidate for candidate in pool if distance(candidate) > limit]
