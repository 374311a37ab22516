"""What a run survives: kills at any place, settings to and fro, damage on disk; by real runs and real signals."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from workflow_project import Project, Watch, jobs, kill, make_project

from weft import receipts
from weft.__main__ import main
from weft.recovery import clean_results, verify_results

BLOCK = r"\.weft/blocks/../[0-9a-f]{64}\.json$"
LINK = r"\.weft/links/../[0-9a-f]{64}\.json$"
REGION = r"\.weft/[0-9a-f]{16}/[^/]+\.json$"
PAIR = "results/registrations/pair"
FINE = f"{PAIR}/stages/fine/transform.json"
SAMPLE = "images/sample"
TRANSFORMS = f"{PAIR}/inverse.json"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A complete run on two cores and with two threads a job; to be copied, never changed."""
    project = make_project(tmp_path_factory.mktemp("finished") / "project")
    project.run(
        "registrations", "--set-threads", *(f"{rule}=2" for rule in ("fuse_tiles", "register_blocks"))
    )
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the complete run."""
    return finished.copy(tmp_path / "project")


def forget_fine(project: Project) -> list[str]:
    """Remove the fine stage's receipts and blocks; give the names of the blocks."""
    stage = project.folder / Path(FINE).parent
    blocks: dict[str, str] = {}
    for batch in (stage / "batches").glob("*.json"):
        blocks.update(receipts.read(batch)["blocks"])
        batch.unlink()
    for key in blocks.values():
        for path in (project.results / ".weft" / "blocks" / key[:2]).glob(f"{key}*"):
            path.unlink()
    (project.folder / FINE).unlink()
    shutil.rmtree(stage / "transform.ome.zarr")
    return sorted(blocks.values())


def flip(path: Path, place: float = 0.5) -> None:
    """Change eight bytes of a file where it lies, so that every hard link to it is hit."""
    with path.open("r+b") as handle:
        handle.seek(int(path.stat().st_size * place))
        values = handle.read(8)
        handle.seek(-len(values), os.SEEK_CUR)
        handle.write(bytes(255 - value for value in values))


def first_shard(array: Path) -> Path:
    """The first shard file of an array."""
    return min(path for path in (array / "c").rglob("*") if path.is_file())


def without_batches(digests: dict[str, str]) -> dict[str, str]:
    """Digests of all but the receipts of batches, which tell what was dealt to whom."""
    return {name: value for name, value in digests.items() if "/batches/" not in name}


# ---------------------------------------------------------------------------------- whole runs
@pytest.mark.workflow
def test_one_core_makes_the_bytes_of_two(finished: Project, project: Project) -> None:
    alone = project
    for part in (alone.results, alone.folder / ".snakemake"):
        shutil.rmtree(part)
    alone.run("registrations", cores=1)
    assert alone.digests() == finished.digests()
    assert len(finished.digests()) > 100
    assert alone.raw() == finished.raw()


@pytest.mark.workflow
def test_other_batches_compute_nothing(project: Project, finished: Project, tmp_path: Path) -> None:
    project.set(batches={"measure_links": 3, "fuse_tiles": 3, "register_blocks": 3})
    watch = Watch(tmp_path / "watch")
    made = jobs(project.run("images", TRANSFORMS, watch=watch))
    assert (made["measure_links"], made["fuse_tiles"], made["register_blocks"]) == (3, 3, 6)
    assert watch.taken(f"{BLOCK}|{LINK}|{REGION}") == []
    assert without_batches(project.digests()) == without_batches(finished.digests())


@pytest.mark.workflow
def test_setting_changed_killed_and_restored(project: Project, finished: Project, tmp_path: Path) -> None:
    project.set(fusion={"blend": "nearest"})
    watch = Watch(tmp_path / "watch", r"fused\.zarr\.partial-\w+/" + REGION, after=2)
    run = project.start("images", watch=watch)
    watch.wait(run)
    assert verify_results(project.results, dry_run=True)[1] == []  # the old receipt, the old store
    kill(run)
    assert verify_results(project.results, dry_run=True)[1] == []
    assert len(list((project.results / SAMPLE).glob("fused.zarr.partial-*"))) == 1

    project.set(fusion={"blend": "linear"})
    project.unlock()
    project.run("images")
    assert verify_results(project.results, dry_run=True)[1] == []
    assert main(["clean", "--results", str(project.results)]) == 0
    assert project.digests() == finished.digests()


