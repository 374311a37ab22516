"""What is kept of a block's registration: field, cost and record, under a name made of all that makes them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.logs import log, peak_memory
from weft.registration.contract import backend_version
from weft.registration.engine import Block
from weft.registration.ledger import MACHINE_DEPENDENT
from weft.registration.own_process import costs
from weft.registration.stage import StageJob


@dataclass(frozen=True)
class KeptBlocks:
    """Registers blocks of a stage, or finds what was found of them before.

    Parameters
    ----------
    cache
        Folder of the results found by name.
    job
        The stage.
    code
        Digest of the code at work.
    rerun_status
        Results with these statuses are made anew.
    anew
        Names of blocks whose results are made anew whatever they are.
    """

    cache: str
    job: StageJob
    code: str
    rerun_status: tuple[str, ...] = ()
    anew: frozenset[str] = frozenset()
    _facts: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        settings = self.job.settings
        facts = [
            self.job.zeros,
            self.job.background,
            self.job.backend_settings,
            settings["min_content"],
            settings.get("debug"),
            settings["backend"],
            backend_version(settings["backend"]),
            self.code,
            receipts.environment("numba", "scipy"),
        ]
        object.__setattr__(self, "_facts", facts)

    def register(self, name: str, block: Block) -> tuple[str, bool]:
        """Register a block that was cut; a name like ``0.1.2/3`` is another try of block ``0.1.2``.

        Returns
        -------
        key, made
            Under what the result is kept, and whether it had to be made.
        """
        key = receipts.digest([name, _block_digests(block), self._facts])
        path = block_path(self.cache, key)
        again = (*MACHINE_DEPENDENT, *self.rerun_status)
        known = path.exists() and name.split("/")[0] not in self.anew
        if known and receipts.read(path)["status"] not in again:
            return key, False
        began = time.monotonic(), _cpu_seconds()
        u, record = self.job.register(name, block)
        if "message" in record:
            log.error("block %s: %s", name, record["message"])
        save_block(path, u, record, time.monotonic() - began[0], _cpu_seconds() - began[1])
        return key, True


def block_path(cache: str, key: str) -> Path:
    """Where the record of a block lies; field (``.npy``) and cost (``.cost.json``) lie beside it."""
    return receipts.record_path(f"{cache}/blocks", key)


def save_block(
    path: Path, u: np.ndarray | None, record: dict[str, Any], seconds: float, cpu_seconds: float
) -> None:
    """Write field, cost and, last, the record: a block is done when its record is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if u is not None:
        receipts.write_array(path.with_suffix(".npy"), u)
        record = {**record, "data": receipts.array_digest(u)}
    receipts.write(
        path.with_suffix(".cost.json"),
        {
            "cpu_seconds": round(cpu_seconds, 3),
            "seconds": round(seconds, 3),
            "peak_memory_mb": round((peak_memory() + costs.memory) / 1e6, 1),
        },
    )
    receipts.write(path, record)


def load_block(cache: str, key: str) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Total displacement, (3, z, y, x) um, read where it is used (None: the stage before), and record of a block."""
    path = block_path(cache, key)
    record = receipts.read(path)
    if record["used"] == "parent":
        return None, record
    return np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False), record


def read_cost(cache: str, keys: Iterable[str]) -> dict[str, Any]:
    """What all tries of a block cost: the sum of their seconds, and the largest memory."""
    costs = [receipts.read(block_path(cache, key).with_suffix(".cost.json")) for key in keys]
    return {
        "cpu_seconds": sum(cost["cpu_seconds"] for cost in costs),
        "seconds": sum(cost["seconds"] for cost in costs),
        "peak_memory_mb": max(cost["peak_memory_mb"] for cost in costs),
    }


def _cpu_seconds() -> float:
    """CPU-seconds of this thread, and of worker processes that it waited for."""
    return time.thread_time() + costs.cpu_seconds


def _block_digests(block: Block) -> list[Any]:
    """Digests of all that a block is made of."""
    arrays = [block.fixed, block.moving, block.initial.field, *block.masks]
    grids = [block.fixed_grid, block.moving_grid, block.initial.field_grid]
    return [
        [None if array is None else receipts.array_digest(array) for array in arrays],
        [None if grid is None else grid.to_json() for grid in grids],
        block.initial.affine.tolist(),
    ]
