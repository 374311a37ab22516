"""Functions in processes of their own: a crash of an engine costs one block, and the job goes on."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any

from weft.registration import own_process_worker
from weft.registration.contract import Backend, backend_place, load_backend
from weft.registration.debug import folder_of_block
from weft.registration.needs import of_backend
from weft.registration.threads import threads_of_block

# What a worker process is sent: module:function, its arguments, the folder for its logs, its threads.
Request = tuple[str, tuple[Any, ...], Path | None, int]


def backend_at_work(name: str) -> Backend:
    """A backend as blocks are to be registered by it: in a worker process where its module says ``own_process = True``.

    Raises
    ------
    ValueError
        When there is no such backend or it cannot be imported.
    """
    backend = load_backend(name)
    if _alone or not of_backend(name, "own_process"):
        return backend
    return partial(call_elsewhere, backend_place(name), caller=f"backend {name!r}")


def stay_in_this_process() -> None:
    """Run every backend here from now on: this process itself was made for blocks, and its death is provided for."""
    global _alone
    _alone = True


def call_elsewhere(place: str, *arguments: Any, caller: str, timeout: float | None = None) -> Any:
    """What a function makes of its arguments in a worker process; raises what it raises.

    A worker does block after block, so that it loads its engine once; each calling thread has another one. Where the
    function's module defines ``load_engine()``, that is called once for all of them, in the process that they are forked
    from: a new worker then has the engine at once. All end with this process.

    Parameters
    ----------
    place
        ``module:function``.
    arguments
        Whatever can be sent to another process.
    caller
        What the errors below are about.
    timeout
        Seconds after which the worker is ended; None: never.

    Raises
    ------
    RuntimeError
        When the worker dies, as by a segmentation fault.
    TimeoutError
        When the time is over.
    """
    worker = _take(place.partition(":")[0])
    request = place, arguments, folder_of_block(), threads_of_block()
    try:
        answer, cpu_seconds, memory = worker.ask(request, timeout)
    except TimeoutError:
        worker.end()
        raise TimeoutError(f"{caller} did not finish within {timeout:g} s on this block") from None
    except (EOFError, ConnectionError):
        raise RuntimeError(f"{caller} {worker.end()} on this block") from None
    except BaseException:
        worker.end()  # it may hold half a message
        raise
    with _lock:
        _idle[worker.server.module].append(worker)
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


class _Server:
    """The process that worker processes are forked from, and the pipe to it.

    Parameters
    ----------
    module
        Whose ``load_engine()`` it has called; empty: it has loaded nothing, and its workers serve every module that has none.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self.owner = os.getpid()
        self.pipe, theirs = multiprocessing.Pipe()
        # A program of its own, not a fork: the threads and locks of this process would not survive one, and the script
        # that this process runs is none of its business. -P: the program's folder is no place to import from; -u: what
        # workers print is not lost with them.
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-P", own_process_worker.__file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.lock = threading.Lock()
        self.pipe.send((sys.path, module))

    @property
    def usable(self) -> bool:
        """Whether it lives, and belongs to this process (not to one that this was forked from)."""
        return self.owner == os.getpid() and self.process.poll() is None

    def ask(self, number: int, handle: int | None = None) -> int:
        """Send a number, and with it a file descriptor; what it answers."""
        with self.lock:
            self.pipe.send(number)
            if handle is not None:
                send_handle(self.pipe, handle, self.process.pid)
            return self.pipe.recv()

    def close(self) -> None:
        """End the process, and with it all workers."""
        self.pipe.close()
        self.process.wait()


class _Worker:
    """A worker process and the pipe to it."""

    def __init__(self, server: _Server) -> None:
        self.server = server
        self.pipe, theirs = multiprocessing.Pipe()
        with theirs:
            self.pid = server.ask(own_process_worker.FORK, theirs.fileno())

    @property
    def usable(self) -> bool:
        """Whether it lives and waits: a pipe that has something to say without a request says that it ended."""
        return self.server.usable and not self.pipe.poll()

    def ask(self, request: Request, timeout: float | None) -> tuple[Any, float, int]:
        """What came of a request, the CPU-seconds it took, and the largest memory so far, bytes."""
        self.pipe.send(request)
        if not self.pipe.poll(timeout):
            raise TimeoutError
        return self.pipe.recv()

    def end(self) -> str:
        """End the process; how it ended, if it had before."""
        self.pipe.close()
        try:
            status = os.waitstatus_to_exitcode(self.server.ask(self.pid))
        except (EOFError, ConnectionError):
            return "ended with the process that it was forked from"
        return (
            f"was ended by signal {signal.Signals(-status).name}"
            if status < 0
            else f"ended with status {status}"
        )


costs = _Costs()
_alone = False
_servers: dict[str, _Server] = {}
_idle: dict[str, list[_Worker]] = {}
_lock = threading.Lock()


def _take(module: str) -> _Worker:
    """A worker that waits, or a new one."""
    if not hasattr(importlib.import_module(module), "load_engine"):
        module = ""  # what it is forked from has nothing to load
    with _lock:
        waiting = _idle.setdefault(module, [])
        while waiting:
            worker = waiting.pop()
            if worker.usable:
                return worker
            if worker.server.usable:
                worker.end()
        server = _servers.get(module)
        if server is None or not server.usable:
            server = _servers[module] = _Server(module)
    return _Worker(server)