# ---------------------------------------------------------------------------------- kill -9
@pytest.mark.workflow
def test_killed_between_a_block_and_its_record(project: Project, finished: Project, tmp_path: Path) -> None:
    blocks = forget_fine(project)
    watch = Watch(tmp_path / "watch", BLOCK, after=2)
    run = project.start(FINE, watch=watch)
    watch.wait(run)
    kill(run)
    cache = project.results / ".weft" / "blocks"
    kept = [key for key in blocks if receipts.record_path(cache, key).exists()]
    lone = [key for key in blocks if receipts.record_path(cache, key, ".npy").exists() and key not in kept]
    assert len(kept) >= 2
    assert lone

    code, said = project.try_run(FINE)
    assert code != 0
    assert "--unlock" in said
    project.unlock()
    again = Watch(tmp_path / "again")
    project.run(FINE, watch=again)
    made = [Path(name).stem for name in again.taken(BLOCK)]
    assert sorted(made) == sorted(set(blocks) - set(kept))
    assert main(["clean", "--results", str(project.results)]) == 0  # what the kill left half-written
    assert project.digests() == finished.digests()


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("place", "whole"),
    [(f"{SAMPLE}/image\\.json$", False), (r"benchmarks/build_pyramid/", True)],
    ids=["store-receipt", "receipt-bookkeeping"],
)
def test_killed_around_a_receipt(
    project: Project, finished: Project, tmp_path: Path, place: str, whole: bool
) -> None:
    image = project.results / SAMPLE
    (image / "image.json").unlink()
    shutil.rmtree(image / "image.ome.zarr")
    watch = Watch(tmp_path / "watch", place)
    run = project.start("images", watch=watch)
    watch.wait(run)
    kill(run)
    assert (image / "image.ome.zarr").is_dir()
    assert (image / "image.json").exists() == whole

    project.unlock()
    again = Watch(tmp_path / "again")
    assert jobs(project.run("images", watch=again))["build_pyramid"] == 1
    assert again.taken(REGION) == []
    assert main(["clean", "--results", str(project.results)]) == 0
    assert project.digests() == finished.digests()


