"""Transforms: maps with known answers, receipts, stores, points, Jacobians."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr

from weft.grid import Grid
from weft.transforms import Affine, Displacements, Sequence, open_transform
from weft.transforms.folds import find_folds, folds, minimal_jacobian
from weft.transforms.formats.ngff import data_digest, open_field, save_field
from weft.transforms.formats.scene import read_scene, write_scene
from weft.transforms.interpolate import resample_field
from weft.transforms.jacobian import determinant, smallest_determinant
from weft.transforms.points import warp_points
from weft.transforms.unfold import unfold

GRID = Grid((12, 14, 16), (2.0, 3.0, 4.0), (5.0, -6.0, 7.0))
SLOPE = np.array([[0.1, 0.02, 0.0], [-0.03, 0.05, 0.01], [0.0, 0.04, -0.08]])
AFFINE = np.array([[0, 1.1, 0, 3], [-0.9, 0.1, 0, -4], [0, 0, 1.2, 5], [0, 0, 0, 1.0]])


def linear_field(grid: Grid, slope: np.ndarray = SLOPE) -> np.ndarray:
    """u(x) = slope x, which trilinear interpolation reproduces exactly."""
    points = grid.to_physical(np.indices(grid.shape).reshape(3, -1).T)
    return (points @ slope.T).T.reshape(3, *grid.shape).astype(np.float32)


def points_in(grid: Grid, n: int = 200, seed: int = 0) -> np.ndarray:
    """Random points between the outermost voxel centres."""
    return grid.to_physical(np.random.default_rng(seed).uniform(0, np.array(grid.shape) - 1, (n, 3)))


def test_displacements_interpolate_linearly_and_keep_the_borders_value_outside():
    field = Displacements(linear_field(GRID), GRID)
    points = points_in(GRID)
    np.testing.assert_allclose(field.apply(points), points + points @ SLOPE.T, atol=1e-5)
    corner = GRID.to_physical([[0, 0, 0]])
    beyond = corner - [[100.0, 50.0, 20.0]]
    np.testing.assert_allclose(field.apply(beyond) - beyond, corner @ SLOPE.T, atol=1e-6)
    assert field.inside(corner - 0.4 * np.array(GRID.spacing)).all()
    assert not field.inside(corner - 0.6 * np.array(GRID.spacing)).any()


def test_a_sequence_applies_its_steps_in_order():
    sequence = Sequence((Displacements(linear_field(GRID), GRID), Affine(AFFINE)))
    points = points_in(GRID)
    truth = (points + points @ SLOPE.T) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    np.testing.assert_allclose(sequence.apply(points), truth, atol=1e-4)
    assert sequence.inverse is None
    before, field, after = sequence.split()
    np.testing.assert_array_equal(before, np.eye(4))
    np.testing.assert_array_equal(after, AFFINE)
    assert field is sequence.steps[0]


def test_an_affine_sequence_has_a_computed_inverse():
    sequence = Sequence((Affine(AFFINE), Affine(np.diag([2, 3, 4, 1.0]))), "fixed", "moving")
    points = points_in(GRID)
    back = sequence.inverse
    assert back is not None
    np.testing.assert_allclose(back.apply(sequence.apply(points)), points, atol=1e-9)
    assert (back.input_space, back.output_space) == ("moving", "fixed")


@pytest.mark.parametrize(
    "matrix", [np.eye(3), np.zeros((4, 4)), np.diag([1, 0, 1, 1.0]), np.full((4, 4), np.nan)]
)
def test_a_matrix_that_is_no_affine_is_refused(matrix):
    with pytest.raises(ValueError, match="an affine"):
        Affine(matrix)


def test_a_field_off_its_grid_is_refused():
    with pytest.raises(ValueError, match="does not lie on its grid"):
        Displacements(np.zeros((3, 2, 2, 2)), GRID)


def test_points_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(n, 3\)"):
        Affine(np.eye(4)).apply(np.zeros((4, 2)))


# ---------------------------------------------------------------------------------- receipts and stores
def write_transform(folder, name, field, steps):
    save_field(folder / f"{name}.ome.zarr", field, GRID)
    receipt = {"input_space": "fixed", "output_space": "moving", "units": "micrometer", "sequence": steps}
    (folder / f"{name}.json").write_text(json.dumps(receipt))


def displacements_step(name):
    return {"type": "displacements", "store": f"{name}.ome.zarr", "path": "0"}


def test_open_transform_reads_both_directions(tmp_path):
    affine = {"type": "affine", "matrix": AFFINE.tolist()}
    write_transform(tmp_path, "transform", linear_field(GRID), [displacements_step("transform"), affine])
    transform = open_transform(tmp_path / "transform.json")
    assert transform.inverse is None
    back = {"type": "affine", "matrix": np.linalg.inv(AFFINE).tolist()}
    # The exact inverse of x -> x + Bx is w -> w + ((I + B)^-1 - I) w.
    inverse_slope = np.linalg.inv(np.eye(3) + SLOPE) - np.eye(3)
    write_transform(
        tmp_path, "inverse", linear_field(GRID, inverse_slope), [back, displacements_step("inverse")]
    )
    transform = open_transform(tmp_path / "transform.json")
    points = points_in(GRID.crop((slice(3, 9), slice(3, 11), slice(3, 13))))
    moved = transform.apply(points)
    np.testing.assert_allclose(transform.inverse.apply(moved), points, atol=1e-4)
    assert transform.inverse.inside(moved).all()
    np.testing.assert_allclose(transform.inverse.inverse.apply(points), moved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "sequence"),
        ("[1]", "sequence"),
        ("{", "not a receipt"),
        ('{"sequence": [{"type": "bspline"}]}', "'bspline'"),
        ('{"sequence": [], "units": "millimeter"}', "millimeter"),
    ],
)
def test_a_file_that_is_no_transform_is_refused(tmp_path, text, message):
    path = tmp_path / "transform.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        open_transform(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"affine\.json"):
        open_transform(tmp_path / "affine.json")
    (tmp_path / "transform.json").write_text(json.dumps({"sequence": [displacements_step("gone")]}))
    with pytest.raises(FileNotFoundError, match=r"gone\.ome\.zarr"):
        open_transform(tmp_path / "transform.json")


def test_a_store_keeps_the_field_to_the_bit_in_several_shards(tmp_path):
    grid = Grid((20, 150, 140), (4.0, 4.0, 4.0), (1.5, 2.5, -3.5))
    field = np.random.default_rng(0).normal(size=(3, *grid.shape)).astype(np.float32)
    digests = save_field(tmp_path / "a.zarr", field, grid, {"input_space": "fixed"})
    assert len(digests) == 4
    assert all((tmp_path / "a.zarr" / name).is_file() for name in digests)
    loaded, found = open_field(tmp_path / "a.zarr")
    np.testing.assert_array_equal(loaded[:], field)
    assert found == grid
    assert data_digest(save_field(tmp_path / "b.zarr", field, grid)) == data_digest(digests)
    field[2, 19, 149, 139] += 1e-3
    changed = save_field(tmp_path / "a.zarr", field, grid)
    assert sum(changed[name] != digests[name] for name in digests) == 1
    assert data_digest(changed) != data_digest(digests)


def test_the_store_speaks_ngff(tmp_path):
    save_field(tmp_path / "a.zarr", linear_field(GRID), GRID, {"input_space": "fixed"})
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")
    image = group.attrs["ome"]["multiscales"][0]
    axes = image["coordinateSystems"][0]["axes"]
    assert [axis["type"] for axis in axes] == ["displacement", "space", "space", "space"]
    scale, translation = image["datasets"][0]["coordinateTransformations"][0]["transformations"]
    assert scale["scale"] == [1.0, *GRID.spacing]
    assert translation["translation"] == [0.0, *GRID.origin]
    array = group["0"]
    assert array.metadata.dimension_names == ("d", "z", "y", "x")
    wanted = {
        "units": "micrometer",
        "type": "displacements",
        "direction": "pull-back",
        "input_space": "fixed",
    }
    assert wanted.items() <= dict(array.attrs).items()


def test_what_is_no_field_is_not_saved_or_loaded(tmp_path):
    field = linear_field(GRID)
    field[0, 1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="1 values that are not finite"):
        save_field(tmp_path / "a.zarr", field, GRID)
    group = zarr.open_group(str(tmp_path / "image.zarr"), mode="w", zarr_format=3)
    group.create_array("0", shape=(3, 4, 4, 4), dtype="float32")
    with pytest.raises(ValueError, match="no displacement field"):
        open_field(tmp_path / "image.zarr")


def test_a_scene_keeps_both_directions(tmp_path):
    field = Displacements(linear_field(GRID), GRID)
    back = Sequence((Affine(AFFINE).inverse, field), "moving", "fixed")
    forward = Sequence((field, Affine(AFFINE)), "fixed", "moving", lambda: back)
    write_scene(tmp_path / "scene.zarr", forward)
    found = read_scene(tmp_path / "scene.zarr")
    assert (found.input_space, found.output_space) == ("fixed", "moving")
    points = points_in(GRID)
    np.testing.assert_array_equal(found.apply(points), forward.apply(points))
    np.testing.assert_array_equal(found.inverse.apply(points), back.apply(points))
    assert found.inverse.inverse is found
    edge = zarr.open_group(str(tmp_path / "scene.zarr"), mode="r").attrs["ome"]["scene"][
        "coordinateTransformations"
    ][0]
    assert edge["type"] == "bijection"
    assert [step["type"] for step in edge["forward"]["transformations"]] == ["displacements", "affine"]
    assert edge["forward"]["transformations"][1]["affine"] == AFFINE[:3].tolist()


def test_a_scene_of_one_direction_and_a_bad_one(tmp_path):
    write_scene(tmp_path / "a.zarr", Sequence((Displacements(linear_field(GRID), GRID),), "fixed", "moving"))
    assert read_scene(tmp_path / "a.zarr").inverse is None
    with pytest.raises(ValueError, match="two spaces"):
        write_scene(tmp_path / "b.zarr", Sequence((Affine(AFFINE),), "fixed", "fixed"))
    with pytest.raises(FileNotFoundError, match=r"gone\.zarr"):
        read_scene(tmp_path / "gone.zarr")
    save_field(tmp_path / "field.zarr", linear_field(GRID), GRID)
    with pytest.raises(ValueError, match="0 transforms"):
        read_scene(tmp_path / "field.zarr")


# ---------------------------------------------------------------------------------- fields that stay on disk
class Counted:
    """A field that counts the samples that are read of it."""

    def __init__(self, field):
        self.field, self.shape, self.read = field, field.shape, 0

    def __getitem__(self, region):
        part = np.asarray(self.field[region])
        self.read += part[0].size
        return part


def stored(folder, grid, seed=0):
    field = np.random.default_rng(seed).normal(size=(3, *grid.shape)).astype(np.float32)
    save_field(folder, field, grid)
    lazy, found = open_field(folder)
    assert found == grid
    return field, Displacements(lazy, grid)


def test_points_through_a_stored_field_take_the_bytes_of_the_whole(tmp_path, monkeypatch):
    grid = Grid((40, 70, 50), (2.0, 3.0, 4.0), (0.7, -3.3, 11.1))
    field, lazy = stored(tmp_path / "a.zarr", grid)
    # Inside, at samples, on the border, far outside, and one that is no place.
    points = np.vstack(
        [points_in(grid.pad(3), 2000), grid.corners(), [[1e6, 5.0, -1e6]], [[np.nan, 1.0, 2.0]]]
    )
    wanted = Displacements(field, grid).apply(points)
    np.testing.assert_array_equal(lazy.apply(points), wanted)
    monkeypatch.setattr("weft.transforms.interpolate.AT_ONCE", 20_000)
    monkeypatch.setattr("weft.transforms.interpolate.TILE", 16)
    np.testing.assert_array_equal(lazy.apply(points), wanted)
    other = grid.crop((slice(5, 20), slice(30, 60), slice(2, 40))).resample((1.1, 2.0, 3.0))
    np.testing.assert_array_equal(resample_field(lazy.field, grid, other), resample_field(field, grid, other))


def test_only_the_part_of_a_field_that_is_needed_is_read():
    shapes = [(40, 40, 40), (80, 80, 80), (160, 160, 160)]
    read = []
    for shape in shapes:
        grid = Grid(shape, (4.0,) * 3)
        counted = Counted(np.zeros((3, *shape), np.float32))
        sequence = Sequence((Affine(np.eye(4)), Displacements(counted, grid)))
        part = Grid((30, 30, 30), (1.0,) * 3, (50.0, 60.0, 70.0))
        near = sequence.within(part)
        near.apply(points_in(part))
        sequence.apply(points_in(part))
        resample_field(counted, grid, part)
        read.append(counted.read)
    assert read == [read[0]] * 3
    assert read[0] < 3 * 13**3


def test_far_outside_a_transform_goes_on_as_a_translation_and_back():
    """x -> x + Bx and its exact inverse on boxes that hold each other's images: both map far points onto each other."""
    grid = Grid((20, 20, 20), (5.0, 5.0, 5.0), (-47.5, -47.5, -47.5))
    slope = np.diag([0.1, -0.05, 0.2])
    forward = Displacements(linear_field(grid, slope), grid)
    back = np.linalg.inv(np.eye(3) + slope) - np.eye(3)
    # The samples of the inverse's grid are the images of those of the grid.
    image = Grid(grid.shape, tuple(5 * np.diag(np.eye(3) + slope)), tuple(-47.5 * np.diag(np.eye(3) + slope)))
    backward = Displacements(linear_field(image, back), image)
    away = np.random.default_rng(0).normal(size=(500, 3)) * [[1e5, 1e3, 80.0]]
    moved = forward.apply(away)
    assert not forward.inside(away).all()
    np.testing.assert_allclose(backward.apply(moved), away, atol=1e-4)
    beyond = away + np.sign(away) * 1e6
    border = grid.to_physical((np.sign(away) > 0) * 19)
    np.testing.assert_allclose(forward.apply(beyond) - beyond, border @ slope, atol=1e-4)


