"""Weak scaling, a case of `registration.py`: stages of 8, 64 and 512 blocks of one size, each in a process of its own.

``python weak_scaling.py FOLDER`` registers the stage that `prepare` laid down there with the workflow's own step and
prints, as JSON, what the blocks cost. Every block has its whole halo (`MARGIN` blocks around what is registered are not), sees the same texture and starts
from a displacement field that lies on disk: so each has the same work.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np
from scipy import ndimage

from report import Row, row
from trials import Trials
from weft import receipts
from weft.blocks import cut, region
from weft.grid import Grid
from weft.logs import peak_memory
from weft.pyramid import downsample
from weft.steps.plan_blocks import plan_blocks
from weft.steps.register_blocks import register_blocks
from weft.stores.ome_zarr import create_image, open_level, write_region
from weft.transforms.formats.ngff import save_field

PER_AXIS = (2, 4, 8)
BLOCK, OVERLAP = 32, 8  # voxels
# Of blocks. With fewer the field of the smallest volume fills no shard, and less than a shard is read.
MARGIN = 3
REPEATS = 3
LOOKED_AT = 2_000_000  # voxels of the coarsest level, at most, as of a pyramid
FLAT_CPU = 1.1  # the bar: CPU per block beside that of 8 blocks
FLAT = 1.01  # bytes read and memory
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
            ("bytes_read", "B", FLAT),
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
    ``blocks``, ``cpu_seconds`` (per block, after a warm-up on one), ``bytes_read`` (by each block more than one, so that
    what opening the images takes does not count), ``peak_memory`` (bytes, of the process) and ``bytes_of_plan``.
    """
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
    grid = Grid(((per_axis + 2 * MARGIN) * block,) * 3, (SPACING,) * 3)
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
            array, whole = open_level(store / str(number)), np.tile(tile, (per_axis + 2 * MARGIN,) * 3)
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
    u[0] = np.sin(np.arange(before.shape[2]) * 2 * np.pi * FIELD_STEP / block)
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
    inner = [".".join(str(i + MARGIN) for i in index) for index in np.ndindex((per_axis,) * 3)]
    settings = {**SETTINGS, "block": block, "overlap": overlap, "only": inner}
    receipts.write(folder / "settings.json", settings)


def main(folder: Path) -> None:
    """Register the stage of a folder."""
    settings = receipts.read(folder / "settings.json")
    inner = settings["only"]
    _register(folder, settings, "warm")
    read = _bytes_read()
    _register(folder, settings, "one")
    one = _bytes_read() - read
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of compiling
    cpu, read = time.process_time(), _bytes_read()
    plan = _register(folder, settings, "all")
    found = {
        "blocks": len(inner),
        "cpu_seconds": (time.process_time() - cpu) / len(inner),
        "bytes_read": (_bytes_read() - read - one) / max(len(inner) - 1, 1),
        "peak_memory": peak_memory(),
        "bytes_of_plan": plan.stat().st_size,
    }
    statuses = _statuses(plan.parent, inner)
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


def _register(folder: Path, settings: dict[str, Any], name: str) -> Path:
    """The workflow's own registration of the blocks of a plan, on one thread and in one batch: its plan."""
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
    return plan


def _statuses(folder: Path, blocks: list[str]) -> set[str]:
    keys = receipts.read(folder / "0.json")["blocks"]
    records = (receipts.record_path(folder / "blocks", keys[block]) for block in blocks)
    return {receipts.read(path)["status"] for path in records}


def _texture(edge: int) -> np.ndarray:
    """A periodic texture, (z, y, x) uint16."""
    noise = np.random.default_rng(0).normal(size=(edge,) * 3)
    smooth = ndimage.gaussian_filter(noise, 1.5, mode="wrap")
    return (2000 + 500 * smooth / smooth.std()).clip(100, 60000).astype("u2")


def _bytes_read() -> int:
    """Bytes that this process has read from files, cached or not."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])  # type: ignore[index]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
