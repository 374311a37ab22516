"""Reduce: one field from many blocks, without seams, whatever the order, whatever failed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from weft.grid import Grid
from weft.transforms.model import Displacements
from weft.transforms.reduce import BlockField, reduce_blocks

TARGET = Grid((20, 24, 26), (4.0, 4.0, 4.0), (1.0, 2.0, 3.0))
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
