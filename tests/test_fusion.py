"""Fusion against functions of space that trilinear sampling reproduces exactly."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from weft.fusion import BLENDS, TileCache, fuse_region, output_grid
from weft.grid import Grid
from weft.illumination import Illumination
from weft.image import Tile, TileSet

SHAPE = (6, 20, 24)
SPACING = (4.0, 2.0, 2.0)


def ramp(points):
    """A linear function of space: exact under trilinear sampling and under any mix of tiles."""
    return 500.0 + points @ np.array([3.0, 1.5, -0.75])


def grid_points(grid):
    return grid.to_physical(np.stack(np.indices(grid.shape), -1).reshape(-1, 3))


def tile_set(positions, arrays, dtype=np.float32, spacing=SPACING):
    """Tiles whose reader counts the voxels that it hands out."""
    reads = []

    def read(tile, channel, region):
        part = arrays[tile][region]
        reads.append((tile, part.size, part.shape))
        return part

    tiles = tuple(Tile(f"T{k}", tuple(p)) for k, p in enumerate(positions))
    return TileSet(tiles, arrays[0].shape, spacing, np.dtype(dtype), ("0",), read), reads


@pytest.fixture
def mosaic():
    rng = np.random.default_rng(5)
    positions = np.array([(0, 0, 0), (0, 0, 38), (0, 32, 0), (0, 32, 38)], float) + rng.uniform(-4, 4, (4, 3))
    arrays = [ramp(grid_points(Grid(SHAPE, SPACING, tuple(p)))).reshape(SHAPE) for p in positions]
    tiles, reads = tile_set(positions, [a.astype(np.float32) for a in arrays])
    return tiles, reads, positions, output_grid(positions, SHAPE, SPACING)


WHOLE = (slice(None),) * 3


@pytest.mark.parametrize("blend", BLENDS)
def test_reproduces_a_linear_field_at_sub_voxel_positions(mosaic, blend):
    tiles, _, positions, grid = mosaic
    out, counts = fuse_region(tiles, 0, positions, None, grid, WHOLE, blend=blend, dtype=np.float32)
    truth = ramp(grid_points(grid)).reshape(grid.shape)
    inside = np.zeros(grid.shape, bool)
    for p in positions:
        index = Grid(SHAPE, SPACING, tuple(p)).to_index(grid_points(grid))
        inside |= ((index > -1e-9) & (index < np.array(SHAPE) - 1 + 1e-9)).all(1).reshape(grid.shape)
    assert counts == {"voxels": int(inside.sum()), "clipped_low": 0, "clipped_high": 0}
    assert np.abs(out - truth)[inside].max() < 1e-3
    assert (out[~inside] == 0).all()
    assert inside.mean() > 0.6


def test_regions_are_pieces_of_the_whole(mosaic):
    tiles, _, positions, grid = mosaic
    whole, _ = fuse_region(tiles, 0, positions, None, grid, WHOLE)
    pieces = np.zeros_like(whole)
    cache = TileCache(tiles, max_bytes=20_000)
    for z in range(0, grid.shape[0], 4):
        for y in range(0, grid.shape[1], 16):
            for x in range(0, grid.shape[2], 16):
                region = (slice(z, z + 4), slice(y, y + 16), slice(x, x + 16))
                part, _ = fuse_region(tiles, 0, positions, None, grid, region, cache=cache)
                if part is not None:
                    pieces[region] = part
    np.testing.assert_array_equal(pieces, whole)
    assert cache._bytes <= 20_000


def test_mix_is_linear_across_an_overlap():
    positions = np.array([(0, 0, 0), (0, 0, 16.0)])
    arrays = [np.full((3, 5, 24), v, np.float32) for v in (0.0, 100.0)]
    tiles, _ = tile_set(positions, arrays, spacing=(1.0, 1.0, 1.0))
    grid = output_grid(positions, (3, 5, 24), (1.0, 1.0, 1.0))
    out, _ = fuse_region(tiles, 0, positions, None, grid, WHOLE, dtype=np.float32)
    line = out[1, 2]
    assert grid.shape == (3, 5, 40)
    assert (line[:16] == 0).all()
    np.testing.assert_allclose(line[24:], 100, rtol=1e-6)
    # samples overlap at 16 ... 23: from weight ~0 of the second tile to weight ~1
    np.testing.assert_allclose(line[16:24], np.linspace(0, 100, 8), atol=0.2)


@pytest.mark.parametrize(
    ("blend", "share"),
    [
        ("linear", lambda s: s),
        ("sinusoidal", lambda s: (1 - np.cos(np.pi * s)) / 2),  # as TeraStitcher's guide has it
        ("mean", lambda s: 0.5 + 0 * s),
        ("nearest", lambda s: s > 0.5),
        ("max", lambda s: 1 + 0 * s),
    ],
)
def test_blends_across_an_overlap(blend, share):
    positions = np.array([(0, 0, 0), (0, 0, 14.0)])
    tiles, _ = tile_set(
        positions, [np.full((3, 5, 24), v, np.float32) for v in (0.0, 100.0)], spacing=(1.0,) * 3
    )
    grid = output_grid(positions, (3, 5, 24), (1.0,) * 3)
    out, counts = fuse_region(tiles, 0, positions, None, grid, WHOLE, blend=blend, dtype=np.float32)
    assert counts["voxels"] == grid.size
    assert (out[:, :, :14] == 0).all()
    np.testing.assert_allclose(out[:, :, 24:], 100, rtol=1e-6)
    np.testing.assert_allclose(out[1, 2, 14:24], 100 * share(np.linspace(0, 1, 10)), atol=0.2)


def turned(degrees, stretch=1.0):
    """A rotation in the plane of y and x, with a stretch along y and a shear of z."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[1, 0.02, 0], [0, c * stretch, -s], [0, s * stretch, c]])


