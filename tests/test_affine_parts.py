"""The parts of the affine search, each by itself."""

import re

import numpy as np
import pytest
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates
from test_affine import GRID, error, moved, specimen, truth

from weft import logs
from weft.grid import Grid
from weft.registration.affine import finest_level, register_affine, search_level
from weft.registration.candidates import moment_rotations, resample_both, rotation_about, rotation_set
from weft.registration.features import (
    Feature,
    finite,
    local_normalisation,
    otsu_threshold,
    tissue_mask,
)
from weft.registration.linear_model import LinearModel
from weft.registration.refine import AffineRefiner
from weft.registration.translation import TranslationSearch


def test_not_a_number_counts_as_zero():
    assert not finite(np.full((2, 3, 4), np.nan)).any()
    np.testing.assert_array_equal(finite(np.array([[[np.inf, 2.0, -np.inf]]])), [[[0, 2, 0]]])


def test_otsu_splits_two_heaps():
    rng = np.random.default_rng(0)
    low, high = rng.normal(1, 0.1, 500), rng.normal(5, 0.3, 300)
    assert low.max() < otsu_threshold(np.concatenate([low, high])) < high.min()


def test_mask_that_says_nothing_is_the_whole_field():
    speck = np.zeros((40, 40, 40), np.float32)
    speck[10, 10, 10] = 5
    assert tissue_mask(speck).all()
    cells = np.zeros((40, 40, 40), np.float32)
    cells[4::8, 4::8, 4::8] = 5
    assert tissue_mask(cells).all()
    # Cells that touch make one large piece, which is no specimen either.
    touching = (np.random.default_rng(0).random(cells.shape) < 0.02).astype(np.float32)
    touching = gaussian_filter(touching, 1.0) * 50
    assert tissue_mask(touching).all()
    halves = np.zeros((40, 40, 40), np.float32)
    halves[5:35, 5:35, 5:18] = halves[5:35, 5:35, 23:36] = 5
    assert 0.3 < tissue_mask(halves).mean() < 0.7


def test_the_longest_side_is_the_tissue_s():
    mask = np.zeros(GRID.shape, bool)
    mask[10:30, 5:15, 8:12] = True
    mask[0, 0, 0] = True  # a speck
    assert Feature(mask.astype(np.float32), mask, GRID).longest == pytest.approx(2000, abs=101)


def test_an_empty_field_around_the_specimen_changes_little():
    fixed = specimen()
    expected, grid = truth()
    moving = moved(fixed, expected, grid)
    codes = {"fixed_orientation": "pil", "moving_orientation": "pil"}
    wide = np.pad(moving, 25, constant_values=int(np.median(moving[0])))
    near = register_affine(fixed, GRID, moving, grid, **codes)
    far = register_affine(fixed, GRID, wide, grid.pad(25), **codes)
    assert error(far.matrix, expected) < 50
    assert far.score == pytest.approx(near.score, abs=0.1)


def test_local_normalisation_removes_gain_and_shade():
    fixed = specimen()
    mask = np.zeros(GRID.shape, bool)
    mask[8:36, 6:28, 8:32] = True
    texture = np.log(fixed)
    plain = local_normalisation(texture, mask, 3.0)
    shaded = local_normalisation(2 * texture + 1, mask, 3.0)
    np.testing.assert_allclose(plain, shaded, atol=1e-3)
    assert not plain[~mask].any()


def test_masked_correlation_finds_the_shift_despite_what_is_outside():
    rng = np.random.default_rng(3)
    world = gaussian_filter(rng.normal(size=(40, 40, 40)), 1).astype(np.float32)
    fixed, moving = world[4:28, 6:30, 2:26].copy(), world[9:33, 4:28, 5:29].copy()
    mask = np.ones(fixed.shape, bool)
    mask[:, :5] = False
    fixed[:, :5] = 1000  # rubbish outside the mask
    found = TranslationSearch(fixed, mask, 0.3)(moving, np.ones(moving.shape, bool), peaks=2)
    np.testing.assert_array_equal(found[0][1], (5, -2, 3))
    # Identical where they overlap, which is a part of the smaller mask.
    assert found[0][0] == pytest.approx(np.sqrt(19 * 17 * 21 / (24 * 19 * 24)), abs=1e-3)
    assert found[1][0] < 0.5


def overlap_scores(fixed, fixed_mask, moving, moving_mask):
    """Common voxels and score of every shift, one by one: ``fixed[i]`` goes with ``moving[i - shift]``."""
    reach = [range(1 - b, a) for a, b in zip(fixed.shape, moving.shape, strict=True)]
    smaller = min(fixed_mask.sum(), moving_mask.sum())
    found = {}
    for shift in np.array(np.meshgrid(*reach, indexing="ij")).reshape(3, -1).T:
        low, high = np.maximum(shift, 0), np.minimum(shift + moving.shape, fixed.shape)
        here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        there = tuple(slice(a, b) for a, b in zip(low - shift, high - shift, strict=True))
        both = fixed_mask[here] & moving_mask[there]
        values = fixed[here][both].astype(float), moving[there][both].astype(float)
        if both.sum() > 2:
            score = np.corrcoef(*values)[0, 1] * np.sqrt(both.sum() / smaller)
            found[tuple(shift.tolist())] = (int(both.sum()), float(score))
    return found


