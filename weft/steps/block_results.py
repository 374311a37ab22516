"""What `register_blocks` keeps of a block: field, cost and record, under a name made of all that makes them."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts


def block_path(cache: str, key: str) -> Path:
    """Where the record of a block lies; field (``.npy``) and cost (``.cost.json``) lie beside it."""
    return receipts.record_path(f"{cache}/blocks", key)


def save_block(path: Path, u: np.ndarray | None, record: dict[str, Any], seconds: float) -> None:
    """Write field, cost and, last, the record: a block is done when its record is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if u is not None:
        partial = path.with_name(f".{path.stem}.{os.getpid()}.npy")
        np.save(partial, u, allow_pickle=False)
        os.replace(partial, path.with_suffix(".npy"))
        record = {**record, "data": receipts.array_digest(u)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    receipts.write(
        path.with_suffix(".cost.json"), {"seconds": round(seconds, 3), "peak_memory_mb": round(peak, 1)}
    )
    receipts.write(path, record)


def load_block(cache: str, key: str) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Total displacement, (3, z, y, x) um, read where it is used (None: the stage before), and record of a block."""
    path = block_path(cache, key)
    record = receipts.read(path)
    if record["used"] == "parent":
        return None, record
    return np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False), record


def read_cost(cache: str, key: str) -> dict[str, Any]:
    """What a block cost."""
    return receipts.read(block_path(cache, key).with_suffix(".cost.json"))
