"""Rule register_blocks: one batch of blocks of a stage."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from weft import receipts
from weft.blocks import deal
from weft.logs import log, progress
from weft.registration.contract import backend_version
from weft.registration.engine import Block, parent_record
from weft.registration.ledger import MACHINE_DEPENDENT
from weft.steps.block_results import block_path, save_block
from weft.steps.stage_job import open_stage_job


def register_blocks(
    *,
    plan: str,
    fixed: str,
    moving: str,
    start: str,
    fixed_mask: str | list[str],
    moving_mask: str | list[str],
    settings: dict[str, Any],
    channels: dict[str, str | None],
    batches: int,
    batch: int,
    rerun_status: list[str],
    cache: str,
    code: str,
    receipt: str,
    threads: int,
) -> None:
    """Register one batch of blocks on top of the transform so far.

    A block's result is kept under a name made of its voxels, its start, the settings, the code and the
    backend's version; a block done before is found. What depends on the machine (an error) is not kept.
    """
    planned = receipts.read(plan)
    job = open_stage_job(plan, fixed, moving, start, channels, settings, (fixed_mask, moving_mask))
    mine = deal(planned["ids"], batch, batches)
    facts = [
        job.background,
        settings["settings"],
        settings["min_content"],
        settings["backend"],
        backend_version(settings["backend"]),
        code,
        receipts.environment("numba", "scipy"),
    ]

    def one(name: str) -> tuple[str, bool]:
        if name in planned["skipped"]:
            key = receipts.digest([name, "skipped"])
            path = block_path(cache, key)
            if not path.exists():
                save_block(path, None, parent_record("skipped", 0), 0.0)
            return key, False
        block = job.cut(name)
        key = receipts.digest([name, _block_digests(block), facts])
        path = block_path(cache, key)
        if path.exists() and receipts.read(path)["status"] not in (*MACHINE_DEPENDENT, *rerun_status):
            return key, False
        began = time.monotonic()
        u, record = job.register(name, block)
        if "message" in record:
            log.error("block %s: %s", name, record["message"])
        save_block(path, u, record, time.monotonic() - began)
        return key, True

    with receipts.job_lock(receipt):
        with ThreadPoolExecutor(threads) as pool:
            done = list(progress(pool.map(one, mine), len(mine), "register_blocks: blocks"))
        log.info("made %d of %d blocks", sum(made for _, made in done), len(mine))
        receipts.write(receipt, {"blocks": {name: key for name, (key, _) in zip(mine, done, strict=True)}})


def _block_digests(block: Block) -> list[Any]:
    """Digests of all that a block is made of."""
    arrays = [block.fixed, block.moving, block.initial.field, *block.masks]
    grids = [block.fixed_grid, block.moving_grid, block.initial.field_grid]
    return [
        [None if array is None else receipts.array_digest(array) for array in arrays],
        [None if grid is None else grid.to_json() for grid in grids],
        block.initial.affine.tolist(),
    ]
