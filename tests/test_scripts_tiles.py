"""What every script leaves of tiles and images, as Snakemake runs it, on a small project whose truth is known."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import SimpleITK
import tifffile
import zarr
from cloudvolume import CloudVolume
from scipy import ndimage
from scripts_run import DARK, EDGE, Run, true_corner, true_gain
from workflow_project import OVERLAP, PIXEL, SIDE, TILE, texture

from weft.grid import Grid
from weft.pyramid import downsample
from weft.readers.terastitcher_project import read_project
from weft.stores import open_image


@pytest.fixture(scope="module")
def run(scripts_run):
    return scripts_run


# ---------------------------------------------------------------------------------- tiles
def raw_tile(run: Run, tile: int, channel: int) -> np.ndarray:
    folder = run.project.folder / "data/sample/VW0" / f"LOC{tile:03}"
    return np.stack([tifffile.imread(path) for path in sorted(folder.glob(f"*CHN0{channel}*"))])


def test_index_tiles(run):
    index = run.read("images/sample/tiles.json")
    assert index["shape"] == list(TILE)
    np.testing.assert_allclose(index["spacing"], 3 * [PIXEL])
    assert (index["dtype"], index["channels"], index["orientation"]) == ("uint16", ["0", "1"], "pil")
    step = (TILE[1] - OVERLAP) * PIXEL
    for n, tile in enumerate(index["tiles"]):
        assert (tile["name"], tile["row"], tile["column"]) == (f"LOC{n:03}", n // 2, n % 2)
        np.testing.assert_allclose(tile["position"], [0, n // 2 * step, n % 2 * step])
        for channel in (0, 1):
            voxels = raw_tile(run, n, channel)
            wanted = hashlib.sha256(f"uint16{TILE}".encode() + voxels.tobytes()).hexdigest()
            assert tile["data"][channel] == wanted


def test_fit_illumination(run):
    receipt = run.read("images/sample/illumination.json")
    store = run.results / "images/sample/illumination.zarr"
    gain, dark = (np.asarray(zarr.open_array(str(store / name), mode="r")[:]) for name in ("gain", "dark"))
    assert gain.shape == dark.shape == (2, *TILE[1:])
    assert (dark == DARK).all()
    np.testing.assert_allclose(gain.mean((1, 2)), 1, atol=1e-3)
    assert np.sqrt(((gain - true_gain()) ** 2).mean((1, 2))).max() < 0.03
    assert len(receipt["reports"]) == 2


def test_correct_tiles(run):
    receipt = run.read("images/sample/corrected.json")
    assert receipt["tiles"] == [f"LOC{n:03}" for n in range(4)]
    gain = zarr.open_array(str(run.results / "images/sample/illumination.zarr/gain"), mode="r")[1]
    corrected = zarr.open_array(str(run.results / "images/sample/corrected.zarr/LOC002"), mode="r")
    expected = (raw_tile(run, 2, 1).astype(np.float32) - DARK) / gain
    np.testing.assert_allclose(corrected[1], np.clip(expected, 0, None), atol=0.5001)
    assert Grid.from_json(corrected.attrs["grid"]).shape == TILE


def test_links_and_poses(run):
    links = run.table("images/sample/links.tsv")
    assert list(zip(links.tile_a, links.tile_b, strict=True)) == [
        ("LOC000", "LOC001"),
        ("LOC000", "LOC002"),
        ("LOC000", "LOC003"),  # a diagonal: 2 x 2 tiles have few cycles without
        ("LOC001", "LOC002"),
        ("LOC001", "LOC003"),
        ("LOC002", "LOC003"),
    ]
    assert set(links.status) == {"ok"}
    assert links.reason.isna().all()
    for link in links.itertuples():
        wanted = true_corner(int(link.tile_b[-1])) - true_corner(int(link.tile_a[-1]))
        assert np.abs(np.array([link.z, link.y, link.x]) / PIXEL - wanted).max() < 0.3
    poses = run.table("images/sample/poses.tsv")
    found = poses[list("zyx")].to_numpy() / PIXEL
    wanted = np.array([true_corner(n) for n in range(4)], float)
    error = (found - found.mean(0)) - (wanted - wanted.mean(0))
    assert np.sqrt((error**2).sum(1).mean()) < 0.3
    assert set(poses.status) == {"ok"}
    solved = run.table("images/sample/solved_links.tsv")
    assert set(solved.used) == {"first"}
    assert (solved.votes > 0).all()
    assert solved.residual_um.max() < PIXEL
    seams = run.table("images/sample/seams.tsv")
    assert len(seams) == 6
    assert (seams.ncc_solved > 0.8).all()
    assert (seams.ncc_solved > seams.ncc_stage).all()
    assert len(run.table("images/sample/matches.tsv")) == 0  # poses are translations
    assert run.read("images/sample/quality/links.json")["values"] == {"links_failed_fraction": 0}


def test_fused_voxels_show_the_scene(run):
    receipt = run.read("images/sample/fused.json")
    grid = Grid.from_json(receipt["grid"])
    fused = zarr.open_array(str(run.results / "images/sample/fused.zarr/0"), mode="r")
    assert fused.shape == (2, *grid.shape) == tuple(receipt["shape"])
    pose = run.table("images/sample/poses.tsv").loc[0, list("zyx")].to_numpy(float)
    shift = np.rint((np.asarray(grid.origin) - pose) / PIXEL + true_corner(0)).astype(int)
    step = TILE[1] - OVERLAP
    seen = (slice(4, 22), slice(6, 100), slice(6, 100))  # voxels that tiles cover
    for channel, seed in ((0, 2), (1, 3)):
        scene = texture((TILE[0] + 4, TILE[1] + step + 8, TILE[2] + step + 8), seed)
        there = tuple(slice(part.start + s, part.stop + s) for part, s in zip(seen, shift, strict=True))
        light = 4000 * scene[there] * (1.2 - 0.8 / 6)  # the gain is 1.2 - 0.8 r^2, here made of mean 1
        voxels = np.asarray(fused[(channel, *seen)], float)
        assert np.corrcoef(voxels.ravel(), light.ravel())[0, 1] > 0.99
        assert abs(np.median(voxels / light) - 1) < 0.02
    values = run.read("images/sample/quality/fusion.json")["values"]
    assert values["clipped_fraction"] == 0
    assert run.read("images/sample/quality.json")["values"]["clipped_fraction"] == 0


def test_build_pyramid(run):
    receipt = run.read("images/sample/image.json")
    image = open_image(run.results / "images/sample/image.ome.zarr")
    assert len(image.levels) == receipt["levels"] > 1
    assert (image.channels, image.orientation, image.labels) == (("0", "1"), "pil", False)
    fused = zarr.open_array(str(run.results / "images/sample/fused.zarr/0"), mode="r")[:]
    np.testing.assert_array_equal(image.levels[0].data[:], fused)
    covered = np.zeros(image.grid.shape, bool)
    corners = np.array([true_corner(n) for n in range(4)])
    for corner in corners - corners.min(0):
        covered[tuple(slice(a, a + n) for a, n in zip(corner, TILE, strict=True))] = True
    assert image.coverage is not None
    found = image.coverage.on(image.grid)
    assert not found[~covered].any()  # and only voxels along the tiles' faces are lost
    outside = np.pad(~covered, 1, constant_values=True)
    lost = ndimage.binary_dilation(outside, iterations=2, structure=np.ones((3, 3, 3)))
    assert found[~lost[1:-1, 1:-1, 1:-1]].all()
    for fine, coarse in zip(image.levels, image.levels[1:], strict=False):
        factors = tuple(round(b / a) for a, b in zip(fine.grid.spacing, coarse.grid.spacing, strict=True))
        assert coarse.grid == fine.grid.coarsen(factors)
        np.testing.assert_array_equal(coarse.read(1), downsample(fine.read(1), factors, mode="mean"))


# ---------------------------------------------------------------------------------- imports and exports
def test_export_terastitcher(run):
    receipt = run.read("images/sample/terastitcher.json")
    assert receipt["files"] == {"xml_merging_channel0.xml": "0", "xml_merging_channel1.xml": "1"}
    true = np.array([true_corner(n) for n in range(4)])
    for name in receipt["files"]:
        written = read_project(run.results / "images/sample/terastitcher" / name)
        placed = np.array([stack.position for stack in written.stacks])
        np.testing.assert_array_equal(placed - placed[0], true - true[0])
        for one in written.displacements:
            a, b = (2 * row + column for row, column in (one.a, one.b))
            np.testing.assert_array_equal(one.voxels, true[b] - true[a])
            assert min(one.reliability) > 0.3


@pytest.mark.parametrize(("name", "dtype"), [("fixed", "uint16"), ("regions", "uint32")])
def test_import_image(run, name, dtype):
    voxels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(run.project.folder / f"data/{name}.nrrd")))
    image = open_image(run.results / f"images/{name}/image.ome.zarr")
    assert image.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(image.levels[0].read(), voxels)
    assert image.grid == Grid((SIDE,) * 3, (EDGE,) * 3)
    assert image.labels == (name == "regions")
    receipt = run.read(f"images/{name}/image.json")
    assert (receipt["dtype"], receipt["orientation"], receipt["labels"]) == (dtype, "pil", image.labels)


@pytest.mark.parametrize(("name", "order"), [("fixed", 1), ("regions", 0)])
def test_resample_image(run, name, order):
    receipt = run.read(f"images/{name}/isotropic.json")
    source = open_image(run.results / f"images/{name}/image.ome.zarr")
    copy = open_image(run.results / "images" / name / receipt["store"])
    assert copy.grid.spacing == (15.0, 15.0, 15.0)
    np.testing.assert_allclose(copy.grid.lower, source.grid.lower)
    assert (copy.grid.upper >= source.grid.upper - 1e-6).all()
    assert (copy.dtype, copy.labels, copy.orientation) == (source.dtype, source.labels, "pil")
    points = copy.grid.to_physical(np.stack(np.indices(copy.grid.shape), -1).reshape(-1, 3))
    index = np.round(source.grid.to_index(points), 9)
    want = ndimage.map_coordinates(
        source.levels[0].read().astype(float), index.T, order=order, mode="nearest"
    )
    inside = source.grid.contains(points)
    found = copy.levels[0].read().ravel()
    assert inside.mean() > 0.9
    assert np.abs(found - want)[inside].max() <= (0.51 if order else 0)
    assert len(copy.levels) == receipt["levels"]


@pytest.mark.parametrize(("name", "kind"), [("fixed", "image"), ("regions", "segmentation")])
def test_export_precomputed(run, name, kind):
    assert run.read(f"images/{name}/precomputed.json")["mips"] == 2
    image = open_image(run.results / f"images/{name}/image.ome.zarr")
    for mip, level in enumerate(image.levels):
        volume = CloudVolume(
            f"precomputed://file://{run.results}/images/{name}/precomputed", mip=mip, progress=False
        )
        assert volume.info["type"] == kind
        assert list(volume.resolution) == [1000 * s for s in level.grid.spacing[::-1]]
        np.testing.assert_array_equal(np.asarray(volume[:])[..., 0].T, level.read())
