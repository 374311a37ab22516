"""What the settings of assembly do to tiles whose truth is known, through the rules' own scripts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from matplotlib import image as pictures
from workflow_jobs import plan_jobs, run_script
from workflow_project import OVERLAP, TILE, Project, make_project

from weft import receipts
from weft.grid import Grid
from weft.recovery import verify_results
from weft.steps.sources import open_received
from weft.steps.tile_tables import read_fused
from weft.stores import open_image

DARK = 100
IMAGES = f"image\tsource\tformat\torientation\tdark\nsample\tdata/sample\tcolm\tpil\t{DARK}\n"


def stitched(folder: Path, **settings) -> Project:
    """The small project without registrations, its gain given as it is."""
    project = make_project(folder, **settings)
    (folder / "images.tsv").write_text(IMAGES)
    y, x = np.mgrid[: TILE[1], : TILE[2]] / TILE[1] - 0.5
    np.save(folder / "data/gain.npy", (1.2 - 0.8 * (y**2 + x**2)).astype(np.float32))
    light = {"method": "profile", "profile": "data/gain.npy", "policy": "off"}
    project.set(registrations=None, illumination=light)
    return project


def run_all(project: Project) -> Path:
    """Run every script; give the folder of the image."""
    for job in plan_jobs(project.folder):
        run_script(project.folder, job)
    return project.results / "images" / "sample"


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """The image, stitched without any of the options."""
    return run_all(stitched(tmp_path_factory.mktemp("assembly") / "plain"))


def brighten(project: Project, gain) -> None:
    """Multiply what is above the dark of every raw plane by ``gain(tile, y, x)``, y and x in voxels of the stage."""
    step = TILE[1] - OVERLAP
    for path in sorted((project.folder / "data/sample").rglob("*.tif")):
        tile = int(path.parent.name.removeprefix("LOC"))
        y, x = np.mgrid[: TILE[1], : TILE[2]] + np.array([tile // 2, tile % 2])[:, None, None] * step
        light = (tifffile.imread(path).astype(float) - DARK) * gain(tile, y, x) + DARK
        tifffile.imwrite(path, np.rint(light).astype(np.uint16), metadata=None)


def test_tiles_are_equalised_before_they_are_fused(tmp_path, plain):
    project = stitched(tmp_path / "equalised", fusion={"equalise": "check"})
    true = np.array([1.0, 1.4, 0.8, 1.0])
    brighten(project, lambda tile, y, x: true[tile])
    image = run_all(project)
    facts = receipts.read(image / "brightness.json")
    assert facts["tiles"] == [f"LOC00{n}" for n in range(4)]
    for factors, report in zip(facts["factors"], facts["reports"], strict=True):
        np.testing.assert_allclose(np.array(factors) / factors[0], true, rtol=0.01)
        assert report["accepted"]
        assert report["held_out_after"] < 0.1 * report["held_out_before"]
    even, whole = (
        open_image(folder / "image.ome.zarr").levels[0].read().astype(float) for folder in (plain, image)
    )
    ratio = (whole / np.maximum(even, 1))[4:20, 4:-10, 4:-10][even[4:20, 4:-10, 4:-10] > 200]
    assert np.std(np.log(ratio)) < 0.02
    # The same bytes, however the fusion is cut.
    before = receipts.read(image / "image.json")
    project.set(batches={"fuse_tiles": 3})
    shutil.rmtree(image / "fused.zarr")
    for path in (image / "fused.json", image / "brightness.json"):
        path.unlink()
    run_all(project)
    assert receipts.read(image / "brightness.json") == facts
    assert receipts.read(image / "image.json") == before


def test_registration_sees_an_image_through_its_bias(tmp_path):
    bias = {"images": ["sample"], "use": "everything"}
    project = stitched(tmp_path / "bias", bias=bias, isotropic={"sample": 60.0})
    brighten(project, lambda tile, y, x: np.exp(0.6 * y / 112 - 0.3))
    image = run_all(project)
    seen, facts = open_received(image / "bias.json")
    raw, raw_facts = open_received(image / "image.json")
    assert facts["dtype"] == "float32" == str(seen.dtype)
    assert raw_facts["dtype"] == str(raw.dtype) == "uint16"
    assert facts["data"] != raw_facts["data"]
    for report in facts["reports"]:
        assert report["accepted"], report
        assert report["disagreement"] < 0.5 * report["size"]
        assert report["entropy_after"] < report["entropy_before"]
    region = (slice(4, 20), slice(6, -10), slice(6, -10))

    def slope(opened) -> float:
        rows = np.log(np.maximum(opened.levels[0].read(0, region), 1)).mean((0, 2))
        return float(np.polyfit(np.linspace(0, 1, len(rows)), rows, 1)[0])

    assert slope(raw) > 0.5
    assert abs(slope(seen)) < 0.4 * slope(raw)
    copy, _ = open_received(image / "isotropic.json")
    assert str(copy.dtype) == "float32"
    assert verify_results(project.results)[1] == []
    page = (project.results / "report.html").read_text()
    assert "<h3>How the bias was found</h3>" in page
    assert (image / "figures/bias.png").stat().st_size > 5000
    before = (image / "bias.json").read_bytes()
    (image / "bias.json").unlink()
    shutil.rmtree(image / "bias.zarr")
    run_all(project)
    assert (image / "bias.json").read_bytes() == before


def test_an_excluded_tile_is_placed_and_not_fused(tmp_path, plain):
    project = stitched(tmp_path / "excluded", overrides="overrides.tsv")
    (project.folder / "overrides.tsv").write_text("image\taction\ttile_a\nsample\texclude\tLOC003\n")
    image = run_all(project)
    poses = pd.read_csv(image / "poses.tsv", sep="\t")
    assert poses.status.tolist() == ["ok", "ok", "ok", "excluded"]
    tile = receipts.read(image / "tiles.json")
    grid = Grid.from_json(receipts.read(image / "fused.json")["grid"])
    places = poses[list("zyx")].to_numpy()[:3]
    wanted = (places.max(0) - places.min(0)) / tile["spacing"] + tile["shape"]
    assert np.abs(np.array(grid.shape) - wanted).max() < 1
    fused, whole = (open_image(folder / "image.ome.zarr").levels[0] for folder in (image, plain))
    corner = fused.read()[4:20, -30:, -30:]  # only the excluded tile reaches it
    assert not corner.any()
    assert whole.read()[4:20, -40:-10, -40:-10].min() > 0
    seams = pd.read_csv(image / "seams.tsv", sep="\t")
    assert len(seams) == 3
    assert "LOC003" not in set(seams.tile_a) | set(seams.tile_b)
    assert receipts.read(image / "quality/poses.json")["values"]["tiles_without_link_fraction"] == 0


def test_bad_tiles_are_named_by_a_gate(tmp_path, plain):
    gates = receipts.read(plain / "quality.json")["gates"]
    assert next(row for row in gates if row["name"] == "bad_tiles")["holds"]
    project = stitched(tmp_path / "bad", gates={"bad_tiles": {"max": 0, "policy": "warn"}})
    folder = project.folder / "data/sample/VW0"
    for path in folder.rglob("*CHN00*.tif"):
        if path.parent.name == "LOC000":
            tifffile.imwrite(path, np.full(TILE[1:], DARK, np.uint16), metadata=None)
        if path.parent.name == "LOC002":  # plane by plane the tile above it
            shutil.copy(str(path).replace("LOC002", "LOC001"), path)
    for job in plan_jobs(project.folder):
        if job.rule.name in ("index_tiles", "fit_illumination"):
            run_script(project.folder, job)
    image = project.results / "images" / "sample"
    (gate,) = receipts.read(image / "quality/illumination.json")["gates"]
    assert (gate["name"], gate["value"], gate["holds"]) == ("bad_tiles", 3, False)
    words = "LOC000 (dead), LOC001 (the same as LOC002), LOC002 (the same as LOC001)"
    assert gate["where"] == words


def test_report_shows_what_was_corrected(plain):
    page = (plain.parents[1] / "report.html").read_text()
    for words in ("Tiles before and after correction", "How the gain was found", "Bad tiles"):
        assert f"<h3>{words}</h3>" in page
    assert "How the bias was found" not in page
    picture = pictures.imread(plain / "figures/flat_field.png")[..., :3]
    assert len(np.unique((255 * picture[..., 0]).astype(int))) > 100


def test_no_tile_left_is_refused(tmp_path):
    table = tmp_path / "poses.tsv"
    table.write_text("tile\tstatus\nA\texcluded\nB\tok\n")
    assert read_fused(str(table)) == [1]
    table.write_text("tile\tstatus\nA\texcluded\nB\texcluded\n")
    with pytest.raises(ValueError, match=r"poses\.tsv: the table of overrides excludes every tile"):
        read_fused(str(table))


def test_links_fusion_and_copies_see_the_gain_of_their_depth(tmp_path):
    light = {"method": "mean", "policy": "force", "slabs": 2, "planes": 96, "corrected_copy": True}
    project = stitched(tmp_path / "depth")
    project.set(illumination={**light, "profile": None})
    image = run_all(project)
    relief = np.asarray(zarr.open_array(str(image / "illumination.zarr/relief"), mode="r")[:])
    assert relief.shape == (2, 2, *TILE[1:])
    assert len(receipts.read(image / "illumination.json")["reports"][0]["slabs"]) == 2
    gain = zarr.open_array(str(image / "illumination.zarr/gain"), mode="r")[0]
    raw = tifffile.imread(sorted((project.folder / "data/sample/VW0/LOC001").glob("*CHN00*"))[-1])
    copy = zarr.open_array(str(image / "corrected.zarr/LOC001"), mode="r")[0, -1]
    wanted = (raw.astype(float) - DARK) / gain / relief[0, 1]
    np.testing.assert_allclose(copy, np.clip(wanted, 0, None), atol=0.51)
