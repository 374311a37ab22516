"""Reduce: one field from many blocks, without seams, whatever the order, whatever failed."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from weft.grid import Grid
from weft.registration.combine import combine_blocks
from weft.registration.plan import block_regions, plan_stage
from weft.transforms.formats.ngff import shard_regions
from weft.transforms.jacobian import determinant
from weft.transforms.model import Displacements
from weft.transforms.reduce import BlendedField, BlockField, reduce_blocks
from weft.transforms.survey import FieldSurvey
from weft.transforms.unfold import folds_within, unfold, unfold_parts

TARGET = Grid((20, 24, 26), (4.0, 4.0, 4.0), (1.0, 2.0, 3.0))
RECORD = {"status": "ok", "used": "deformable", "largest_displacement_um": 0.0}
SLOPE = np.array([[0.1, 0.02, 0.0], [-0.03, 0.05, 0.01], [0.0, 0.04, -0.08]])


def linear(grid: Grid, slope: np.ndarray = SLOPE) -> np.ndarray:
    points = grid.to_physical(np.indices(grid.shape).reshape(3, -1).T)
    return (points @ slope.T).T.reshape(3, *grid.shape).astype(np.float32)


def regions(target: Grid = TARGET, size: int = 9, halo: int = 3):
    """(core, grid with halo) of blocks that tile the target."""
    for start in itertools.product(*(range(0, n, size) for n in target.shape)):
        core = tuple(slice(a, min(a + size, n)) for a, n in zip(start, target.shape, strict=True))
        padded = tuple(
            slice(max(c.start - halo, 0), min(c.stop + halo, n))
            for c, n in zip(core, target.shape, strict=True)
        )
        yield core, target.crop(padded)


def test_blocks_that_agree_give_their_field():
    blocks = [BlockField(grid, linear(grid), core) for core, grid in regions()]
    np.testing.assert_allclose(reduce_blocks(blocks, TARGET), linear(TARGET), atol=1e-5)


def test_the_order_of_blocks_does_not_count():
    rng = np.random.default_rng(0)
    blocks = [BlockField(g, rng.normal(size=(3, *g.shape)).astype(np.float32), core) for core, g in regions()]
    shuffled = [blocks[i] for i in rng.permutation(len(blocks))]
    assert reduce_blocks(blocks, TARGET).tobytes() == reduce_blocks(shuffled, TARGET).tobytes()


def test_two_blocks_meet_in_a_smooth_ramp_of_the_overlaps_width():
    target = Grid((40, 3, 3), (1.0, 1.0, 1.0))
    halves = [
        ((slice(0, 20), slice(0, 3), slice(0, 3)), slice(0, 26)),
        ((slice(20, 40), slice(0, 3), slice(0, 3)), slice(14, 40)),
    ]
    blocks = []
    for value, (core, padded) in enumerate(halves):
        grid = target.crop((padded, slice(0, 3), slice(0, 3)))
        blocks.append(BlockField(grid, np.full((3, *grid.shape), value, np.float32), core))
    profile = reduce_blocks(blocks, target)[0, :, 1, 1]
    np.testing.assert_array_equal(profile[:14], 0)
    np.testing.assert_allclose(profile[26:], 1, atol=1e-6)
    position = (np.arange(14, 26) + 0.5 - 14) / 12
    np.testing.assert_allclose(profile[14:26], np.sin(position * np.pi / 2) ** 2, atol=1e-6)


@pytest.mark.parametrize("gone", [None, lambda: None])
def test_a_failed_block_takes_the_stage_before_without_a_kink(gone):
    slope = SLOPE * 1.2
    coarse = TARGET.pad(4).resample(8.0)
    base = Displacements(linear(coarse, slope), coarse)
    failed = 13
    blocks = [
        BlockField(g, gone if i == failed else linear(g), core) for i, (core, g) in enumerate(regions())
    ]
    total = reduce_blocks(blocks, TARGET, base)
    middle = tuple(slice(c.start + 3, c.stop - 3) for c in blocks[failed].core)
    np.testing.assert_allclose(
        total[(slice(None), *middle)], linear(TARGET, slope)[(slice(None), *middle)], atol=1e-4
    )
    # The two fields differ by up to 0.2 of the displacement; a seam would show as a jump of that size.
    difference = np.linalg.norm(linear(TARGET, slope) - linear(TARGET), axis=0).max()
    departure = total - linear(TARGET)
    jump = max(np.abs(np.diff(departure, axis=axis)).max() for axis in (1, 2, 3))
    assert jump < 0.45 * difference


def test_without_a_stage_before_a_failed_block_does_not_move():
    blocks = [BlockField(g, None, core) for core, g in regions()]
    np.testing.assert_array_equal(reduce_blocks(blocks, TARGET), 0)
    base = np.full((3, *TARGET.shape), 5, np.float32)
    np.testing.assert_allclose(reduce_blocks(blocks, TARGET, base), 5, rtol=1e-6)


@pytest.mark.parametrize("spacing", [2.0, 5.0, 6.0])
def test_blocks_on_another_grid_are_interpolated(spacing):
    blocks = []
    for core, grid in regions(halo=4):
        other = grid.pad(1).resample(spacing)
        blocks.append(BlockField(other, lambda other=other: linear(other), core))
    # Half a coarse sample beyond its outermost one a block is clamped, at a weight close to 0.
    np.testing.assert_allclose(reduce_blocks(blocks, TARGET), linear(TARGET), atol=3e-3)


def test_no_halo_and_thin_last_blocks_work():
    for size, halo in ((9, 0), (19, 4), (100, 0)):
        blocks = [BlockField(g, linear(g), core) for core, g in regions(size=size, halo=halo)]
        np.testing.assert_allclose(reduce_blocks(blocks, TARGET), linear(TARGET), atol=1e-5)


def test_bad_plans_are_refused():
    blocks = [BlockField(g, linear(g), core) for core, g in regions()]
    with pytest.raises(ValueError, match="do not tile"):
        reduce_blocks(blocks[:-1], TARGET)
    with pytest.raises(ValueError, match="in several"):
        reduce_blocks([*blocks, blocks[0]], TARGET)
    core, grid = blocks[0].core, blocks[0].grid
    small = grid.crop((slice(0, 4),) * 3)
    with pytest.raises(ValueError, match="wanted all of its core"):
        reduce_blocks([BlockField(small, linear(small), core), *blocks[1:]], TARGET)
    with pytest.raises(ValueError, match="does not lie on its grid"):
        reduce_blocks([BlockField(grid, linear(small), core), *blocks[1:]], TARGET)
    with pytest.raises(ValueError, match="not finite"):
        reduce_blocks([BlockField(grid, np.full_like(linear(grid), np.nan), core), *blocks[1:]], TARGET)


# ---------------------------------------------------------------------------------- the other methods
def test_simple_mean_counts_every_block_at_a_place_the_same():
    rng = np.random.default_rng(1)
    blocks = [BlockField(g, rng.normal(size=(3, *g.shape)).astype(np.float32), core) for core, g in regions()]
    sums, counts = np.zeros((3, *TARGET.shape)), np.zeros(TARGET.shape)
    for block in blocks:
        first = np.rint(TARGET.to_index(block.grid.origin)).astype(int)
        there = tuple(slice(a, a + n) for a, n in zip(first, block.grid.shape, strict=True))
        sums[(slice(None), *there)] += block.field
        counts[there] += 1
    assert counts.max() == 8
    found = reduce_blocks(blocks, TARGET, method="simple_mean")
    np.testing.assert_allclose(found, sums / counts, atol=1e-5)


def test_a_collection_holds_each_blocks_own_field():
    base = np.full((3, *TARGET.shape), -1, np.float32)
    blocks = [
        BlockField(g, None if i == 4 else np.full((3, *g.shape), i, np.float32), core)
        for i, (core, g) in enumerate(regions())
    ]
    found = reduce_blocks(blocks, TARGET, base, method="collection")
    for i, block in enumerate(blocks):
        np.testing.assert_array_equal(found[(slice(None), *block.core)], -1 if i == 4 else i)


def turn(axis, degrees):
    """Rotation matrix about an axis (Rodrigues)."""
    n = np.array(axis) / np.linalg.norm(axis)
    k = np.array([[0, -n[2], n[1]], [n[2], 0, -n[0]], [-n[1], n[0], 0]])
    a = np.deg2rad(degrees)
    return np.eye(3) + np.sin(a) * k + (1 - np.cos(a)) * k @ k


def moved(grid, rotation, shift):
    """Field of x -> R x + shift."""
    return linear(grid, rotation - np.eye(3)) + np.asarray(shift, np.float32)[:, None, None, None]


# Half turns have a quaternion without a scalar part; 170 and 190 degrees have quaternions of opposite signs.
@pytest.mark.parametrize("degrees", [0, 25, 120, 180, 190])
@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -2, 3)])
def test_a_rigid_motion_is_its_own_consensus(axis, degrees):
    rotation = turn(axis, degrees)
    blocks = [BlockField(g, moved(g, rotation, (5, -3, 2)), core) for core, g in regions()]
    found = reduce_blocks(blocks, TARGET, method="rigid_consensus")
    np.testing.assert_allclose(found, moved(TARGET, rotation, (5, -3, 2)), atol=2e-3)


def test_the_consensus_lies_in_the_middle_and_is_rigid():
    # Turns by 165 and by 195 degrees about one axis: the mean turns by 180, whatever the quaternions' signs.
    blocks = [
        BlockField(g, moved(g, turn((0, 0, 1), 165 if core[2].start < 13 else 195), (0, 0, 0)), core)
        for core, g in regions(target=TARGET, size=13, halo=0)
    ]
    found = reduce_blocks(blocks, TARGET, method="rigid_consensus")
    points = TARGET.to_physical(np.indices(TARGET.shape).reshape(3, -1).T)
    image = points + found.reshape(3, -1).T
    matrix = np.linalg.lstsq(points - points.mean(0), image - image.mean(0), rcond=None)[0].T
    np.testing.assert_allclose(matrix, turn((0, 0, 1), 180), atol=1e-4)


def test_larger_blocks_count_more_and_failed_ones_not_at_all():
    target = Grid((30, 4, 4), (1.0, 1.0, 1.0))
    whole = (slice(0, 4), slice(0, 4))
    cores = [(slice(0, 20), *whole), (slice(20, 29), *whole), (slice(29, 30), *whole)]
    values = [3.0, 6.0, None]
    blocks = [
        BlockField(
            target.crop(core), None if v is None else np.full((3, *target.crop(core).shape), v, "f4"), core
        )
        for core, v in zip(cores, values, strict=True)
    ]
    found = reduce_blocks(
        blocks, target, np.full((3, *target.shape), 99, np.float32), method="rigid_consensus"
    )
    np.testing.assert_allclose(found, (20 * 3 + 9 * 6) / 29, rtol=1e-5)


def test_a_consensus_of_none_is_the_stage_before():
    blocks = [BlockField(g, None, core) for core, g in regions()]
    base = linear(TARGET)
    np.testing.assert_array_equal(reduce_blocks(blocks, TARGET, base, method="rigid_consensus"), base)
    np.testing.assert_array_equal(reduce_blocks(blocks, TARGET, method="rigid_consensus"), 0)


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="no method 'median'; wanted one of distance_weighted"):
        reduce_blocks([], TARGET, method="median")


# ---------------------------------------------------------------------------------- in parts, seams, folds
def smooth(grid: Grid, seed: int, sigma: float, size: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    u = np.stack([ndimage.gaussian_filter(rng.normal(size=grid.shape), sigma) for _ in range(3)])
    return (size * u / u.std()).astype(np.float32)


def noisy_blocks(target: Grid, truth: np.ndarray, size: int, halo: int, error: float):
    """Blocks that found the truth, each with a smooth error of its own."""
    for i, (core, grid) in enumerate(regions(target, size, halo)):
        first = np.rint(target.to_index(grid.origin)).astype(int)
        there = tuple(slice(a, a + n) for a, n in zip(first, grid.shape, strict=True))
        yield BlockField(grid, truth[(slice(None), *there)] + smooth(grid, 100 + i, 3, error), core)


def test_parts_of_a_blended_field_are_those_of_the_whole():
    truth = smooth(TARGET, 0, 3, 5.0)
    blocks = list(noisy_blocks(TARGET, truth, 9, 3, 1.0))
    base = Displacements(smooth(TARGET.resample(7.0), 1, 2, 5.0), TARGET.resample(7.0))
    blocks[5] = blocks[5]._replace(field=None)
    for method in ("distance_weighted", "simple_mean", "collection", "rigid_consensus"):
        blended = BlendedField(blocks, TARGET, base, method=method)
        whole = blended[:]
        for part in (np.s_[:, 3:11, 0:24, 5:6], np.s_[:, :, 20:, :], np.s_[:, 19:20, 8:9, 25:26]):
            # A rigid motion is computed from the part's own origin: equal but for rounding.
            np.testing.assert_allclose(blended[part], whole[part], atol=1e-5, err_msg=method)
            assert method == "rigid_consensus" or blended[part].tobytes() == whole[part].tobytes()


def test_seams_are_told_by_a_ratio_where_blending_leaves_some():
    target = Grid((60, 60, 60), (4.0, 4.0, 4.0))
    truth = smooth(target, 0, 5, 8.0)
    ratios = {}
    for method in ("distance_weighted", "collection", "simple_mean"):
        blended = BlendedField(noisy_blocks(target, truth, 20, 6, 0.8), target, method=method)
        ratios[method] = FieldSurvey(target, blended.seams).survey(blended, shard_regions(target)).seam_ratio
    assert ratios["distance_weighted"] < 1.1
    assert ratios["collection"] > 2
    assert ratios["simple_mean"] > 1.5
    whole = BlendedField(noisy_blocks(target, truth, 60, 0, 0.8), target)
    assert FieldSurvey(target, whole.seams).survey(whole, shard_regions(target)).seam_ratio is None


def test_a_survey_of_parts_is_that_of_the_whole(monkeypatch):
    u = smooth(TARGET, 3, 2, 3.0)
    seams = [[[9, 18], [9, 18], [9, 18]]]
    whole = FieldSurvey(TARGET, seams).survey(u, shard_regions(TARGET))
    parts = FieldSurvey(TARGET, seams).survey(u, [core for core, _ in regions(size=7)])
    values = determinant(u, TARGET)
    for found in (whole, parts):
        assert found.folded == (values <= 0).mean()
        assert found.jacobian[0] == values.min()
        np.testing.assert_allclose(found.jacobian[1:], np.percentile(values, [1, 99]), atol=0.005)
    assert parts.seam_ratio == pytest.approx(whole.seam_ratio, rel=1e-9)
    second = [np.linalg.norm(np.diff(u, 2, axis=axis), axis=0) for axis in (1, 2, 3)]
    near = [np.isin(np.arange(1, n - 1), (8, 9, 17, 18)) for n in TARGET.shape]
    wanted = [
        np.compress(at, bend, axis).mean() / np.compress(~at, bend, axis).mean()
        for axis, (bend, at) in enumerate(zip(second, near, strict=True))
    ]
    assert whole.seam_ratio == pytest.approx(np.mean(wanted), rel=1e-3)


def test_folds_are_mended_in_parts_as_in_the_whole():
    grid = Grid((130, 64, 64), (2.0, 2.0, 2.0))
    u = smooth(grid, 0, 6, 0.5)
    for place in ((20, 20, 20), (110, 40, 30), (112, 30, 61)):
        u[(0, *place)] += 9.0
    wanted, folded, left = unfold(u, grid)
    assert (folded > 0, left) == (True, 0)
    found = u.copy()
    folds = folds_within(u, grid, (slice(0, 130), slice(0, 64), slice(0, 64)))
    assert len(folds) == folded
    assert unfold_parts(found, grid, folds) == 0
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_array_equal(found[:, 40:90], u[:, 40:90])


BLOCKS_OF_A_STAGE = """
import sys, tracemalloc
import numpy as np
from weft.grid import Grid
from weft.registration.combine import combine_blocks
from weft.registration.plan import block_field_grid, plan_stage
from weft.transforms.formats.ngff import FieldWriter
from weft.registration.plan import field_grid
from weft.transforms.invert import find_inverse
from weft.transforms.model import Displacements

