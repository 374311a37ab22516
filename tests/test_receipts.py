"""Receipts, digests, results by name, locks and keyed stores: what must hold whatever is killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from weft import receipts
from weft.receipts import KeyedStore

ROOT = Path(__file__).resolve().parents[1]


# ---------------------------------------------------------------------------------- digests
def test_digest_does_not_see_the_order_of_keys():
    assert receipts.digest({"a": 1, "b": [1, {"x": 0, "y": 1}]}) == receipts.digest(
        {"b": [1, {"y": 1, "x": 0}], "a": 1}
    )
    different = [{"a": 1}, {"a": 2}, {"a": 1.5}, {"a": "1"}, {"a": [1]}, {"a": None}, {"b": 1}, [["a", 1]]]
    assert len({receipts.digest(value) for value in different}) == len(different)
    with pytest.raises(ValueError):
        receipts.digest({"a": float("nan")})  # no JSON


def test_array_digest_sees_type_shape_and_values_but_not_layout():
    array = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    same = [array.copy(), np.asfortranarray(array), np.repeat(array, 2, axis=0)[::2]]
    assert {receipts.array_digest(other) for other in same} == {receipts.array_digest(array)}
    changed = array.copy()
    changed[1, 2, 3] += 1
    others = [array.astype(np.int16), array.reshape(3, 2, 4), changed, array[:0]]
    digests = {receipts.array_digest(other) for other in [array, *others]}
    assert len(digests) == 1 + len(others)


def test_environment_names_versions():
    versions = receipts.environment("zarr")
    assert versions["numpy"] == np.__version__
    assert versions["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert set(versions) == {"python", "numpy", "zarr"}


# ---------------------------------------------------------------------------------- receipts
def test_a_receipt_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "receipt.json"
    receipts.write(path, {"b": 1, "a": [1, 2]})
    before = path.read_bytes()
    assert receipts.read(path) == {"a": [1, 2], "b": 1}
    receipts.write(path, {"a": [1, 2], "b": 1})
    assert path.read_bytes() == before  # deterministic, whatever the order of keys

    left = []

    def killed(*_):
        left.extend(p.name for p in path.parent.iterdir() if p != path)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        receipts.write(path, {"a": "another"})
    assert path.read_bytes() == before
    assert left  # what a process that ends here and now leaves
    assert [*path.parent.iterdir()] == [path]
    assert all(receipts.is_unfinished(name) for name in left)


def test_a_receipt_holds_no_number_that_json_lacks(tmp_path):
    with pytest.raises(ValueError):
        receipts.write(tmp_path / "r.json", {"a": float("inf")})
    assert not (tmp_path / "r.json").exists()


def test_a_broken_receipt_is_named(tmp_path):
    (tmp_path / "r.json").write_text('{"a": 1,')
    with pytest.raises(ValueError, match=r"r\.json: is not a receipt \(JSON\).*line 1; remove it") as caught:
        receipts.read(tmp_path / "r.json")
    assert "\n" not in str(caught.value)


def test_provenance_lies_beside_the_receipt(tmp_path):
    receipts.write_provenance(tmp_path / "r.json", key="k", settings={"a": 1})
    facts = receipts.read(tmp_path / "r.json.provenance.json")
    assert facts["key"] == "k"
    assert {"python", "numpy", "numba", "zarr", "scipy"} == set(facts["versions"])


# ---------------------------------------------------------------------------------- results by name
def test_a_result_is_made_once_per_key(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"n": len(calls)}

    assert receipts.cached(tmp_path, "ab12", make) == ({"n": 1}, True)
    assert receipts.cached(tmp_path, "ab12", make) == ({"n": 1}, False)
    assert receipts.cached(tmp_path, "cd34", make) == ({"n": 2}, True)
    assert receipts.record_path(tmp_path, "ab12") == tmp_path / "ab" / "ab12.json"


# ---------------------------------------------------------------------------------- locks
HOLD = """
import sys, time
from pathlib import Path
from weft.receipts import job_lock
with job_lock(sys.argv[1]):
    Path(sys.argv[2]).touch()
    while not Path(sys.argv[3]).exists():
        time.sleep(0.01)
    Path(sys.argv[4]).write_text("done")
