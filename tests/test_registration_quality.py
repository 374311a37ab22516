"""What is measured of a registration, against images, fields, landmarks and labels whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from weft.grid import Grid
from weft.image import Image, Level
from weft.quality import likeness, overlap, volume_change
from weft.quality.landmarks import Landmarks, landmark_errors, read_landmarks, summarise_landmarks
from weft.quality.likeness import compare_images, comparison_grid, worst_regions
from weft.quality.metrics import mutual_information, ncc
from weft.quality.overlap import label_overlap, summarise_overlap
from weft.quality.pulled import SlicedImage, sliced_moving
from weft.transforms.jacobian import determinant, smallest_determinant
from weft.transforms.model import Affine, Displacements, Sequence

GRID = Grid((48, 60, 72), (2.0, 2.0, 2.0), (10.0, -4.0, 0.0))
SHIFT = 3  # voxels along x
PLAN = {"grid": GRID.to_json(), "block": [24, 30, 36], "overlap": 8, "ids": [f"{i}.{j}.{k}" for i in (0, 1) for j in (0, 1) for k in (0, 1)]}  # fmt: skip
IDENTITY = Sequence((Affine(np.eye(4)),))


def image(values: np.ndarray, grid: Grid = GRID, labels: bool = False) -> Image:
    return Image((Level(values[None], grid),), labels=labels)


def shift(um: float) -> Sequence:
    """x -> x + um along the last axis, as a field."""
    field = np.zeros((3, 24, 30, 36), np.float32)
    field[2] = um
    return Sequence((Displacements(field, GRID.coarsen((2, 2, 2))), Affine(np.eye(4))))


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(5).normal(size=GRID.shape), 2)
    return (1000 + 300 * noise / noise.std()).astype(np.float32)


# ---------------------------------------------------------------------- likeness
def compare(fixed: np.ndarray, moving: np.ndarray, transform: Sequence, **more) -> likeness.Likeness:
    grid = comparison_grid(GRID, more.get("spacing"))
    return compare_images(
        (image(fixed), 0), (image(moving), 0), IDENTITY, transform, grid, PLAN, more.get("background", 0.0)
    )


def test_numbers_are_those_of_the_voxels_that_both_transforms_reach(texture):
    moving = np.roll(texture, SHIFT, axis=2)
    found = compare(texture, moving, shift(2.0 * SHIFT))
    inside = (slice(None), slice(None), slice(0, 72 - SHIFT))
    assert found.values["ncc_affine"] == pytest.approx(ncc(texture[inside], moving[inside]), abs=1e-6)
    assert found.values["ncc"] == pytest.approx(1, abs=1e-6)
    assert found.values["ncc_gain"] == pytest.approx(1 - found.values["ncc_affine"], abs=1e-6)
    assert found.values["covered_fraction"] == pytest.approx(1 - SHIFT / 72)
    assert found.values["mutual_information_affine"] == pytest.approx(
        mutual_information(texture[inside], moving[inside]), abs=0.02
    )
    assert found.values["mutual_information"] > 2.5
    core = (slice(24, 48), slice(0, 30), slice(0, 36))
    block = found.blocks["1.0.0"]
    assert block["ncc_affine"] == pytest.approx(ncc(texture[core], moving[core]), abs=1e-6)
    assert block["voxels"] == 24 * 30 * 36
    assert sum(row["voxels"] for row in found.blocks.values()) == 48 * 60 * (72 - SHIFT)
    # The map's cells, of 3 voxels here, by the place of their middle: exactly a core's.
    assert found.cells.spacing == tuple(3 * s for s in GRID.spacing)
    cells = np.abs(found.local_ncc_affine[8:16, :10, :12])
    assert block["local_ncc_affine_median"] == pytest.approx(np.nanmedian(cells))
    assert block["local_ncc_median"] > 0.99


def test_numbers_do_not_depend_on_the_parts_that_are_read(texture, monkeypatch):
    moving = np.roll(texture, SHIFT, axis=2)
    whole = compare(texture, moving, shift(4.0))
    monkeypatch.setattr(likeness, "TILE", 21)
    parts = compare(texture, moving, shift(4.0))
    for name, value in whole.values.items():
        assert parts.values[name] == pytest.approx(value, rel=1e-5), name
    np.testing.assert_allclose(parts.local_ncc, whole.local_ncc, rtol=1e-4)
    np.testing.assert_array_equal(parts.content, whole.content)


def test_the_map_finds_the_place_that_is_wrong(texture):
    moving = texture.copy()
    moving[12:30, 36:54, 6:24] = np.roll(texture, 20, axis=1)[12:30, 36:54, 6:24]
    found = compare(texture, moving, IDENTITY)
    regions = worst_regions(found, PLAN)
    place = GRID.to_index([[regions[0][f"{axis}_um"] for axis in "zyx"]])[0]
    assert np.all(place >= (12, 36, 6))
    assert np.all(place <= (30, 54, 24))
    assert abs(regions[0]["local_ncc"]) < 0.2 < 0.99 < np.nanmedian(found.local_ncc)
    assert regions[0]["block"] in ("0.1.0", "1.1.0")
    assert [region["region"] for region in regions] == list(range(1, len(regions) + 1))
    worst = [name for name, row in found.blocks.items() if row["ncc"] < 0.9]
    assert worst
    assert set(worst) <= {"0.1.0", "1.1.0"}


def test_worse_places_are_counted_against_the_affine(texture):
    found = compare(texture, texture, shift(6.0))
    assert found.values["local_ncc_affine_median"] > 0.999
    assert found.values["local_ncc_worse_fraction"] > 0.9
    assert compare(texture, texture, IDENTITY).values["local_ncc_worse_fraction"] == 0


def test_inverted_contrast_is_no_misalignment(texture):
    inverted = 3000 - texture
    found = compare(texture, inverted, shift(6.0))
    assert found.values["local_ncc_affine_median"] > 0.999
    assert found.local_ncc_affine.max() < -0.99
    assert found.values["local_ncc_median"] < 0.7
    assert found.values["mutual_information_gain"] < 0


PLANE = Grid((1, 300, 330), (5.0, 2.0, 2.0))


def plane_texture(seed: int) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=PLANE.shape[1:]), 2)
    return noise[None] / noise.std()


def compare_planes(fixed: np.ndarray, moving: np.ndarray, affine_um: float) -> likeness.Likeness:
    """Two planes that fit as they are; by the affine, they are shifted."""
    matrix = np.eye(4)
    matrix[2, 3] = affine_um
    images = [(image((1000 + 300 * plane).astype(np.float32), PLANE), 0) for plane in (fixed, moving)]
    return compare_images(*images, Sequence((Affine(matrix),)), IDENTITY, PLANE, None, 0.0)


def test_stains_that_share_little_do_not_get_worse_by_chance(monkeypatch):
    """The right transform is better than a shift of a voxel, though most windows hardly correlate under either."""
    common, one, two = (plane_texture(seed) for seed in (1, 2, 3))
    planes = common + 2.2 * one, common + 2.2 * two
    found = compare_planes(*planes, 2.0).values
    assert 0.1 < found["ncc_affine"] < found["ncc"] < 0.25
    assert found["local_ncc_worse_fraction"] < 0.05
    monkeypatch.setattr(likeness, "VOXELS", 81)
    assert (
        compare_planes(*planes, 2.0).values["local_ncc_worse_fraction"] > 0.1
    )  # what chance would make of it


def test_a_place_of_a_plane_that_is_wrong_is_found():
    fixed = plane_texture(4)
    moving = fixed + 0.3 * plane_texture(5)
    moving[0, 90:180, 60:170] = np.roll(moving, 40, axis=2)[0, 90:180, 60:170]
    found = compare_planes(fixed, moving, 2.0)
    (place,) = PLANE.to_index([[worst_regions(found, None)[0][f"{axis}_um"] for axis in "zyx"]])
    assert np.all(place[1:] > (80, 50))
    assert np.all(place[1:] < (190, 180))
    assert found.values["local_ncc_p5"] < 0.3 < 0.9 < found.values["local_ncc_median"]


def test_where_nothing_is_to_be_seen_the_map_says_nothing(texture):
    empty = texture.copy()
    empty[:24] = 100
    found = compare(empty, empty, IDENTITY, background=500.0)
    assert np.isnan(found.local_ncc[:6]).all()
    assert np.isfinite(found.local_ncc[10:]).all()
    assert not found.content[:7].any()
    assert found.content[9:].mean() > 0.9


def test_a_moving_image_elsewhere_gives_no_number(texture):
    far = Sequence((Affine(np.eye(4) + np.eye(4, k=3) * 1e5),))
    found = compare_images((image(texture), 0), (image(texture), 0), far, far, GRID, PLAN, 0.0)
    assert found.values["covered_fraction"] == 0
    assert math.isnan(found.values["ncc"])
    assert not worst_regions(found, PLAN)


def test_what_is_not_finite_is_compared_with_nothing(texture):
    """The same numbers as without it, but for what is covered."""
    lost = texture.copy()
    lost[:8] = np.nan
    for one, two in ((lost, texture), (texture, lost)):
        found = compare(one, two, IDENTITY, background=500.0)
        assert found.values["ncc"] == pytest.approx(1)
        assert found.values["covered_fraction"] == pytest.approx(1 - 8 / texture.shape[0], abs=0.01)
        assert np.isnan(found.local_ncc[:2]).all()
        assert np.nanmin(found.local_ncc) > 0.999


class Counted:
    """A volume that is computed where it is sliced, and counts what was asked for."""

    def __init__(self, shape: tuple[int, int, int], step: float) -> None:
        self.shape, self.dtype, self.step, self.bytes = (1, *shape), np.dtype(np.uint16), step, 0

    def __getitem__(self, index):
        axes = [np.arange(n)[part] * self.step for n, part in zip(self.shape[1:], index[1:], strict=True)]
        z, y, x = np.ix_(*axes)
        values = (1000 + 300 * (np.sin(z / 9) + np.sin(y / 7) + np.sin(x / 8))).astype(np.uint16)
        self.bytes += values.nbytes
        return values


def test_a_large_volume_is_read_once_at_the_level_that_suits(monkeypatch):
    monkeypatch.setattr(likeness, "SAMPLES", 100_000)
    monkeypatch.setattr(likeness, "SURVEY", 3_000)
    levels = [
        (Counted((256 // f,) * 3, f), Grid((256,) * 3, (1.0,) * 3).coarsen((f,) * 3))
        for f in (1, 2, 4, 8, 16)
    ]
    volumes = [Image(tuple(Level(*level) for level in levels)) for _ in range(2)]
    grid = comparison_grid(volumes[0].grid)
    assert 80_000 < grid.size < 130_000
    assert 5 < grid.spacing[0] < 6
    compare_images((volumes[0], 0), (volumes[1], 0), IDENTITY, IDENTITY, grid, None, 0.0)
    finest, half, used, *_ = (level.bytes for level, _ in levels)
    assert finest == half == 0
    assert used <= 2.5 * 2 * 64**3 * 2  # both images; uint16; borders of the parts are read twice


def test_a_plane_is_compared_in_its_plane():
    grid = Grid((1, 3000, 2000), (5.0, 0.5, 0.5))
    found = comparison_grid(grid)
    assert found == grid
    coarse = comparison_grid(grid, 2.0)
    assert coarse.shape == (1, 750, 500)
    assert coarse.spacing == (5.0, 2.0, 2.0)


def test_sliced_images_slice_like_arrays(texture):
    moved = sliced_moving(image(texture), 0, IDENTITY, GRID)
    assert moved.shape == texture.shape
    np.testing.assert_allclose(moved[7], texture[7], rtol=1e-6)
    np.testing.assert_allclose(moved[:, 5], texture[:, 5], rtol=1e-6)
    np.testing.assert_allclose(moved[2:4, :, 9], texture[2:4, :, 9], rtol=1e-6)
    assert isinstance(moved, SlicedImage)


# ---------------------------------------------------------------------- volume change
def test_volume_change_of_a_known_stretch():
    grid = Grid((40, 50, 60), (4.0, 4.0, 4.0))
    axes = [s * np.arange(n) for n, s in zip(grid.shape, grid.spacing, strict=True)]
    field = np.zeros((3, *grid.shape), np.float32)
    field[0] = 0.5 * axes[0][:, None, None]  # z grows by half
    field[2] = -0.2 * axes[2]
    found = volume_change.volume_change(Displacements(field, grid), None)
    for name in ("jacobian_min", "jacobian_p1", "jacobian_p99"):
        assert found.values[name] == pytest.approx(1.5 * 0.8, rel=1e-3)
    assert found.values["jacobian_folded_fraction"] == 0


def test_volume_change_is_that_of_the_whole_field_part_by_part(monkeypatch):
    plan = PLAN
    grid = GRID.coarsen((2, 2, 2))
    random = np.random.default_rng(3)
    field = np.stack([gaussian_filter(random.normal(size=grid.shape), 2) for _ in range(3)]).astype(
        np.float32
    )
    field *= 12 / np.abs(field).max()
    monkeypatch.setattr(volume_change, "TILE", 11)
    found = volume_change.volume_change(Displacements(field, grid), plan)
    central, smallest = determinant(field, grid), smallest_determinant(field, grid)
    assert found.values["jacobian_p1"] == pytest.approx(np.percentile(central, 1), abs=2e-3)
    assert found.values["jacobian_p99"] == pytest.approx(np.percentile(central, 99), abs=2e-3)
    assert found.values["jacobian_folded_fraction"] == pytest.approx((smallest <= 0).mean())
    ((place, lowest),) = found.values["jacobian_min"].items()
    assert lowest == pytest.approx(smallest.min())
    core = smallest[12:24, :15, 18:]
    block = found.blocks["1.0.1"]
    assert block["jacobian_min"] == pytest.approx(core.min())
    assert block["jacobian_folded_fraction"] == pytest.approx((core <= 0).mean())
    assert place == "block " + min(found.blocks, key=lambda name: found.blocks[name]["jacobian_min"])


def test_quantiles_are_taken_where_there_is_content():
    grid = Grid((20, 20, 40), (1.0, 1.0, 1.0))
    field = np.zeros((3, *grid.shape), np.float32)
    field[2, :, :, 20:] = np.arange(20)  # the right half grows to twice its volume
    content = np.zeros((10, 10, 20), bool)
    content[:, :, :9] = True
    found = volume_change.volume_change(Displacements(field, grid), None, (content, grid.coarsen((2, 2, 2))))
    assert found.values["jacobian_p99"] == pytest.approx(1)
    everywhere = volume_change.volume_change(Displacements(field, grid), None)
    assert everywhere.values["jacobian_p99"] == pytest.approx(2, rel=1e-3)
    flat = volume_change.volume_change(None, PLAN)
    assert flat.values["jacobian_min"] == flat.blocks["0.0.0"]["jacobian_p99"] == 1


# ---------------------------------------------------------------------- labels
def test_overlap_of_boxes(monkeypatch):
    monkeypatch.setattr(overlap, "TILE", 32)
    fixed, moving = np.zeros(GRID.shape, np.uint32), np.zeros(GRID.shape, np.uint32)
    fixed[10:20, 10:20, 10:30] = 4_000_000_000
    moving[10:20, 10:20, 14:34] = 4_000_000_000
    fixed[30:40, 30:40, 30:40] = 7  # only in the fixed image
    found = label_overlap(image(fixed, labels=True), image(moving, labels=True), IDENTITY, shift(8.0))
    assert found.grid == GRID
    assert not found.blocks
    large = next(row for row in found.labels if row["label"] == 4_000_000_000)
    assert large["dice_affine"] == pytest.approx(16 / 20)
    assert large["dice"] == 1
    assert large["voxels_fixed"] == large["voxels_moved"] == 2000
    assert [row["in_both"] for row in found.labels] == [False, True]
    numbers = summarise_overlap(found.labels, found.grid)
    assert numbers["labels"] == numbers["labels_in_one_image"] == 1
    assert numbers["dice_gain"] == pytest.approx(0.2)
    assert numbers["dice_min"] == {"label 4000000000": 1.0}
    with pytest.raises(ValueError, match="the moving labels are of type float32"):
        label_overlap(image(fixed), image(moving.astype(np.float32)), IDENTITY, IDENTITY)


def test_overlap_of_boxes_in_every_block(monkeypatch):
    monkeypatch.setattr(
        overlap, "TILE", 32
    )  # parts that meet several blocks, and blocks that meet several parts
    fixed, moving = np.zeros(GRID.shape, np.uint16), np.zeros(GRID.shape, np.uint16)
    fixed[10:20, 10:20, 20:52] = 3  # 16 columns in either block
    moving[10:20, 10:20, 24:56] = 3
    fixed[22:30, 40:50, 40:50] = moving[22:30, 40:50, 44:54] = 4  # 2 planes in one block, 6 in another
    fixed[12:15, 12:15, 4:7] = 5  # in one image only
    moving[0:3, 32:35, 4:7] = 6
    labels = (image(fixed, labels=True), image(moving, labels=True))
    found = label_overlap(*labels, IDENTITY, shift(8.0), PLAN)
    assert set(found.blocks) == set(PLAN["ids"])
    left, right = found.blocks["0.0.0"], found.blocks["0.0.1"]
    # The moved columns are 24 to 55 before: 12 of 16 on the left, and 20 on the right, of which 16 meet.
    assert left == pytest.approx({"labels": 1, "dice_affine": 2 * 12 / (16 + 12), "dice": 1})
    assert right == pytest.approx({"labels": 1, "dice_affine": 2 * 16 / (16 + 20), "dice": 1})
    for name in ("0.1.1", "1.1.1"):
        assert found.blocks[name] == pytest.approx({"labels": 1, "dice_affine": 6 / 10, "dice": 1})
    for name in ("1.0.0", "0.1.0"):  # the latter has the label that the fixed image does not name
        assert found.blocks[name]["labels"] == 0
        assert math.isnan(found.blocks[name]["dice"])
    one, two = (label_overlap(*labels, IDENTITY, shift(8.0), plan).labels for plan in (None, PLAN))
    assert one == two


def test_labels_of_a_block_count_by_their_voxels():
    """One label lies right, of another only an edge of 10 voxels misses: the block is not half wrong."""
    fixed, moving = np.zeros(GRID.shape, np.uint16), np.zeros(GRID.shape, np.uint16)
    fixed[2:12, 2:12, 2:12] = moving[2:12, 2:12, 2:12] = 1
    fixed[20, 20, 10:20] = 2
    moving[21, 20, 10:20] = 2
    found = label_overlap(image(fixed, labels=True), image(moving, labels=True), IDENTITY, IDENTITY, PLAN)
    assert found.blocks["0.0.0"] == pytest.approx(
        {"labels": 2, "dice_affine": 2000 / 2020, "dice": 2000 / 2020}
    )


def test_labels_without_a_common_name_have_no_mean():
    numbers = summarise_overlap([{"in_both": False}], GRID)
    assert numbers["labels"] == 0
    assert math.isnan(numbers["dice_mean"])


# ---------------------------------------------------------------------- landmarks
FIXED = Grid((20, 100, 100), (5.0, 2.0, 2.0), (100.0, 0.0, 0.0))
MOVING = Grid((20, 100, 100), (5.0, 1.0, 1.0))


def write(path, text: str):
    path.write_text(text)
    return path


def test_landmarks_in_um_and_in_voxels_are_the_same(tmp_path):
    head = "name,fixed_z,fixed_y,fixed_x,moving_z,moving_y,moving_x\n"
    um = write(tmp_path / "um.csv", head + "nose,110,20,30,5,10,11\near,120,40,50,10,20,21\n")
    voxel = write(
        tmp_path / "voxel.tsv",
        "moving_x_um\tmoving_y_um\tmoving_z_um\tfixed_z_voxel\tfixed_y_voxel\tfixed_x_voxel\n"
        "11\t10\t5\t2\t10\t15\n\n21\t20\t10\t4\t20\t25\n",
    )
    one, two = (read_landmarks([path], FIXED, MOVING) for path in (um, voxel))
    assert one.names == ("nose", "ear")
    np.testing.assert_allclose(one.fixed, [[110, 20, 30], [120, 40, 50]])
    np.testing.assert_allclose(two.fixed, one.fixed)
    np.testing.assert_allclose(two.moving, one.moving)


def test_bigwarp_exports_are_read(tmp_path):
    path = write(
        tmp_path / "landmarks.csv",
        '"Pt-0","true","11.0","10.0","5.0","30.0","20.0","110.0"\n'
        '"Pt-1","false","1.0","1.0","1.0","1.0","1.0","1.0"\n'
        '"Pt-2","true","21","20","10","Infinity","Infinity","Infinity"\n',
    )
    found = read_landmarks([path], FIXED, MOVING)
    assert found.names == ("Pt-0",)
    np.testing.assert_allclose(found.fixed, [[110, 20, 30]])
    np.testing.assert_allclose(found.moving, [[5, 10, 11]])
    plane = Grid((1, 100, 100), (5.0, 1.0, 1.0), (7.0, 0.0, 0.0))
    flat = write(tmp_path / "flat.csv", '"Pt-0","true","11","10","30","20"\n')
    found = read_landmarks([flat], plane, plane)
    np.testing.assert_allclose(found.fixed, [[7, 20, 30]])


def test_two_tables_of_points_belong_together_by_number(tmp_path):
    plane = Grid((1, 100, 100), (1.0, 2.0, 2.0))
    one = write(tmp_path / "a.csv", ",X,Y\n1,10,20\n2,30,40\n4,1,1\n")
    two = write(tmp_path / "b.csv", ",X,Y\n2,31,41\n1,11,21\n")
    found = read_landmarks([one, two], plane, plane)
    assert found.names == ("1", "2")
    np.testing.assert_allclose(found.fixed, [[0, 40, 20], [0, 80, 60]])
    np.testing.assert_allclose(found.moving, [[0, 42, 22], [0, 82, 62]])


@pytest.mark.parametrize("named", [True, False])
def test_two_tables_of_points_in_um_or_voxels(tmp_path, named):
    """Each table has its own unit; rows belong together by name, and without names by their order."""
    names = ("ear", "nose") if named else ("0", "1")
    head = "name," if named else ""
    rows = [f"{n}," if named else "" for n in names]
    one = write(tmp_path / "a.csv", f"{head}z,y,x\n{rows[0]}110,20,30\n{rows[1]}120,40,50\n")
    there = [f"{rows[0]}1,10,11\n", f"{rows[1]}2,20,21\n"]
    two = write(
        tmp_path / "b.csv", f"{head}z_voxel,y_voxel,x_voxel\n" + "".join(there[::-1] if named else there)
    )
    found = read_landmarks([one, two], FIXED, MOVING)
    assert found.names == names
    np.testing.assert_allclose(found.fixed, [[110, 20, 30], [120, 40, 50]])
    np.testing.assert_allclose(found.moving, [[5, 10, 11], [10, 20, 21]])
    swapped = write(tmp_path / "c.csv", "x,y\n30,20\n50,40\n")
    with pytest.raises(
        ValueError, match=r"c\.csv: column 'z' is missing; found x, y; wanted .* two files of points"
    ):
        read_landmarks([swapped, two], FIXED, MOVING)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; wanted a heading"),
        ("z,y,x\n1,2,3\n", "column 'fixed_z' is missing; found z, y, x"),
        ("fixed_z,fixed_y,fixed_x,moving_z,moving_y,moving_x\n", "holds no landmark"),
        ("fixed_z,fixed_y,fixed_x,moving_z,moving_y,moving_x\n110,2,3,4,5,six\n", "line 2: found 'six'; wanted a number"),
        ("fixed_z,fixed_y,fixed_x,moving_z,moving_y,moving_x\n110,2,3,4,5\n", "line 2: found 5 cells; wanted 6"),
        ("fixed_z,fixed_y,fixed_x,moving_z,moving_y,moving_x\n110,2,3,4,5,inf\n", "found 'inf'"),
        ("fixed_z,fixed_y_voxel,fixed_x,moving_z,moving_y,moving_x\n", "in um and in voxels"),
        ("fixed_z,fixed_y,fixed_x,moving_z,moving_y,moving_x\n110,2,3,4000,5,6\n", "1 of 1 landmarks lie outside of the moving"),
        (
            "fixed_z,fixed_y,fixed_x,moving_z,moving_y,moving_x\n" + "".join(f"110.{n},2.3,3.1,.00{n},.05,.07\n" for n in range(3)),
            "all 3 landmarks of the moving image lie within 0.07 um of the origin, and the image reaches .* um from there; wanted micrometres: are they millimetres?",
        ),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_in_one_sentence(tmp_path, text, words):
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(ValueError, match=words) as error:
        read_landmarks([path], FIXED, MOVING)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_repeated_landmarks_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: there is no such table of landmarks"):
        read_landmarks([tmp_path / "none.csv"], FIXED, MOVING)
    plane = Grid((1, 100, 100), (1.0, 1.0, 1.0))
    path = write(tmp_path / "a.csv", ",X,Y\n1,10,20\n1,30,40\n")
    with pytest.raises(ValueError, match="landmark '1' stands twice"):
        read_landmarks([path, path], plane, plane)


def test_errors_of_landmarks_in_both_directions():
    points = GRID.to_physical(np.random.default_rng(1).uniform(5, 40, (20, 3)))
    truth = points + np.array([0, 0, 6.0])
    pairs = Landmarks(
        tuple(f"p{n}" for n in range(21)), np.vstack([points, [1e4, 0, 0]]), np.vstack([truth, [0, 0, 0]])
    )
    rows = landmark_errors(pairs, IDENTITY, shift(5.0), shift(-5.0))
    assert [row["inside"] for row in rows] == [True] * 20 + [False]
    for row in rows[:20]:
        assert row["tre_affine_um"] == pytest.approx(6)
        assert row["tre_um"] == pytest.approx(1)
        assert row["tre_inverse_um"] == pytest.approx(1)
        assert row["landed_x"] - row["fixed_x"] == pytest.approx(1)
        assert row["landed_affine_x"] - row["fixed_x"] == pytest.approx(6)
    numbers = summarise_landmarks(rows, GRID, GRID)
    diagonal = np.linalg.norm(GRID.extent)
    assert numbers["landmarks"] == 21
    assert numbers["landmarks_outside"] == 1
    assert numbers["tre_gain_um"] == pytest.approx(5)
    assert numbers["rtre_median"] == pytest.approx(1 / diagonal)
    assert numbers["rtre_inverse_median"] == pytest.approx(1 / diagonal)
    assert numbers["landmarks_improved_fraction"] == 1
    assert math.isnan(summarise_landmarks(rows[20:], GRID, GRID)["tre_median_um"])


def test_real_landmarks_of_birl(data_root):
    folder = data_root / "birl" / "data-images" / "rat-kidney_" / "scale-5pc"
    if not folder.exists():
        pytest.skip("no birl")
    plane = Grid((1, 1000, 1400), (1.0, 1.0, 1.0))
    found = read_landmarks(
        [folder / f"Rat-Kidney_{stain}.csv" for stain in ("HE", "PanCytokeratin")], plane, plane
    )
    assert len(found.names) >= 60
    assert np.median(np.linalg.norm(found.fixed - found.moving, axis=1)) < 60