@pytest.mark.workflow
def test_workers_that_outlive_a_killed_main_process(
    project: Project, finished: Project, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    blocks = forget_fine(project)
    watch = Watch(tmp_path / "watch", BLOCK, after=1)
    run = project.start(FINE, watch=watch)
    watch.wait(run)
    kill(run, group=False)
    assert main(["clean", "--results", str(project.results)]) == 2
    assert "a job is at work" in capsys.readouterr().err

    project.unlock()
    again = Watch(tmp_path / "again")
    rerun = project.start(FINE, watch=again)
    stage = project.folder / Path(FINE).parent
    deadline = time.monotonic() + 60
    while len(list((stage / "batches").glob("*.json"))) < 1 and time.monotonic() < deadline:
        time.sleep(0.1)  # the batch that is not held comes to its end, and the rerun is waiting for the other
    time.sleep(1)
    assert rerun.poll() is None
    watch.release()
    said = rerun.communicate()[0]
    assert rerun.returncode == 0, said
    made = [Path(name).stem for name in watch.taken(BLOCK) + again.taken(BLOCK)]
    assert sorted(made) == blocks  # each of them once
    assert main(["clean", "--results", str(project.results)]) == 0
    assert project.digests() == finished.digests()


# ---------------------------------------------------------------------------------- damage on disk
@pytest.mark.workflow
def test_deleted_stores_and_corrupt_chunks_are_mended(
    project: Project, finished: Project, tmp_path: Path
) -> None:
    raw = project.raw()
    pair = project.folder / PAIR
    flip(first_shard(project.results / SAMPLE / "fused.zarr" / "0"))
    shutil.rmtree(pair / "warped" / "moving.ome.zarr")
    flip(first_shard(pair / "inverse.ome.zarr" / "0"))
    flip(first_shard(pair / "warped" / "inverse" / "regions.ome.zarr" / "1"))
    block = min((project.results / ".weft" / "blocks").glob("*/*.npy"))
    flip(block)

    code, said = project.weft("verify")
    assert code == 1
    damaged = {line.split(":")[0] for line in said.splitlines() if line.startswith("results/")}
    names = {
        f"results/{SAMPLE}/fused.zarr",
        f"results/{SAMPLE}/image.ome.zarr",  # its level 0 is the same file
        f"{PAIR}/warped/moving.ome.zarr",
        f"{PAIR}/inverse.ome.zarr",
        f"{PAIR}/warped/inverse/regions.ome.zarr",
        str(block.relative_to(project.folder).with_suffix(".json")),
    }
    assert names <= damaged
    others = {name for name in damaged - names if "/rois/" not in name}  # shares files with the warped labels
    assert others == set()
    assert "snakemake " in said

    watch = Watch(tmp_path / "watch")
    project.run("registrations", watch=watch)
    assert len(watch.taken(BLOCK)) == 1
    assert len(watch.taken(r"fused\.zarr/" + REGION)) == 1
    assert len(watch.taken(r"inverse/regions\.ome\.zarr/" + REGION)) == 1
    kinds = ("images/fixed", "images/moving", "images/regions", "warped/inverse/fixed", "links")
    assert [
        name for kind in kinds for name in watch.taken(kind + r".*\.json$") if re.search(REGION, name)
    ] == []
    assert project.digests() == finished.digests()
    assert project.weft("verify")[0] == 0
    assert project.raw() == raw


@pytest.mark.workflow
def test_verify_finds_every_kind_of_damage(project: Project) -> None:
    results = project.results
    checked, damaged = verify_results(results)
    assert checked > 20
    assert damaged == []
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}

    flip(first_shard(results / "images" / "sample" / "illumination.zarr" / "gain"))
    first_shard(results / "images" / "fixed" / "image.ome.zarr" / "1").unlink()
    (results / "images" / "moving" / "image.ome.zarr" / "zarr.json").write_text("{")
    shutil.rmtree(results / "images" / "regions" / "image.ome.zarr" / ".weft")
    pair = project.folder / PAIR
    flip(first_shard(pair / "stages" / "coarse" / "transform.ome.zarr" / "0"))
    flip(first_shard(pair / "rois" / "regions.ome.zarr" / "labels" / "annotation" / "0"))
    next((pair / "warped" / "moving.ome.zarr" / ".weft").glob("*/0-*.json")).unlink()
    (pair / "warped" / "inverse" / "fixed.json").write_text('{"store": ')

    expected = {
        "images/sample/illumination.zarr",
        "images/fixed/image.ome.zarr",
        "images/moving/image.ome.zarr",
        "images/regions/image.ome.zarr",
        "registrations/pair/stages/coarse/transform.ome.zarr",
        "registrations/pair/rois/regions.ome.zarr",
        "registrations/pair/warped/inverse/regions.ome.zarr",  # linked into the store of the regions
        "registrations/pair/warped/moving.ome.zarr",
        "registrations/pair/warped/inverse/fixed.json",
    }
    paths = [path for path in before if path.exists()]
    _, planned = verify_results(results, dry_run=True)
    assert {str(damage.path.relative_to(results)) for damage in planned} == expected
    assert [path for path in paths if not path.exists()] == []

    _, damaged = verify_results(results)
    assert [d.removed for d in damaged] == [d.removed for d in planned]
    for damage in damaged:
        assert not any(path.exists() for path in damage.removed)
    for name in ("fixed", "moving", "regions"):
        assert not (results / "images" / name / "image.json").exists()
    assert (results / "images" / "sample" / "image.json").exists()
    assert verify_results(results)[1] == []


# ---------------------------------------------------------------------------------- verify and clean by themselves
def make_store(folder: Path, key: str = "a" * 64) -> receipts.KeyedStore:
    """A small finished store with its receipt."""
    store = receipts.KeyedStore(folder / "image.ome.zarr", key)
    values = np.arange(24, dtype=np.uint16).reshape(1, 2, 3, 4)
    zarr.save_array(str(store.path / "0"), values, zarr_format=3)
    store.finish("0-0.0.0.0", {"0/0.0.0.0": receipts.array_digest(values[0])})
    records = store.records(["0-0.0.0.0"])
    store.publish()
    facts = {"store": "image.ome.zarr", "data": store.data_digest(records)}
    receipts.write(folder / "image.json", facts)
    return store


def test_verify_never_follows_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    store = make_store(outside / "images" / "a")
    results = tmp_path / "results"
    (results / "images" / "b").mkdir(parents=True)
    (results / "images" / "a").symlink_to(outside / "images" / "a")
    (results / "images" / "b" / "image.ome.zarr").symlink_to(store.public)
    facts = {"store": "image.ome.zarr", "data": "0" * 64, "referenced": True}
    receipts.write(results / "images" / "b" / "image.json", facts)
    receipts.write(results / "images" / "c" / "image.json", {"store": "../../../outside/x", "data": ""})
    flip(store.public / "0" / "c" / "0" / "0" / "0" / "0")
    before = sorted(outside.rglob("*"))

    _, damaged = verify_results(results)
    assert {damage.path.name: damage.mends for damage in damaged} == {"image.ome.zarr": False, "x": True}
    assert sorted(outside.rglob("*")) == before
    assert (results / "images" / "b" / "image.json").exists()

    link = tmp_path / "link"
    link.symlink_to(results)
    for command in (verify_results, clean_results):
        with pytest.raises(ValueError, match="is a link"):
            command(link)
        with pytest.raises(ValueError, match="holds no results"):
            command(tmp_path / "nowhere")


