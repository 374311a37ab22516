"""Reading images at any voxel size: exact where grids coincide, exact on ramps, antialiased, block by block."""

import numpy as np
import pytest

from weft import sampling
from weft.grid import Grid
from weft.image import Image, Level
from weft.sampling import read_at, resample, stage_grid, thinned

FINE = Grid((24, 30, 28), (2.0, 1.0, 1.0), (10.0, -5.0, 3.0))


class Watched:
    """An array (c, z, y, x) that remembers what was read of it."""

    def __init__(self, data):
        self.data, self.dtype, self.shape, self.reads = data, data.dtype, data.shape, []

    def __getitem__(self, key):
        part = self.data[key]
        self.reads.append(part.shape)
        return part


def image(*levels, dtype="uint16", seed=0):
    """An image whose levels hold unrelated noise."""
    random = np.random.default_rng(seed)
    return Image(
        tuple(
            Level(Watched(random.integers(0, 1000, (1, *grid.shape)).astype(dtype)), grid) for grid in levels
        )
    )


def ramp(grid, slope=(1.5, -2.0, 0.25)):
    """c + slope . x of every voxel centre, x in um."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1).reshape(-1, 3)
    return (grid.to_physical(index) @ slope + 100).reshape(grid.shape)


# ---------------------------------------------------------------------------------- coinciding grids
def test_voxels_are_taken_as_they_are_where_grids_coincide():
    source = image(FINE)
    part = (slice(2, 9), slice(0, 30), slice(20, 28))
    taken = read_at(source, 0, FINE.crop(part))
    assert taken.dtype == np.uint16
    np.testing.assert_array_equal(taken, source.levels[0].data.data[0][part])
    np.testing.assert_array_equal(read_at(source, 0, FINE), source.levels[0].data.data[0])


def test_the_border_holds_outside():
    source = image(FINE)
    padded = read_at(source, 0, FINE.pad(2))
    assert padded.dtype == np.float32
    np.testing.assert_array_equal(padded, np.pad(source.levels[0].data.data[0], 2, mode="edge"))
    far = Grid((2, 3, 4), FINE.spacing, tuple(FINE.upper + 1000))
    np.testing.assert_array_equal(
        read_at(source, 0, far), np.full((2, 3, 4), source.levels[0].read()[-1, -1, -1])
    )


# ---------------------------------------------------------------------------------- other voxel sizes
@pytest.mark.parametrize("spacing", [(2, 1, 1), (4, 4, 4), (3.1, 1.7, 2.9), (0.7, 0.5, 0.9), (5, 1, 0.3)])
@pytest.mark.parametrize("shift", [0.0, 0.37])
def test_a_linear_ramp_is_reproduced_exactly_away_from_the_border(spacing, shift):
    source = Image((Level(ramp(FINE)[None].astype("f4"), FINE),))
    margin = 3 * np.maximum(np.asarray(spacing), FINE.spacing)
    start = FINE.lower + margin + shift * np.asarray(spacing)
    shape = np.maximum((FINE.upper - margin - start) // spacing, 1).astype(int)
    grid = Grid(tuple(shape), spacing, tuple(start))
    np.testing.assert_allclose(read_at(source, 0, grid), ramp(grid), rtol=2e-6)


@pytest.mark.parametrize("spacing", [2.0, 3.3])
def test_part_by_part_gives_the_whole(spacing):
    source = image(FINE, FINE.coarsen((1, 2, 2)))
    grid = stage_grid(FINE, spacing)
    whole = read_at(source, 0, grid)
    for z in range(0, grid.shape[0], 5):
        for y in range(0, grid.shape[1], 4):
            part = (slice(z, z + 5), slice(y, y + 4), slice(1, None))
            np.testing.assert_allclose(read_at(source, 0, grid.crop(part)), whole[part], rtol=1e-5)


def test_stripes_finer_than_the_voxels_wanted_are_attenuated():
    stripes = np.zeros((64, 8, 8), np.float32)
    stripes[::2] = 1
    fine = Grid(stripes.shape, (1.0, 1.0, 1.0))
    grid = Grid((30, 8, 8), (2.0, 1.0, 1.0), (2.0, 0.0, 0.0))  # each sample lies on a bright plane
    seen = read_at(Image((Level(stripes[None], fine),)), 0, grid)
    # A Gaussian of s voxels leaves exp(-(pi s)^2 / 2) of the finest stripes, and twice that when it is sampled
    # itself (its spectrum repeats, and the repetition meets it at the highest frequency); here s^2 = 3 / 4.
    np.testing.assert_allclose(seen, 0.5 + np.exp(-(np.pi**2) * 0.75 / 2), atol=2e-3)


def test_a_constant_stays_constant_up_to_the_border():
    source = Image((Level(np.full((1, 9, 10, 11), 7, "uint8"), Grid((9, 10, 11), (1, 1, 1))),))
    np.testing.assert_allclose(
        read_at(source, 0, Grid((9, 10, 11), (2.3, 2, 1.1), (-5, -5, -5))), 7, rtol=1e-6
    )


# ---------------------------------------------------------------------------------- what is read
def test_the_coarsest_level_that_is_fine_enough_is_read():
    levels = [FINE, FINE.coarsen((1, 2, 2)), FINE.coarsen((2, 4, 4))]  # spacings 2 1 1; 2 2 2; 4 4 4
    for spacing, wanted in [(1.0, 0), (1.99, 0), (2.0, 1), (3.9, 1), (4.0, 2), (9.0, 2)]:
        source = image(*levels)
        read_at(source, 0, stage_grid(FINE, spacing))
        assert [bool(level.data.reads) for level in source.levels] == [n == wanted for n in range(3)]


def test_only_what_is_needed_is_read():
    source = image(Grid((200, 200, 200), (1, 1, 1)))
    read_at(source, 0, Grid((10, 10, 10), (2, 2, 2), (50, 50, 50)))
    (shape,) = source.levels[0].data.reads
    assert max(shape) <= 20 + 2 * 4  # 3 sigma of 0.87 voxels and one for the interpolation on either side


def test_a_large_volume_is_read_some_planes_at_a_time(monkeypatch):
    source = image(Grid((150, 20, 30), (1, 1, 1)))
    grid = Grid((40, 6, 9), (2.3, 2.0, 1.5), (29.0, 3.0, 4.0))
    whole = read_at(source, 0, grid)
    monkeypatch.setattr(sampling, "LARGE", 1)
    source.levels[0].data.reads.clear()
    np.testing.assert_array_equal(read_at(source, 0, grid), whole)
    # From 3 sigma and a voxel before plane 29 to as much after plane 118.7; chunks end at 64.
    assert [shape[0] for shape in source.levels[0].data.reads] == [64 - 24, 125 - 64]


def test_a_large_level_is_thinned_out():
    source = image(Grid((150, 20, 31), (1, 1, 1)))
    (level,) = source.levels
    whole, grid = thinned(level, 0, 93_000)
    np.testing.assert_array_equal(whole, level.data.data[0])
    assert grid == level.grid
    part, grid = thinned(level, 0, 4_000)
    np.testing.assert_array_equal(part, whole[::3, ::3, ::3])
    np.testing.assert_allclose(grid.to_physical((4, 2, 1)), level.grid.to_physical((12, 6, 3)))


def test_an_axis_of_one_voxel_is_read():
    source = image(Grid((1, 16, 16), (1, 1, 1)), dtype="float32")
    seen = read_at(source, 0, Grid((3, 8, 8), (1, 2, 2), (-1, 0.5, 0.5)))
    np.testing.assert_array_equal(seen[0], seen[2])
    assert np.isfinite(seen).all()


def test_a_stage_sees_the_image_from_face_to_face():
    grid = stage_grid(FINE, 4.0)
    assert grid.spacing == (4, 4, 4)
    np.testing.assert_allclose(grid.lower, FINE.lower)
    assert (grid.upper >= FINE.upper - 1e-9).all()


# ---------------------------------------------------------------------------------- arrays and planes
@pytest.mark.parametrize("spacing", [1.5, 4.0])
def test_an_array_is_resampled_as_an_image_is_read(spacing):
    source = image(FINE)
    grid = stage_grid(FINE, spacing)
    np.testing.assert_array_equal(
        resample(source.levels[0].read(), FINE, grid), read_at(source, 0, grid).astype(np.float32)
    )


def test_a_plane_stays_a_plane():
    plane = Grid((1, 40, 30), (50.0, 2.0, 2.0), (7.0, 0.0, 0.0))
    grid = stage_grid(plane, 8.0)
    assert grid.shape == (1, 10, 8)
    assert grid.spacing == (50.0, 8.0, 8.0)
    assert grid.origin[0] == 7.0
