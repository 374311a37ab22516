"""The blocks of a stage side by side: in local threads, in local processes or on a cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from weft.image import Region
from weft.logs import progress
from weft.receipts import write_array
from weft.registration.fork_server import begin_worker, worker_context
from weft.registration.memory import give_back, read_in
from weft.registration.own_process import stay_in_this_process
from weft.registration.repair import Attempt, Attempts, no_attempt
from weft.registration.stage import StageJob
from weft.registration.threads import block_threads
from weft.transforms.interpolate import Field
from weft.transforms.model import Displacements

T = TypeVar("T")
Outcome = tuple[Field | Path | None, dict[str, Any]]
DIED = "the process that registered this block ended without an answer"


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
    By the names of the blocks, in the order of the plan: total displacement, (3, z, y, x) um, or the file that holds it
    (`open_field`), or None for the stage before; and the block's row of the block table.
    """
    names = list(job.plan["ids"])
    if client is not None:
        done = _on_cluster(job, names, client)
    elif processes and workers > 1:
        give_back()
        done = _in_processes(job, names, min(workers, len(names)), Path(folder))
    else:
        with ThreadPoolExecutor(workers) as threads:
            share = max(1, workers // max(1, len(names)))
            done = list(_told(job, threads.map(partial(_block, job, share=share), names)))
    return dict(zip(names, done, strict=True))


def _told(job: StageJob, blocks: Iterable[T]) -> Iterator[T]:
    """Pass blocks on as they are done; say now and then how far it is."""
    return progress(blocks, len(job.plan["ids"]), f"stage {job.settings['name']}: blocks")


def open_field(outcomes: Mapping[str, Outcome], name: str) -> Field | None:
    """What `run_blocks` found for a block, as a field: the files of thousands of blocks are not held open together."""
    u = outcomes[name][0]
    return np.load(u, mmap_mode="r", allow_pickle=False) if isinstance(u, Path) else u


def further_tries(job: StageJob, records: Mapping[str, Mapping[str, Any]]) -> Attempts:
    """Registers regions again in this process, but those of blocks whose process died: they could take this one along."""

    def attempt(name: str, region: Region, start: Displacements | None) -> Attempt:
        if records[name.split("/")[0]].get("message") == DIED:
            return no_attempt()
        return job.attempt(name, region, start)

    return attempt


def _on_cluster(job: StageJob, names: list[str], client: Any) -> list[Outcome]:
    """Blocks on the workers of a cluster."""
    from distributed import CancelledError
    from distributed.scheduler import KilledWorker

    # Sent once to every worker, not once with every block.
    shared = client.scatter(job, broadcast=True)
    futures = [client.submit(_block, shared, name, pure=False) for name in names]
    done = []
    for name, future in _told(job, zip(names, futures, strict=True)):
        try:
            done.append(future.result())
        except (KilledWorker, CancelledError):
            # A block that brings its worker down takes along what was sent there: again, alone, with a copy of its own.
            try:
                done.append(client.submit(_block, job, name, pure=False).result())
            except KilledWorker:
                done.append(job.give_up(name, DIED))
    return done


def _in_processes(job: StageJob, names: list[str], workers: int, folder: Path) -> list[Outcome]:
    """Blocks in local processes; one that dies takes its pool with it, but no other block."""
    context = worker_context(job.settings["backend"])

    def pool(size: int, begin: Any) -> ProcessPoolExecutor:
        path = os.environ.get("PYTHONPATH")
        return ProcessPoolExecutor(size, context, _keep, (job, folder, path, begin))

    def alone(name: str) -> Outcome:
        begin = context.Event()
        begin.set()
        try:
            with pool(1, begin) as own:
                return own.submit(_kept_block, name).result()
        except BrokenProcessPool:
            return job.give_up(name, DIED)

    done: dict[str, Outcome] = {}
    # A pool that breaks while it still starts processes waits for these for ever: none may die before all are there.
    begin = context.Event()
    with pool(workers, begin) as together:
        try:
            futures = {name: together.submit(_kept_block, name) for name in names}
        finally:
            begin.set()
        for name, future in _told(job, futures.items()):
            with contextlib.suppress(BrokenProcessPool):
                done[name] = future.result()
    lost = [name for name in names if name not in done]
    with ThreadPoolExecutor(workers) as threads:
        done |= zip(lost, threads.map(alone, lost), strict=True)
    return [done[name] for name in names]


def _block(job: StageJob, name: str, share: int = 1) -> Outcome:
    with block_threads(share):
        return job.run(name)


_kept: tuple[StageJob, Path] | None = None  # of this worker process


def _keep(job: StageJob, folder: Path, python_path: str | None, begin: Any) -> None:
    """Remember the job in a new worker process, which reads in one thread: every other would hold memory of its own."""
    global _kept
    begin_worker(python_path)
    begin.wait()
    read_in(1)
    stay_in_this_process()
    _kept = job, folder


def _kept_block(name: str) -> tuple[Path | None, dict[str, Any]]:
    """Register a block and leave its displacement in the folder."""
    assert _kept is not None
    job, folder = _kept
    u, record = job.run(name)
    path = None
    if u is not None:
        path = folder / f"{name}.npy"
        write_array(path, u)
    del u
    give_back()
    return path, record
