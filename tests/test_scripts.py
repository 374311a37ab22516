"""Every script, run as Snakemake runs it, on a small project whose truth is known; and the rules that name them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK
import tifffile
import yaml
import zarr
from cloudvolume import CloudVolume
from PIL import Image as Picture
from scipy import ndimage
from test_judge import pieces, score  # noqa: F401 (a fixture)
from workflow_jobs import ROOT, plan_jobs, run_script
from workflow_project import OVERLAP, PIXEL, SIDE, TILE, Project, make_project, texture

from weft import receipts
from weft.blocks import region
from weft.grid import Grid
from weft.pyramid import downsample
from weft.readers.terastitcher_project import read_project
from weft.registration import register
from weft.stores import open_image
from weft.stores.ome_zarr import shard_voxels
from weft.transforms import open_transform
from weft.transforms.formats.ngff import open_field
from weft.transforms.formats.scene import read_scene

DARK = 100
SETTINGS: dict[str, Any] = {
    "illumination": {"method": "log_irls", "planes": 96, "dark": DARK, "corrected_copy": True},
    "links": {"search": [6, 6, 6]},
    "fusion": {"equalise": "check"},
    "bias": {"images": ["sample"]},
    "isotropic": {"fixed": 15.0, "regions": 15.0},
    "precomputed": ["fixed", "regions"],
    "terastitcher": ["sample"],
    "export_transforms": True,
    "points": {
        "cells": {"path": "data/cells.csv", "image": "moving"},
        "marks": {"path": "data/marks.csv", "image": "fixed"},
    },
}
REGISTRATIONS = (
    "registration\tfixed\tmoving\tlabels\tmoving_labels\tontology\tlandmarks\n"
    "pair\tfixed\tmoving\tregions\tmoved_regions\tdata/ontology.csv\tdata/landmarks.csv\n"
)
EDGE = 10.0  # um, of a voxel of the volumes


# ---------------------------------------------------------------------------------- truth
def true_jitter() -> np.ndarray:
    """Jitter of the tiles, (4, 3) voxels."""
    random = np.random.default_rng(1)
    return np.array([random.integers(-2, 3, 3) for _ in range(4)])


def true_corner(tile: int) -> np.ndarray:
    """Where a tile was cut from the scene, voxels."""
    row, column = divmod(tile, 2)
    step = TILE[1] - OVERLAP
    return np.array([2, 4 + row * step, 4 + column * step]) + true_jitter()[tile]


def true_gain() -> np.ndarray:
    y, x = np.mgrid[: TILE[1], : TILE[2]] / TILE[1] - 0.5
    gain = 1.2 - 0.8 * (y**2 + x**2)
    return gain / gain.mean()


def to_fixed(moving: np.ndarray) -> np.ndarray:
    """Where in the fixed volume points of the moving one come from, (n, 3) voxels."""
    waves = [1.5 * np.sin(2 * np.pi * (moving[:, n] / SIDE + n / 3)) for n in (1, 2, 0)]
    return moving + np.stack(waves, 1) + 1


def indices(shape=(SIDE,) * 3) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3).astype(float)


def in_body(fixed: np.ndarray, share=0.85) -> np.ndarray:
    """Which points of the fixed volume, voxels, lie well inside of what it shows."""
    return (((fixed - (SIDE - 1) / 2) / (0.42 * SIDE)) ** 2).sum(1) < share**2


# ---------------------------------------------------------------------------------- the chain
class Run:
    """A project of which every script was run, job by job."""

    def __init__(self, folder: Path) -> None:
        self.project = make_project(folder, **SETTINGS)
        write_tables(self.project)
        self.raw = self.project.raw()
        self.jobs = plan_jobs(folder)
        for job in self.jobs:
            run_script(folder, job)

    def read(self, path: str) -> dict[str, Any]:
        return receipts.read(self.results / path)

    def table(self, path: str) -> pd.DataFrame:
        return pd.read_csv(self.results / path, sep="\t")

    @property
    def results(self) -> Path:
        return self.project.results


def write_tables(project: Project) -> None:
    (project.folder / "registrations.tsv").write_text(REGISTRATIONS)
    with (project.folder / "images.tsv").open("a") as images:
        images.write("moved_regions\tdata/moved_regions.nrrd\tauto\tpil\t10,10,10\tyes\n")
    regions = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(project.folder / "data" / "regions.nrrd")))
    nearest = np.rint(to_fixed(indices())).astype(int).clip(0, SIDE - 1).T
    moved = SimpleITK.GetImageFromArray(regions[tuple(nearest)].reshape(regions.shape))
    SimpleITK.WriteImage(moved, str(project.folder / "data" / "moved_regions.nrrd"))
    cells = np.random.default_rng(8).uniform(14, 34, (50, 3)) * EDGE
    cells = np.vstack([cells, [-500.0, 100.0, 100.0]])  # the last one lies far outside
    table = pd.DataFrame(cells, columns=list("zyx")).assign(cell=[f"c{n}" for n in range(51)])
    for name in ("cells", "marks"):
        table.to_csv(project.folder / "data" / f"{name}.csv", index=False)
    marked = pd.DataFrame(cells[:50], columns=["moving_z", "moving_y", "moving_x"])
    marked[["fixed_z", "fixed_y", "fixed_x"]] = to_fixed(cells[:50] / EDGE) * EDGE
    marked.to_csv(project.folder / "data" / "landmarks.csv", index=False)
    rows = ["100,body,BODY,", "200,upper,UP,100", "300,lower,LO,100"]
    rows += [f"{n},octant {n},O{n},{200 if n % 2 else 300}" for n in range(1, 9)]
    (project.folder / "data" / "ontology.csv").write_text(
        "\n".join(["id,name,acronym,parent_id", *rows]) + "\n"
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return Run(tmp_path_factory.mktemp("scripts") / "project")


def test_raw_data_stay_as_they_were(run):
    assert run.project.raw() == run.raw


def test_every_job_wrote_its_outputs_and_its_log(run):
    for job in run.jobs:
        for path in job.output:
            assert (run.project.folder / path).is_file(), job
        assert "peak memory" in (run.project.folder / job.log[0]).read_text(), job


def test_receipts_say_what_was_made_and_nothing_of_how(run):
    for job in run.jobs:
        for path in map(str, job.output):
            if not path.endswith(".json"):
                continue
            text = (run.project.folder / path).read_text()
            receipt = json.loads(text)
            assert str(run.project.folder) not in text, path
            assert not {"code", "settings", "versions", "seconds", "time", "host"} & set(receipt), path
            if "data" in receipt and "store" in receipt:
                assert (run.project.folder / f"{path}.provenance.json").is_file()
                assert (run.project.folder / path).parent.joinpath(receipt["store"]).exists()


def test_shard_digests_are_those_of_the_voxels_on_disk(run):
    for store in (
        "images/sample/image.ome.zarr",
        "images/regions/image.ome.zarr",
        "registrations/pair/warped/moving.ome.zarr",
    ):
        (records,) = (run.results / store / receipts.RECORDS).iterdir()
        shards = {k: v for path in records.glob("*.json") for k, v in receipts.read(path)["shards"].items()}
        assert shards
        for name, value in shards.items():
            assert receipts.array_digest(shard_voxels(run.results / store, name)) == value


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


# ---------------------------------------------------------------------------------- registration
def error(path: Path, points: np.ndarray, wanted: np.ndarray) -> float:
    """Mean distance, voxels, of transformed points from where they belong."""
    return float(np.linalg.norm(open_transform(path).apply(points * EDGE) / EDGE - wanted, axis=1).mean())


def test_transforms_find_the_truth_in_both_directions(run):
    folder = run.results / "registrations/pair"
    moving = indices()
    fixed = to_fixed(moving)
    moving, fixed = moving[in_body(fixed)], fixed[in_body(fixed)]
    affine = error(folder / "affine.json", fixed, moving)
    coarse = error(folder / "stages/coarse/transform.json", fixed, moving)
    final = error(folder / "transform.json", fixed, moving)
    assert 1 < affine < 2  # 2.37 without any, 0.75 with the affine that follows the waves best
    assert coarse < 0.8 * affine
    assert final < 0.5
    assert error(folder / "inverse.json", moving, fixed) < 0.5
    for name, spaces in (
        ("affine", ("fixed", "moving")),
        ("transform", ("fixed", "moving")),
        ("inverse", ("moving", "fixed")),
    ):
        receipt = run.read(f"registrations/pair/{name}.json")
        assert (receipt["input_space"], receipt["output_space"]) == spaces
        assert (receipt["units"], receipt["direction"]) == ("micrometer", "pull-back")
    values = run.read("registrations/pair/quality/transform.json")["values"]
    assert 0 < values["round_trip_p95_voxel"] < 0.2
    assert values["round_trip_outside_fraction"] == 0


@pytest.mark.parametrize(("stage", "blocks"), [("coarse", 1), ("fine", 8)])
def test_blocks_tile_the_stage_and_are_accounted_for(run, stage, blocks):
    plan = run.read(f"registrations/pair/stages/{stage}/plan.json")
    covered = np.zeros(plan["grid"]["shape"], int)
    for name in plan["ids"]:
        covered[region(name, covered.shape, plan["block"])] += 1
    assert (covered == 1).all()
    assert len(plan["ids"]) == blocks
    assert "batches" not in plan
    dealt = [
        run.read(f"registrations/pair/stages/{stage}/batches/{batch}.json")["blocks"] for batch in (0, 1)
    ]
    assert [name for part in dealt for name in part] == plan["ids"]
    ledger = run.table(f"registrations/pair/stages/{stage}/ledger.tsv")
    assert list(ledger.block) == plan["ids"]
    assert set(ledger.status) == {"ok"}
    assert set(ledger.used) == {"deformable"}
    assert (ledger.metric_after > ledger.metric_before).all()
    assert (ledger.smallest_jacobian > 0).all()
    costs = run.table(f"registrations/pair/stages/{stage}/costs.tsv")
    assert list(costs.block) == plan["ids"]
    assert (costs.peak_memory_mb > 10).all()
    receipt = run.read(f"registrations/pair/stages/{stage}/transform.json")
    assert receipt["reproducible"] is True
    assert [step["type"] for step in receipt["sequence"]] == ["displacements", "affine"]


def test_export_transform(run):
    folder = run.results / "registrations/pair"
    points = np.random.default_rng(0).uniform(100, 380, (20, 3))
    for name, path in (("itk.h5", "transform.json"), ("itk_inverse.h5", "inverse.json")):
        itk = SimpleITK.ReadTransform(str(folder / "exports" / name))
        theirs = np.array([itk.TransformPoint(point[::-1].tolist())[::-1] for point in points])
        np.testing.assert_allclose(theirs, open_transform(folder / path).apply(points), atol=0.1)
    scene = read_scene(folder / "exports/ngff.ome.zarr")
    np.testing.assert_array_equal(
        scene.apply(points), open_transform(folder / "transform.json").apply(points)
    )


def test_warp_image_in_both_directions(run):
    folder = run.results / "registrations/pair/warped"
    fixed, moving = (
        open_image(run.results / f"images/{name}/image.ome.zarr").levels[0].read().astype(float)
        for name in ("fixed", "moving")
    )
    body = in_body(indices()).reshape((SIDE,) * 3)
    for path, target, before in (("moving", fixed, moving), ("inverse/fixed", moving, fixed)):
        image = open_image(folder / f"{path}.ome.zarr")
        assert image.grid == Grid((SIDE,) * 3, (EDGE,) * 3)
        assert image.dtype == np.uint16
        warped = image.levels[0].read().astype(float)
        ncc = np.corrcoef(warped[body], target[body])[0, 1]
        assert ncc > 0.97
        assert ncc > np.corrcoef(before[body], target[body])[0, 1] + 0.1


def test_warp_labels(run):
    image = open_image(run.results / "registrations/pair/warped/inverse/regions.ome.zarr")
    assert image.labels
    assert image.dtype == np.uint32
    source = open_image(run.results / "images/regions/image.ome.zarr").levels[0].read()
    assert set(np.unique(image.levels[-1].read())) <= set(range(9))
    place = to_fixed(indices())
    there = np.rint(place).astype(int)
    truth = np.where(
        ((there >= 0) & (there < SIDE)).all(1), source[tuple(np.clip(there, 0, SIDE - 1).T)], 0
    ).reshape((SIDE,) * 3)
    found = image.levels[0].read()
    for name in range(1, 9):
        dice = 2 * ((found == name) & (truth == name)).sum() / ((found == name).sum() + (truth == name).sum())
        assert dice > 0.9


def test_warp_points(run):
    for table, inverse, side in (("cells", True, ""), ("marks", False, "inverse/")):
        points = pd.read_parquet(run.results / f"registrations/pair/points/{side}{table}.parquet")
        assert list(points.cell) == [f"c{n}" for n in range(51)]
        assert points.inside.tolist() == 50 * [True] + [False]
        warped = points[["warped_z", "warped_y", "warped_x"]].to_numpy()
        assert np.isnan(warped[-1]).all()  # flagged, not moved by zero
        start = points[["z", "y", "x"]].to_numpy()[:50] / EDGE
        there = warped[:50] / EDGE
        truth = (to_fixed(start), there) if inverse else (start, to_fixed(there))
        assert np.linalg.norm(truth[0] - truth[1], axis=1).mean() < 0.6


def test_export_rois(run):
    folder = run.results / "registrations/pair/rois"
    table = pd.read_csv(folder / "regions.csv")
    pd.testing.assert_frame_equal(table, pd.read_parquet(folder / "regions.parquet"), check_dtype=False)
    labels = open_image(run.results / "registrations/pair/warped/inverse/regions.ome.zarr").levels[0].read()
    moving = open_image(run.results / "images/moving/image.ome.zarr").levels[0].read()
    both = table[table.side == "both"].set_index("id")
    for name in range(1, 9):
        row = both.loc[name]
        assert row.voxels == (labels == name).sum()
        assert row.volume_mm3 == pytest.approx(row.voxels * 1e-6)
        assert row.mean_0 == pytest.approx(moving[labels == name].mean())
    for parent, children in ((200, (1, 3, 5, 7)), (300, (2, 4, 6, 8)), (100, range(1, 9))):
        assert both.loc[parent].voxels == 0
        assert both.loc[parent].total_voxels == both.loc[list(children)].voxels.sum()
    for name in range(1, 9):
        sides = table[(table.id == name) & (table.side != "both")]
        assert sides.voxels.sum() <= both.loc[name].voxels
    # Cells are counted where the labels say they lie, in the moving image.
    cells = pd.read_csv(run.project.folder / "data/cells.csv")[["z", "y", "x"]].to_numpy()[:50]
    at = labels[tuple(np.rint(cells / EDGE).astype(int).T)]
    assert [both.loc[name].cells for name in range(1, 9)] == [(at == name).sum() for name in range(1, 9)]
    store = zarr.open_group(str(folder / "regions.ome.zarr"), mode="r")
    assert store["tables"].attrs["tables"] == ["regions"]
    np.testing.assert_array_equal(store["labels/annotation/0"][0], labels)


# ---------------------------------------------------------------------------------- trust
def test_quality_is_collected_from_all_stages(run):
    values = run.read("registrations/pair/quality.json")["values"]
    assert values["ncc"] > values["ncc_affine"] + 0.005
    assert values["ncc_gain"] == pytest.approx(values["ncc"] - values["ncc_affine"])
    assert values["mutual_information"] > values["mutual_information_affine"]
    assert 0.8 < values["covered_fraction"] <= 1
    assert values["local_ncc_median"] > values["local_ncc_affine_median"]
    assert values["tre_median_um"] < 0.6 * EDGE < values["tre_affine_median_um"]
    assert values["tre_inverse_median_um"] < 0.6 * EDGE
    folder = "registrations/pair/quality"
    blocks, marks, regions = (
        run.table(f"{folder}/{name}.tsv") for name in ("blocks", "landmarks", "worst_regions")
    )
    assert (
        list(blocks.block) == receipts.read(run.results / "registrations/pair/stages/fine/plan.json")["ids"]
    )
    assert blocks.landmarks.sum() == marks.inside.sum() == 50
    assert blocks.jacobian_min.min() == pytest.approx(
        values["jacobian_min"][f"block {blocks.block[blocks.jacobian_min.idxmin()]}"], rel=1e-5
    )
    assert blocks.round_trip_max_um.max() == pytest.approx(values["round_trip_max_um"], rel=1e-5)
    worst = f"block {blocks.block[blocks.round_trip_max_um.idxmax()]}"
    assert values["round_trip_max_voxel"] == {worst: pytest.approx(values["round_trip_max_um"] / EDGE)}
    assert (blocks.round_trip_p50_um <= blocks.round_trip_p95_um).all()
    assert (blocks.round_trip_p95_um <= blocks.round_trip_max_um).all()
    # The octants, each of which lies in its block, but for the wave.
    assert values["dice_mean"] > 0.93 > values["dice_affine_mean"]
    assert (blocks.dice > blocks.dice_affine).all()
    assert blocks.dice.mean() == pytest.approx(values["dice_mean"], abs=0.03)
    assert blocks.labels.between(1, 8).all()
    assert regions.local_ncc.abs().is_monotonic_increasing
    maps = open_image(run.results / f"{folder}/local_ncc.ome.zarr")
    assert maps.channels == ("local_ncc_affine", "local_ncc")
    found = maps.levels[0].read(1)
    assert np.nanmin(np.abs(found)) == pytest.approx(abs(regions.local_ncc[0]), rel=1e-5)
    assert np.nanmedian(np.abs(found)) == pytest.approx(values["local_ncc_median"])
    change = open_image(run.results / f"{folder}/log_jacobian.ome.zarr")
    field, grid = open_field(run.results / "registrations/pair/transform.ome.zarr")
    assert change.grid == grid
    u = np.asarray(field[:], np.float64)
    derivatives = [np.gradient(component, *grid.spacing, axis=(0, 1, 2)) for component in u]
    matrices = np.eye(3) + np.moveaxis(np.array(derivatives), (0, 1), (-2, -1))
    np.testing.assert_allclose(change.levels[0].read(0), np.log(np.linalg.det(matrices)), atol=2e-3)
    rows = run.table("quality.tsv")
    parts = [run.read(f"{path}/quality.json")["gates"] for path in ("images/sample", "registrations/pair")]
    assert len(rows) == sum(map(len, parts)) > 8
    assert rows.holds.all()
    assert set(rows.subject) == {"sample", "pair", "pair/coarse", "pair/fine"}


def test_render_report(run):
    page = (run.results / "report.html").read_text()
    assert "Image sample" in page
    assert "Registration pair" in page
    assert not re.findall(r"(?:src|href)=\"https?://", page)  # opens offline
    pictures = [path for job in run.jobs if job.rule.name == "render_report" for path in job.output[1:]]
    # The image's 2; overlay, checkerboard, correlation, landmarks, labels, deformation; blocks of 2 stages.
    assert len(pictures) == 2 + 6 + 2
    for path in pictures:
        with Picture.open(run.project.folder / path) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert min(pixels.shape) > 100
        assert pixels.std() > 5


# ---------------------------------------------------------------------------------- results by name
def test_other_voxel_sizes_over_old_results_give_what_a_fresh_run_gives(run, tmp_path):
    """The voxels stay as they were; all that was made from them and their size must be made anew."""
    table = (run.project.folder / "images.tsv").read_text()
    table = table.replace("10,10,10", "12,10,10").replace("colm\tpil\t\t", "colm\tpil\t50,46.72,46.72\t")
    projects = {name: run.project.copy(tmp_path / name) for name in ("old", "fresh")}
    shutil.rmtree(projects["fresh"].results)
    found = {}
    for name, project in projects.items():
        (project.folder / "images.tsv").write_text(table)
        for job in plan_jobs(project.folder, again=True):
            if job.rule.name != "render_report":
                run_script(project.folder, job)
        shutil.rmtree(project.results / ".weft")  # where links, affines and blocks of both runs are kept
        found[name] = project.digests()
    assert found["old"] == found["fresh"]


# ---------------------------------------------------------------------------------- the phantom's scripts
PHANTOM = {
    "results": "results",
    "phantom": {"size": "tiny", "scale": 0.7},
    "images": "images.tsv",
    "registrations": "registrations.tsv",
    "points": {"cells": {"path": "results/phantom/sample/cells.csv", "image": "sample"}},
}
PHANTOM_IMAGES = """image\tsource\tformat\tlabels
sample\tresults/phantom/sample\tcolm\tno
atlas\tresults/phantom/atlas/template.nrrd\tauto\tno
annotation\tresults/phantom/atlas/annotation.nrrd\tauto\tyes
"""
PHANTOM_REGISTRATIONS = "registration\tfixed\tmoving\tlabels\nonto\tatlas\tsample\tannotation\n"


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> tuple[Path, list[Any]]:
    """A project on the phantom, of which only the phantom is made."""
    folder = tmp_path_factory.mktemp("phantom")
    (folder / "my.yaml").write_text(yaml.safe_dump(PHANTOM))
    (folder / "images.tsv").write_text(PHANTOM_IMAGES)
    (folder / "registrations.tsv").write_text(PHANTOM_REGISTRATIONS)
    jobs = plan_jobs(folder)
    run_script(folder, next(job for job in jobs if job.rule.name == "make_phantom"))
    return folder, jobs


@pytest.fixture(scope="module")
def phantom(planned) -> Path:
    return planned[0] / "results" / "phantom"


def test_make_phantom(planned, phantom):
    receipt = receipts.read(phantom / "phantom.json")
    assert receipt["data"]
    template = SimpleITK.ReadImage(str(phantom / "atlas/template.nrrd"))
    assert template.GetSize() == SimpleITK.ReadImage(str(phantom / "atlas/annotation.nrrd")).GetSize()
    before = (phantom / "phantom.json").read_bytes()
    stamp = (phantom / "atlas/template.nrrd").stat().st_mtime_ns
    folder, jobs = planned
    run_script(
        folder, next(job for job in jobs if job.rule.name == "make_phantom")
    )  # made before: left alone
    assert (phantom / "phantom.json").read_bytes() == before
    assert (phantom / "atlas/template.nrrd").stat().st_mtime_ns == stamp


def test_judge_phantom(planned, phantom, tmp_path, request):
    """What a perfect run would have found is laid where the chain lays it."""
    folder, jobs = planned
    wanted = score(phantom, tmp_path, request.getfixturevalue("pieces"))
    image, registration = folder / "results/images/sample", folder / "results/registrations/onto"
    places = {
        "poses.tsv": image / "poses.tsv",
        "gain.zarr": image / "illumination.zarr" / "gain",
        **{
            name: registration / name
            for name in ("transform.json", "transform.ome.zarr", "inverse.json", "inverse.ome.zarr")
        },
        "labels.ome.zarr": registration / "warped/inverse/annotation.ome.zarr",
        "points.parquet": registration / "points/cells.parquet",
    }
    for name, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(tmp_path / name, place)
    (job,) = [job for job in jobs if job.rule.name == "judge_phantom"]
    run_script(folder, job)
    assert receipts.read(folder / job.output[0]) == wanted
    assert wanted["registration_error_mean_voxel"] < 0.1


# ---------------------------------------------------------------------------------- scripts and rules
def rules() -> dict[str, str]:
    """Text of every rule below rules/, by name."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    parts = re.split(r"^rule (\w+):\n", text, flags=re.MULTILINE)
    return dict(
        zip(
            parts[1::2],
            (re.split(r"^\S", part, maxsplit=1, flags=re.MULTILINE)[0] for part in parts[2::2]),
            strict=True,
        )
    )


