"""What every script leaves of a registration, as Snakemake runs it, on a small project whose truth is known."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK
import zarr
from PIL import Image as Picture
from scripts_run import EDGE, in_body, indices, to_fixed
from workflow_jobs import plan_jobs, run_script
from workflow_project import SIDE

from weft import receipts
from weft.blocks import region
from weft.grid import Grid
from weft.stores import open_image
from weft.transforms import open_transform
from weft.transforms.formats.ngff import open_field
from weft.transforms.formats.scene import read_scene


@pytest.fixture(scope="module")
def run(scripts_run):
    return scripts_run


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
