"""Rule register_blocks: one batch of blocks of a stage."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.blocks import deal
from weft.logs import log, progress
from weft.registration.engine import parent_record
from weft.registration.memory import give_back, hold_little, read_in
from weft.registration.needs import workers
from weft.registration.threads import block_threads, in_turn
from weft.steps.block_results import KeptBlocks, block_path, save_block
from weft.steps.stage_job import open_stage_job


def register_blocks(
    *,
    plan: str,
    fixed: str,
    moving: str,
    fixed_more: list[str],
    moving_more: list[str],
    start: str,
    fixed_mask: str | list[str],
    moving_mask: str | list[str],
    settings: dict[str, Any],
    channels: dict[str, Any],
    batches: int,
    batch: int,
    rerun_status: list[str],
    cache: str,
    code: str,
    receipt: str,
    log_file: str,
    threads: int,
    memory_mb: float,
) -> None:
    """Register one batch of blocks on top of the transform so far.

    A block's result is kept under a name made of its voxels, its start, the settings, the code and the
    backend's version; a block done before is found. What depends on the machine (an error) is not kept.
    So many blocks run beside each other as there are threads, and as memory holds; fewer blocks share the threads.

    Raises
    ------
    ValueError
        When the job's memory does not hold one block.
    """
    hold_little()
    read_in(threads)
    masks, more = (fixed_mask, moving_mask), (fixed_more, moving_more)
    job = open_stage_job(plan, fixed, moving, start, channels, settings, masks, more, log_file)
    side_by_side = workers(Path(plan).parent.name, job.plan, memory_mb, threads)
    mine = deal(job.plan["ids"], batch, batches)
    share = max(1, threads // max(1, min(side_by_side, len(mine))))  # a whole volume is one block
    kept = KeptBlocks(cache, job, code, tuple(rerun_status))

    # One record for all of them: two files for each would cost more than the blocks, where few of many are registered.
    skipped = receipts.digest("skipped")
    if job.skipped and not (path := block_path(cache, skipped)).exists():
        save_block(path, None, parent_record("skipped", 0), 0.0, 0.0)

    def one(name: str) -> tuple[str, bool]:
        if name in job.skipped:
            return skipped, False
        with block_threads(share):
            found = kept.register(name, job.cut(name))
        give_back()
        if side_by_side == 1 and not gc.get_freeze_count():
            # What is left, mostly libraries, is of no block: to look through it after each takes 20 ms of CPU.
            gc.freeze()
        return found

    # Laid out at once: thousands of strings that stay, among all that comes and goes with a block, keep much more from being freed.
    keys, count = np.empty(len(mine), "S64"), 0
    with receipts.job_lock(receipt):
        with ThreadPoolExecutor(side_by_side) as pool:
            done = in_turn(pool, one, mine)
            for n, (key, made) in enumerate(progress(done, len(mine), "register_blocks: blocks")):
                keys[n] = key
                count += made
        log.info("made %d of %d blocks", count, len(mine))
        blocks = {name: key.decode() for name, key in zip(mine, keys.tolist(), strict=True)}
        receipts.write(receipt, {"blocks": blocks})