folder, lengths = sys.argv[1], [int(n) for n in sys.argv[2:]]
settings = {"method": "distance_weighted", "field_factor": 2, "agreement": 1.0, "unfold": True}
record = {"status": "ok", "used": "deformable", "largest_displacement_um": 1.0}
for length in (lengths[0], *lengths):  # the first compiles
    grid = Grid((64, 64, length), (4.0,) * 3)
    plan = plan_stage(grid, {"name": "one", "level": 4.0, "block": 64, "overlap": 16})
    for name in plan["ids"]:
        z, y, x = np.indices(block_field_grid(plan, name).shape) / 9
        wave = 5 * np.stack([np.sin(x + y), np.sin(y + z), np.cos(x - z)]).astype(np.float32)
        np.save(f"{folder}/{name}.npy", wave)
    load = lambda name: np.load(f"{folder}/{name}.npy", mmap_mode="r")
    target = field_grid(plan, 2)
    before = FieldWriter(f"{folder}/before.zarr", target.coarsen((2, 2, 2)))
    tracemalloc.start()
    out = FieldWriter(f"{folder}/field.zarr", target)
    records = dict.fromkeys(plan["ids"], record)
    found = combine_blocks(plan, load, records, Displacements(before, before.grid), settings, None, out)
    made = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    create = lambda grid: FieldWriter(f"{folder}/inverse.zarr", grid)
    inverse = find_inverse(out, target, grid, voxel=4.0, supersample=1, create=create)
    print(len(plan["ids"]), made, tracemalloc.get_traced_memory()[1], found.facts["seam_ratio"])
    tracemalloc.stop()
