"""The affine start against transforms that are known because the moving image was made with them."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from weft.grid import Grid
from weft.registration.affine import AffineSettings, finest_level, register_affine, search_level
from weft.registration.candidates import moment_rotations, rotation_about, rotation_set
from weft.registration.features import (
    Feature,
    finite,
    local_normalisation,
    otsu_threshold,
    tissue_mask,
)
from weft.registration.linear_model import LinearModel
from weft.registration.orientation import orientation_matrix
from weft.registration.refine import AffineRefiner
from weft.registration.translation import TranslationSearch

GRID = Grid((44, 34, 40), (100.0, 100.0, 100.0), (500.0, -300.0, 50.0))


def specimen(seed=0, symmetric=False):
    """A textured body of no symmetry (or of left-right symmetry about the middle) in a dark field."""
    rng = np.random.default_rng(seed)
    shape = GRID.shape
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    body = (z / 0.75) ** 2 + (y / (0.55 + 0.15 * z)) ** 2 + (x / 0.7) ** 2 < 1
    if not symmetric:
        body |= (z - 0.5) ** 2 + (y + 0.3) ** 2 + (x - 0.45) ** 2 < 0.09
    texture = (
        gaussian_filter(rng.normal(size=shape), 1.3) * 6 + gaussian_filter(rng.normal(size=shape), 3) * 15
    )
    if symmetric:
        texture = texture + texture[:, :, ::-1]
        body = body & body[:, :, ::-1]
    values = np.where(body, 800 * np.exp(0.5 * texture), 20.0)
    return gaussian_filter(values, 0.6).astype(np.float32)


def moved(fixed, matrix, grid, seed=1):
    """The moving image on `grid`, of which `matrix` (fixed to moving) is the truth; other contrast, noise."""
    back = np.linalg.inv(matrix)
    index = np.indices(grid.shape).reshape(3, -1)
    points = grid.to_physical(index.T) @ back[:3, :3].T + back[:3, 3]
    values = map_coordinates(fixed, GRID.to_index(points).T, order=1, mode="nearest").reshape(grid.shape)
    noise = np.random.default_rng(seed).normal(size=grid.shape)
    shade = np.linspace(0.7, 1.3, grid.shape[0])[:, None, None]
    return np.clip(3 * values**0.8 * shade + 4 * noise, 0, None).astype(np.uint16)


def truth(orientation="pil", moving="pil", rotation=None, scale=1.0, shift=(0, 0, 0)):
    """A known transform and a moving grid that holds the whole specimen."""
    linear = scale * orientation_matrix(orientation, moving)
    linear = linear if rotation is None else linear @ rotation
    extent = np.abs(linear) @ GRID.extent * 0.95 + 400
    spacing = (90.0, 110.0, 110.0)
    grid = Grid(tuple(np.ceil(extent / spacing).astype(int)), spacing, (-1000.0, 0.0, 2000.0))
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    middle = 0.5 * (GRID.lower + GRID.upper)
    matrix[:3, 3] = 0.5 * (grid.lower + grid.upper) + np.asarray(shift) - linear @ middle
    return matrix, grid


def error(matrix, expected):
    """Mean distance, um, over a box that holds the specimen; a voxel has 100 um."""
    difference = (matrix - expected)[:3]
    corners = GRID.crop((slice(5, -5), slice(5, -5), slice(5, -5))).corners()
    return np.linalg.norm(corners @ difference[:, :3].T + difference[:, 3], axis=1).mean()


# ---------------------------------------------------------------------------------------------- the whole
def test_codes_lead_to_the_affine():
    rotation = rotation_about((1, 2, -1), 7)
    expected, grid = truth(moving="ras", rotation=rotation, scale=1.06, shift=(150, -90, 200))
    fixed = specimen()
    result = register_affine(
        fixed, GRID, moved(fixed, expected, grid), grid, fixed_orientation="pil", moving_orientation="ras"
    )
    assert result.accepted == "accept"
    assert result.margin is None or result.margin > 1.5
    assert error(result.matrix, expected) < 50
    assert result.ncc > 0.8


def test_orientation_is_found_and_named():
    expected, grid = truth(moving="lsp", rotation=rotation_about((0, 1, 1), 4))
    fixed = specimen()
    result = register_affine(fixed, GRID, moved(fixed, expected, grid), grid, fixed_orientation="pil")
    assert result.accepted == "accept"
    assert result.moving_orientation == "lsp"
    assert error(result.matrix, expected) < 50
    assert any("mirror" in note for note in result.notes)  # handedness was assumed, and it says so


def test_a_wrong_code_is_reported():
    expected, grid = truth(moving="lsp")
    fixed = specimen()
    result = register_affine(
        fixed,
        GRID,
        moved(fixed, expected, grid),
        grid,
        fixed_orientation="pil",
        moving_orientation="las",
        settings=AffineSettings(orientation="search"),
    )
    assert result.moving_orientation == "lsp"
    assert result.accepted == "warn"
    assert any("'lsp'" in note and "'las'" in note for note in result.notes)


def test_rotation_and_scale_beyond_one_start_are_found_by_the_larger_efforts():
    # Texture without an outline: nothing but the right rotation and scale makes it match.
    fixed = 800 * np.exp(20 * gaussian_filter(np.random.default_rng(4).normal(size=GRID.shape), 2.5))
    expected, grid = truth(rotation=rotation_about((2, -1, 1), 24), scale=1.25)
    said = []
    result = register_affine(
        fixed,
        GRID,
        moved(fixed, expected, grid),
        grid,
        fixed_orientation="pil",
        moving_orientation="pil",
        progress=said.append,
    )
    assert sum("rotations" in sentence for sentence in said) > 1
    assert result.accepted == "accept"
    assert error(result.matrix, expected) < 100  # a voxel: these edges are soft


def test_a_part_is_found_in_the_whole_whichever_is_fixed():
    fixed = specimen()
    expected, grid = truth(moving="ail", shift=(0, 50, 0))
    whole = moved(fixed, expected, grid)
    part = (slice(0, 24), slice(None), slice(None))
    forward = register_affine(
        fixed[part], GRID.crop(part), whole, grid, fixed_orientation="pil", moving_orientation="ail"
    )
    backward = register_affine(
        whole, grid, fixed[part], GRID.crop(part), fixed_orientation="ail", moving_orientation="pil"
    )
    # Over the whole specimen, of which the part is little more than half.
    assert error(forward.matrix, expected) < 100
    assert error(np.linalg.inv(backward.matrix), expected) < 100


@pytest.mark.parametrize("turn", [(0, 0, 17), (0, 12, -14)])
def test_a_thin_slab_is_found_however_it_lies(turn):
    part = (slice(18, 27), slice(None), slice(None))
    rotation = rotation_about((0, 0, 1), turn[2]) @ rotation_about((0, 1, 0), turn[1])
    fixed = specimen()
    expected, grid = truth(rotation=rotation, scale=1.04, shift=(120, 200, -150))
    cut = np.full_like(fixed, 20.0)
    cut[part] = fixed[part]
    result = register_affine(
        fixed[part],
        GRID.crop(part),
        moved(cut, expected, grid),
        grid,
        fixed_orientation="pil",
        moving_orientation="pil",
    )
    assert result.accepted == "accept"
    corners = GRID.crop(part).corners()
    difference = (result.matrix - expected)[:3]
    distance = np.linalg.norm(corners @ difference[:, :3].T + difference[:, 3], axis=1).mean()
    assert distance < 0.03 * GRID.extent.max()


def test_a_given_start_may_scale_unequally():
    fixed = specimen()
    expected, grid = truth()
    moving = moved(fixed, expected, grid)
    # Voxels that are said to be twice as long along z as they are.
    wrong = Grid(grid.shape, (180.0, 110.0, 110.0))
    stretched = wrong.matrix() @ np.linalg.inv(grid.matrix()) @ expected
    codes = {"fixed_orientation": "pil", "moving_orientation": "pil"}
    given = register_affine(fixed, GRID, moving, wrong, start=stretched, **codes)
    assert given.accepted == "accept"
    np.testing.assert_allclose(np.diag(given.matrix)[:3], (2, 1, 1), atol=0.05)


def test_a_mirror_image_of_a_symmetric_specimen_is_refused_when_searched():
    fixed = specimen(symmetric=True)
    expected, grid = truth(moving="ail")
    moving = moved(fixed, expected, grid)
    asked = register_affine(
        fixed,
        GRID,
        moving,
        grid,
        fixed_orientation="pil",
        settings=AffineSettings(handedness="search"),
    )
    assert asked.accepted == "refuse"
    assert any("left and right cannot be told: one of the images is its own" in note for note in asked.notes)


def test_handedness_comes_from_the_codes():
    fixed = specimen(symmetric=True)
    expected, grid = truth(moving="air")  # a mirror image of what "ail" stores
    told = register_affine(
        fixed,
        GRID,
        moved(fixed, expected, grid),
        grid,
        fixed_orientation="pil",
        moving_orientation="air",
        settings=AffineSettings(orientation="search"),
    )
    assert told.accepted == "accept"
    assert np.sign(np.linalg.det(told.matrix[:3, :3])) == np.sign(np.linalg.det(expected[:3, :3]))
    assert error(told.matrix, expected) < 50


def test_a_mirror_image_of_a_lopsided_specimen_is_found_when_searched():
    fixed = specimen()
    expected, grid = truth(moving="air")
    result = register_affine(
        fixed,
        GRID,
        moved(fixed, expected, grid),
        grid,
        fixed_orientation="pil",
        settings=AffineSettings(handedness="search"),
    )
    assert result.accepted == "accept"
    assert result.moving_orientation == "air"
    assert error(result.matrix, expected) < 50


def test_masks_keep_rubbish_out():
    fixed = specimen()
    expected, grid = truth(rotation=rotation_about((1, 0, 1), 6), shift=(100, 0, -100))
    moving = moved(fixed, expected, grid)
    # A bright block beside the specimen in either image, at unlike places.
    spoilt = [fixed.copy(), moving.copy()]
    counts = [np.ones(array.shape, bool) for array in spoilt]
    for array, mask, rubbish in zip(spoilt, counts, [np.s_[:, -9:, :], np.s_[:, :9, :]], strict=True):
        texture = gaussian_filter(np.random.default_rng(7).normal(size=array.shape), 2) * 40
        array[rubbish] = (3000 * np.exp(texture))[rubbish].clip(0, 60000)
        mask[rubbish] = False
    codes = {"fixed_orientation": "pil", "moving_orientation": "pil"}
    result = register_affine(spoilt[0], GRID, spoilt[1], grid, masks=(counts[0], counts[1]), **codes)
    assert result.accepted == "accept"
    assert error(result.matrix, expected) < 50


def test_noise_is_refused():
    a, b = (np.random.default_rng(k).normal(500, 50, GRID.shape) for k in (1, 2))
    result = register_affine(a, GRID, b, GRID, fixed_orientation="pil", moving_orientation="pil")
    assert result.accepted == "refuse"
    assert result.score < 0.3


def test_same_input_same_bytes():
    expected, grid = truth(rotation=rotation_about((1, 0, 0), 5))
    fixed = specimen()
    moving = moved(fixed, expected, grid)
    codes = {"fixed_orientation": "pil", "moving_orientation": "pil"}
    first, second = (register_affine(fixed, GRID, moving, grid, **codes) for _ in range(2))
    assert first.matrix.tobytes() == second.matrix.tobytes()
    assert first.trials == second.trials


# ------------------------------------------------------------------------------------------- bad input
def test_a_voxel_size_in_millimetres_is_named_before_anything_is_searched():
    fixed, moving = np.random.default_rng(0).random((2, 20, 30, 30), np.float32)
    grids = Grid(fixed.shape, (25.0,) * 3), Grid(moving.shape, (0.025,) * 3)
    with pytest.raises(
        ValueError, match=r"moving image is 0\.75 um long and the fixed image 750 um, 1000 times .* in um\?"
    ):
        register_affine(fixed, grids[0], moving, grids[1])


def test_bad_input_is_refused_in_one_sentence():
    fixed = specimen()
    with pytest.raises(ValueError, match="moving image has the same value everywhere"):
        register_affine(fixed, GRID, np.zeros(GRID.shape), GRID)
    with pytest.raises(ValueError, match="fixed image is of shape"):
        register_affine(fixed[1:], GRID, fixed, GRID)
    with pytest.raises(ValueError, match="moving mask leaves nothing"):
        register_affine(fixed, GRID, fixed, GRID, masks=(None, np.zeros(GRID.shape, bool)))
    with pytest.raises(ValueError, match="repeats an axis"):
        register_affine(fixed, GRID, fixed, GRID, fixed_orientation="pal")


# ------------------------------------------------------------------------------------------- the parts
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


# ------------------------------------------------------------------------------------------- single planes
PLANE = Grid((1, 300, 260), (7.0, 4.0, 4.0), (21.0, -50.0, 10.0))


def section(turn=0.0, scale=1.0, shift=(0.0, 0.0), mirror=False, seed=0):
    """A textured section, the same one moved, and the transform that did it."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in PLANE.shape[1:]], indexing="ij")
    body = ((y / 0.7) ** 2 + (x / (0.5 + 0.2 * y)) ** 2 < 1) | ((y - 0.3) ** 2 + (x - 0.45) ** 2 < 0.06)
    texture = sum(gaussian_filter(rng.normal(size=body.shape), s) * 3 * s for s in (3, 8))
    fixed = np.where(body, 800 * np.exp(0.4 * texture), 20.0)
    linear = np.diag([1.0, 1, -1 if mirror else 1]) @ rotation_about((1, 0, 0), turn)
    linear[1:] *= scale
    grid = Grid((1, 400, 420), (11.0, 4.5, 4.5), (-5.0, 300.0, 0.0))
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = grid.to_physical((0, 200, 210)) - linear @ PLANE.to_physical((0, 150, 130))
    matrix[1:3, 3] += shift
    back = np.linalg.inv(matrix)
    points = grid.to_physical(np.indices(grid.shape).reshape(3, -1).T) @ back[:3, :3].T + back[:3, 3]
    index = PLANE.to_index(points)[:, 1:]
    moving = map_coordinates(fixed, index.T, order=1, cval=20.0).reshape(grid.shape)
    noise = rng.normal(size=grid.shape)
    return fixed[None], np.clip(2 * moving**0.9 + 4 * noise, 0, None), grid, matrix


