"""Given starts of the affine: matrices, motions, landmarks and files, each against what it was made from."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation
from test_affine import GRID, error, moved, specimen, truth

from weft.config.registration import Affine as AffineConfig
from weft.grid import Grid
from weft.image import Image, Level
from weft.refusals import ConfigError, parse
from weft.registration.affine import AffineSettings, register_affine
from weft.registration.candidates import rotation_about
from weft.registration.given import fit_landmarks, given_start, motion, read_affine
from weft.registration.linear_model import LinearModel
from weft.registration.start import find_affine
from weft.transforms.formats.scene import write_scene
from weft.transforms.model import Affine, Displacements, Sequence

MOVING = Grid((30, 40, 20), (8.0, 5.0, 5.0), (100.0, 0.0, -50.0))
POINTS = np.random.default_rng(0).uniform(-500, 3000, (12, 3))


def affine(scale=1.0, shear=0.0):
    """A rotation, a scale, a shear and a shift."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * rotation_about((1, -2, 0.5), 40)
    matrix[:3, :3] += shear * np.random.default_rng(1).normal(size=(3, 3))
    matrix[:3, 3] = (120, -40, 900)
    return matrix


def apply(matrix, points):
    return points @ matrix[:3, :3].T + matrix[:3, 3]


# ------------------------------------------------------------------------------------------- motion
def test_a_motion_is_cloudregs():
    values = {
        "x": 120.0,
        "y": -30.0,
        "z": 900.0,
        "yz": 10.0,
        "xz": -25.0,
        "xy": 40.0,
        "scale": (1.1, 0.9, 1.3),
    }
    matrix = motion(values, GRID, MOVING, ("pil", "air"))
    # Points (x, y, z) from the middle of either image; the codes send (p, i, l) to (a, i, r).
    turned = np.diag([-1.0, 1.0, -1.0])  # of (x, y, z) = (l, i, p)
    rotation = Rotation.from_euler("xyz", [10.0, -25.0, 40.0], degrees=True).as_matrix()
    middles = [0.5 * (grid.lower + grid.upper) for grid in (GRID, MOVING)]
    there = (POINTS - middles[0])[:, ::-1] @ turned.T @ rotation.T + [120.0, -30.0, 900.0]
    np.testing.assert_allclose(apply(matrix, POINTS), (there * [1.1, 0.9, 1.3])[:, ::-1] + middles[1])


def test_a_motion_without_codes_leaves_the_axes_and_joins_the_middles():
    matrix = motion({"scale": 2.0}, GRID, MOVING, (None, "air"))
    np.testing.assert_array_equal(matrix[:3, :3], 2 * np.eye(3))
    np.testing.assert_allclose(
        apply(matrix, 0.5 * (GRID.lower + GRID.upper)[None])[0], 0.5 * (MOVING.lower + MOVING.upper)
    )


# ------------------------------------------------------------------------------------------- landmarks
@pytest.mark.parametrize(
    ("kind", "expected"),
    [("rigid", affine()), ("similarity", affine(1.3)), ("affine", affine(1.3, 0.1))],
)
@pytest.mark.parametrize("planar", [False, True])
def test_landmarks_determine_their_model(kind, expected, planar):
    points = POINTS.copy()
    if planar:
        expected = expected.copy()
        expected[0, :3] = (1, 0, 0)
        expected[1:3, 0] = 0
        if kind != "affine":
            scale = 1.3 if kind == "similarity" else 1.0
            expected[:3, :3] = np.diag([1, scale, scale]) @ rotation_about((1, 0, 0), 40)
        points[:, 0] = 7.0
    found = fit_landmarks(points, apply(expected, points), LinearModel(kind, planar))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_landmarks_are_fitted_with_least_squares():
    there = apply(affine(1.2), POINTS) + np.random.default_rng(2).normal(0, 20, POINTS.shape)
    for kind in ("rigid", "similarity", "affine"):
        found = fit_landmarks(POINTS, there, LinearModel(kind))
        best = ((apply(found, POINTS) - there) ** 2).sum()
        for axis in range(3):  # no small change of the model's own parameters is better
            for step in (1e-3, -1e-3):
                other = found.copy()
                other[:3, :3] = rotation_about(np.eye(3)[axis], np.rad2deg(step)) @ found[:3, :3]
                other[:3, 3] += (apply(found, POINTS) - apply(other, POINTS)).mean(axis=0)
                assert ((apply(other, POINTS) - there) ** 2).sum() > best


def test_mirrored_landmarks_do_not_mirror_a_similarity():
    mirrored = POINTS * [1, 1, -1]
    assert np.linalg.det(fit_landmarks(POINTS, mirrored, LinearModel("similarity"))[:3, :3]) > 0
    assert np.linalg.det(fit_landmarks(POINTS, mirrored, LinearModel("affine"))[:3, :3]) < 0


@pytest.mark.parametrize(
    ("points", "kind", "said"),
    [
        (POINTS[:3], "affine", "found 3 landmarks; wanted at least 4 that do not lie in a plane"),
        (POINTS * [0, 1, 1], "affine", "found 12 landmarks; wanted at least 4 that do not lie in a plane"),
        (POINTS[:2], "rigid", "found 2 landmarks; wanted at least 3 that do not lie on a line"),
        (POINTS[:5, :1] * [1, 1, 1], "similarity", "do not lie on a line"),
    ],
)
def test_too_few_landmarks_are_refused(points, kind, said):
    with pytest.raises(ValueError, match=said):
        fit_landmarks(points, points, LinearModel(kind))


