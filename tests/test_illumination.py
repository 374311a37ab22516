"""Illumination against the gain and dark that synthetic tiles were made with."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
import zarr
from scipy import ndimage

from weft.bias import load_biases, save_biases
from weft.grid import Grid
from weft.illumination import (
    Illumination,
    corrected,
    equalise,
    find_defects,
    fit_bias,
    fit_illumination,
    read_once,
    read_profile,
    resolve_dark,
)
from weft.illumination.background import Background
from weft.illumination.choose import with_or_without_background
from weft.illumination.samples import draw
from weft.illumination.seams import read_shared
from weft.image import Image, Level, Tile, TileSet
from weft.links import Link, candidate_links
from weft.pyramid import downsample

SIDE, DEPTH, STEP = 96, 40, 80


def gain_plane(centre, curve):
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    gain = np.exp(-((y - centre[0]) ** 2 + 1.4 * (x - centre[1]) ** 2) / curve)
    gain = 0.5 + (gain - gain.min()) / np.ptp(gain)
    return (gain / gain.mean()).astype(np.float32)


def specimen(rng, shape):
    """A blob of regions of different brightness with texture; about half of the volume is tissue."""
    sites = rng.uniform(0, 1, (40, 3)) * shape
    grid = np.stack(np.indices([-(-n // 2) for n in shape]), -1) * 2.0
    nearest = np.argmin([((grid - s) ** 2).sum(-1) for s in sites], axis=0)
    levels = rng.uniform(200, 700, 40)[nearest].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    levels = levels[: shape[0], : shape[1], : shape[2]]
    texture = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = 0.4 * z**2 + y**2 + x**2 < 0.75
    slow = 1 + 0.2 * np.sin(2 * x + y)
    return levels * slow * np.exp(0.15 * texture / texture.std()) * inside


def mosaic(seed, gain, empty=None):
    """3 x 3 tiles, (9, z, y, x), their stage positions and true corners (whole voxels)."""
    rng = np.random.default_rng(seed)
    margin = 4
    extent = (DEPTH + 2 * margin, 2 * STEP + SIDE + 2 * margin, 2 * STEP + SIDE + 2 * margin)
    volume = specimen(rng, extent)
    stage = np.array([(0, STEP * r, STEP * c) for r in range(3) for c in range(3)])
    true = stage + rng.integers(-margin, margin + 1, stage.shape)
    arrays = []
    for n, (z, y, x) in enumerate(true + margin):
        signal = volume[z : z + DEPTH, y : y + SIDE, x : x + SIDE] * (n != empty)
        arrays.append(
            np.rint(rng.poisson(signal * gain) + 110 + rng.normal(0, 3, signal.shape)).astype(np.uint16)
        )
    return np.stack(arrays), stage, true


def tile_set(arrays, stage):
    def read(tile, channel, region):
        return arrays[tile][region]

    tiles = tuple(Tile(f"T{k}", tuple(float(v) for v in p)) for k, p in enumerate(stage))
    return TileSet(tiles, arrays.shape[1:], (1.0, 1.0, 1.0), np.dtype("uint16"), ("0",), read)


@pytest.fixture(scope="module")
def scan():
    gain = gain_plane((0.15, -0.2), 1.1)
    arrays, stage, true = mosaic(0, gain, empty=8)
    return tile_set(arrays, stage), gain, true


SEARCH = (10, 10, 10)


def rmse(light, gain):
    return float(np.sqrt(np.mean((light.gain - gain) ** 2)))


def test_gain_of_half_filled_tiles(scan):
    tiles, gain, _ = scan
    light = fit_illumination(tiles, 0, dark=110.0, search_voxels=SEARCH)
    assert rmse(Illumination.identity(gain.shape), gain) > 0.2
    assert rmse(light, gain) < 0.03
    assert light.gain.dtype == np.float32
    assert light.gain.mean() == pytest.approx(1, abs=1e-6)
    assert light.report["accepted"]
    assert light.report["seams"] >= 6
    assert light.report["shading_after"] < 0.3 * light.report["shading_before"]


def test_measured_links_can_be_given_and_the_result_repeats(scan):
    tiles, gain, true = scan
    pairs = [(r * 3 + c, r * 3 + c + s) for r in range(3) for c in range(3) for s in (1, 3)]
    pairs = [(i, j) for i, j in pairs if j < 9 and (j - i == 3 or j % 3)]
    links = [Link(i, j, (true[j] - true[i]).astype(float), 0.9, 0.1, 0.1, "ok", 0.8) for i, j in pairs]
    first, second = (fit_illumination(tiles, 0, dark=110.0, links=links, seed=3) for _ in range(2))
    assert rmse(first, gain) < 0.03
    assert first.gain.tobytes() == second.gain.tobytes()


def test_without_overlaps_the_gradients_still_help(scan):
    tiles, gain, _ = scan
    light = fit_illumination(tiles, 0, dark=110.0, links=[])
    assert light.report["seams"] == 0
    assert rmse(light, gain) < 0.12


def test_a_flat_lamp_is_left_nearly_flat():
    arrays, stage, _ = mosaic(1, np.ones((SIDE, SIDE), np.float32))
    light = fit_illumination(tile_set(arrays, stage), 0, dark=110.0, search_voxels=SEARCH)
    assert np.abs(light.gain - 1).max() < 0.03


def test_a_correction_that_makes_things_worse_is_rejected(scan, tmp_path):
    tiles, gain, _ = scan
    np.save(tmp_path / "inverse.npy", 1 / gain)  # a profile that was stored the wrong way round
    given = {"method": "profile", "profile": tmp_path / "inverse.npy", "search_voxels": SEARCH}
    light = fit_illumination(tiles, 0, dark=110.0, **given)
    assert light.report["seam_after"] > 1.5 * light.report["seam_before"]
    assert not light.report["accepted"]
    assert "overlaps" in light.report["reason"]
    assert (light.gain == 1).all()
    assert (light.dark == 110).all()
    forced = fit_illumination(tiles, 0, dark=110.0, policy="force", **given)
    assert forced.report["accepted"]
    assert "forced" in forced.report["reason"]
    np.testing.assert_allclose(forced.gain * gain, (forced.gain * gain).mean(), rtol=1e-4)
    unseen = fit_illumination(tiles, 0, dark=110.0, policy="off", **given)
    assert "seam_after" not in unseen.report
    assert (unseen.gain == forced.gain).all()


def test_a_given_profile_serves_another_sample(scan, tmp_path):
    tiles, gain, _ = scan
    tifffile.imwrite(tmp_path / "gain.tif", 3 * gain)
    light = fit_illumination(
        tiles, 0, dark=110.0, method="profile", profile=tmp_path / "gain.tif", search_voxels=SEARCH
    )
    assert light.report["accepted"]
    np.testing.assert_allclose(light.gain, gain, rtol=1e-5)
    # What another sample left holds its dark as well; a plane per channel.
    for name, plane in (("gain", gain), ("dark", np.full(gain.shape, 110, np.float32))):
        zarr.create_array(str(tmp_path / "illumination.zarr" / name), data=np.stack([plane, plane]))
    saved = {"method": "profile", "profile": tmp_path / "illumination.zarr", "search_voxels": SEARCH}
    again = fit_illumination(tiles, 0, **saved)
    assert (again.dark == 110).all()
    np.testing.assert_allclose(again.gain, gain, rtol=1e-5)
    assert (fit_illumination(tiles, 0, dark=108.0, **saved).dark == 108).all()
    np.save(tmp_path / "small.npy", np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"small\.npy"):
        read_profile(tmp_path / "small.npy", 0, gain.shape)
    np.save(tmp_path / "negative.npy", gain - 1)
    with pytest.raises(ValueError, match="positive"):
        read_profile(tmp_path / "negative.npy", 0, gain.shape)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_profile(tmp_path / "nowhere.tif", 0, gain.shape)


def test_tiles_without_tissue_give_no_gain():
    rng = np.random.default_rng(0)
    arrays = np.rint(110 + rng.normal(0, 3, (4, DEPTH, SIDE, SIDE))).astype(np.uint16)
    light = fit_illumination(tile_set(arrays, [(0, 0, 96 * k) for k in range(4)]), 0, dark=110.0)
    assert (light.gain == 1).all()
    assert light.report["reason"] == "too few planes with tissue"


@pytest.mark.parametrize("method", ["quantile", "mean"])
def test_statistics_suffice_for_dense_tissue(method):
    rng = np.random.default_rng(2)
    gain = gain_plane((0, 0.1), 1.5)
    texture = ndimage.gaussian_filter(rng.standard_normal((12 * DEPTH, SIDE, SIDE)), (1, 3, 3)).reshape(
        12, DEPTH, SIDE, SIDE
    )
    arrays = np.rint(rng.poisson(400 * np.exp(0.2 * texture / texture.std()) * gain) + 110).astype(np.uint16)
    light = fit_illumination(
        tile_set(arrays, [(0, 0, 96 * k) for k in range(12)]), 0, dark=110.0, method=method
    )
    assert light.report["accepted"]
    assert rmse(light, gain) < 0.03


def test_dark_from_each_source(scan, tmp_path):
    tiles, _, _ = scan
    assert (resolve_dark(99.5, tiles, 0) == 99.5).all()
    plane = resolve_dark("empty_tiles", tiles, 0)
    assert np.sqrt(np.mean((plane - 110) ** 2)) < 0.8  # median of 40 planes with 3 counts of noise
    image = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)
    tifffile.imwrite(tmp_path / "dark.tif", np.stack([image, image + 2]))
    np.save(tmp_path / "dark.npy", image)
    np.testing.assert_array_equal(resolve_dark(tmp_path / "dark.tif", tiles, 0), image + 1)
    np.testing.assert_array_equal(resolve_dark(str(tmp_path / "dark.npy"), tiles, 0), image)


def test_dark_refusals(scan, tmp_path):
    tiles, gain, _ = scan
    full, stage, _ = mosaic(4, gain)
    middle = tile_set(full[3:6], stage[3:6])
    with pytest.raises(ValueError, match="stands out as empty"):
        resolve_dark("empty_tiles", middle, 0)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tif"):
        resolve_dark(tmp_path / "nowhere.tif", tiles, 0)
    np.save(tmp_path / "small.npy", np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"small\.npy"):
        resolve_dark(tmp_path / "small.npy", tiles, 0)
    with pytest.raises(ValueError, match="finite"):
        resolve_dark(float("nan"), tiles, 0)


def test_refusals(scan):
    tiles, _, _ = scan
    with pytest.raises(ValueError, match="'n5'"):
        fit_illumination(tiles, 0, dark=0, method="n5")
    with pytest.raises(ValueError, match="'strict'"):
        fit_illumination(tiles, 0, dark=0, policy="strict")
    with pytest.raises(ValueError, match=r"illumination\.profile"):
        fit_illumination(tiles, 0, dark=0, method="profile")
    with pytest.raises(ValueError, match="dark"):
        fit_illumination(tiles, 0, dark=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="one shape"):
        Illumination(np.ones((2, 2)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="positive"):
        Illumination(np.zeros((2, 2)), np.zeros((2, 2)))


def test_correct_inverts_the_model():
    gain = gain_plane((0, 0), 1.0)
    light = Illumination(gain, np.full(gain.shape, 100, np.float32))
    signal = np.full((2, 5, 6), 40.0)
    region = (slice(3, 8), slice(10, 16))
    raw = signal * gain[region] + 100
    np.testing.assert_allclose(light.correct(raw, region), signal, rtol=1e-5)


# ------------------------------------------------------------- choosing and dark, on tiles without overlaps
def scattered(scene, count, seed=7, side=128):
    """Tiles far from each other, (n, 1, y, x), of dense tissue, of sparse bright spots, or half filled; with a dark of 100."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    gain = np.exp(-((y - 0.15) ** 2 + (x + 0.2) ** 2) / 1.3) + 0.3
    gain /= gain.mean()
    tiles = []
    for _ in range(count):
        fine = ndimage.gaussian_filter(rng.standard_normal(gain.shape), 2)
        tissue = rng.uniform(300, 900) * np.exp(0.2 * fine / fine.std())
        if scene == "dense":
            content = 3 * tissue
        elif scene == "half":
            edge = ndimage.gaussian_filter(rng.standard_normal(gain.shape), 25)
            content = np.where(edge > rng.uniform(-2, 2) * edge.std(), tissue, 0)
        else:
            spots = np.zeros(gain.shape)
            spots[tuple(rng.integers(0, side, (2, 40)))] = rng.uniform(2e4, 1e5, 40)
            content = ndimage.gaussian_filter(spots, rng.uniform(1.5, 3))
        tiles.append(np.rint(rng.poisson(gain * (content + 20) + 100) + rng.normal(0, 3, gain.shape)))
    arrays = np.clip(tiles, 0, 65535).astype(np.uint16)[:, None]
    return tile_set(arrays, [(0, 0, 2 * side * n) for n in range(count)]), gain


