"""Links measured on tiles cut from a synthetic specimen at known sub-voxel positions."""

import numpy as np
import pytest
from scipy import ndimage

from weft.illumination import Illumination
from weft.image import Tile, TileSet
from weft.links import Link, LinkSettings, candidate_links, measure_link
from weft.links.seams import seam

SHAPE, SPACING = (24, 64, 64), (3.0, 1.5, 1.5)
STAGE = np.array([(0, 0, 0), (0, 0, 44), (0, 44, 0)], float)  # voxels
SEARCH = (6, 10, 10)


def specimen(seed, shape=(44, 136, 136)):
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.standard_normal(shape), 1.3)
    slow = ndimage.gaussian_filter(rng.standard_normal(shape), 12)
    return 400 * np.exp(0.5 * texture / texture.std() + 0.3 * slow / slow.std())


def vignette():
    y, x = np.mgrid[-1 : 1 : SHAPE[1] * 1j, -1 : 1 : SHAPE[2] * 1j]
    gain = 1.5 - 0.5 * (y**2 + (x - 0.2) ** 2)
    return (gain / gain.mean()).astype(np.float32)


def cut(volume, true, seed=0, gain=None, dark=100.0):
    """Tiles sampled at true positions (voxels, + 8), with shading, shot and read noise."""
    rng = np.random.default_rng(seed)
    arrays = []
    for place in true:
        points = np.stack(np.indices(SHAPE)).reshape(3, -1) + (place + 8)[:, None]
        signal = ndimage.map_coordinates(volume, points, order=3, mode="nearest").reshape(SHAPE)
        signal = np.maximum(signal, 0) * (1 if gain is None else gain)
        arrays.append(
            np.rint(rng.poisson(signal) + dark + rng.normal(0, 3, SHAPE)).clip(0, 65535).astype(np.uint16)
        )
    return arrays


def tile_set(arrays, stage=STAGE):
    reads = []

    def read(tile, channel, region):
        reads.append((tile, arrays[tile][region].size))
        return arrays[tile][region]

    tiles = tuple(Tile(f"T{k}", tuple(p)) for k, p in enumerate(np.asarray(stage) * SPACING))
    return TileSet(tiles, SHAPE, SPACING, np.dtype("uint16"), ("0",), read), reads