def plane_error(matrix, expected):
    """Mean distance at the corners of the plane, um; a pixel has 4 um."""
    difference = (matrix - expected)[1:3]  # the other side of a plane has the other sign along z
    return np.linalg.norm(PLANE.corners() @ difference[:, :3].T + difference[:, 3], axis=1).mean()


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
def test_planes_are_registered_in_their_plane(kind):
    fixed, moving, grid, expected = section(17, 1.0 if kind == "rigid" else 1.2, (60, -80))
    result = register_affine(
        fixed,
        PLANE,
        moving,
        grid,
        fixed_orientation="sar",
        moving_orientation="sar",
        settings=AffineSettings(model=kind),
    )
    assert result.accepted == "accept"
    assert plane_error(result.matrix, expected) < 4
    np.testing.assert_array_equal(result.matrix[0, :3], (1, 0, 0))
    np.testing.assert_array_equal(result.matrix[1:3, 0], 0)
    assert result.matrix[0] @ (21.0, 0, 0, 1) == -5.0  # the planes' own places


def test_the_turn_of_a_plane_is_searched():
    fixed, moving, grid, expected = section(97, 1.1)
    result = register_affine(fixed, PLANE, moving, grid, fixed_orientation="sar")
    assert result.accepted == "accept"
    assert result.moving_orientation == "sla"
    assert plane_error(result.matrix, expected) < 4


