"""How far an affine can be trusted: its score, its margin over the best different one, left and right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from weft.registration.candidates import Candidate

Verdict = Literal["accept", "warn", "refuse"]

_MIRROR_TIE = 0.01  # difference in score, as a share, that cannot tell a sample from its mirror image


@dataclass(frozen=True)
class Thresholds:
    """What a result is judged by.

    Parameters
    ----------
    accept_margin, refuse_margin
        Score of the best affine over the score of the best different one: accepted from the first on, with
        a warning down to the second.
    min_score
        Least score, ``ncc * sqrt(overlap)``.
    """

    accept_margin: float
    refuse_margin: float
    min_score: float


def mirror_notes(best: Candidate, rival: Candidate | None, directions: Sequence[np.ndarray]) -> list[str]:
    """What can be said of left and right where mirror images were tried."""
    if rival is None:
        return []
    opposite = np.linalg.det(directions[best.orientation]) * np.linalg.det(directions[rival.orientation]) < 0
    if opposite and rival.fit.score > (1 - _MIRROR_TIE) * best.fit.score:
        return ["a mirror image fits as well: left and right cannot be told from these images"]
    return []


def judge(score: float, margin: float | None, thresholds: Thresholds, notes: list[str]) -> Verdict:
    """Whether a result may be built on; why not is added to `notes`."""
    if score < thresholds.min_score:
        notes.append(f"the score {score:.3f} is below {thresholds.min_score:g}: no match was found")
        return "refuse"
    if margin is None or margin >= thresholds.accept_margin:
        return "accept"
    if margin >= thresholds.refuse_margin:
        notes.append(f"the best different affine is close (margin {margin:.2f}): compare the two pictures")
        return "warn"
    notes.append(f"a different affine fits as well (margin {margin:.2f})")
    return "refuse"
