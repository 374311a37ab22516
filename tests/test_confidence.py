"""How far an affine is trusted: planes that share little, and planes that share nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from weft.grid import Grid
from weft.registration.affine import AffineResult, register_affine
from weft.registration.candidates import rotation_about
from weft.registration.confidence import Thresholds, judge

PLANE = Grid((1, 260, 300), (5.0, 4.0, 4.0))


def texture(random: np.random.Generator, sigma: float) -> np.ndarray:
    values = gaussian_filter(random.normal(size=PLANE.shape[1:]), sigma)
    return values / values.std()


def stains(shared: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two stains of one section of which the second is turned: what they share, each beside much of its own."""
    random = np.random.default_rng(seed)
    common = texture(random, 6)
    truth = np.eye(4)
    truth[:3, :3] = 1.05 * rotation_about((1, 0, 0), 11)
    truth[0, 0] = 1.0
    middle = 0.5 * (PLANE.lower + PLANE.upper)
    truth[:3, 3] = middle - truth[:3, :3] @ middle + np.array([0.0, 40, -60])
    one, two = (shared * common + texture(random, 4) + 0.2 * texture(random, 0.7) for _ in range(2))
    points = PLANE.to_physical(np.indices(PLANE.shape).reshape(3, -1).T)
    index = PLANE.to_index(points @ np.linalg.inv(truth)[:3, :3].T + np.linalg.inv(truth)[:3, 3])[:, 1:]
    moved = map_coordinates(two, index.T, order=1, mode="reflect").reshape(PLANE.shape)
    return np.exp(0.3 * one)[None], np.exp(0.3 * moved), truth


def find(shared: float, seed: int) -> tuple[AffineResult, float]:
    """The affine, and its mean error at the corners, um."""
    fixed, moving, truth = stains(shared, seed)
    result = register_affine(1000 * fixed, PLANE, 1000 * moving, PLANE)
    difference = (result.matrix - truth)[:3]
    errors = np.linalg.norm(PLANE.corners() @ difference[:, :3].T + difference[:, 3], axis=1)
    return result, float(errors.mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_two_stains_that_share_little_are_accepted_by_their_margin(seed):
    result, error = find(1.5, seed)
    assert result.score < 0.3
    assert result.accepted == "accept"
    assert error < 0.01 * PLANE.extent.max()


def test_planes_that_share_nothing_are_refused():
    result, _ = find(0.0, seed=0)
    assert result.accepted == "refuse"


@pytest.mark.parametrize(
    ("score", "margin", "planar", "verdict"),
    [
        (0.31, None, False, "accept"),
        (0.29, None, False, "refuse"),
        (0.31, 1.4, False, "warn"),
        (0.31, 1.1, False, "refuse"),
        (0.16, 2.9, False, "refuse"),
        (0.16, 3.1, False, "accept"),
        (0.14, 9.0, False, "refuse"),
        (0.08, 1.6, True, "accept"),
        (0.08, 1.2, True, "warn"),
        (0.29, 1.1, True, "refuse"),
        (0.07, 9.0, True, "refuse"),
        (0.29, None, True, "refuse"),
    ],
)
def test_verdicts(score, margin, planar, verdict):
    notes: list[str] = []
    assert judge(score, margin, Thresholds(1.5, 1.15, 0.3, planar), notes) == verdict
    assert bool(notes) == (verdict != "accept")
