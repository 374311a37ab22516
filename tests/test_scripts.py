"""Every script, run as Snakemake runs it, on a small project whose truth is known; and the rules that name them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK
import yaml
from test_judge import pieces, score  # noqa: F401 (a fixture)
from workflow_jobs import ROOT, plan_jobs, run_script

from weft import receipts
from weft.registration import register
from weft.stores import open_image
from weft.stores.ome_zarr import shard_voxels
from weft.transforms import open_transform


@pytest.fixture(scope="module")
def run(scripts_run):
    return scripts_run


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
