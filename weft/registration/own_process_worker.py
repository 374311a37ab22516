"""The program behind `weft.registration.own_process`: it forks worker processes, which answer request after request.

Its argument is the number of a file descriptor, its end of a pipe. Through it come first where to import from
(``sys.path``) and the module whose ``load_engine()`` is to be called before anything is forked (empty: none), then numbers:
`FORK`, followed by a file descriptor, a worker's end of a pipe, is answered by the process id of this new worker; the
id of a worker ends it, and is answered by its wait status. Through a worker's pipe come requests, and answers leave: a
result or an exception, the CPU-seconds that it took, and the largest memory so far. A worker ends with the other end
of its pipe, and all processes with the other end of the first.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import Any, NoReturn

FORK = 0


def main() -> None:
    """Fork and end workers until nobody can ask for it any more."""
    pipe = Connection(int(sys.argv[1]))
    workers: set[int] = set()
    try:
        sys.path[:], module = pipe.recv()
        if module:
            _load(module)
        while True:
            number = pipe.recv()
            if number == FORK:
                handle = recv_handle(pipe)
                worker = os.fork()
                if worker == 0:
                    pipe.close()
                    _work(Connection(handle))
                os.close(handle)
                workers.add(worker)
                pipe.send(worker)
            else:
                workers.remove(number)
                pipe.send(_end(number))
    except (EOFError, ConnectionError):
        for worker in workers:
            _end(worker)


def _load(module: str) -> None:
    """Load an engine for all workers; what goes wrong here goes wrong in the workers too, which can tell."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads that it starts when imported survive no fork
    with contextlib.suppress(Exception):
        importlib.import_module(module).load_engine()
    # The collector writes into the objects that it visits: pages that workers share would become their own.
    gc.collect()
    gc.freeze()


def _end(worker: int) -> int:
    """End a worker, if it has not ended; its wait status."""
    os.kill(worker, signal.SIGKILL)  # nobody has waited for it: the id is no other's
    return os.waitpid(worker, 0)[1]


def _work(pipe: Connection) -> NoReturn:
    """Answer requests until nobody can send any more."""
    try:
        from weft.logs import peak_memory  # only now: it lies where the other process said

        told = 0.0
        while True:
            answer = _answer(*pipe.recv())
            spent = time.process_time()  # start and transport included
            pipe.send((answer, spent - told, peak_memory()))
            told = spent
    except (EOFError, ConnectionError):
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def _answer(place: str, arguments: tuple[Any, ...], folder: Path | None, threads: int) -> Any:
    """What a function makes of its arguments, or the exception that it raised."""
    from weft.registration.debug import block_folder
    from weft.registration.threads import block_threads

    module, _, function = place.partition(":")
    try:
        with block_folder(folder), block_threads(threads):
            return getattr(importlib.import_module(module), function)(*arguments)
    except Exception as error:
        return _portable(error)


def _portable(error: Exception) -> Exception:
    """The exception as it can be sent: of a kind that every process knows, with its traceback as a note for the log."""
    from numpy.linalg import LinAlgError

    # Special ones first; all others mark a block, as a RuntimeError does.
    kinds = (
        TimeoutError,
        OSError,
        MemoryError,
        ImportError,
        LinAlgError,
        TypeError,
        ValueError,
        RuntimeError,
    )
    kind = next((known for known in kinds if isinstance(error, known)), None)
    sent = RuntimeError(f"{type(error).__name__}: {error}") if kind is None else kind(str(error))
    sent.add_note(f"In a process of its own:\n{traceback.format_exc()}")
    return sent


if __name__ == "__main__":
    main()
