"""The worker process of `weft.registration.own_process`: a program of its own, which registers block after block.

Its argument is the number of a file descriptor, its end of a pipe. Through it come first where to import from
(``sys.path``), then requests, and answers leave: a result or an exception, the CPU-seconds that it took, and the largest
memory so far. The process ends when the other end of the pipe does.
"""

from __future__ import annotations

import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from numpy.linalg import LinAlgError

# Exceptions as every process knows them, special ones first; all others mark a block, as a RuntimeError does.
_KINDS = (TimeoutError, OSError, MemoryError, ImportError, LinAlgError, TypeError, ValueError, RuntimeError)


def main() -> None:
    """Answer requests until nobody can send any more."""
    pipe = Connection(int(sys.argv[1]))
    try:
        sys.path[:] = pipe.recv()
        from weft.logs import peak_memory  # only now: it lies where the other process said

        told = 0.0
        while True:
            answer = _answer(*pipe.recv())
            spent = time.process_time()  # start and transport included
            pipe.send((answer, spent - told, peak_memory()))
            told = spent
    except (EOFError, ConnectionError):
        return


def _answer(name: str, arguments: tuple[Any, ...], folder: Path | None, threads: int) -> Any:
    """What a backend makes of a block, or the exception that it raised."""
    from weft.registration.contract import load_backend
    from weft.registration.debug import block_folder
    from weft.registration.threads import block_threads

    try:
        with block_folder(folder), block_threads(threads):
            return load_backend(name)(*arguments)
    except Exception as error:
        return _portable(error)


def _portable(error: Exception) -> Exception:
    """The exception as it can be sent: of a kind that every process knows, with its traceback as a note for the log."""
    kind = next((known for known in _KINDS if isinstance(error, known)), None)
    sent = RuntimeError(f"{type(error).__name__}: {error}") if kind is None else kind(str(error))
    sent.add_note(f"In the backend's own process:\n{traceback.format_exc()}")
    return sent


if __name__ == "__main__":
    main()