@pytest.mark.parametrize("min_overlap", [0.0, 0.3, 0.6])
@pytest.mark.parametrize(
    ("shape", "moving_shape"), [((9, 12, 8), (13, 7, 10)), ((10, 9, 9), (4, 5, 3)), ((1, 15, 11), (1, 9, 10))]
)
def test_masked_correlation_is_that_of_every_shift_by_itself(shape, moving_shape, min_overlap):
    rng = np.random.default_rng(6)
    images = [rng.normal(size=s).astype(np.float32) for s in (shape, moving_shape)]
    masks = [gaussian_filter(rng.normal(size=s), 1) > -0.3 for s in (shape, moving_shape)]
    masks[0][:, :2] = masks[0][:, :, -1:] = masks[1][:, -1:] = False
    smaller = min(mask.sum() for mask in masks)
    every = overlap_scores(images[0], masks[0], images[1], masks[1])
    allowed = {shift: score for shift, (n, score) in every.items() if n > min_overlap * smaller}
    found = TranslationSearch(images[0], masks[0], min_overlap)(images[1], masks[1], peaks=3, distance=1)
    assert len(found) == 3
    for score, shift in found:
        assert score == pytest.approx(max(allowed.values()), abs=1e-5)
        assert allowed[tuple(shift.tolist())] == pytest.approx(score, abs=1e-5)
        allowed = {s: v for s, v in allowed.items() if np.abs(np.subtract(s, shift)).max() > 1}


def test_masked_correlation_of_what_cannot_overlap_enough_is_empty():
    long, tall = np.zeros((3, 4, 30), bool), np.zeros((3, 30, 4), bool)
    long[1, 1:3], tall[1, :, 1:3] = True, True
    rng = np.random.default_rng(0)
    images = [rng.normal(size=mask.shape).astype(np.float32) for mask in (long, tall)]
    assert TranslationSearch(images[0], long, 0.5)(images[1], tall) == []
    assert TranslationSearch(images[0], long, 0.5)(images[1], np.zeros(tall.shape, bool)) == []
    assert TranslationSearch(images[0], long, 0.05)(images[1], tall) != []


@pytest.mark.parametrize("depth", [1, 7])
def test_an_image_and_its_mask_are_resampled_as_scipy_does(depth):
    rng = np.random.default_rng(2)
    values = rng.normal(size=(depth, 12, 9)).astype(np.float32)
    mask = rng.random(values.shape) < 0.7
    linear = 0.9 * rotation_about((1, 0, 0) if depth == 1 else (1, -2, 3), 25)
    shift = np.array([0.0 if depth == 1 else -1.3, 2.2, -0.7])
    out, inside = np.zeros((depth, 14, 13), np.float32), np.zeros((depth, 14, 13), bool)
    resample_both(values, mask, linear, shift, out, inside)
    expected = [
        affine_transform(v, linear, shift, out.shape, order=1, mode="constant")
        for v in (values, mask.astype(np.float32))
    ]
    np.testing.assert_array_equal(out, expected[0])
    np.testing.assert_array_equal(inside, expected[1] > 0.5)
    assert 0.1 < inside.mean() < 0.9


def test_a_search_says_how_far_it_is(monkeypatch, capsys, caplog):
    monkeypatch.setattr(logs, "QUIET", -1.0)
    rng = np.random.default_rng(5)
    fixed, moving = (gaussian_filter(rng.normal(size=(16, 16, 16)), 1.5) for _ in range(2))
    grid = Grid(fixed.shape, (10.0,) * 3)
    codes = {"fixed_orientation": "sar", "moving_orientation": "sar"}
    with caplog.at_level("INFO", "weft"):
        result = register_affine(fixed, grid, moving, grid, **codes)
    assert result.accepted == "refuse"
    said = capsys.readouterr().err
    assert re.search(
        r"affine, effort 2 of at most 4: rotations and scales: 30 of \d\d, about \d+ s left", said
    )
    assert "affine, effort 4 of at most 4: starts refined: 20 of 40, about " in said
    assert re.search(r"affine, effort 4 of at most 4: rotations and scales: all \d+ done", caplog.text)


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
def test_refinement_recovers_what_its_freedom_allows(kind):
    image = gaussian_filter(np.random.default_rng(0).normal(size=GRID.shape), 2).astype(np.float32)
    feature = Feature(image / image.std(), np.ones(GRID.shape, bool), GRID)
    expected = np.eye(4)
    scale = 1.0 if kind == "rigid" else 1.04
    expected[:3, :3] = scale * rotation_about((1, 1, 2), 3)
    if kind == "affine":
        expected[:3, :3] = expected[:3, :3] @ np.diag([1.03, 0.98, 1.0])
    middle = 0.5 * (GRID.lower + GRID.upper)
    expected[:3, 3] = middle + np.array((60, -40, 80)) - expected[:3, :3] @ middle
    index = np.indices(GRID.shape).reshape(3, -1)
    back = np.linalg.inv(expected)
    points = GRID.to_physical(index.T) @ back[:3, :3].T + back[:3, 3]
    index = GRID.to_index(points)
    known = GRID.contains(points).reshape(GRID.shape)
    values = map_coordinates(feature.image, index.T, order=3, mode="nearest").reshape(GRID.shape)
    fit = AffineRefiner(feature, Feature(2 * values.astype(np.float32) + 1, known, GRID)).run(
        np.eye(4), kind, 40, overlap_power=0.0
    )
    assert error(fit.matrix, expected) < 5
    assert fit.ncc > 0.97
    singular = np.linalg.svd(fit.matrix[:3, :3], compute_uv=False)
    if kind == "rigid":
        np.testing.assert_allclose(singular, 1, atol=1e-9)
    if kind == "similarity":
        assert np.ptp(singular) < 1e-9


