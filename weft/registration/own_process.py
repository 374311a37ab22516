"""A backend in a process of its own: a crash of its engine costs one block, and the job goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from weft.registration import own_process_worker
from weft.registration.contract import Backend, Result, load_backend, portable_name
from weft.registration.debug import folder_of_block
from weft.registration.needs import of_backend
from weft.registration.threads import threads_of_block

# What a worker process is sent: a backend's portable name, its arguments, the folder for its logs, its threads.
Request = tuple[str, tuple[Any, ...], Path | None, int]


def backend_at_work(name: str) -> Backend:
    """A backend as blocks are to be registered by it: in a worker process where its module says ``own_process = True``.

    A worker registers block after block, so that the engine is loaded once; each calling thread has another one. It
    ends with this process. When it dies on a block, as by a segmentation fault, that is a RuntimeError of this block.

    Raises
    ------
    ValueError
        When there is no such backend or it cannot be imported.
    """
    backend = load_backend(name)
    return backend if _alone or not of_backend(name, "own_process") else partial(_elsewhere, name)


def stay_in_this_process() -> None:
    """Run every backend here from now on: this process itself was made for blocks, and its death is provided for."""
    global _alone
    _alone = True


def _elsewhere(name: str, *arguments: Any) -> Result:
    """What a backend makes of its arguments in a worker process; raises what it raises."""
    worker = _take()
    try:
        answer, cpu_seconds, memory = worker.ask(
            (portable_name(name), arguments, folder_of_block(), threads_of_block())
        )
    except (EOFError, ConnectionError):
        raise RuntimeError(f"backend {name!r} {worker.ended()} on this block") from None
    except BaseException:
        worker.close()  # it may hold half a message
        raise
    with _lock:
        _idle.append(worker)
    costs.cpu_seconds += cpu_seconds
    costs.memory = memory
    if isinstance(answer, BaseException):
        raise answer
    return answer


class _Costs(threading.local):
    """What worker processes took for the calling thread.

    Attributes
    ----------
    cpu_seconds
        Sum over all blocks.
    memory
        Largest resident set, bytes, of the worker that registered its last block.
    """

    def __init__(self) -> None:
        self.cpu_seconds = 0.0
        self.memory = 0


class _Worker:
    """A worker process and the pipe to it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.pipe, theirs = multiprocessing.Pipe()
        # A program of its own, not a fork: the threads and locks of this process would not survive one, and the script
        # that this process runs is none of the worker's business. -P: the worker's folder is no place to import from.
        self.process = subprocess.Popen(
            [sys.executable, "-P", own_process_worker.__file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.pipe.send(sys.path)

    @property
    def usable(self) -> bool:
        """Whether it lives, and belongs to this process (not to one that this was forked from)."""
        return self.owner == os.getpid() and self.process.poll() is None

    def ask(self, request: Request) -> tuple[Result | BaseException, float, int]:
        """What came of a request, the CPU-seconds it took, and the largest memory so far, bytes."""
        self.pipe.send(request)
        return self.pipe.recv()

    def ended(self) -> str:
        """How the process ended."""
        status = self.process.wait()
        self.pipe.close()
        return (
            f"was ended by signal {signal.Signals(-status).name}"
            if status < 0
            else f"ended with status {status}"
        )

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.kill()
        self.process.wait()


costs = _Costs()
_alone = False
_idle: list[_Worker] = []
_lock = threading.Lock()


def _take() -> _Worker:
    """A worker that waits, or a new one."""
    with _lock:
        while _idle:
            worker = _idle.pop()
            if worker.usable:
                return worker
    return _Worker()