@pytest.mark.parametrize(
    ("scene", "methods", "within"),
    [
        ("dense", ("log_irls", "mean", "quantile"), 0.06),
        ("sparse", ("mean", "quantile"), 0.14),  # to a logarithm, spots and their flanks are all tissue
        ("half", ("log_irls",), 0.02),  # to a mean, a tile's empty half is a dim half of the lamp
    ],
)
def test_the_automatic_choice_fits_the_content(scene, methods, within):
    tiles, gain = scattered(scene, 48)
    light = fit_illumination(tiles, 0)
    assert rmse(Illumination.identity(gain.shape), gain) > 0.2
    assert light.report["accepted"]
    assert light.report["method"] in methods
    assert rmse(light, gain) < within
    assert light.report["expected_error"] < 2 * within


def test_a_regressed_dark_leaves_the_stray_light_even():
    light = fit_illumination(scattered("half", 48)[0], 0, dark=None)
    assert np.abs(light.dark - 100).max() < 3
    assert 0.2 < light.report["empty_share"] < 0.8
    # No part of dense tissue is empty, and its darkest place is no dark.
    dense = fit_illumination(scattered("dense", 24)[0], 0, dark=None)
    assert (dense.dark == 0).all()
    assert dense.report["empty_share"] == 0


def test_n4_takes_the_mean_as_it_is():
    tiles, gain = scattered("dense", 48)
    light = fit_illumination(tiles, 0, dark=100.0, method="n4")
    assert rmse(light, gain) < 0.08  # with the minimum taken off first, the darkest corner would be near zero
    assert light.gain.min() > 0.5 * gain.min()