@pytest.mark.parametrize("blend", BLENDS)
def test_affine_poses_reproduce_a_linear_field(blend):
    rng = np.random.default_rng(7)
    positions = np.array([(0, 0, 0), (0, 1, 34), (0, 30, 2)], float) + rng.uniform(-2, 2, (3, 3))
    linear = np.stack([turned(3), np.eye(3), turned(-2, 1.03)])
    local = grid_points(Grid(SHAPE, SPACING))
    arrays = [
        ramp(p + local @ m.T).reshape(SHAPE).astype(np.float32)
        for p, m in zip(positions, linear, strict=True)
    ]
    tiles, _ = tile_set(positions, arrays)
    grid = output_grid(positions, SHAPE, SPACING, linear)
    ends = np.concatenate([p + local @ m.T for p, m in zip(positions, linear, strict=True)])
    assert (grid.origin <= ends.min(0) + 1e-9).all()
    assert (grid.to_physical(np.array([grid.shape]))[0] > ends.max(0)).all()
    out, counts = fuse_region(
        tiles, 0, positions, None, grid, WHOLE, linear=linear, blend=blend, dtype=np.float32
    )
    points = grid_points(grid)
    inside = np.zeros(grid.size, bool)
    for p, m in zip(positions, linear, strict=True):
        index = (points - p) @ np.linalg.inv(m).T / SPACING
        inside |= ((index > -1e-7) & (index < np.array(SHAPE) - 1 + 1e-7)).all(1)
    inside = inside.reshape(grid.shape)
    assert counts["voxels"] == inside.sum() > 0.5 * grid.size
    assert np.abs(out - ramp(points).reshape(grid.shape))[inside].max() < 2e-3
    assert (out[~inside] == 0).all()
    # Piece by piece it is the same image.
    for y in range(0, grid.shape[1], 13):
        part = (slice(1, 4), slice(y, y + 13), slice(5, 40))
        piece, _ = fuse_region(
            tiles, 0, positions, None, grid, part, linear=linear, blend=blend, dtype=np.float32
        )
        if piece is not None:
            np.testing.assert_allclose(piece, out[part], atol=1e-3)


