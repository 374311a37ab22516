"""Backends in processes of their own: an engine that dies costs its block, and nothing else."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from workflow_jobs import plan_jobs, run_script
from workflow_project import make_project

from weft import receipts
from weft.grid import Grid
from weft.registration import own_process, register
from weft.registration.contract import OWN_PROCESS_MB, Initial, load_backend
from weft.registration.ledger import read_ledger
from weft.registration.own_process import backend_at_work
from weft.registration.plan import plan_stage

# Moves nothing and tells its process (as iterations); dies or raises where it sees the image's first voxel.
PLUGIN = """
import os
import numpy as np
from weft.registration.contract import Result, register_backend
from weft.registration.debug import folder_of_block
from weft.registration.threads import threads_of_block

own_process = True

class Own(Exception):
    pass

ERRORS = {"value": ValueError, "disk": OSError, "runtime": RuntimeError, "key": KeyError, "own": Own, "singular": np.linalg.LinAlgError}

def register(fixed, fixed_grid, moving, moving_grid, initial, masks, settings, seed):
    what = settings.get("first") if max(fixed_grid.origin) < fixed_grid.spacing[0] else None
    if what == "abort":
        os.abort()
    if what == "exit":
        os._exit(3)
    if what:
        raise ERRORS[what]("two words")
    grid = fixed_grid.coarsen((2, 2, 2))
    u = np.zeros((3, *grid.shape), np.float32)
    if folder_of_block() is not None:
        (folder_of_block() / "log.txt").write_text(str(threads_of_block()))
    return Result(u, grid, [], os.getpid(), 0.1, 0.2)

register_backend("fragile", register)
"""
GRID = Grid((32, 32, 32), (10.0, 10.0, 10.0))
STAGE = {"name": "one", "level": 10, "block": 16, "overlap": 4, "backend": "fragile:register"}


@pytest.fixture(autouse=True)
def fragile(tmp_path, monkeypatch) -> Path:
    """The plug-in, where Python looks; workers that have read another one are ended."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "fragile.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("fragile", None)
    own_process._idle.clear()
    while own_process._servers:
        own_process._servers.popitem()[1].close()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).random(GRID.shape).astype(np.float32)


def blocks(image: np.ndarray, workers: int = 2, **more) -> list[dict]:
    options = {"fixed_grid": GRID, "moving_grid": GRID, "affine": np.eye(4), "inverse": False}
    stage = {**STAGE, "settings": more.pop("settings", {})}
    return register(image, image, stages=[{**stage, **more}], workers=workers, **options).blocks["one"]


# ---------------------------------------------------------------------------------- what dies
@pytest.mark.parametrize(
    ("what", "words"), [("abort", "was ended by signal SIGABRT"), ("exit", "ended with status 3")]
)
def test_an_engine_that_dies_costs_its_block_alone(image, what, words):
    first, *others = blocks(image, settings={"first": what})
    assert (first["block"], first["status"]) == ("0.0.0", "error")
    assert first["used"] in ("deformable", "neighbours", "affine", "parent")  # cuts beside its voxels may do
    assert first["message"] == f"backend 'fragile:register' {words} on this block"
    assert [row["status"] for row in others] == ["ok"] * 7
    assert os.getpid() not in {row["iterations"] for row in others}


def test_workers_are_few_and_end_with_their_pipe(image):
    rows = blocks(image, workers=2)
    used = {row["iterations"] for row in rows}
    assert 1 <= len(used) <= 2
    assert {row["iterations"] for row in blocks(image, workers=1)} <= used  # they waited for more
    processes = [psutil.Process(pid) for pid in used]
    own_process._servers[""].pipe.close()
    gone, alive = psutil.wait_procs(processes, timeout=20)
    assert len(gone) == len(used)
    assert not alive


def test_an_engine_that_takes_long_to_load_is_loaded_once(image, fragile):
    loads = fragile / "loads.txt"
    (fragile / "heavy.py").write_text(
        PLUGIN.replace('"fragile"', '"heavy"').replace("os.getpid(), 0.1", "_engine, 0.1")
        + f"""
_engine = 0

def load_engine():
    global _engine
    _engine = os.getpid()
    with open({str(loads)!r}, "a") as file:
        file.write(f"{{_engine}}\\n")
"""
    )
    first, *others = blocks(image, settings={"first": "abort"}, backend="heavy:register")
    rows = blocks(image, backend="heavy:register")
    (engine,) = loads.read_text().split()  # for two threads, and for the worker after the one that died
    assert first["status"] == "error"
    assert {row["status"] for row in [*others, *rows]} == {"ok"}
    assert {row["iterations"] for row in [*others, *rows]} == {int(engine)}
    assert own_process._servers["heavy"].process.pid == int(engine)


def test_a_call_that_takes_too_long_is_ended():
    with pytest.raises(TimeoutError, match="the nap did not finish within"):
        own_process.call_elsewhere("time:sleep", 600, caller="the nap", timeout=0.5)
    assert not own_process._idle[""]
    assert psutil.Process(own_process._servers[""].process.pid).children() == []