def test_refinement_neither_flattens_nor_shears():
    rng = np.random.default_rng(5)
    # Of unrelated smooth images, a flattened one often correlates best.
    images = [gaussian_filter(rng.normal(size=(10, 40, 40)), 4).astype(np.float32) for _ in range(2)]
    grid = Grid((10, 40, 40), (1.0, 1.0, 1.0))
    one, other = (Feature(i / i.std(), np.ones(grid.shape, bool), grid) for i in images)
    refiner = AffineRefiner(one, other)
    start = np.eye(4)
    for shift in range(-12, 13, 4):
        start[1, 3] = shift
        fit = refiner.run(start, "affine", 60)
        assert LinearModel().plausible(fit.matrix[:3, :3])
        again = refiner.run(fit.matrix, "affine", 60, about=np.eye(3))
        assert LinearModel().plausible(again.matrix[:3, :3])


@pytest.mark.parametrize(
    ("stretches", "plausible"),
    [((1, 1, 1), True), ((1.5, 1, 1), True), ((1.7, 1, 1), False), ((2.1,) * 3, False), ((0.45,) * 3, False)],
)
def test_what_is_plausible(stretches, plausible):
    turn = rotation_about((1, 2, 3), 40) @ np.diag(stretches) @ rotation_about((3, -1, 1), 70)
    for hand in (1, -1):
        assert LinearModel().plausible(hand * turn) == plausible
    flat = np.diag([1.0, 0, 0]) + np.pad(np.diag(stretches)[:2, :2], ((1, 0), (1, 0)))
    assert LinearModel(planar=True).plausible(flat) == plausible


def test_moments_lay_tissue_along_tissue():
    z, y, x = np.indices((40, 60, 60)) - np.reshape((19.5, 29.5, 29.5), (3, 1, 1, 1))
    grid = Grid((40, 60, 60), (1.0, 1.0, 1.0))

    def body(turn):
        a, b, c = np.tensordot(turn.T, np.stack([z, y, x]), 1)
        return Feature(z * 0, (a / 4) ** 2 + (b / 25) ** 2 + (c / 15) ** 2 < 1, grid)

    turn = rotation_about((1, 2, -1), 25)
    rotations = moment_rotations(body(np.eye(3)), body(turn), np.eye(3))
    assert any(np.abs(rotation - turn).max() < 0.03 for rotation in rotations)
    # The thin axis alone: the shortest way there, though the rest may be turned about it.
    assert all(np.abs(rotation[:, 0] - turn[:, 0]).max() < 0.03 for rotation in rotations)
    assert moment_rotations(body(np.eye(3)), body(np.eye(3)), np.eye(3)) == []
    mirror = np.diag([1.0, 1.0, -1.0])
    for rotation in moment_rotations(body(np.eye(3)), body(mirror @ turn @ mirror), mirror):
        assert np.linalg.det(rotation) > 0
        assert np.abs(rotation[:, 0] - turn[:, 0]).max() < 0.03


def test_rotation_sets_are_rotations_of_the_stated_sizes():
    for count in (1, 13, 33):
        matrices = rotation_set(count)
        assert len({np.round(m, 9).tobytes() for m in matrices}) == count
        assert all(np.allclose(m @ m.T, np.eye(3)) and np.linalg.det(m) > 0 for m in matrices)
        planar = rotation_set(count, planar=True)
        assert len({np.round(m, 9).tobytes() for m in planar}) == count
        assert all(m[0, 0] == pytest.approx(1) and np.linalg.det(m) > 0 for m in planar)
    with pytest.raises(ValueError, match="no set of 7"):
        rotation_set(7)


def test_levels_are_not_finer_than_the_images():
    coarse = Grid((10, 10, 10), (100.0, 100.0, 100.0))
    fine = Grid((400, 100, 100), (5.0, 5.0, 5.0))
    assert search_level(coarse, fine) == 100
    assert finest_level(coarse, fine) == 100
    assert finest_level(fine, fine) == pytest.approx(2000 / 64 / 4)