def test_affine_poses_of_identity_are_translations_and_nearly_so_are_their_neighbours(mosaic):
    tiles, _, positions, grid = mosaic
    light = Illumination(
        np.random.default_rng(8).uniform(0.5, 1.5, SHAPE[1:]).astype(np.float32),
        np.full(SHAPE[1:], 9, np.float32),
    )
    want, counts = fuse_region(tiles, 0, positions, light, grid, WHOLE, dtype=np.float32)
    same, _ = fuse_region(
        tiles, 0, positions, light, grid, WHOLE, dtype=np.float32, linear=np.tile(np.eye(3), (4, 1, 1))
    )
    np.testing.assert_array_equal(same, want)
    nearly = np.tile(np.eye(3) * (1 + 1e-9), (4, 1, 1))
    close, found = fuse_region(tiles, 0, positions, light, grid, WHOLE, dtype=np.float32, linear=nearly)
    assert found == counts
    np.testing.assert_allclose(close, want, atol=2e-2)


def test_gain_and_dark_are_applied_on_the_fly(mosaic):
    tiles, _, positions, grid = mosaic
    rng = np.random.default_rng(6)
    gain = rng.uniform(0.5, 1.5, SHAPE[1:]).astype(np.float32)
    illumination = Illumination(gain / gain.mean(), rng.uniform(90, 110, SHAPE[1:]).astype(np.float32))
    raw = [tiles.read(k) * illumination.gain + illumination.dark for k in range(4)]
    shaded, _ = tile_set(positions, raw)
    flat, _ = fuse_region(shaded, 0, positions, illumination, grid, WHOLE, dtype=np.float32)
    want, _ = fuse_region(tiles, 0, positions, None, grid, WHOLE, dtype=np.float32)
    np.testing.assert_allclose(flat, want, atol=2e-3)


def test_integers_are_rounded_half_up_and_clipping_is_counted():
    values = np.array([-3.0, -0.5, 0.5, 1.49, 254.5, 300.0, 255.4, 7.0], np.float32)
    tiles, _ = tile_set([(0, 0, 0)], [values.reshape(1, 1, 8)], spacing=(1.0, 1.0, 1.0))
    grid = Grid((1, 1, 8), (1.0, 1.0, 1.0))
    out, counts = fuse_region(tiles, 0, np.zeros((1, 3)), None, grid, WHOLE, dtype=np.uint8)
    assert out.ravel().tolist() == [0, 0, 1, 1, 255, 255, 255, 7]
    assert counts == {"voxels": 8, "clipped_low": 1, "clipped_high": 1}
    lifted, counts = fuse_region(tiles, 0, np.zeros((1, 3)), None, grid, WHOLE, dtype=np.uint8, offset=3.0)
    assert lifted.ravel()[0] == 0
    assert counts["clipped_low"] == 0


def test_bright_voxels_of_uint16_never_wrap_around():
    values = np.array([65535, 65000, 40000, 0], np.uint16).reshape(1, 1, 4)
    tiles, _ = tile_set([(0, 0, 0)], [values], np.uint16, (1.0, 1.0, 1.0))
    light = Illumination(np.full((1, 4), 0.5, np.float32), np.full((1, 4), 100, np.float32))
    out, counts = fuse_region(tiles, 0, np.zeros((1, 3)), light, Grid((1, 1, 4), (1.0, 1.0, 1.0)), WHOLE)
    assert out.ravel().tolist() == [65535, 65535, 65535, 0]
    assert counts == {"voxels": 4, "clipped_low": 1, "clipped_high": 3}


