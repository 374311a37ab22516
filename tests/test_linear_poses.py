"""Poses with a linear part, from block matches made of known poses."""

import dataclasses

import numpy as np
import pytest
from scipy.linalg import expm

from weft.links import Link, candidate_links
from weft.poses import PoseSettings, solve_poses

SHAPE, SPACING = (40, 200, 200), (2.0, 1.0, 1.0)
STEP = 170


def deformed_scan(model, seed, shape=SHAPE, noise=0.05):
    """True positions and linear parts of 3 x 3 tiles, stage positions, and links with their block matches."""
    rng = np.random.default_rng(seed)
    stage = np.array([(0, STEP * r, STEP * c) for r in range(3) for c in range(3)], float)
    true = stage + rng.uniform(-4, 4, stage.shape) * (np.array(shape) > 1)
    logs = (
        (model != "translation")
        * rng.normal(0, 0.008, (9, 3, 3))
        * np.outer(np.array(shape) > 1, np.array(shape) > 1)
    )
    if model == "rigid":
        logs = (logs - logs.transpose(0, 2, 1)) / 2**0.5
    linear = np.array([expm(log) for log in logs])
    links = []
    for i, j in candidate_links(stage, shape, SPACING, diagonal=True):
        matches = []
        low = np.maximum(0, (stage[j] - stage[i]) / SPACING)
        high = np.minimum(shape, (stage[j] - stage[i]) / SPACING + shape)
        for part in rng.uniform(0, 1, (12, 3)):
            r = (low + part * (high - low - 1)) * SPACING
            there = np.linalg.solve(linear[j], true[i] + linear[i] @ r - true[j])
            off = rng.normal(0, noise, 3) * (np.array(shape) > 1)
            matches.append([*r, *(r - there + off), 0.8])
        matches = np.array(matches)
        links.append(Link(i, j, matches[:, 3:6].mean(0), 0.8, 0.2, 0.1, "ok", 0.6, matches=matches))
    return true, linear, stage, links


def corner_errors(poses, true, linear, shape=SHAPE):
    """Distances of the tiles' corners from the truth after the affine that all tiles may share, um."""
    corners = np.stack(np.meshgrid(*[(0, (n - 1) * s) for n, s in zip(shape, SPACING, strict=True)]), -1)
    corners = corners.reshape(-1, 3)
    parts = np.tile(np.eye(3), (9, 1, 1)) if poses.linear is None else poses.linear
    found = (poses.positions[:, None] + np.einsum("nij,cj->nci", parts, corners)).reshape(-1, 3)
    wanted = (true[:, None] + np.einsum("nij,cj->nci", linear, corners)).reshape(-1, 3)
    ones = np.c_[found, np.ones(len(found))]
    return np.linalg.norm(ones @ np.linalg.lstsq(ones, wanted, rcond=None)[0] - wanted, axis=1)


@pytest.mark.parametrize("shape", [SHAPE, (1, 200, 200)])
@pytest.mark.parametrize("model", ["rigid", "affine"])
def test_linear_parts_bring_the_corners_together(model, shape):
    true, linear, stage, links = deformed_scan(model, 0, shape)
    plain = solve_poses(stage, links, SPACING, settings=PoseSettings(link_sigma=3.0))
    poses = solve_poses(
        stage, links, SPACING, shape=shape, settings=PoseSettings(model=model, linear_sigma=0.01)
    )
    before, after = (corner_errors(p, true, linear, shape).max() for p in (plain, poses))
    assert after < (0.5 if model == "rigid" else 1.2)
    assert after < before / 3
    for part in poses.linear:
        if model == "rigid":
            np.testing.assert_allclose(part @ part.T, np.eye(3), atol=1e-7)
        if shape[0] == 1:
            np.testing.assert_array_equal(part[0], (1, 0, 0))
            np.testing.assert_array_equal(part[:, 0], (1, 0, 0))


def test_a_similarity_scales_all_axes_alike():
    _, _, stage, links = deformed_scan("rigid", 1)
    poses = solve_poses(stage, links, SPACING, shape=SHAPE, settings=PoseSettings(model="similarity"))
    for part in poses.linear:
        square = part @ part.T
        np.testing.assert_allclose(square, square[0, 0] * np.eye(3), atol=1e-7)


def test_wrong_blocks_do_not_count():
    true, linear, stage, links = deformed_scan("affine", 2)
    rng = np.random.default_rng(0)
    for link in links:
        link.matches[0, 3:6] += rng.uniform(-12, 12, 3)
    settings = PoseSettings(model="affine", linear_sigma=0.01)
    poses = solve_poses(stage, links, SPACING, shape=SHAPE, settings=settings)
    assert corner_errors(poses, true, linear).max() < 1.2


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("model", ["translation", "rigid", "affine"])
def test_the_model_is_found(model, seed):
    _, _, stage, links = deformed_scan(model, seed)
    poses = solve_poses(stage, links, SPACING, shape=SHAPE)
    if model == "translation":
        assert poses.linear is None
        return
    turned = np.abs(poses.linear @ poses.linear.transpose(0, 2, 1) - np.eye(3)).max()
    assert turned < 1e-7 if model == "rigid" else turned > 1e-3
    given = solve_poses(stage, links, SPACING, shape=SHAPE, settings=PoseSettings(model=model))
    np.testing.assert_array_equal(poses.positions, given.positions)


def test_tiles_that_are_distorted_in_other_ways_stay_translations():
    """Blocks are displaced by up to 4 voxels, each in its own way: no linear part predicts them."""
    _, _, stage, links = deformed_scan("translation", 3)
    rng = np.random.default_rng(3)
    for link in links:
        link.matches[:, 3:6] += rng.uniform(-4, 4, link.matches[:, 3:6].shape)
    assert solve_poses(stage, links, SPACING, shape=SHAPE).linear is None


def test_few_blocks_choose_no_model():
    _, _, stage, links = deformed_scan("affine", 0)
    few = [dataclasses.replace(link, matches=link.matches[:3]) for link in links]
    assert solve_poses(stage, few, SPACING, shape=SHAPE).linear is None


def test_the_shape_of_a_tile_is_needed():
    _, _, stage, links = deformed_scan("rigid", 0)
    with pytest.raises(ValueError, match="'affine' need the shape"):
        solve_poses(stage, links, SPACING, settings=PoseSettings(model="affine"))
