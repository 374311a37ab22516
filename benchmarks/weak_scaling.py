"""Weak scaling: stages of 8, 64 and 512 blocks of one size, each in a process of its own, for `registration.py`.

``python weak_scaling.py FOLDER`` registers the stage that `prepare` laid down there with the workflow's own steps and
prints, as JSON, what the blocks cost. Every block has its whole halo (the volume is two blocks longer than what is
registered), sees the same texture and starts from a displacement field that lies on disk: so each has the same work.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np
from scipy import ndimage

from weft import receipts
from weft.grid import Grid
from weft.steps.plan_blocks import plan_blocks
from weft.steps.register_blocks import register_blocks
from weft.stores.ome_zarr import create_image, open_level, write_region
from weft.transforms.formats.ngff import save_field

SPACING = 10.0  # um
FIELD_STEP = 8  # voxels between samples of the stage before
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


def measure(folder: Path, per_axis: int, *, block: int = 64, overlap: int = 16) -> dict[str, float]:
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
    ``blocks``, ``cpu_seconds`` and ``bytes_read`` (both per block, after a warm-up on one block), ``peak_memory``
    (bytes, of the process) and ``bytes_of_plan``.
    """
    prepare(folder, per_axis, block, overlap)
    command = [sys.executable, __file__, str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # the weft that is imported here
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def prepare(folder: Path, per_axis: int, block: int, overlap: int) -> None:
    """Write images, the transform so far and the stage's settings."""
    grid = Grid(((per_axis + 2) * block,) * 3, (SPACING,) * 3)
    fixed = _texture(block)
    # The same texture everywhere, so that chunks are of one size on disk too; moved by less than a voxel.
    moving = ndimage.shift(fixed.astype(float), (0.4, -0.3, 0.5), order=3, mode="grid-wrap").astype("u2")
    for name, tile in (("fixed", fixed), ("moving", moving)):
        store = folder / f"{name}.ome.zarr"
        create_image(store, [grid], "u2", chunk=(block // 2,) * 3, shard=(block,) * 3)
        array = open_level(store / "0")
        for corner in np.ndindex((per_axis + 2,) * 3):
            z, y, x = (slice(c * block, (c + 1) * block) for c in corner)
            write_region(array, 0, (z, y, x), tile, "0")
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
    inner = [".".join(str(i + 1) for i in index) for index in np.ndindex((per_axis,) * 3)]
    settings = {**SETTINGS, "block": block, "overlap": overlap, "only": inner}
    receipts.write(folder / "settings.json", settings)


def main(folder: Path) -> None:
    """Register the stage of a folder."""
    settings = receipts.read(folder / "settings.json")
    inner = settings["only"]
    first = {**settings, "only": inner[:1]}
    _register(folder, first, _plan(folder, first, "warm"))
    plan = _plan(folder, settings, "all")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of compiling
    cpu, read = time.process_time(), _bytes_read()
    _register(folder, settings, plan)
    found = {
        "blocks": len(inner),
        "cpu_seconds": (time.process_time() - cpu) / len(inner),
        "bytes_read": (_bytes_read() - read) / len(inner),
        "peak_memory": _peak(),
        "bytes_of_plan": plan.stat().st_size,
    }
    statuses = _statuses(plan.parent, inner)
    if statuses != {"ok"}:
        raise SystemExit(f"{folder}: blocks came out as {sorted(statuses)}; wanted ok")
    print(json.dumps(found))


def _plan(folder: Path, settings: dict[str, Any], name: str) -> Path:
    """The workflow's own plan of the stage, in a folder of its own."""
    plan = folder / name / "plan.json"
    plan_blocks(
        fixed=str(folder / "fixed.json"),
        moving=str(folder / "moving.json"),
        start=str(folder / "start.json"),
        settings=settings,
        channels={"fixed": None, "moving": None},
        code="",
        plan=str(plan),
    )
    return plan


def _register(folder: Path, settings: dict[str, Any], plan: Path) -> None:
    """The workflow's own registration of the blocks, on one thread and in one batch."""
    register_blocks(
        plan=str(plan),
        fixed=str(folder / "fixed.json"),
        moving=str(folder / "moving.json"),
        start=str(folder / "start.json"),
        fixed_mask=[],
        moving_mask=[],
        settings=settings,
        channels={"fixed": None, "moving": None},
        batches=1,
        batch=0,
        rerun_status=[],
        cache=str(plan.parent),
        code="",
        receipt=str(plan.with_name("0.json")),
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


def _bytes_read() -> int:
    """Bytes that this process has read from files, cached or not."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])  # type: ignore[index]


def _peak() -> int:
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
