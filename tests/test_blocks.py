"""Blocks: every voxel in exactly one, neighbours close in order, batches contiguous and complete."""

import itertools

import numpy as np
import pytest

from weft.blocks import cut, deal, index_of, region, with_halo

SHAPES = [
    ((7, 5, 3), (3, 2, 2)),
    ((8, 8, 8), (4, 4, 4)),
    ((1, 9, 1), (4, 4, 4)),
    ((2, 5, 6, 7), (1, 3, 3, 3)),
]


@pytest.mark.parametrize(("shape", "block"), SHAPES)
def test_blocks_tile_the_grid_exactly_once(shape, block):
    covered = np.zeros(shape, int)
    names = cut(shape, block)
    for name in names:
        covered[region(name, shape, block)] += 1
    assert (covered == 1).all()
    assert len(set(names)) == len(names)


def test_names_say_the_indices_and_come_in_morton_order():
    names = cut((4, 4), (1, 1))
    assert names[:8] == ["0.0", "0.1", "1.0", "1.1", "0.2", "0.3", "1.2", "1.3"]
    assert index_of("1.12.3") == (1, 12, 3)
    # Along each axis the order grows, and every aligned 2 x 2 x 2 cube is a run of eight.
    cubes = [tuple(i // 2 for i in index_of(name)) for name in cut((8, 8, 8), (1, 1, 1))]
    assert [len(list(run)) for _, run in itertools.groupby(cubes)] == [8] * 64


def test_names_do_not_depend_on_how_far_the_grid_reaches():
    small, large = cut((4, 4, 4), (2, 2, 2)), cut((8, 8, 8), (2, 2, 2))
    assert [name for name in large if name in small] == small


def test_one_block_where_the_block_is_larger_than_the_grid():
    assert cut((3, 4, 5), (8, 8, 8)) == ["0.0.0"]
    assert region("0.0.0", (3, 4, 5), (8, 8, 8)) == (slice(0, 3), slice(0, 4), slice(0, 5))


def test_halo_is_clipped_to_the_grid():
    core = (slice(0, 4), slice(4, 8), slice(8, 10))
    assert with_halo(core, (2, 2, 2), (10, 10, 10)) == (slice(0, 6), slice(2, 10), slice(6, 10))
    assert with_halo(core, (0, 0, 0), (10, 10, 10)) == core


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 100])
@pytest.mark.parametrize("batches", [1, 2, 3, 8, 13])
def test_deal_is_contiguous_complete_and_even(count, batches):
    names = [f"n{i}" for i in range(count)]
    dealt = [deal(names, batch, batches) for batch in range(batches)]
    assert [name for part in dealt for name in part] == names  # contiguous, complete, in order
    sizes = [len(part) for part in dealt]
    assert max(sizes) - min(sizes) <= 1
    assert dealt == [deal(tuple(names), batch, batches) for batch in range(batches)]  # pure