def test_every_voxel_is_read_once_at_most(scan):
    tiles, _, _ = scan
    count = np.zeros((len(tiles.tiles), *tiles.shape), int)

    def counting(tile, channel, region):
        count[(tile, *region)] += 1
        return tiles.reader(tile, channel, region)

    watched = TileSet(tiles.tiles, tiles.shape, tiles.spacing, tiles.dtype, tiles.channels, counting)
    once = read_once(watched)
    resolve_dark("empty_tiles", once, 0)
    fit_illumination(once, 0, dark=110.0, search_voxels=SEARCH)
    assert count.max() == 1


# ------------------------------------------------------------------------------- tiles, seams, whole images
def test_bad_tiles_are_named(scan):
    tiles, _, _ = scan
    arrays = np.stack([tiles.read(k) for k in range(6)])
    arrays[1] = 110
    arrays[3] = arrays[0]
    arrays[4] = np.minimum(arrays[4].astype(int) * 8, 4095)  # a 12-bit camera, exposed for too long
    found = find_defects(tile_set(arrays, tiles.positions()[:6]), 0)
    assert found == {"dead": ["T1"], "saturated": ["T4"], "doubled": [["T0", "T3"]]}
    clean = find_defects(tile_set(arrays[[0, 2, 5]], tiles.positions()[:3]), 0)
    assert clean == {"dead": [], "saturated": [], "doubled": []}