def test_clean_removes_only_what_nobody_refers_to(tmp_path: Path) -> None:
    results = tmp_path / "results"
    image = results / "images" / "a"
    store = make_store(image)
    for key in ("b" * 16, "c" * 16):
        place = image / f"fused.zarr.partial-{key}" / "c" / "0"
        place.parent.mkdir(parents=True)
        place.write_bytes(b"12345678")
    receipts.write(image / "batches" / "fuse_tiles" / "0.json", {"key": "b" * 16, "regions": ["0.0.0.0"]})
    old = image / "image.ome.zarr.old-123" / ".weft"
    old.mkdir(parents=True)
    (image / "mine.old-123").mkdir()
    (image / ".image.json.4711").write_text("{")
    half = image / "image.ome.zarr" / "0" / "c" / f"0.{'d' * 32}.partial"
    half.write_text("x")
    stage = results / "registrations" / "p" / "stages" / "s"
    receipts.write(stage / "batches" / "0.json", {"blocks": {"0.0.0": "1" * 64}})
    receipts.write(image / "batches" / "measure_links" / "0.json.provenance.json", {"keys": ["2" * 64]})
    kept, gone = [], []
    for kind, key in (("blocks", "1" * 64), ("links", "2" * 64), ("blocks", "3" * 64), ("affine", "4" * 64)):
        path = receipts.record_path(results / ".weft" / kind, key)
        receipts.write(path, {})
        (kept if key[0] in "12" else gone).append(path)
    with receipts.job_lock(image / "image.json"):
        before = sorted(results.rglob("*"))
        with pytest.raises(ValueError, match="a job is at work"):
            clean_results(results)
        assert sorted(results.rglob("*")) == before
    outside = tmp_path / f"outside.partial-{'e' * 16}"
    outside.mkdir()
    (image / outside.name).symlink_to(outside)

    planned = clean_results(results, dry_run=True)
    removed = clean_results(results)
    assert planned == removed
    gone += [
        image / f"fused.zarr.partial-{'c' * 16}",
        old.parent,
        image / ".image.json.4711",
        half,
        image / ".locks",
    ]
    assert {path for path, _ in removed} == set(gone)
    assert dict(removed)[image / f"fused.zarr.partial-{'c' * 16}"] == 8
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)
    assert (image / f"fused.zarr.partial-{'b' * 16}").exists()
    assert (image / "mine.old-123").exists()
    assert outside.exists()
    assert store.done("0-0.0.0.0")
    assert clean_results(results) == []


def test_publishing_removes_the_receipts_of_the_store_before(tmp_path: Path) -> None:
    first = make_store(tmp_path, "a" * 64)
    second = receipts.KeyedStore(first.public, "b" * 64)
    assert second.path != second.public
    second.finish("all", {})
    (second.path / f"0.{'d' * 32}.partial").write_text("left by a killed writer")
    second.publish(tmp_path / "image.json")
    assert not (tmp_path / "image.json").exists()
    assert second.path == second.public
    assert [path.name for path in second.public.iterdir()] == [".weft"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.ome.zarr"]


def test_a_store_without_records_is_still_known_by_its_key(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.record("0-0.0.0.0").unlink()
    assert store.path == store.public
    assert not store.done("0-0.0.0.0")
    assert receipts.KeyedStore.published(store.public).key == store.key


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    results = tmp_path / "results"
    make_store(results / "images" / "a")
    assert main(["verify", "--results", str(results)]) == 0
    assert "all 1 stores and kept results" in capsys.readouterr().out
    flip(results / "images" / "a" / "image.ome.zarr" / "0" / "c" / "0" / "0" / "0" / "0")
    assert main(["verify", "--results", str(results), "--dry-run"]) == 1
    assert "would remove" in capsys.readouterr().out
    assert main(["verify", "--results", str(results)]) == 1
    assert "snakemake " in capsys.readouterr().out
    assert main(["verify", "--results", str(tmp_path)]) == 2
    accuracy = tmp_path / "accuracy.json"
    accuracy.write_text(json.dumps({"gain_rmse": 0.01, "label_dice_mean": 0.95}))
    assert main(["accuracy", str(accuracy)]) == 0
    accuracy.write_text(json.dumps({"gain_rmse": 0.05}))
    assert main(["accuracy", str(accuracy)]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_lock_is_held_and_let_go(tmp_path: Path) -> None:
    lock = tmp_path / ".locks" / "a.json.lock"
    with receipts.job_lock(tmp_path / "a.json"), lock.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
