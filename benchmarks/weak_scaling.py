"""Weak scaling, a case of `registration.py`: stages of 8, 64 and 512 blocks of one size, each in a process of its own.

``python weak_scaling.py FOLDER`` registers the stage that `prepare` laid down there with the workflow's own step and
prints, as JSON, what the blocks cost. Every block has its whole halo, sees the same texture and starts from a displacement
field that lies on disk, within one of its shards (blocks at the volume's faces and over those of shards are not
registered): so each has the same work.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import count, islice, product
from pathlib import Path
from typing import Any

os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np
from scipy import ndimage
from zarr.storage import LocalStore

from report import Row, row
from trials import Trials
from weft import receipts
from weft.blocks import cut, region
from weft.grid import Grid
from weft.logs import peak_memory
from weft.pyramid import downsample
from weft.registration.warm import warm
from weft.steps.plan_blocks import plan_blocks
from weft.steps.register_blocks import register_blocks
from weft.stores.ome_zarr import create_image, open_level, write_region
from weft.transforms.formats.ngff import SHARD, save_field

PER_AXIS = (2, 4, 8)
BLOCK, OVERLAP = 32, 8  # voxels
REPEATS = 3
LOOKED_AT = 2_000_000  # voxels of the coarsest level, at most, as of a pyramid
FLAT_CPU = 1.1  # the bar: CPU per block beside that of 8 blocks
FLAT = 1.01  # bytes from files, and memory
SPACING = 10.0  # um
FIELD_STEP = 2  # voxels between samples of the stage before
CHANNELS = {"fixed": None, "moving": None, "fixed_more": [], "moving_more": [], "weights": None}
SETTINGS: dict[str, Any] = {
    "name": "fine",
    "level": SPACING,
    "backend": "native",
    "settings": {
        "levels": [1, 0],
        "iterations": [4],
        "tolerance": 0.0,
    },  # of every block the same number of steps
    "min_content": 0.0,
}


def scaling_rows(given: argparse.Namespace, trials: Trials) -> list[Row]:
    """What a block costs among 8, 64 and 512, medians of three runs, and that beside 8."""
    rows: list[Row] = []
    base: dict[str, float] = {}
    for per_axis in PER_AXIS[:2] if given.quick else PER_AXIS:
        runs = []
        for number in range(1 if given.quick else REPEATS):
            folder = given.out / f"scaling-{per_axis}-{number}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                runs.append(measure(folder, per_axis, block=BLOCK, overlap=OVERLAP))
            finally:
                shutil.rmtree(folder)
        name = f"registration.scaling.{per_axis**3}_blocks"
        for what, unit, limit in (
            ("cpu_seconds", "s", FLAT_CPU),
            ("bytes_read", "B", 1.0),
            ("bytes_from_files", "B", FLAT),
            ("peak_memory", "B", FLAT),
        ):
            values = [run[what] for run in runs]
            rows.append(row(f"{name}.{what}", values, unit))
            value = statistics.median(values)
            ratio = value / base.setdefault(what, value)
            rows.append(row(f"{name}.{what}_ratio", [ratio], "", at_most=limit))
    return rows


CASES: dict[str, Callable[[argparse.Namespace, Trials], list[Row]]] = {"scaling": scaling_rows}


def measure(folder: Path, per_axis: int, *, block: int = BLOCK, overlap: int = OVERLAP) -> dict[str, float]:
    """What the blocks of a stage cost.

    Parameters
    ----------
    folder
        An empty folder; it can be removed afterwards.
    per_axis
        Blocks along each axis that are registered.
    block, overlap
        Voxels of a block's edge, and of its halo on either side.

    Returns
    -------
    By each block more than one, so that what a job takes once does not count: ``cpu_seconds`` (and ``cpu_seconds_of_one``, of a
    job of one block), ``bytes_read`` (from Zarr's stores) and ``bytes_from_files`` (all, with what Python reads ahead). Then
    ``blocks``, ``peak_memory`` (bytes, of the process) and ``bytes_of_plan``.
    """
    warm()  # here: a process that compiles keeps some of the compiler's memory
    prepare(folder, per_axis, block, overlap)
    settings = receipts.read(folder / "settings.json")
    one = {**settings, "only": settings["only"][:1]}
    for name, blocks in (("warm", one), ("one", one), ("all", settings)):
        _plan(folder, blocks, name)  # here, as it is another job of the workflow
    command = [sys.executable, __file__, str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # the weft that is imported here
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def prepare(folder: Path, per_axis: int, block: int, overlap: int) -> None:
    """Write images, the transform so far and the stage's settings."""
    indices = _like_each_other(per_axis, block, overlap)
    # At least a whole shard of the field: of a smaller one less would be read.
    edge = max(indices[-1] + 2, -(-SHARD * FIELD_STEP // block))
    grid = Grid((edge * block,) * 3, (SPACING,) * 3)
    fixed = _texture(block)
    # The same texture everywhere, so that chunks are of one size on disk too; moved by less than a voxel.
    moving = ndimage.shift(fixed.astype(float), (0.4, -0.3, 0.5), order=3, mode="grid-wrap").astype("u2")
    grids = [grid]
    while grids[-1].size > LOOKED_AT:
        grids.append(grids[-1].coarsen((2, 2, 2)))
    for name, tile in (("fixed", fixed), ("moving", moving)):
        store = folder / f"{name}.ome.zarr"
        create_image(store, grids, "u2", chunk=(block // 2,) * 3, shard=(block,) * 3)
        for number in range(len(grids)):
            array, whole = open_level(store / str(number)), np.tile(tile, (edge,) * 3)
            for place in cut(whole.shape, (block,) * 3):
                shard: Any = region(place, whole.shape, (block,) * 3)
                write_region(array, 0, shard, whole[shard], str(number))
            tile = downsample(tile, (2, 2, 2))
        receipts.write(
            folder / f"{name}.json",
            {
                "store": store.name,
                "grid": grid.to_json(),
                "channels": ["0"],
                "orientation": None,
                "labels": False,
            },
        )
    before = grid.coarsen((FIELD_STEP,) * 3)
    u = np.zeros((3, *before.shape), np.float32)
    samples = block // FIELD_STEP
    u[0] = np.tile(np.sin(np.arange(samples) * 2 * np.pi / samples), edge)
    save_field(folder / "start.ome.zarr", u, before)
    receipts.write(
        folder / "start.json",
        {
            "sequence": [
                {"type": "displacements", "store": "start.ome.zarr", "path": "0"},
                {"type": "affine", "matrix": np.eye(4).tolist()},
            ]
        },
    )
    only = [".".join(map(str, index)) for index in product(indices, repeat=3)]
    settings = {**SETTINGS, "block": block, "overlap": overlap, "only": only}
    receipts.write(folder / "settings.json", settings)


def _like_each_other(per_axis: int, block: int, overlap: int) -> list[int]:
    """Indices, along an axis, of the first blocks that have a whole halo and see one shard of the field."""
    shard, seen = SHARD * FIELD_STEP, 2 * overlap  # voxels; a block can move as far as its halo

    def alike(index: int) -> bool:
        return (index * block - seen) // shard == ((index + 1) * block + seen) // shard

    return list(islice(filter(alike, count(1)), per_axis))


def main(folder: Path) -> None:
    """Register the stage of a folder."""
    settings = receipts.read(folder / "settings.json")
    inner = settings["only"]
    read = _count_reads()
    _register(folder, settings, "warm")
    cost = []
    for name in ("one", "all"):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = np.array([time.process_time(), read["bytes"], _bytes_from_files()])
        _register(folder, settings, name)
        cost.append(np.array([time.process_time(), read["bytes"], _bytes_from_files()]) - before)
    cpu, asked, from_files = (cost[1] - cost[0]) / max(len(inner) - 1, 1)
    found = {
        "blocks": len(inner),
        "cpu_seconds": cpu,
        "cpu_seconds_of_one": cost[0][0],
        "bytes_read": asked,
        "bytes_from_files": from_files,
        "peak_memory": peak_memory(),
        "bytes_of_plan": (folder / "all" / "plan.json").stat().st_size,
    }
    statuses = _statuses(folder / "all", inner)
    if statuses != {"ok"}:
        raise SystemExit(f"{folder}: blocks came out as {sorted(statuses)}; wanted ok")
    print(json.dumps(found))


def _plan(folder: Path, settings: dict[str, Any], name: str) -> None:
    """The workflow's own plan of the stage, in a folder of its own."""
    plan_blocks(
        fixed=str(folder / "fixed.json"),
        moving=str(folder / "moving.json"),
        fixed_more=[],
        moving_more=[],
        start=str(folder / "start.json"),
        settings=settings,
        channels=CHANNELS,
        code="",
        plan=str(folder / name / "plan.json"),
    )


def _register(folder: Path, settings: dict[str, Any], name: str) -> None:
    """The workflow's own registration of the blocks of a plan, on one thread and in one batch."""
    plan = folder / name / "plan.json"
    register_blocks(
        plan=str(plan),
        fixed=str(folder / "fixed.json"),
        moving=str(folder / "moving.json"),
        fixed_more=[],
        moving_more=[],
        start=str(folder / "start.json"),
        fixed_mask=[],
        moving_mask=[],
        settings=settings,
        channels=CHANNELS,
        batches=1,
        batch=0,
        rerun_status=[],
        cache=str(plan.parent),
        code="",
        receipt=str(plan.with_name("0.json")),
        log_file=str(plan.with_name("register.log")),
        threads=1,
        memory_mb=8000,
    )


def _statuses(folder: Path, blocks: list[str]) -> set[str]:
    keys = receipts.read(folder / "0.json")["blocks"]
    records = (receipts.record_path(folder / "blocks", keys[block]) for block in blocks)
    return {receipts.read(path)["status"] for path in records}


def _texture(edge: int) -> np.ndarray:
    """A periodic texture, (z, y, x) uint16."""
    noise = np.random.default_rng(0).normal(size=(edge,) * 3)
    smooth = ndimage.gaussian_filter(noise, 1.5, mode="wrap")
    return (2000 + 500 * smooth / smooth.std()).clip(100, 60000).astype("u2")


def _bytes_from_files() -> int:
    """Bytes that this process has read from files, cached or not."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])  # type: ignore[index]


def _count_reads() -> Counter[str]:
    """Counts from now on, as its ``bytes``, what Zarr asks of files.

    From files comes more, and another number of bytes for chunks near a file's end: Python reads ahead.
    """
    read: Counter[str] = Counter()
    get = LocalStore.get

    async def counted(store: LocalStore, *args: Any, **options: Any) -> Any:
        found = await get(store, *args, **options)
        read["bytes"] += 0 if found is None else len(found)
        return found

    LocalStore.get = counted  # type: ignore[assignment, method-assign]
    return read


if __name__ == "__main__":
    main(Path(sys.argv[1]))