def test_every_rule_has_the_script_of_its_name_and_every_script_a_rule():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert set(rules()) == scripts
    for name, text in rules().items():
        assert re.findall(r'script:\s+"\.\./scripts/(\w+)\.py"', text) == [name]


@pytest.mark.parametrize("name", sorted(rules()))
def test_every_rule_is_complete(name):
    text = rules()[name]
    for part in ("output", "log", "benchmark", "conda", "threads", "resources", "params", "script"):
        assert re.findall(rf"^    {part}:", text, re.MULTILINE) == [f"    {part}:"], part
    assert text.lstrip().startswith('"""')
    assert f'"<logs>/{name}' in text
    assert f'"<benchmarks>/{name}' in text
    (environment,) = re.findall(r'conda:\s+"?(?:\.\./envs/)?(\w+)', text)
    chosen = {"stage_environment": "ants", "illumination_environment": "basic"}  # one that a setting asks for
    assert (ROOT / "envs" / f"{chosen.get(environment, environment)}.yaml").is_file()
    assert "retries:" not in text  # they belong into profiles
    assert re.search(rf'code=(lambda wildcards: )?code\("{name}"', text)


def test_every_script_was_run_here(run, planned):
    jobs = [*run.jobs, *(job for job in planned[1] if job.rule.name in ("make_phantom", "judge_phantom"))]
    assert {job.rule.name for job in jobs} == {path.stem for path in (ROOT / "scripts").glob("*.py")}