def test_tiles_are_equalised_from_their_overlaps(scan):
    tiles, gain, true = scan
    factors = np.exp(np.random.default_rng(5).normal(0, 0.2, 9))
    factors[8] = 1.0  # an empty tile has no say, and none in it
    arrays = np.stack([110 + (tiles.read(k) - 110.0) * f for k, f in enumerate(factors)])
    light = Illumination(gain, np.full(gain.shape, 110, np.float32))
    found, report = equalise(tile_set(arrays, tiles.positions()), 0, light, true.astype(float))
    error = np.log(found / factors)[:8]
    assert np.abs(error - error.mean()).max() < 0.01
    assert report["pairs"] >= 10
    assert report["after"] < 0.1 * report["before"]
    even, _ = equalise(tiles, 0, light, true.astype(float))
    assert np.abs(np.log(even)).max() < 0.01


def test_the_bias_of_a_whole_image_is_divided_out_where_it_is_read(tmp_path):
    rng = np.random.default_rng(3)
    shape = (24, 48, 48)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    truth = np.exp(0.35 * y - 0.3 * x * y + 0.2 * z)
    texture = np.exp(0.05 * ndimage.gaussian_filter(rng.standard_normal(shape), 1) * 8)
    inside = z**2 + y**2 + x**2 < 0.9
    raw = np.rint(800 * texture * truth * inside).astype(np.uint16)
    fine, coarse = Grid(shape, (2.0, 2.0, 2.0)), Grid(shape, (2.0, 2.0, 2.0)).coarsen((1, 2, 2))
    levels = Level(raw[None], fine), Level(downsample(raw, (1, 2, 2))[None], coarse)
    image = Image(levels)
    bias = fit_bias(image, 4.0)
    assert bias.log_gain.shape == coarse.shape
    left = np.log(truth / bias.gain(fine, (0, 0, 0), shape))[inside]
    assert left.std() < 0.35 * np.log(truth)[inside].std()
    save_biases(tmp_path, [bias])
    lazy = corrected(image, load_biases(tmp_path))
    region = (slice(5, 9), slice(10, 30), slice(3, 40))
    np.testing.assert_allclose(
        lazy.levels[0].read(0, region),
        (raw / bias.gain(fine, (0, 0, 0), shape))[region],
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match="empty"):
        fit_bias(Image((Level(np.zeros((1, *shape), np.uint16), fine),)), 4.0)


