"""Poses from simulated links with known positions: noise, wrong links, rivals, lost tiles, islands, hands."""

import dataclasses

import numpy as np
import pytest

from weft.links import Link, candidate_links
from weft.poses import PoseSettings, solve_poses

SHAPE, SPACING = (96, 256, 256), (2.0, 0.5, 0.5)


def simulate(rows, columns, seed, wrong=0.0, noise=0.1, diagonal=None):
    """Stage and true positions, um, and links: a share of them confidently wrong."""
    rng = np.random.default_rng(seed)
    stage = np.array([(0, 224 * r, 224 * c) for r in range(rows) for c in range(columns)], float)
    true = stage + rng.uniform(-8, 8, stage.shape)
    pairs = candidate_links(stage * SPACING, SHAPE, SPACING, diagonal=diagonal)
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


def test_links_count_by_what_they_rest_on():
    """Diagonal links rest on a twentieth of the voxels and err five times as much: they must not spoil the others."""
    worst = []
    for seed in range(8):
        stage, true, links, _ = simulate(4, 5, seed, noise=0.02, diagonal=True)
        rng = np.random.default_rng(100 + seed)
        told, untold = [], []
        for link in links:
            aside = (np.abs(stage[link.j] - stage[link.i]) > 0).sum() > 1
            off = rng.normal(0, 0.4, 3) * SPACING if aside else 0
            moved = dataclasses.replace(link, displacement=link.displacement + off)
            told.append(dataclasses.replace(moved, overlap=0.005 if aside else 0.1))
            untold.append(moved)
        found = [errors(solve_poses(stage, those, SPACING).positions, true).max() for those in (told, untold)]
        worst.append(found)
    assert (np.array(worst)[:, 0] < np.array(worst)[:, 1]).all()
    assert np.array(worst)[:, 0].max() < 0.12


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (8, 10)])
def test_one_wrong_link_in_ten_is_rejected_and_reported(rows, columns):
    good = 0
    for seed in range(20):
        stage, true, links, bad = simulate(rows, columns, seed, wrong=0.1)
        poses = solve_poses(stage, links, SPACING)
        if errors(poses.positions, true).max() < 1.5:
            good += 1
            assert poses.weight[bad].max() < 0.1
            assert poses.residual[bad].min() > 0.75
            assert np.median(poses.votes) >= 3
            assert poses.votes[bad].mean() < 0.5
    assert good >= 19


def test_without_diagonals_a_corner_has_no_majority_and_the_stage_decides():
    """The lower right corner's two links disagree: one proposes 4, the other 30 voxels from the stage."""
    stage, true, links, _ = simulate(3, 3, 4, noise=0.0, diagonal=False)
    true[8] = stage[8] + np.array([0, 4, 0]) * SPACING
    links = [dataclasses.replace(v, displacement=true[v.j] - true[v.i]) for v in links]
    wrong = next(k for k, v in enumerate(links) if (v.i, v.j) == (5, 8))
    off = np.array([0, 30, 0]) * SPACING
    links[wrong] = dataclasses.replace(links[wrong], displacement=links[wrong].displacement + off)
    poses = solve_poses(stage, links, SPACING)
    assert errors(poses.positions, true).max() < 0.5
    assert poses.weight[wrong] < 0.1


def test_a_rival_takes_the_place_of_a_wrong_first_peak():
    stage, true, links, bad = simulate(3, 3, 5, wrong=0.3, diagonal=False)
    for k in bad:
        right = true[links[k].j] - true[links[k].i]
        links[k] = dataclasses.replace(links[k], rival=right)
    poses = solve_poses(stage, links, SPACING)
    assert errors(poses.positions, true).max() < 0.5
    assert sorted(np.flatnonzero(poses.rival)) == sorted(bad)
    assert (poses.weight > 0.5).all()
    assert (poses.residual < 1).all()


def test_least_squares_alone_is_wrecked_by_one_empty_tile_and_its_status_prevents_it():
    stage, true, links, _ = simulate(4, 4, 6)
    rng = np.random.default_rng(0)
    for k, link in enumerate(links):
        if 5 in (link.i, link.j):  # noise against noise: any place in the window
            links[k] = dataclasses.replace(link, displacement=link.displacement + rng.uniform(-20, 20, 3))
    told = [dataclasses.replace(v, status="empty", confidence=0.0) if 5 in (v.i, v.j) else v for v in links]
    others = [t for t in range(16) if t != 5]
    for given, word in ((links, None), (told, "neighbours")):
        poses = solve_poses(stage, given, SPACING)
        assert errors(poses.positions, true, others).max() < 0.5
        assert word is None or poses.status[5] == word


def test_terastitcher_keeps_a_spanning_tree_above_the_threshold():
    stage, true, links, _ = simulate(4, 4, 7, noise=0.0)
    rng = np.random.default_rng(0)
    confident = rng.uniform(0.4, 0.9, len(links))
    links = [dataclasses.replace(v, confidence=c) for v, c in zip(links, confident, strict=True)]
    settings = PoseSettings(method="terastitcher", threshold=0.3)
    poses = solve_poses(stage, links, SPACING, settings=settings)
    assert errors(poses.positions, true).max() < 0.01
    assert (poses.weight > 0).sum() == 15
    weakest = int(np.argmin(confident))
    assert poses.weight[weakest] == 0
    none = solve_poses(stage, links, SPACING, settings=dataclasses.replace(settings, threshold=0.95))
    np.testing.assert_allclose(none.positions, stage, atol=1e-5)
    assert set(none.status) == {"neighbours"}


def test_hands_pin_tiles_and_force_links():
    stage, true, links, _ = simulate(3, 3, 8)
    place = true[4] + np.array([3.0, 50.0, -20.0])
    poses = solve_poses(stage, links, SPACING, pins={4: tuple(place)})
    np.testing.assert_allclose(poses.positions[4], place, atol=1e-3)
    assert poses.status[4] == "pinned"
    np.testing.assert_allclose(poses.positions - true, np.tile(place - true[4], (9, 1)), atol=0.7)
    off = links[0].displacement + np.array([0, 0, 40 * SPACING[2]])
    forced = [dataclasses.replace(links[0], displacement=off, status="forced"), *links[1:]]
    poses = solve_poses(stage, forced, SPACING)
    found = poses.positions[forced[0].j] - poses.positions[forced[0].i]
    np.testing.assert_allclose(found, off, atol=0.02)
    assert poses.weight[0] == 1


def test_separate_sets_of_tiles_are_numbered_by_size_and_placed_by_the_stage():
    stage, true, links, _ = simulate(2, 5, 9)
    left = {0, 1, 5, 6}
    links = [
        v if (v.i in left) == (v.j in left) else dataclasses.replace(v, status="low_ncc", confidence=0.0)
        for v in links
    ]
    poses = solve_poses(stage, links, SPACING)
    assert [int(c) for c in poses.component] == [1, 1, 0, 0, 0, 1, 1, 0, 0, 0]
    for part in (sorted(left), sorted(set(range(10)) - left)):
        assert errors(poses.positions, true, part).max() < 0.5
    moves = (poses.positions - stage) / SPACING
    gap = moves[sorted(left)].mean(0) - moves[[2, 3, 4, 7, 8, 9]].mean(0)
    assert np.linalg.norm(gap) < 10  # as far as the stage can be trusted


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
