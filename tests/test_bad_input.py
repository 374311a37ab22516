"""Bad data through the real scripts: one sentence that names the file, what was found and what is wanted."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK
import tifffile
import yaml
import zarr
from snakemake.exceptions import WorkflowError
from workflow_jobs import plan_jobs, run_script
from workflow_project import CONFIG, SIDE, TILE, Project, make_project, tree_digests

from weft import readers, receipts
from weft.config import Store
from weft.config.assembly import Pyramid
from weft.grid import Grid
from weft.image import Image, Level
from weft.steps.import_image import import_image
from weft.steps.warp_points import warp_points

PLANE = "VW0/LOC002/tile_CHN01_PLN0010.tif"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> tuple[Project, list[Any]]:
    """A good project, nothing run, and its jobs."""
    project = make_project(tmp_path_factory.mktemp("good") / "project")
    return project, plan_jobs(project.folder)


@pytest.fixture
def project(good, tmp_path) -> Project:
    """A copy of it to be spoilt."""
    return good[0].copy(tmp_path / "project")


def find(jobs: list[Any], rule: str, **wildcards: str) -> Any:
    return next(
        job
        for job in jobs
        if job.rule.name == rule and wildcards.items() <= dict(job.wildcards.items()).items()
    )


def refused(project: Project, job: Any, **changes: Any) -> str:
    """The one sentence in which a script refuses; raw data stay, and no receipt is written."""
    raw = project.raw()
    with pytest.raises(SystemExit) as caught:
        run_script(project.folder, job, **changes)
    assert project.raw() == raw
    assert not (project.folder / job.output[0]).exists()
    sentence = str(caught.value)
    assert sentence.startswith("Error: ")
    assert "\n" not in sentence
    return sentence


# ---------------------------------------------------------------------------------- tiles
def garbage(path: Path) -> None:
    path.write_bytes(b"this is no image")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def narrow(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((TILE[1], TILE[2] - 1), np.uint16))


def bytes_only(path: Path) -> None:
    tifffile.imwrite(path, np.zeros(TILE[1:], np.uint8))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", [PLANE, PLANE.replace("0010", "0000")])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (garbage, "cannot be read as"),
        (empty, "cannot be read as"),
        (half, "cannot be read as|truncated"),
        (narrow, r"\(64, 63\).*wanted.*\(64, 64\)"),
        (bytes_only, "uint8.*wanted.*uint16"),
        (folder, "cannot be read as|directory"),
    ],
)
def test_a_spoilt_plane_is_refused_by_the_first_rule(
    good, project, spoil: Callable[[Path], None], said, name
):
    spoil(project.folder / "data/sample" / name)
    sentence = refused(project, find(good[1], "index_tiles"))
    assert name in sentence
    assert re.search(said, sentence)


def test_a_missing_plane_or_tile_is_refused_by_the_first_rule(good, project):
    sample = project.folder / "data/sample"
    (sample / PLANE).rename(sample / "kept")
    sentence = refused(project, find(good[1], "index_tiles"))
    assert re.search(r"LOC002: channel 1 has 23 planes; wanted 24 .*look at plane 10", sentence)
    shutil.rmtree(sample / "VW0/LOC002")
    assert re.search(r"LOC002: no such source", refused(project, find(good[1], "index_tiles")))


@pytest.mark.parametrize("step", ["0", "-1", None])
def test_tiles_without_a_voxel_size_are_refused(good, project, step):
    path = project.folder / "data/sample/Experiment.ini"
    line = "" if step is None else f'Stack Step (mm) = "{step}"'
    path.write_text(re.sub(r"Stack Step \(mm\) = .*", line, path.read_text()))
    sentence = refused(project, find(good[1], "index_tiles"))
    assert re.search(r"Experiment\.ini: \[North Scan Region\] 'Stack Step \(mm\)'.*wanted", sentence)


def test_a_plane_that_breaks_later_is_refused_by_whoever_reads_it(good, project):
    """With ``raw_digest: stat`` the first rule reads no voxels."""
    run_script(project.folder, find(good[1], "index_tiles"), raw_digest="stat")
    for path in (project.folder / "data/sample/VW0").glob("LOC*/*CHN00*PLN00*.tif"):
        if not path.name.endswith("PLN0000.tif"):
            half(path)
    sentence = refused(project, find(good[1], "fit_illumination"))
    assert re.search(r"LOC00\d/tile_CHN00_PLN00\d\d\.tif", sentence)


# ---------------------------------------------------------------------------------- missing things
def test_a_missing_source_is_refused_before_any_job(project):
    shutil.rmtree(project.folder / "data/sample")
    with pytest.raises(
        WorkflowError, match=r"image 'sample': source: there is no file or folder 'data/sample'"
    ):
        plan_jobs(project.folder)


def test_a_source_that_vanished_since_is_refused(good, project):
    (project.folder / "data/fixed.nrrd").unlink()
    sentence = refused(project, find(good[1], "import_image", image="fixed"))
    assert re.match(r"Error: data/fixed\.nrrd: no such source; wanted a file or folder", sentence)


def test_a_channel_to_link_that_is_not_there(good, project):
    for rule in ("index_tiles", "fit_illumination"):
        run_script(project.folder, find(good[1], rule))
    job = find(good[1], "measure_links")
    sentence = refused(project, job, settings={**job.params.settings, "channel": "red"})
    assert "links.channel: image 'sample': there is no channel 'red'; wanted one of 0, 1" in sentence


def test_a_channel_to_register_that_is_not_there(good, project):
    for image in ("fixed", "moving"):
        run_script(project.folder, find(good[1], "import_image", image=image))
    job = find(good[1], "register_affine")
    sentence = refused(project, job, channels={"fixed": None, "moving": "red"})
    assert "moving_channel: image 'moving': there is no channel 'red'; wanted one of 0" in sentence
    assert not (project.results / ".weft/affine").exists()  # nothing was computed


# ---------------------------------------------------------------------------------- volumes
def write_nrrd(path: Path, **fields: str) -> None:
    header = {
        "type": "uint16",
        "dimension": "3",
        "sizes": f"{SIDE} {SIDE} {SIDE}",
        "encoding": "raw",
        "endian": "little",
        "spacings": "10 10 10",
        **fields,
    }
    lines = [f"{name.replace('_', ' ')}: {value}" for name, value in header.items() if value]
    voxels = np.zeros((SIDE,) * 3, header["type"])
    path.write_bytes(("NRRD0005\n" + "\n".join(lines) + "\n\n").encode() + voxels.tobytes())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, r"has no unit; give `spacing_unit`, or `spacing` in um"),
        ({"spacings": ""}, r"no voxel size is stated; give it as `spacing`"),
        ({"spacings": "", "units": '"um" "um" "um"'}, r"no voxel size is stated; give it as `spacing`"),
        (
            {"spacings": "10 0 10", "units": '"um" "um" "um"'},
            r"voxel size.*0.*wanted three positive|cannot be read as",
        ),
        (
            {"spacings": "10 -5 10", "units": '"um" "um" "um"'},
            r"voxel size.*-5.*wanted three positive|cannot be read as",
        ),
        (
            {"spacings": "10 nan 10", "units": '"um" "um" "um"'},
            r"voxel size.*nan.*wanted three positive|cannot be read as",
        ),
    ],
)
def test_a_volume_without_a_voxel_size_is_refused(good, project, fields, said):
    write_nrrd(project.folder / "data/fixed.nrrd", **fields)
    job = find(good[1], "import_image", image="fixed")
    sentence = refused(project, job, image={**job.params.image, "spacing": None})
    assert sentence.startswith("Error: data/fixed.nrrd: ")
    assert re.search(said, sentence)


@pytest.mark.parametrize(
    ("units", "spacing", "warned"),
    [
        ("", (10, 10, 30), "is the order of its axes right?"),
        ('"mm" "mm" "mm"', (10, 10, 30), "is the order of its axes right?"),
        ("", (30, 10, 10), None),
        ("", (0.03, 0.01, 0.01), None),  # in a unit that nobody knows
        ('"um" "um" "um"', (0.03, 0.01, 0.01), "is it in um?"),
        ('"um" "um" "um"', (33, 11, 11), None),  # an expanded sample
    ],
)
def test_a_voxel_size_that_contradicts_the_file_is_told(good, project, capsys, units, spacing, warned):
    """Along x, y, z the file says 10, 10, 30, in whatever unit: along z, y, x the table has to give 30, 10, 10."""
    write_nrrd(project.folder / "data/fixed.nrrd", spacings="10 10 30", units=units)
    job = find(good[1], "import_image", image="fixed")
    run_script(project.folder, job, image={**job.params.image, "spacing": list(spacing)})
    said = capsys.readouterr().err
    doubt = receipts.read(project.folder / job.output[0]).get("spacing_doubt")
    given = ", ".join(f"{size:g}" for size in spacing)
    if warned is None:
        assert (said, doubt) == ("", None)
    else:
        assert doubt.startswith(
            f"the table of images gives a voxel size of {given} um (z, y, x), and its source states"
        )
        assert doubt.endswith(f"the table's is used: {warned}")
        assert f"Warning: image 'fixed': {doubt} (data/fixed.nrrd)\n" in said
        assert doubt in (project.folder / job.log[0]).read_text()


def test_a_source_is_opened_once(tmp_path, monkeypatch, capsys):
    opened = []

    def open_counted(path, *, spacing=None):
        opened.append(spacing)
        level = Level(np.ones((1, 4, 5, 6), np.uint8), Grid((4, 5, 6), spacing))
        return Image((level,), stated_spacing=(3.0, 1.0, 1.0))

    monkeypatch.setitem(readers._registered, "counted", open_counted)
    import_image(
        path="counted",
        state="",
        image={"image": "swapped", "format": "counted", "options": {}, "spacing": (1.0, 1.0, 3.0)},
        settings=Pyramid().model_dump(mode="json"),
        store=Store().model_dump(mode="json"),
        code="",
        receipt=str(tmp_path / "swapped" / "image.json"),
        threads=1,
    )
    assert opened == [(1.0, 1.0, 3.0)]
    assert (
        "voxel size of 1, 1, 3 um (z, y, x), and its source states 3, 1, 1; the table's"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("size", [0.0, -3.0, float("nan")])
def test_a_nifti_with_an_impossible_voxel_size_is_refused(good, project, size):
    path = project.folder / "data/fixed.nii"
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)
    image.header["pixdim"][2] = size
    nibabel.save(image, path)
    blob = bytearray(path.read_bytes())
    blob[84:88] = np.float32(size).tobytes()  # pixdim[2]: nibabel mends it when it saves
    path.write_bytes(blob)
    job = find(good[1], "import_image", image="fixed")
    sentence = refused(project, job, path="data/fixed.nii", image={**job.params.image, "spacing": None})
    assert sentence.startswith("Error: data/fixed.nii: ")
    assert re.search(r"voxel size is \[.*\]; wanted three positive numbers", sentence)


def test_a_metaimage_without_a_voxel_size_is_refused(good, project):
    path = project.folder / "data/fixed.mha"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 5, 6), np.uint8)), str(path))
    path.write_bytes(re.sub(rb"ElementSpacing = .*\n", b"", path.read_bytes()))
    job = find(good[1], "import_image", image="fixed")
    sentence = refused(project, job, path="data/fixed.mha", image={**job.params.image, "spacing": None})
    assert "data/fixed.mha: no voxel size is stated" in sentence


def test_a_truncated_volume_is_refused(good, project):
    half(project.folder / "data/fixed.nrrd")
    sentence = refused(project, find(good[1], "import_image", image="fixed"))
    assert sentence.startswith("Error: data/fixed.nrrd: ")


def test_labels_with_fractions_are_refused(good, project):
    path = project.folder / "data/regions.nrrd"
    voxels = np.ones((SIDE,) * 3, np.float32)
    voxels[3, 2, 1] = 2.5
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(path))
    sentence = refused(project, find(good[1], "import_image", image="regions"))
    assert "data/regions.nrrd: labels are float32, and one of them is 2.5; wanted integers" in sentence


def test_more_channel_names_than_channels_are_refused(good, project):
    job = find(good[1], "import_image", image="fixed")
    sentence = refused(project, job, image={**job.params.image, "channels": ["a", "b"]})
    assert "data/fixed.nrrd: 2 channel names (a, b) are given; the source has 1 channels" in sentence


def test_a_block_larger_than_the_volume_is_refused_by_the_plan_of_its_stage(good, project):
    run_script(project.folder, find(good[1], "import_image", image="fixed"))
    job = find(good[1], "plan_blocks", stage="fine")
    sentence = refused(project, job, settings={**job.params.settings, "block": 64})
    assert "stage 'fine': block 64 is larger than the fixed image, which has [48, 48, 48] voxels" in sentence
    assert "wanted a smaller number or `whole`" in sentence


@pytest.mark.workflow
def test_blocks_that_do_not_fit_are_refused_before_the_first_stage(project):
    target = "results/registrations/pair/stages/fine/transform.json"
    code, said = project.try_run(target, "--set-resources", "register_blocks:mem_mb=400")
    assert code
    assert "stage 'fine': a block takes about" in said or "stage 'coarse': a block takes about" in said
    assert "the job has mem_mb 400; wanted mem_mb of at least" in said
    assert not list(project.results.glob("registrations/pair/stages/*/batches"))


# ---------------------------------------------------------------------------------- outputs of other input
def occupy(path: Path) -> dict[str, str]:
    """A store of somebody else."""
    zarr.save_array(str(path / "0"), np.arange(10), zarr_format=3)
    (path / "notes.txt").write_text("precious")
    return tree_digests(path)


@pytest.mark.parametrize(
    ("rule", "before", "store"),
    [
        ("import_image", [], "images/fixed/image.ome.zarr"),
        ("fit_illumination", ["index_tiles"], "images/sample/illumination.zarr"),
    ],
)
def test_a_store_that_weft_did_not_make_stays(good, project, rule, before, store):
    for name in before:
        run_script(project.folder, find(good[1], name))
    there = occupy(project.results / store)
    job = find(good[1], rule, **({"image": "fixed"} if rule == "import_image" else {}))
    sentence = refused(project, job)
    assert f"{store}: exists and was not made by weft; wanted a free name, move it away" in sentence
    assert tree_digests(project.results / store) == there
    shutil.move(project.results / store, project.folder / "away")
    run_script(project.folder, job)  # and then it goes
    assert (project.results / store / receipts.RECORDS).is_dir()


def test_a_referenced_pyramid_does_not_replace_what_weft_did_not_make(good, project):
    pyramid = project.folder / "data/pyramid.ome.zarr"
    group = zarr.open_group(str(pyramid), mode="w", zarr_format=3)
    datasets = []
    for n in range(2):
        group.create_array(str(n), data=np.full((1, 16 >> n, 16 >> n, 16 >> n), n + 1, np.uint8))
        scale = [1.0, *3 * [5.0 * 2**n]]
        datasets.append({"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    axes = [
        {"name": "c", "type": "channel"},
        *({"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"),
    ]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    job = find(good[1], "import_image", image="fixed")
    public = project.results / "images/fixed/image.ome.zarr"
    changes = {"path": "data/pyramid.ome.zarr", "image": {**job.params.image, "spacing": None}}

    there = occupy(public)
    assert "image.ome.zarr: exists and was not made by weft" in refused(project, job, **changes)
    assert tree_digests(public) == there
    shutil.rmtree(public)
    run_script(project.folder, job)  # weft's own store gives way to the link, and the link to a store
    before = project.raw()
    run_script(project.folder, job, **changes)
    assert public.is_symlink()
    referenced = receipts.read(project.folder / job.output[0])
    assert (referenced["referenced"], referenced["shape"]) == (True, [1, 16, 16, 16])
    run_script(project.folder, job)
    assert not public.is_symlink()
    assert receipts.read(project.folder / job.output[0])["shape"] == [1, SIDE, SIDE, SIDE]
    assert project.raw() == before
    assert not list(public.parent.glob("*.old-*"))


def test_an_image_made_of_other_input_is_made_anew(good, project):
    job = find(good[1], "import_image", image="fixed")
    run_script(project.folder, job)
    first = receipts.read(project.folder / job.output[0])
    shutil.copy(project.folder / "data/moving.nrrd", project.folder / "data/fixed.nrrd")
    run_script(project.folder, job, state="another fingerprint")
    second = receipts.read(project.folder / job.output[0])
    assert first["data"] != second["data"]
    voxels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(project.folder / "data/moving.nrrd")))
    store = project.results / "images/fixed/image.ome.zarr"
    np.testing.assert_array_equal(zarr.open_array(str(store / "0"), mode="r")[0], voxels)
    assert len(list((store / receipts.RECORDS).iterdir())) == 1


# ---------------------------------------------------------------------------------- receipts
def test_a_receipt_that_is_not_whole_is_named(good, project):
    job = find(good[1], "index_tiles")
    run_script(project.folder, job)
    half(project.folder / job.output[0])
    sentence = refused(project, find(good[1], "fit_illumination"))
    assert "results/images/sample/tiles.json: is not a receipt (JSON)" in sentence
    assert "remove it and rerun" in sentence


def test_batches_of_different_settings_are_not_gathered(good, project):
    for rule in ("index_tiles", "fit_illumination"):
        run_script(project.folder, find(good[1], rule))
    links = [job for job in good[1] if job.rule.name == "measure_links"]
    fuse = [job for job in good[1] if job.rule.name == "fuse_tiles"]
    for job in [*links, find(good[1], "gather_links"), find(good[1], "solve_poses"), fuse[0]]:
        run_script(project.folder, job)
    run_script(project.folder, fuse[1], settings={**fuse[1].params.settings, "blend": "max"})
    sentence = refused(project, find(good[1], "gather_fused"))
    assert "fused.json: its batches were made from different inputs or settings" in sentence
    assert not (project.results / "images/sample/fused.zarr").exists()


def test_settings_of_these_tests_are_those_of_the_project(good):
    assert yaml.safe_load((good[0].folder / "my.yaml").read_text()) == CONFIG


# ---------------------------------------------------------------------------------- tables of points
@pytest.mark.parametrize("origin", [(0.0, 0.0, 0.0), (-9000.0, 0.0, 0.0)])
def test_points_in_millimetres_are_refused(tmp_path, origin):
    image, transform, table = (tmp_path / name for name in ("image.json", "transform.json", "cells.parquet"))
    receipts.write(image, {"grid": Grid((400, 400, 400), (25.0, 25.0, 25.0), origin).to_json()})
    receipts.write(transform, {"sequence": [{"type": "affine", "matrix": np.eye(4).tolist()}]})
    cells = np.random.default_rng(0).uniform(0, 9.9, (5, 3)) + np.asarray(origin) / 1000

    def through(points: np.ndarray) -> int:
        path = tmp_path / "cells.csv"
        path.write_text("\n".join(["z,y,x", *(",".join(map(str, point)) for point in points)]))
        given = {name: str(p) for name, p in (("image", image), ("transform", transform), ("path", path))}
        warp_points(source=str(path), code="", table=str(table), **given)
        return len(pd.read_parquet(table))

    with pytest.raises(
        ValueError, match=r"cells\.csv: all 5 points lie within .* um of the origin, and the image reaches"
    ) as error:
        through(cells)
    assert str(error.value).endswith("um from there; wanted micrometres: are they millimetres?")
    assert through(cells * 1000) == 5
    assert (
        through(np.vstack([cells, [25.0, 25.0, 25.0]])) == 6
    )  # a cell of the corner among them, if not in millimetres
    assert through(cells[:2]) == 2  # too few to tell