@pytest.mark.parametrize(("dark", "plane", "kept"), [(110.0, (40.0, 30.0), False), (0.0, (110.0, 0.0), True)])
def test_overlaps_tell_a_background_from_dim_content(dark, plane, kept):
    """Overlaps agree better without the camera's offset, and worse without a plane that is not there."""
    arrays, stage, true = mosaic(4, gain_plane((0.15, -0.1), 1.5))
    tiles = tile_set(arrays, stage)
    drawn = draw(tiles, 0, np.full((SIDE, SIDE), dark, np.float32), 90, np.random.default_rng(0))
    drawn = drawn.with_background()
    coefficients = np.zeros(15)
    coefficients[[0, 5]] = plane  # a constant, and what rises along y
    background = Background(coefficients, drawn.camera_noise, 0.2)
    ground = background.at(drawn.y[:, None], drawn.x[None], drawn.shape).astype(np.float32)
    without = replace(drawn, signal=drawn.signal - ground, background=background)
    links = [
        Link(i, j, (true[j] - true[i]).astype(float), 1.0, 0.0, 0.1, "ok", 1.0)
        for i, j in candidate_links(stage.astype(float), arrays.shape[1:], (1.0, 1.0, 1.0))
    ]
    shared = read_shared(tiles, 0, np.full((SIDE, SIDE), dark, np.float32), drawn, links, (6.0, 6.0, 6.0))
    found, seams = with_or_without_background(without, shared)
    assert (found.background is not None) == kept
    assert len(seams) >= 8
    if not kept:
        np.testing.assert_allclose(found.signal, drawn.signal, rtol=1e-5, atol=1e-3)


def test_correcting_neither_wraps_nor_clips():
    # A bright voxel in a dim corner leaves the range of the raw type: it stays a number, and fusion counts it.
    light = Illumination(np.array([[0.4, 1.6]], np.float32), np.full((1, 2), 100, np.float32))
    np.testing.assert_allclose(
        light.correct(np.array([[[60000, 90]]], np.uint16)), [[[149750, -6.25]]], rtol=1e-6
    )