def test_scripts_are_thin():
    for path in (ROOT / "scripts").glob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) < 20, path
        assert set(re.findall(r"snakemake\.(\w+)", text)) <= {
            "input", "output", "params", "wildcards", "threads", "resources", "log"
        }, path  # fmt: skip


def test_a_failing_script_ends_in_one_sentence_and_its_log_in_the_traceback(run, tmp_path):
    job = next(job for job in run.jobs if job.rule.name == "index_tiles")
    shutil.copytree(run.project.folder / "data", tmp_path / "data")
    (tmp_path / "data/sample/Experiment.ini").unlink()
    with pytest.raises(SystemExit) as caught:
        run_script(tmp_path, job)
    sentence = str(caught.value)
    assert re.fullmatch(
        r"Error: .*Experiment\.ini: no such source; .* \(log: results/logs/.*\.log\)", sentence
    )
    with contextlib.chdir(tmp_path):
        assert "Traceback" in Path(job.log[0]).read_text()


def test_a_stage_on_a_part_of_its_blocks_and_another_field(run, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(run.project.folder, folder, symlinks=True)
    jobs = [job for job in run.jobs if getattr(job.wildcards, "stage", None) == "fine"]
    wanted = ["0.0.0", "1.1.0"]
    for job in jobs:
        if job.rule.name == "plan_blocks":
            run_script(folder, job, settings={**job.params.settings, "only": wanted})
        elif job.rule.name == "register_blocks":
            run_script(folder, job, settings={**job.params.settings, "debug": "volumes"})
        elif job.rule.name == "reduce_transform":
            changed = {"method": "simple_mean", "field_factor": 3}
            run_script(folder, job, settings={**job.params.settings, **changed})
    stages = run.results.relative_to(run.project.folder) / "registrations/pair/stages"
    ledger = pd.read_csv(folder / stages / "fine/ledger.tsv", sep="\t")
    assert set(ledger.block[ledger.status == "ok"]) == set(wanted)
    assert set(ledger.used[ledger.status == "skipped"]) == {"parent"}
    kept = folder / run.results.relative_to(run.project.folder) / "logs/blocks/pair-fine"
    assert sorted(path.name for path in kept.iterdir()) == wanted
    assert {"fixed.mha", "moving.mha", "result.mha", "displacement.mha"} <= {
        path.name for path in (kept / "0.0.0").iterdir()
    }
    assert len(ledger) == 8
    receipt = receipts.read(folder / stages / "fine/transform.json")
    assert receipt["grid"]["spacing"] == [3 * receipt["level_um"]] * 3
    numbers = receipts.read(folder / stages / "fine/quality.json")["values"]
    assert numbers["blocks_failed_fraction"] == 0
    with pytest.raises(SystemExit, match=r"only names the block '9\.9\.9'"):
        run_script(folder, jobs[0], settings={**jobs[0].params.settings, "only": ["9.9.9"]})


def test_registration_from_python_gives_the_same_bytes(run):
    settings = yaml.safe_load((run.project.folder / "my.yaml").read_text())
    images = [open_image(run.results / f"images/{name}/image.ome.zarr") for name in ("fixed", "moving")]
    found = register(
        *images,
        affine=run.read("registrations/pair/affine.json")["sequence"][0]["matrix"],
        workers=2,
        **{name: settings[name] for name in ("stages", "reduce", "invert") if name in settings},
    )
    _, displacements, affine = found.transform.split()
    _, written, written_affine = open_transform(run.results / "registrations/pair/transform.json").split()
    assert displacements.field.tobytes() == written.load().field.tobytes()
    np.testing.assert_array_equal(affine, written_affine)
    _, back, _ = found.transform.inverse.split()
    _, written, _ = open_transform(run.results / "registrations/pair/inverse.json").split()
    assert back.field.tobytes() == written.load().field.tobytes()
