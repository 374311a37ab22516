"""Reduce: one field from many blocks, without seams, whatever the order, whatever failed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from weft.grid import Grid
from weft.registration.combine import combine_blocks
from weft.registration.plan import block_regions, plan_stage
from weft.transforms.model import Displacements
from weft.transforms.reduce import BlockField, reduce_blocks

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