def test_a_plane_seen_from_the_other_side_is_found_by_its_codes():
    fixed, moving, grid, expected = section(8, mirror=True)
    for search in ("code", "search"):
        result = register_affine(
            fixed,
            PLANE,
            moving,
            grid,
            fixed_orientation="sar",
            moving_orientation="ial",
            settings=AffineSettings(orientation=search),
        )
        assert result.accepted == "accept"
        assert result.moving_orientation == "ial"
        assert plane_error(result.matrix, expected) < 4


def test_planes_that_cannot_lie_on_each_other_are_refused():
    fixed, moving, grid, _ = section()
    with pytest.raises(ValueError, match="two single planes at right angles"):
        register_affine(fixed, PLANE, moving, grid, fixed_orientation="sar", moving_orientation="ars")
    with pytest.raises(ValueError, match="fixed image has 1 planes and the moving image 44"):
        register_affine(fixed, PLANE, specimen(), GRID)


# ------------------------------------------------------------------------------------------- real data
def test_real_brain_is_found_in_the_template():
    data = Path(os.environ.get("WEFT_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    planes = sorted((data / "brainreg_mouse/tests/data/input/brain").glob("*.tif"))
    template = data / "allen_ccf_cloudreg/cloudreg/registration/atlases/average_template_200.nrrd"
    if not planes or not template.exists():
        pytest.skip("the real brain and the template are not here")
    import SimpleITK
    import tifffile

    brain = np.stack([tifffile.imread(plane) for plane in planes])
    atlas = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(template))).transpose(2, 1, 0)
    result = register_affine(
        atlas,
        Grid(atlas.shape, (200.0, 200.0, 200.0)),
        brain,
        Grid(brain.shape, (50.0, 40.0, 40.0)),
        fixed_orientation="pil",
        moving_orientation="air",
        settings=AffineSettings(orientation="search"),
    )
    assert result.accepted == "accept"
    assert result.moving_orientation == "air"
    assert result.score > 0.55
    assert result.margin > 2.5
    np.testing.assert_allclose(np.diag(result.matrix)[:3], (-1.09, 0.955, -1.005), atol=0.02)