@pytest.mark.parametrize(("max_bytes", "most"), [(1 << 20, 1.0), (60_000, 1.35), (0, 4.0)])
def test_a_cache_reads_each_voxel_about_once_and_keeps_to_its_size(mosaic, max_bytes, most):
    _, _, positions, grid = mosaic
    rng = np.random.default_rng(9)
    arrays = [rng.integers(0, 4000, SHAPE).astype(np.uint16) for _ in positions]
    alone, _ = tile_set(positions, arrays, np.uint16)
    want, _ = fuse_region(alone, 0, positions, None, grid, WHOLE)
    tiles, reads = tile_set(positions, arrays, np.uint16)
    cache = TileCache(tiles, max_bytes=max_bytes)
    parts = [
        (slice(None), slice(y, y + 10), slice(x, x + 8))
        for y in range(0, grid.shape[1], 10)
        for x in range(0, grid.shape[2], 8)
    ]
    with ThreadPoolExecutor(3) as pool:
        pieces = list(
            pool.map(lambda part: fuse_region(tiles, 0, positions, None, grid, part, cache=cache)[0], parts)
        )
    for part, piece in zip(parts, pieces, strict=True):
        np.testing.assert_array_equal(want[part] if piece is None else piece, want[part])
    assert cache._bytes <= max_bytes
    assert sum(size for _, size, _ in reads) <= most * sum(a.size for a in arrays)


def test_a_slab_that_cannot_be_read_is_tried_again(mosaic):
    tiles, _, positions, grid = mosaic
    broken = [True]

    def read(tile, channel, region):
        if broken:
            raise OSError("the disk is away")
        return tiles.reader(tile, channel, region)

    cache = TileCache(dataclasses.replace(tiles, reader=read))
    with pytest.raises(OSError, match="away"):
        fuse_region(tiles, 0, positions, None, grid, WHOLE, cache=cache)
    broken.clear()
    out, _ = fuse_region(tiles, 0, positions, None, grid, WHOLE, cache=cache)
    np.testing.assert_array_equal(out, fuse_region(tiles, 0, positions, None, grid, WHOLE)[0])


def test_empty_region_reads_nothing_and_a_small_one_reads_little(mosaic):
    tiles, reads, positions, _ = mosaic
    big = Grid((6, 200, 200), SPACING, tuple(positions.min(0)))
    out, counts = fuse_region(tiles, 0, positions, None, big, (slice(0, 6), slice(150, 200), slice(150, 200)))
    assert out is None
    assert counts["voxels"] == 0
    assert reads == []
    fuse_region(tiles, 0, positions, None, big, (slice(2, 3), slice(1, 4), slice(1, 4)))
    assert sum(size for _, size, _ in reads) <= 4 * 2 * 4 * 4


def test_whole_voxel_positions_keep_the_outermost_rows():
    array = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(2, 3, 4)
    position = np.array([(0.1 + 0.2, 1e9, -0.7)])  # not exact in binary
    tiles, _ = tile_set(position, [array], np.uint16, spacing=(0.1, 0.7, 0.7))
    grid = output_grid(position, (2, 3, 4), (0.1, 0.7, 0.7))
    out, _ = fuse_region(tiles, 0, position, None, grid, WHOLE)
    np.testing.assert_array_equal(out, array)


def test_refusals(mosaic):
    tiles, _, positions, grid = mosaic
    with pytest.raises(ValueError, match="'average'"):
        fuse_region(tiles, 0, positions, None, grid, WHOLE, blend="average")
    with pytest.raises(ValueError, match="found uint32"):
        fuse_region(tiles, 0, positions, None, grid, WHOLE, dtype=np.uint32)
    with pytest.raises(ValueError, match="positive determinant"):
        fuse_region(tiles, 0, positions, None, grid, WHOLE, linear=np.zeros((4, 3, 3)))
    with pytest.raises(ValueError, match="spacing"):
        fuse_region(tiles, 0, positions, None, Grid((2, 2, 2), (1.0, 1.0, 1.0)), WHOLE)
    with pytest.raises(ValueError, match="position per tile"):
        fuse_region(tiles, 0, positions[:2], None, grid, WHOLE)
    with pytest.raises(ValueError, match="plane"):
        fuse_region(tiles, 0, positions, Illumination.identity((3, 3)), grid, WHOLE)
    with pytest.raises(ValueError, match="finite"):
        output_grid(np.full((1, 3), np.nan), SHAPE, SPACING)
