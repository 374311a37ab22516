"""How far an affine can be trusted: its score, its margin over the best different one, left and right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from weft.registration.candidates import Candidate, smoothed
from weft.registration.features import Feature
from weft.registration.refine import AffineRefiner

Verdict = Literal["accept", "warn", "refuse"]
VERDICTS: tuple[Verdict, ...] = ("refuse", "warn", "accept")  # as the number that is gated: 0, 1, 2

_MIRROR_TIE = 0.01  # difference in score, as a share, that cannot tell a sample from its mirror image
_OWN_MIRROR = 0.85  # correlation with its own mirror image from which an image cannot tell left from right


@dataclass(frozen=True)
class Thresholds:
    """What a result is judged by.

    Parameters
    ----------
    accept_margin, refuse_margin
        Score of the best affine over the score of the best different one: accepted from the first on, with
        a warning down to the second.
    min_score
        Least score, ``ncc * sqrt(overlap)``; half of it where the margin is twice `accept_margin`.
    planar
        The images are single planes. The search tries nearly all that can happen to a plane, so that its rivals show
        what these two images reach by chance: the margin says enough, and a quarter of `min_score` will do.
    """

    accept_margin: float
    refuse_margin: float
    min_score: float
    planar: bool = False

    @property
    def certain_margin(self) -> float:
        """The margin from which a lower score will do, as of sparse cells or of two stains."""
        return self.refuse_margin if self.planar else 2 * self.accept_margin

    @property
    def enough_margin(self) -> float:
        """The margin that makes a larger effort needless whatever the score, once rotations have been tried."""
        return self.accept_margin if self.planar else self.certain_margin

    @property
    def least(self) -> float:
        """That lower score."""
        return self.min_score / (4 if self.planar else 2)


def mirror_note(
    best: Candidate,
    rival: Candidate | None,
    directions: Sequence[np.ndarray],
    features: tuple[Feature, Feature],
) -> str:
    """Why left and right cannot be told where mirror images were tried; empty where they can."""
    likeness = max(self_mirror(feature) for feature in features)
    if likeness >= _OWN_MIRROR:
        return (
            f"left and right cannot be told: one of the images is its own mirror image (correlation {likeness:.3f}); "
            "only an orientation code can say"
        )
    if rival is not None:
        hands = [np.linalg.det(directions[candidate.orientation]) for candidate in (best, rival)]
        if hands[0] * hands[1] < 0 and rival.fit.score > (1 - _MIRROR_TIE) * best.fit.score:
            return "a mirror image fits as well: left and right cannot be told from these images"
    return ""


def self_mirror(feature: Feature) -> float:
    """Correlation of a feature with its best mirror image, rotated and shifted as needed."""
    refiner = AffineRefiner(smoothed(feature, 1.0), smoothed(feature, 1.0))
    best = -1.0
    for axis in range(int(feature.mask.shape[0] == 1), 3):
        start = np.eye(4)
        start[axis, axis] = -1
        start[axis, 3] = 2 * feature.centroid[axis]
        fit = refiner.run(start, "rigid")
        best = max(best, fit.ncc * fit.overlap)
    return best


def judge(score: float, margin: float | None, thresholds: Thresholds, notes: list[str]) -> Verdict:
    """Whether a result may be built on; why not is added to `notes`."""
    certain = margin is not None and margin >= thresholds.certain_margin
    needed = thresholds.least if certain else thresholds.min_score
    if score < needed:
        notes.append(f"the score {score:.3f} is below {needed:g}: no match was found")
        return "refuse"
    if margin is None or margin >= thresholds.accept_margin:
        return "accept"
    if margin >= thresholds.refuse_margin:
        notes.append(f"the best different affine is close (margin {margin:.2f}): compare the two pictures")
        return "warn"
    notes.append(f"a different affine fits as well (margin {margin:.2f})")
    return "refuse"