def error(link, true):
    """Distance to the true displacement, voxels."""
    return np.linalg.norm(link.displacement / SPACING - (true[link.j] - true[link.i]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sub_voxel_displacement_under_shading_and_noise(seed):
    rng = np.random.default_rng(seed)
    true = STAGE + rng.uniform(-1, 1, STAGE.shape) * (2, 5, 5)
    gain = vignette()
    tiles, _ = tile_set(cut(specimen(seed), true, seed, gain))
    lamp = Illumination(gain, np.full(gain.shape, 100, np.float32))
    for i, j in ((0, 1), (0, 2)):
        for light in (None, lamp):
            link = measure_link(tiles, i, j, 0, light, search_voxels=SEARCH)
            assert link.status == "ok"
            assert error(link, true) < 0.2
            assert link.confidence > 0.3
            assert 0.1 < link.overlap < 0.6


def test_tiles_that_show_the_same_voxels_are_placed_exactly():
    """Tiles cut at whole voxels from one volume, read noise aside: the borders of thin overlaps must not pull."""
    volume, rng = specimen(3).astype(np.float32), np.random.default_rng(3)
    true = STAGE + rng.integers(-2, 3, STAGE.shape)
    arrays = []
    for place in (true + 8).astype(int):
        voxels = volume[tuple(slice(p, p + n) for p, n in zip(place, SHAPE, strict=True))]
        arrays.append(np.rint(voxels + rng.normal(100, 4, SHAPE)).astype(np.uint16))
    tiles, _ = tile_set(arrays)
    for i, j in ((0, 1), (0, 2)):
        link = measure_link(tiles, i, j, 0, search_voxels=SEARCH)
        assert link.status == "ok"
        assert error(link, true) < 0.02


def test_reads_just_what_may_overlap():
    tiles, reads = tile_set(cut(specimen(0), STAGE))
    measure_link(tiles, 0, 1, 0, search_um=(6.0, 6.0, 6.0))
    widest = SHAPE[0] * SHAPE[1] * (64 - 44 + 4)
    assert sorted(tile for tile, _ in reads) == [0, 1]
    assert all(size <= widest for _, size in reads)


def test_large_crops_are_cut_to_their_structured_depth():
    volume = specimen(3)
    volume[:26] = 0.5
    tiles, reads = tile_set(cut(volume, STAGE))
    link = measure_link(tiles, 0, 1, 0, search_voxels=(0, 4, 4), settings=LinkSettings(most_read=12_000))
    assert link.status == "ok"
    assert error(link, STAGE) < 0.3
    assert max(size for _, size in reads) <= 16 * 64 * 28


def test_empty_tiles_are_said_to_be_empty():
    arrays = cut(specimen(0), STAGE)
    rng = np.random.default_rng(9)
    arrays[1] = np.rint(100 + rng.normal(0, 3, SHAPE)).astype(np.uint16)
    tiles, _ = tile_set(arrays)
    link = measure_link(tiles, 0, 1, 0, search_voxels=SEARCH)
    assert link.status == "empty"
    assert link.confidence == 0
    np.testing.assert_allclose(link.displacement, (STAGE[1] - STAGE[0]) * SPACING)
    arrays[2] = np.full(SHAPE, 100, np.uint16)  # not even noise
    assert measure_link(tiles, 0, 2, 0, search_voxels=SEARCH).status == "empty"


def test_other_content_has_a_low_ncc():
    arrays = cut(specimen(0), STAGE)
    arrays[1] = cut(specimen(77), STAGE)[1]
    link = measure_link(tile_set(arrays)[0], 0, 1, 0, search_voxels=SEARCH)
    assert link.status == "low_ncc"
    assert link.confidence == 0


def test_repeated_texture_is_ambiguous_until_the_window_resolves_it():
    y, x = np.mgrid[:136, :136]
    lattice = 300 + 200 * np.cos(2 * np.pi * y / 8) * np.cos(2 * np.pi * x / 8)
    volume = np.repeat(lattice[None], 44, 0) * (1 + 0.5 * np.cos(np.arange(44) / 2))[:, None, None]
    true = STAGE + np.array([(0, 0, 0), (0.5, 2, -1.5), (0, 0, 0)])
    tiles, _ = tile_set(cut(volume, true))
    link = measure_link(tiles, 0, 1, 0, search_voxels=(3, 10, 10))
    assert link.status == "ambiguous"
    assert link.confidence == 0
    assert link.peak_ratio > 0.9


def test_a_shift_outside_the_window_is_not_taken():
    true = STAGE + np.array([(0, 0, 0), (0, 6.0, 0), (0, 0, 0)])
    tiles, _ = tile_set(cut(specimen(1), true))
    assert measure_link(tiles, 0, 1, 0, search_voxels=(2, 3, 3)).status != "ok"
    edge = measure_link(tiles, 0, 1, 0, search_voxels=(2, 6, 6))
    assert edge.status == "window_border"
    moved = tiles.positions() + np.array([(0, 0, 0), (0, 9.0, 0), (0, 0, 0)])
    assert measure_link(tiles, 0, 1, 0, search_voxels=(2, 3, 3), positions=moved).status == "ok"


def test_repeats_to_the_bit():
    tiles, _ = tile_set(cut(specimen(2), STAGE))
    first, second = (measure_link(tiles, 0, 2, 0, search_voxels=SEARCH) for _ in range(2))
    assert first.displacement.tobytes() == second.displacement.tobytes()
    assert first.ncc == second.ncc


def test_candidates_from_positions():
    grid = np.array([(0, 220 * r, 230 * c) for r in range(3) for c in range(3)], float)
    pairs = candidate_links(grid, (96, 256, 256), (1, 1, 1))
    assert len(pairs) == 12
    assert (0, 4) not in pairs
    assert len(candidate_links(grid, (96, 256, 256), (1, 1, 1), diagonal=True)) == 20
    bricks = np.array([(0, 0, 0), (0, 0, 230), (0, 220, 115), (0, 220, 345)], float)
    assert candidate_links(bricks, (96, 256, 256), (1, 1, 1)) == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]
    assert candidate_links(grid[:1], (96, 256, 256), (1, 1, 1)) == []


def test_refusals():
    tiles, _ = tile_set([np.zeros(SHAPE, np.uint16)] * 3)
    with pytest.raises(ValueError, match="one of them"):
        measure_link(tiles, 0, 1, 0)
    with pytest.raises(ValueError, match="twice"):
        measure_link(tiles, 1, 1, 0, search_um=(1, 1, 1))
    with pytest.raises(ValueError, match="at least zero"):
        measure_link(tiles, 0, 1, 0, search_um=(1, -1, 1))
    assert isinstance(measure_link(tiles, 0, 1, 0, search_um=(1, 1, 1)), Link)


def test_large_crops_are_binned_for_the_search_and_refined_on_blocks():
    rng = np.random.default_rng(4)
    true = STAGE + rng.uniform(-1, 1, STAGE.shape) * (2, 5, 5)
    tiles, reads = tile_set(cut(specimen(4), true, 4, vignette()))
    whole = measure_link(tiles, 0, 1, 0, search_voxels=SEARCH)
    assert len(whole.matches) == 0
    reads.clear()
    link = measure_link(tiles, 0, 1, 0, search_voxels=SEARCH, settings=LinkSettings(whole=20_000))
    assert link.status == "ok"
    assert 1 <= len(link.matches) <= 6
    assert error(link, true) < 0.3
    middles = link.matches[:, :3] / SPACING
    assert (middles >= 0).all()
    assert (middles < SHAPE).all()


def test_blocks_follow_a_tile_that_is_stretched():
    """Tile 1 is cut with rows 2 % farther apart: the displacement in y grows along the overlap."""
    volume = specimen(5)
    arrays = cut(volume, STAGE)
    points = np.stack(np.indices(SHAPE)).astype(float)
    points[1] *= 1.02
    place = STAGE[1] + 8
    signal = ndimage.map_coordinates(volume, points.reshape(3, -1) + place[:, None], order=3, mode="nearest")
    arrays[1] = np.rint(signal.reshape(SHAPE) + 100).astype(np.uint16)
    settings = LinkSettings(matches=True, slack=3, blocks=4)
    link = measure_link(tile_set(arrays)[0], 0, 1, 0, search_voxels=SEARCH, settings=settings)
    # What lies at row y of tile 0 lies at row y / 1.02 of tile 1: its first voxel seems to lie at y - y / 1.02.
    at, found = link.matches[:, 1] / SPACING[1], link.matches[:, 4] / SPACING[1]
    np.testing.assert_allclose(found, at - at / 1.02, atol=0.4)


def test_blocks_are_matched_by_default_only_where_an_overlap_bends():
    volume = specimen(5)
    arrays = cut(volume, STAGE)
    assert len(measure_link(tile_set(arrays)[0], 0, 1, 0, search_voxels=SEARCH).matches) == 0
    points = np.stack(np.indices(SHAPE)).astype(float)
    points[1] *= 1.04
    place = STAGE[1] + 8
    signal = ndimage.map_coordinates(volume, points.reshape(3, -1) + place[:, None], order=3, mode="nearest")
    arrays[1] = np.rint(signal.reshape(SHAPE) + 100).astype(np.uint16)
    assert len(measure_link(tile_set(arrays)[0], 0, 1, 0, search_voxels=SEARCH).matches) > 0


def test_each_gate_says_its_reason():
    settings = LinkSettings()
    tiles, _ = tile_set(cut(specimen(0), STAGE))
    link = measure_link(tiles, 0, 1, 0, search_voxels=SEARCH)
    assert link.reason(settings) == ""
    strict = {
        "low_ncc": (LinkSettings(min_ncc=0.999), "is below 0.999"),
        "small_overlap": (LinkSettings(min_overlap=0.9), "below 0.9"),
    }
    for status, (given, words) in strict.items():
        failed = measure_link(tiles, 0, 1, 0, search_voxels=SEARCH, settings=given)
        assert failed.status == status
        assert words in failed.reason(given)


def test_vignetting_is_not_taken_for_content():
    """Without the band-pass, tiles of one lamp correlate with themselves at no shift, whatever they show."""
    other = cut(specimen(0), STAGE, gain=vignette())
    other[1] = cut(specimen(77), STAGE, gain=vignette())[1]
    assert measure_link(tile_set(other)[0], 0, 1, 0, search_voxels=SEARCH).status != "ok"


def test_maximum_projections_as_terastitcher_does():
    rng = np.random.default_rng(6)
    true = STAGE + np.array([(0, 0, 0), (1, 4, -3), (-2, -5, 4)])
    beads = np.zeros((44, 136, 136))
    beads[tuple(rng.integers(0, n, 1500) for n in beads.shape)] = rng.gamma(2, 4e4, 1500)
    tiles, _ = tile_set(cut(20 + ndimage.gaussian_filter(beads, 1.5), true))
    settings = LinkSettings(method="mip_ncc")
    right = []
    for i, j in ((0, 1), (0, 2)):
        link = measure_link(tiles, i, j, 0, search_voxels=SEARCH, settings=settings)
        right.append(link.confidence)
        np.testing.assert_allclose(link.displacement / SPACING, true[j] - true[i], atol=1e-6)  # whole voxels
        assert link.status == "ok"
    other = cut(20 + ndimage.gaussian_filter(np.roll(beads, 60, 2), 1.5), true)
    arrays = [cut(20 + ndimage.gaussian_filter(beads, 1.5), true)[0], other[1], other[2]]
    wrong = measure_link(tile_set(arrays)[0], 0, 1, 0, search_voxels=SEARCH, settings=settings)
    assert wrong.confidence < 0.9 * min(right)


def test_a_seam_of_stretched_tiles_is_looked_at_where_their_poses_put_it():
    """Tile 1 is cut with rows 6 % farther apart; its pose says so, and its first voxel is where it was."""
    volume = specimen(6)
    arrays = cut(volume, STAGE)
    points = np.stack(np.indices(SHAPE)).astype(float)
    points[1] *= 1.06
    place = STAGE[1] + 8
    signal = ndimage.map_coordinates(volume, points.reshape(3, -1) + place[:, None], order=3, mode="nearest")
    arrays[1] = np.rint(signal.reshape(SHAPE) + 100).astype(np.uint16)
    linear = np.tile(np.eye(3), (3, 1, 1))
    linear[1, 1, 1] = 1.06
    tiles, _ = tile_set(arrays)
    shifted, posed = (seam(tiles, (0, 1), 0, None, STAGE * SPACING, parts) for parts in (None, linear))
    assert posed.ncc > shifted.ncc + 0.1
    assert posed.ncc > 0.4
