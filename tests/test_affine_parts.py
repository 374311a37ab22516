"""The parts of the affine search, each by itself."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from test_affine import GRID, error, moved, specimen, truth

from weft.grid import Grid
from weft.registration.affine import finest_level, register_affine, search_level
from weft.registration.candidates import moment_rotations, rotation_about, rotation_set
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
