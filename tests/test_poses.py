"""Poses from simulated links with known positions: noise, wrong links, lost tiles."""

import numpy as np
import pytest

from weft.links import Link, candidate_links
from weft.poses import solve_poses

SHAPE, SPACING = (96, 256, 256), (2.0, 0.5, 0.5)


def simulate(rows, columns, seed, wrong=0.0, noise=0.1):
    """Stage and true positions, um, and links: a share of them confidently wrong."""
    rng = np.random.default_rng(seed)
    stage = np.array([(0, 224 * r, 224 * c) for r in range(rows) for c in range(columns)], float)
    true = stage + rng.uniform(-8, 8, stage.shape)
    pairs = candidate_links(stage * SPACING, SHAPE, SPACING)
    shifts = np.array([true[j] - true[i] for i, j in pairs]) + rng.normal(0, noise, (len(pairs), 3))
    bad = rng.choice(len(pairs), round(wrong * len(pairs)), replace=False)
    for k in bad:
        i, j = pairs[k]
        shifts[k] = stage[j] - stage[i] + rng.uniform(-18, 18, 3)
    links = [
        Link(i, j, s * SPACING, 0.8, 0.2, 0.1, "ok", 0.6) for (i, j), s in zip(pairs, shifts, strict=True)
    ]
    return stage * SPACING, true * SPACING, links, bad


def errors(positions, true, tiles=slice(None)):
    """Distance to the truth, voxels, after the common shift."""
    off = ((positions - true) / SPACING)[tiles]
    return np.linalg.norm(off - np.median(off, 0), axis=1)


def test_noisy_links_give_sub_voxel_positions():
    stage, true, links, _ = simulate(4, 5, 0)
    poses = solve_poses(stage, links, SPACING)
    assert errors(stage, true).max() > 5
    assert errors(poses.positions, true).max() < 0.5
    assert set(poses.status) == {"ok"}
    assert set(poses.component) == {0}
    assert (poses.weight > 0.5).all()
    np.testing.assert_allclose((poses.positions - stage).mean(0), 0, atol=1e-5)


def test_wrong_links_are_rejected_and_reported():
    good = 0
    for seed in range(10):
        stage, true, links, bad = simulate(4, 4, seed, wrong=0.1)
        poses = solve_poses(stage, links, SPACING)
        if errors(poses.positions, true).max() < 1.5:
            good += 1
            assert poses.weight[bad].max() < 0.1
            assert poses.residual[bad].min() > 0.75
    assert good >= 9


def test_an_unlinked_tile_follows_its_neighbours():
    stage, true, links, _ = simulate(3, 3, 1)
    true = true + np.array([0, 0, 40.0]) * (np.arange(9)[:, None] >= 3)  # stage slipped after the first row
    links = []
    for i, j in candidate_links(stage, SHAPE, SPACING):
        status = "empty" if 8 in (i, j) else "ok"
        moved = true[j] - true[i] if status == "ok" else np.array([99.0, 99.0, 99.0])
        links.append(Link(i, j, moved, 0.8, 0.2, 0.1, status, 0.6))
    poses = solve_poses(stage, links, SPACING)
    assert poses.status == ("ok",) * 8 + ("neighbours",)
    assert errors(poses.positions, true, slice(0, 8)).max() < 0.5
    moves = (poses.positions - stage) / SPACING
    np.testing.assert_allclose(moves[8], moves[[5, 7]].mean(0), atol=0.1)
    assert poses.component[8] != poses.component[0]
    assert (poses.weight[[k for k, v in enumerate(links) if 8 in (v.i, v.j)]] == 0).all()


def test_order_of_links_does_not_matter():
    stage, _, links, _ = simulate(3, 4, 2, wrong=0.1)
    first = solve_poses(stage, links, SPACING)
    turn = np.random.default_rng(0).permutation(len(links))
    second = solve_poses(stage, [links[k] for k in turn], SPACING)
    np.testing.assert_array_equal(first.positions, second.positions)
    np.testing.assert_array_equal(first.weight[turn], second.weight)


def test_no_links_and_islands():
    stage = np.array([(0, 0, 0), (0, 1000.0, 0)])
    poses = solve_poses(stage, [], SPACING)
    assert poses.status == ("stage_only",) * 2
    np.testing.assert_array_equal(poses.positions, stage)
    assert poses.component.tolist() == [0, 1]


def test_refusals():
    link = Link(0, 5, np.zeros(3), 0.9, 0.1, 0.1, "ok", 0.5)
    with pytest.raises(ValueError, match="5"):
        solve_poses(np.zeros((2, 3)), [link], SPACING)
    with pytest.raises(ValueError, match="tile 1"):
        solve_poses(np.array([(0, 0, 0), (0, np.nan, 0)]), [], SPACING)
