"""Grids: half-voxel rules, hand-worked."""

import numpy as np
import pytest

from weft.grid import Grid

GRID = Grid((4, 6, 10), (5.0, 2.0, 1.0), (100.0, -20.0, 7.0))


def test_index_is_the_voxels_centre():
    assert GRID.to_physical((0, 0, 0)).tolist() == [100, -20, 7]
    assert GRID.to_physical([[1, 2, 3], [0.5, 0, -1]]).tolist() == [[105, -16, 10], [102.5, -20, 6]]
    points = np.random.default_rng(0).uniform(-50, 50, (20, 3))
    np.testing.assert_allclose(GRID.to_physical(GRID.to_index(points)), points, atol=1e-12)
    homogeneous = GRID.matrix() @ [1, 2, 3, 1]
    assert homogeneous.tolist() == [105, -16, 10, 1]


def test_extent_runs_from_face_to_face():
    assert GRID.extent.tolist() == [20, 12, 10]
    assert GRID.lower.tolist() == [97.5, -21, 6.5]
    assert GRID.upper.tolist() == [117.5, -9, 16.5]
    assert GRID.size == 240
    assert GRID.corners()[[0, -1]].tolist() == [[100, -20, 7], [115, -10, 16]]


def test_contains_counts_whole_voxels():
    inside = [GRID.lower, GRID.upper, GRID.origin]
    outside = [GRID.lower - 0.01, GRID.upper + np.array([0, 0, 0.01])]
    assert GRID.contains([*inside, *outside]).tolist() == [True, True, True, False, False]


def test_crop_and_pad_keep_voxels_where_they_are():
    part = GRID.crop((slice(1, 3), slice(None), slice(4, 100)))
    assert part.shape == (2, 6, 6)
    assert part.origin == (105, -20, 11)
    assert part.spacing == GRID.spacing
    padded = GRID.pad((1, 0, 2))
    assert padded.shape == (6, 6, 14)
    assert padded.origin == (95, -20, 5)
    assert padded.crop((slice(1, 5), slice(0, 6), slice(2, 12))) == GRID
    assert GRID.pad(1).crop((slice(1, 5), slice(1, 7), slice(1, 11))) == GRID


def test_coarsen_moves_the_origin_to_the_bins_centre():
    coarse = GRID.coarsen((1, 2, 4))
    assert coarse.shape == (4, 3, 3)  # the last bin of x holds two voxels only
    assert coarse.spacing == (5, 4, 4)
    # A bin's centre is the mean of its voxels' centres.
    assert coarse.origin == (100, np.mean([-20, -18]), np.mean([7, 8, 9, 10]))
    np.testing.assert_array_equal(coarse.lower, GRID.lower)
    twice = GRID.coarsen((2, 2, 2)).coarsen((1, 1, 2))
    assert twice.origin == GRID.coarsen((2, 2, 4)).origin


def test_resample_keeps_the_lower_face_and_covers():
    grid = GRID.resample(3.0)
    assert grid.shape == (7, 4, 4)
    assert grid.spacing == (3, 3, 3)
    np.testing.assert_allclose(grid.lower, GRID.lower)
    assert (grid.upper >= GRID.upper).all()
    # Rounding of a fraction must not add a voxel: 10 voxels of 0.1 are one of 1.
    assert Grid((10, 10, 10), (0.1, 0.1, 0.1)).resample(1.0).shape == (1, 1, 1)
    assert GRID.resample(GRID.spacing) == GRID


def test_json_round_trip_is_exact():
    grid = Grid((3, 4, 5), (0.1 + 0.2, 1 / 3, 2.0), (-0.1, 1e-9, 3.0))
    assert Grid.from_json(grid.to_json()) == grid


def test_numpy_numbers_become_plain():
    grid = Grid(tuple(np.array([2, 3, 4])), tuple(np.float32([1, 2, 3])))
    assert [type(n) for n in (*grid.shape, *grid.spacing, *grid.origin)] == [int] * 3 + [float] * 6


@pytest.mark.parametrize(
    ("shape", "spacing", "message"),
    [
        ((3, 4), (1, 1), "three axes"),
        ((0, 4, 4), (1, 1, 1), "at least one voxel"),
        ((3, 4, 4), (1, 0, 1), "positive"),
        ((3, 4, 4), (1, -2, 1), "positive"),
        ((3, 4, 4), (1, float("nan"), 1), "positive"),
        ((3, 4, 4), (1, float("inf"), 1), "positive"),
    ],
)
def test_impossible_grids_are_refused(shape, spacing, message):
    with pytest.raises(ValueError, match=message):
        Grid(shape, spacing)