def test_a_table_of_landmarks_is_read(tmp_path):
    expected = affine(1.1, 0.05)
    fixed = GRID.to_physical(np.random.default_rng(3).uniform(2, 30, (6, 3)))
    there = apply(expected, fixed)
    moving = Grid((400, 400, 400), (20.0,) * 3, tuple(there.min(axis=0) - 500))
    head = "fixed_z,fixed_y,fixed_x,moving_z,moving_y,moving_x"
    np.savetxt(tmp_path / "pairs.csv", np.hstack([fixed, there]), delimiter=",", header=head, comments="")
    start = {"landmarks": [str(tmp_path / "pairs.csv")]}
    found = given_start(start, GRID, moving, (None, None), LinearModel())
    np.testing.assert_allclose(found, expected, atol=1e-6)
    pairs = np.hstack([fixed, there])[:2]
    np.savetxt(tmp_path / "pairs.csv", pairs, delimiter=",", header=head, comments="")
    with pytest.raises(ValueError, match=r"pairs.csv: found 2 landmarks"):
        given_start(start, GRID, moving, (None, None), LinearModel())


# ------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize("name", ["a.tfm", "a.txt", "a.mat", "a.h5"])
def test_itk_files_are_read_in_their_axes_and_unit(tmp_path, name):
    transform = sitk.AffineTransform(3)
    transform.SetCenter((1.0, 2.0, 3.0))
    transform.SetMatrix(Rotation.from_euler("xyz", [0.1, 0.2, 0.3]).as_matrix().ravel().tolist())
    transform.SetTranslation((0.5, -0.25, 4.0))
    sitk.WriteTransform(transform, str(tmp_path / name))
    found = read_affine(tmp_path / name, unit=1000.0)
    there = [np.array(transform.TransformPoint(tuple(p[::-1] / 1000)))[::-1] * 1000 for p in POINTS]
    np.testing.assert_allclose(apply(found, POINTS), there, atol=1e-3)


def test_wefts_own_affine_and_a_scene_are_read(tmp_path):
    first, second = affine(1.1), affine(0.9, 0.1)
    steps = [{"type": "affine", "matrix": m.tolist()} for m in (first, second)]
    (tmp_path / "affine.json").write_text(json.dumps({"units": "micrometer", "sequence": steps}))
    np.testing.assert_allclose(read_affine(tmp_path / "affine.json"), second @ first)
    write_scene(tmp_path / "scene.zarr", Sequence((Affine(first), Affine(second)), "fixed", "moving"))
    np.testing.assert_allclose(read_affine(tmp_path / "scene.zarr"), second @ first)


def test_files_that_are_no_affine_are_refused(tmp_path):
    field = Displacements.zero(Grid((4, 4, 4), (1.0, 1.0, 1.0)))
    write_scene(tmp_path / "scene.zarr", Sequence((field,), "fixed", "moving"))
    with pytest.raises(ValueError, match=r"scene.zarr: holds a displacement field; wanted"):
        read_affine(tmp_path / "scene.zarr")
    with pytest.raises(FileNotFoundError, match=r"missing\.tfm"):
        read_affine(tmp_path / "missing.tfm")
    (tmp_path / "bad.tfm").write_text("nonsense")
    with pytest.raises(ValueError, match=r"bad.tfm"):
        read_affine(tmp_path / "bad.tfm")


# ------------------------------------------------------------------------------------------- registration
def test_a_given_start_is_refined_or_taken_as_it_is():
    # A quarter turn and more: nothing that the codes would lead to.
    expected, grid = truth(rotation=rotation_about((1, 2, 1), 75))
    fixed = specimen()
    moving = moved(fixed, expected, grid)
    start = expected @ np.block([[rotation_about((0, 1, 1), 4), np.c_[[60, -90, 40]]], [np.zeros(3), 1]])
    codes = {"fixed_orientation": None, "moving_orientation": None}
    refined = register_affine(fixed, GRID, moving, grid, start=start, **codes)
    assert refined.accepted == "accept"
    assert refined.margin is None
    assert error(refined.matrix, expected) < 50
    taken = register_affine(fixed, GRID, moving, grid, start=start, refine=False, **codes)
    np.testing.assert_allclose(taken.matrix, start, atol=1e-9)
    assert taken.score < refined.score
    lost = register_affine(fixed, GRID, moving, grid, start=expected @ affine(), refine=False, **codes)
    assert lost.accepted == "refuse"


def test_images_find_their_given_start():
    expected, grid = truth(moving="air")
    fixed = specimen()
    images = [
        (Image((Level(array[None], g),), orientation=code), 0)
        for array, g, code in ((fixed, GRID, "pil"), (moved(fixed, expected, grid), grid, "air"))
    ]
    start = {"motion": {"x": 90.0, "xy": 3.0}, "refine": True}
    found = find_affine(*images, AffineSettings(model="similarity"), 0, start=start)
    assert found.moving_orientation == "air"
    assert error(found.matrix, expected) < 60


# ------------------------------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({}, "wanted exactly one of matrix, motion, landmarks, transform; found none of them"),
        ({"motion": {}, "transform": "a.tfm"}, "wanted exactly one of .*; found motion, transform"),
        ({"matrix": [[1, 0, 0]]}, "wanted a matrix of 4 rows of 4 numbers"),
        ({"motion": {"scale": 0}}, "motion.scale"),
        ({"landmarks": ["a", "b", "c"]}, "landmarks"),
    ],
)
def test_settings_of_a_start_are_checked(start, said):
    with pytest.raises(ConfigError, match=said):
        parse(AffineConfig, {"start": start}, "my.yaml")


def test_a_matrix_is_checked():
    singular = {"matrix": np.diag([1.0, 1, 0, 1]).tolist()}
    with pytest.raises(ValueError, match=r"affine\.start\.matrix: an affine must be invertible"):
        given_start(singular, GRID, MOVING, (None, None), LinearModel())