# ---------------------------------------------------------------------------------- resampling, points
def test_resampling_a_field_is_exact_for_a_linear_one():
    fine = GRID.crop((slice(2, 10), slice(2, 12), slice(3, 13))).resample((1.0, 1.0, 3.0))
    inner = fine.crop((slice(1, -1),) * 3)
    np.testing.assert_allclose(
        resample_field(linear_field(GRID), GRID, inner), linear_field(inner), atol=1e-5
    )


def test_resampling_a_field_clamps_and_keeps_samples():
    field = linear_field(GRID)
    wide = resample_field(field, GRID, GRID.pad(2))
    np.testing.assert_array_equal(wide[:, 2:-2, 2:-2, 2:-2], field)
    np.testing.assert_array_equal(wide[:, 0, 0, 0], field[:, 0, 0, 0])
    np.testing.assert_array_equal(wide[:, -1, -1, -1], field[:, -1, -1, -1])
    flat = Grid((1, 1, 1), (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(resample_field(np.ones((3, 1, 1, 1), np.float32), flat, GRID), 1)


def test_points_outside_the_domain_are_flagged_not_moved():
    sequence = Sequence((Displacements(linear_field(GRID), GRID), Affine(AFFINE)))
    points = np.vstack([points_in(GRID, 5), [[1e5, 0, 0]], [[np.nan, 0, 0]]])
    warped, inside = warp_points(points, sequence)
    assert inside.tolist() == [True] * 5 + [False] * 2
    assert np.isnan(warped[5:]).all()
    np.testing.assert_array_equal(warped[:5], sequence.apply(points[:5]))
    assert warp_points(np.empty((0, 3)), sequence)[0].shape == (0, 3)


# ---------------------------------------------------------------------------------- Jacobians
def test_determinant_of_a_linear_field():
    truth = np.linalg.det(np.eye(3) + SLOPE)
    field = linear_field(GRID)
    np.testing.assert_allclose(determinant(field, GRID), truth, rtol=1e-4)
    np.testing.assert_allclose(smallest_determinant(field, GRID), truth, rtol=1e-4)


def test_folds_are_where_the_smallest_determinant_says():
    field = np.random.default_rng(2).normal(size=(3, *GRID.shape)).astype(np.float32)
    for size in (0.2, 0.6, 2.0):
        smallest = smallest_determinant(size * field, GRID)
        np.testing.assert_array_equal(find_folds(size * field, GRID.spacing, 0.02), smallest <= 0.02)
        assert size < 0.5 or 0 < (smallest <= 0.02).mean() < 1


@pytest.mark.parametrize("length", [2, 49, 50, 130])
@pytest.mark.parametrize("slope", [0.1, 0.3, 0.37, 0.39, 0.5, 0.56])
def test_the_steepest_cell_of_a_field_is_found_wherever_it_lies(length, slope):
    """Parts of rows that cannot hold a determinant below the limit are left out. What shrinks alike along all axes is the limiting case."""
    grid = Grid((3, 4, length), (2.0, 3.0, 4.0))
    for place in {0, (length - 2) // 2, length - 2}:
        steps = [np.clip(np.arange(n) - at, 0, 1) for n, at in zip(grid.shape, (1, 2, place), strict=True)]
        field = -slope * np.stack(np.meshgrid(*steps, indexing="ij")) * np.reshape(grid.spacing, (3, 1, 1, 1))
        smallest = (1 - slope) ** 3
        assert minimal_jacobian(field, grid.spacing) == pytest.approx(smallest, abs=1e-5)
        assert folds(field, grid.spacing, smallest + 1e-3)
        assert not folds(field, grid.spacing, smallest - 1e-3)
        cell = np.zeros(grid.shape, bool)
        cell[1:, 2:, place : place + 2] = True
        np.testing.assert_array_equal(find_folds(field, grid.spacing, smallest + 1e-3), cell)


def test_determinant_of_a_sequence_is_of_the_displacement_unless_the_affine_is_asked_for():
    flip = np.diag([-1.0, 2.0, 1.0, 1.0])
    grid = GRID.crop((slice(3, 9), slice(2, 9), slice(4, 11)))
    truth = np.linalg.det(np.eye(3) + SLOPE)
    for steps in (
        (Displacements(linear_field(GRID), GRID), Affine(flip)),
        (Affine(np.diag([1, 1, 1, 1.0])),),
    ):
        expected = truth if len(steps) == 2 else 1.0
        np.testing.assert_allclose(Sequence(steps).jacobian_determinant(grid), expected, rtol=1e-4)
    with_affine = Sequence((Displacements(linear_field(GRID), GRID), Affine(flip)))
    np.testing.assert_allclose(with_affine.jacobian_determinant(grid, affine=True), -2 * truth, rtol=1e-4)


def test_slabs_do_not_show_in_the_determinant():
    grid = Grid((40, 6, 5), (2.0, 2.0, 2.0))
    field = np.random.default_rng(1).normal(size=(3, *grid.shape)).astype(np.float32)
    whole = determinant(field, grid)
    np.testing.assert_allclose(
        Sequence((Displacements(field, grid),)).jacobian_determinant(grid), whole, atol=1e-5
    )
    derivative = np.stack([np.gradient(field.astype(float), 2.0, axis=axis) for axis in (1, 2, 3)], 1)
    derivative += np.eye(3)[:, :, None, None, None]
    np.testing.assert_allclose(
        whole[1:-1, 1:-1, 1:-1],
        np.linalg.det(derivative.transpose(2, 3, 4, 0, 1))[1:-1, 1:-1, 1:-1],
        rtol=1e-4,
        atol=1e-5,
    )


def test_unfold_mends_folds_and_leaves_the_rest_alone():
    grid = Grid((40, 40, 40), (2.0, 2.0, 2.0))
    field = np.zeros((3, *grid.shape), np.float32)
    field[0, 20, 20, 20] = 9.0  # overtakes its neighbours
    mended, folded, left = unfold(field, grid)
    assert folded > 0
    assert left == 0
    assert determinant(mended, grid).min() > 0
    np.testing.assert_array_equal(mended[:, :6], 0)
    calm = linear_field(GRID)
    same, folded, left = unfold(calm, GRID)
    assert (folded, left) == (0, 0)
    np.testing.assert_array_equal(same, calm)