"""


def test_memory_grows_neither_with_the_volume_nor_with_the_number_of_blocks(tmp_path):
    script = [sys.executable, "-c", BLOCKS_OF_A_STAGE, str(tmp_path), "512", "1024", "4096"]
    root = Path(__file__).resolve().parents[1]
    run = subprocess.run(script, cwd=root, capture_output=True, text=True, check=True)
    rows = [[float(word) for word in line.split()] for line in run.stdout.splitlines()][1:]
    assert [row[0] for row in rows] == [8, 16, 64]
    for column in (1, 2):
        peaks = [row[column] for row in rows]
        # Zarr's threads hold a chunk more or less. The whole field would be 3, 6 and 25 MB.
        assert max(peaks) < 1.5 * min(peaks)


# ---------------------------------------------------------------------------------- the field's grid
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 7, 10])
@pytest.mark.parametrize("overlap", [0, 4])
def test_a_field_of_any_spacing_holds_what_the_blocks_found(factor, overlap):
    image = Grid((21, 30, 41), (5.0, 5.0, 5.0), (3.0, 0.0, -8.0))
    plan = plan_stage(image, {"name": "one", "level": 5.0, "block": 10, "overlap": overlap})
    assert len(plan["ids"]) > 8
    grid = Grid.from_json(plan["grid"])

    def load(name):
        return linear(grid.crop(block_regions(plan, name)[1]).coarsen((2, 2, 2)))

    settings = {"method": "distance_weighted", "field_factor": factor, "agreement": None, "unfold": False}
    found = combine_blocks(plan, load, dict.fromkeys(plan["ids"], RECORD), None, settings).displacements
    assert found.grid == image.coarsen((factor,) * 3)
    # Away from the outermost samples of blocks, beyond which a field is clamped.
    inner = (slice(None), *(slice(1, -1),) * 3)
    atol = 0.35 if overlap == 0 else 0.2
    np.testing.assert_allclose(found.field[inner], linear(found.grid)[inner], atol=atol)


def test_a_field_coarser_than_its_blocks_is_refused():
    image = Grid((40, 40, 40), (5.0, 5.0, 5.0))
    plan = plan_stage(image, {"name": "one", "level": 5.0, "block": 10, "overlap": 4})
    with pytest.raises(ValueError, match=r"reduce\.field_factor is 11, but .* wanted at most 10"):
        combine_blocks(plan, lambda name: None, {}, None, {"method": "collection", "field_factor": 11})