"""


def test_a_job_waits_for_one_that_outlived_a_killed_run(tmp_path):
    receipt, held, go, done = (tmp_path / name for name in ("r.json", "held", "go", "done"))
    first = subprocess.Popen([sys.executable, "-c", HOLD, receipt, held, go, done], cwd=ROOT)
    waiting = "import sys; from weft.receipts import job_lock\nwith job_lock(sys.argv[1]): print(open(sys.argv[2]).read())"
    try:
        while not held.exists():
            assert first.poll() is None
            time.sleep(0.01)
        second = subprocess.Popen(
            [sys.executable, "-c", waiting, receipt, done], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(timeout=1.0)
        with receipts.job_lock(tmp_path / "other.json"):  # another job's lock is free
            go.touch()
        assert second.communicate(timeout=30)[0].strip() == "done"
    finally:
        first.kill()
        first.wait()


# ---------------------------------------------------------------------------------- keyed stores
def fill(store: KeyedStore, value: str, regions=("a", "b")) -> None:
    """Regions of one file each; those that are there are left alone."""
    store.start()
    for region in regions:
        if not store.done(region):
            (store.path / f"{region}.bin").write_text(value)
            store.finish(region, {f"0/{region}": receipts.digest(value)}, made_by=value)


def test_a_store_takes_its_public_name_when_it_is_complete(tmp_path):
    store = KeyedStore(tmp_path / "s.zarr", "1" * 64)
    fill(store, "one", ("a",))
    assert not store.public.exists()
    assert store.path == tmp_path / f"s.zarr.partial-{'1' * 16}"
    with pytest.raises(ValueError, match=r"s\.zarr: region b was not made under key 1{16}; rerun"):
        store.records(["a", "b"])

    again = KeyedStore(tmp_path / "s.zarr", "1" * 64)  # the job that resumes
    assert again.done("a")
    assert not again.done("b")
    fill(again, "two")
    records = again.records(["a", "b"])
    assert [records[region]["made_by"] for region in "ab"] == ["one", "two"]
    again.publish()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.zarr"]
    assert again.path == again.public
    assert again.done("b")
    assert KeyedStore.published(again.public).key == again.key
    again.publish()  # and once more, as a rerun does
    assert (again.public / "a.bin").read_text() == "one"


def test_the_data_digest_is_that_of_the_shards_alone(tmp_path):
    digests = []
    for n, order in enumerate((("a", "b"), ("b", "a"))):
        store = KeyedStore(tmp_path / f"{n}.zarr", str(n) * 64)
        fill(store, "same", order)
        digests.append(store.data_digest(store.records(order)))
    assert digests[0] == digests[1]
    other = KeyedStore(tmp_path / "2.zarr", "2" * 64)
    fill(other, "other")
    assert other.data_digest(other.records("ab")) != digests[0]
    other.finish("c", {}, files={"x": "1"})
    assert other.data_digest(other.records("c")) != other.data_digest({})


def test_an_older_receipt_never_vouches_for_a_newer_store(tmp_path):
    """Settings changed, the run killed, the settings restored."""
    receipt = tmp_path / "s.json"
    old, new = (KeyedStore(tmp_path / "s.zarr", key * 64) for key in "12")
    fill(old, "old")
    old.publish(receipt)
    receipts.write(receipt, {"data": "old"})

    fill(new, "new", ("a",))  # killed here
    assert not new.done("b")
    assert old.done("a")
    assert old.done("b")
    assert old.path == old.public
    assert (old.public / "a.bin").read_text() == "old"
    assert receipt.exists()

    fill(new, "new")
    new.publish(receipt)  # killed after it
    assert not receipt.exists()
    assert not old.done("a")
    assert (new.public / "a.bin").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.zarr"]


def test_what_a_killed_publish_left_is_removed_by_the_next(tmp_path):
    one, two = (KeyedStore(tmp_path / "s.zarr", key * 64) for key in "12")
    fill(one, "one")
    os.replace(one.partial, tmp_path / "s.zarr.old-999")  # killed between the two renames
    fill(two, "two")
    two.publish()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.zarr"]


def test_publish_sweeps_half_written_files_and_locks(tmp_path):
    store = KeyedStore(tmp_path / "s.zarr", "1" * 64)
    fill(store, "one")
    deep = store.path / "0" / "c"
    deep.mkdir(parents=True)
    leave = [".zarr.json.1234", f"0.{'0a' * 16}.partial"]
    for name in [*leave, "0", "partial", "a.partial", ".zattrs"]:
        (deep / name).touch()
    with receipts.job_lock(store.path / "0"):
        store.publish()
    assert sorted(p.name for p in (store.public / "0" / "c").iterdir()) == [
        ".zattrs",
        "0",
        "a.partial",
        "partial",
    ]
    assert not list(store.public.rglob(receipts.LOCKS))


def test_a_link_under_the_public_name_gives_way_and_its_target_stays(tmp_path):
    source = tmp_path / "raw.zarr"
    (source / receipts.RECORDS / ("1" * 16)).mkdir(parents=True)
    (source / "voxels").write_text("raw")
    public = tmp_path / "s.zarr"
    public.symlink_to(source)
    store = KeyedStore(public, "1" * 64)
    assert store.path == store.partial  # not the source, though that has records of this key
    fill(store, "mine")
    store.publish()
    assert not public.is_symlink()
    assert (public / "a.bin").read_text() == "mine"
    assert [p.name for p in source.rglob("*") if p.is_file()] == ["voxels"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_weft_did_not_make_is_never_replaced(tmp_path, kind):
    public = tmp_path / "s.zarr"
    if kind == "folder":
        public.mkdir()
        (public / "precious").write_text("mine")
    else:
        public.write_text("mine")
    store = KeyedStore(public, "1" * 64)
    sentence = r"s\.zarr: exists and was not made by weft; wanted a free name"
    with pytest.raises(ValueError, match=sentence):
        store.start()
    with pytest.raises(ValueError, match=sentence):
        store.restart()
    (store.partial / receipts.RECORDS / store.key).mkdir(parents=True)
    receipt = tmp_path / "s.json"
    receipts.write(receipt, {})
    with pytest.raises(ValueError, match=sentence), receipts.replaced(public, receipt):
        pass
    with pytest.raises(ValueError, match=sentence):
        store.publish(receipt)
    assert receipt.exists()
    assert (public / "precious" if kind == "folder" else public).read_text() == "mine"


def test_a_store_written_in_one_go_starts_over(tmp_path):
    store = KeyedStore(tmp_path / "s.zarr", "1" * 64)
    fill(store, "killed", ("half",))
    store.restart()
    assert list(store.path.rglob("*.bin")) == []
    fill(store, "whole")
    store.publish()
    store.record("a").unlink()  # as `verify` does with a region that differs
    store.restart()
    assert store.path == store.partial
    assert not store.done("b")


def test_published_needs_one_key(tmp_path):
    with pytest.raises(ValueError, match=r"s\.zarr: is not a finished store of weft \(found 0 keys\)"):
        KeyedStore.published(tmp_path / "s.zarr")


def test_file_digests_leave_out_records_and_locks(tmp_path):
    store = KeyedStore(tmp_path / "s.zarr", "1" * 64)
    fill(store, "one")
    (store.path / receipts.LOCKS).mkdir()
    (store.path / receipts.LOCKS / "x.lock").touch()
    assert receipts.file_digests(store.path) == {
        f"{name}.bin": receipts.file_digest(store.path / f"{name}.bin") for name in "ab"
    }
    assert json.loads(store.record("a").read_text())["shards"]
