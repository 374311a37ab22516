"""The affine start against transforms that are known because the moving image was made with them."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from weft.grid import Grid
from weft.registration.affine import AffineSettings, register_affine
from weft.registration.candidates import rotation_about
from weft.registration.orientation import orientation_matrix

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


# ---------------------------------------------------------------------------------------------- bad input
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


# ---------------------------------------------------------------------------------------------- real data
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