def test_a_worker_that_died_while_it_waited_is_replaced(image):
    blocks(image, workers=1)
    (worker,) = own_process._idle[""]
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.pipe.poll(20)  # it has ended
    assert {row["status"] for row in blocks(image, workers=1)} == {"ok"}


# ---------------------------------------------------------------------------------- what is raised
@pytest.mark.parametrize(("what", "kind"), [("value", ValueError), ("disk", OSError)])
def test_what_stops_a_run_stops_it_from_there_too(image, what, kind):
    with pytest.raises(kind) as caught:
        blocks(image, settings={"first": what})
    assert str(caught.value) == "two words"
    assert "fragile.py" in caught.value.__notes__[0]  # where it was raised, for the log


@pytest.mark.parametrize(
    ("what", "message"),
    [("runtime", "two words"), ("key", "KeyError: 'two words'"), ("own", "Own: two words"), ("singular", "two words")],
)  # fmt: skip
def test_what_marks_a_block_marks_it_from_there_too(image, what, message):
    first, *others = blocks(image, settings={"first": what})
    assert (first["status"], first["message"]) == ("error", message)
    assert {row["status"] for row in others} == {"ok"}


# ---------------------------------------------------------------------------------- what it is told and gives
def test_the_same_bytes_as_in_this_process():
    random = np.random.default_rng(3)
    coarse = random.random((8, 8, 8))
    fixed = np.kron(coarse, np.ones((4, 4, 4))).astype(np.float32)
    start = Initial(np.eye(4), np.full((3, 16, 16, 16), 2.0, np.float32), GRID.coarsen((2, 2, 2)))
    weights = np.ones(GRID.shape, np.float32)
    given = (fixed, GRID, np.roll(fixed, 1, axis=2), GRID, start, (weights, None))
    here = load_backend("demons")(*given, {}, 0)
    before = own_process.costs.cpu_seconds
    there = backend_at_work("demons")(*given, {}, 0)
    np.testing.assert_array_equal(there.displacement, here.displacement)
    assert (there.grid, there.metrics, there.iterations) == (here.grid, here.metrics, here.iterations)
    assert own_process.costs.cpu_seconds > before
    assert own_process.costs.memory > 50e6
    assert len(own_process._idle[""]) == 1


def test_processes_made_for_blocks_start_no_others(image):
    options = {"fixed_grid": GRID, "moving_grid": GRID, "affine": np.eye(4), "inverse": False}
    rows = register(image, image, stages=[STAGE], workers=2, processes=True, **options).blocks["one"]
    assert {row["status"] for row in rows} == {"ok"}
    assert not own_process._servers  # a process made for blocks runs all of them itself


def test_the_worker_knows_the_folder_and_the_threads_of_its_block(image, tmp_path):
    options = {"fixed_grid": GRID, "moving_grid": GRID, "affine": np.eye(4), "inverse": False}
    stage = {**STAGE, "block": "whole", "debug": "log"}
    register(image, image, stages=[stage], workers=3, logs=tmp_path / "logs", **options)
    assert (tmp_path / "logs/one/0.0.0/log.txt").read_text() == "3"


def test_a_block_counts_the_memory_of_its_process(monkeypatch):
    with_it = plan_stage(GRID, STAGE)["memory_mb"]
    monkeypatch.setattr(sys.modules["fragile"], "own_process", False)
    assert with_it - plan_stage(GRID, STAGE)["memory_mb"] == OWN_PROCESS_MB


@pytest.mark.parametrize(
    ("name", "own"),
    [("native", None), ("elastix", None), ("greedy", True), ("demons", True), ("ants", True)],
)
def test_which_of_wefts_own_backends_have_one(name, own):
    if name == "ants":
        pytest.importorskip("ants")
    assert own_process.of_backend(name, "own_process") is own


# ---------------------------------------------------------------------------------- in the workflow
def test_a_job_of_the_workflow_survives_its_engine(tmp_path):
    project = make_project(tmp_path / "project", plugins=["fragile"])
    stage = {"name": "own", "level": 20, "block": 12, "overlap": 4, "backend": "fragile"}
    project.set(stages=[{**stage, "settings": {"first": "abort"}}])
    wanted = ("import_image", "register_affine", "plan_blocks", "register_blocks", "reduce_transform")
    for job in plan_jobs(project.folder):
        if job.rule.name in wanted and job.wildcards.get("image") != "regions":
            run_script(project.folder, job)
    folder = project.results / "registrations/pair/stages/own"
    rows = {row["block"]: row for row in read_ledger(folder / "ledger.tsv")}
    assert rows["0.0.0"]["status"] == "error"
    assert len(rows) == 8
    assert {row["status"] for name, row in rows.items() if name != "0.0.0"} <= {"ok", "disagrees"}
    assert receipts.read(folder / "transform.json")["reproducible"] is False
