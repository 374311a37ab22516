"""The blocks of a stage side by side: in local threads, in local processes or on a cluster."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from weft.registration.memory import give_back
from weft.registration.stage import StageJob
from weft.registration.threads import block_threads
from weft.transforms.interpolate import Field

Outcome = tuple[Field | None, dict[str, Any]]


def run_blocks(
    job: StageJob, workers: int, processes: bool, client: Any, folder: str | Path
) -> dict[str, Outcome]:
    """Register all blocks of a stage.

    Parameters
    ----------
    job
        The stage.
    workers, processes, client
        As `weft.registration.register` takes them.
    folder
        Where local processes leave the displacements, so that they are held nowhere until they are read.

    Returns
    -------
    By the names of the blocks, in the order of the plan: total displacement, (3, z, y, x) um, or None for the stage
    before; and the block's row of the block table.
    """
    names = list(job.plan["ids"])
    if client is not None:
        # Sent once to every worker, not once with every block.
        shared = client.scatter(job, broadcast=True)
        done = client.gather([client.submit(_block, shared, name, pure=False) for name in names])
    elif processes and workers > 1:
        give_back()
        with ProcessPoolExecutor(min(workers, len(names)), _processes(), _keep, (job, Path(folder))) as pool:
            done = [_opened(*found) for found in pool.map(_kept_block, names)]
    else:
        with ThreadPoolExecutor(workers) as threads:
            share = max(1, workers // max(1, len(names)))
            done = list(threads.map(partial(_block, job, share=share), names))
    return dict(zip(names, done, strict=True))


def _block(job: StageJob, name: str, share: int = 1) -> Outcome:
    with block_threads(share):
        return job.run(name)


def _processes() -> Any:
    """How worker processes are started: never by a fork of this process, whose threads and locks would not survive it.

    Where there is a fork server, it has no threads, and its workers share the memory of what it has imported.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["weft.registration.preload"])
    return context


_kept: tuple[StageJob, Path] | None = None  # of this worker process


def _keep(job: StageJob, folder: Path) -> None:
    """Remember the job in a new worker process, which reads in one thread: every other would hold memory of its own."""
    global _kept
    zarr.config.set({"threading.max_workers": 1})
    _kept = job, folder


def _kept_block(name: str) -> tuple[Path | None, dict[str, Any]]:
    """Register a block and leave its displacement in the folder."""
    assert _kept is not None
    job, folder = _kept
    u, record = job.run(name)
    path = None
    if u is not None:
        path = folder / f"{name}.npy"
        np.save(path, u, allow_pickle=False)
    del u
    give_back()
    return path, record


def _opened(path: Path | None, record: dict[str, Any]) -> Outcome:
    return (None if path is None else np.load(path, mmap_mode="r", allow_pickle=False)), record
