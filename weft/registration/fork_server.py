"""How worker processes are started, so that they share what they have in common."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import weft
from weft.registration.memory import hold_little


def worker_context(backend: str) -> Any:
    """The `multiprocessing` context of worker processes for a backend; each has to begin with `begin_worker`.

    Never a fork of this process, whose threads and locks would not survive it. Where there is a fork server, it has no
    threads, and its workers share the memory of what it has imported: for the native engine its kernels too.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    preload = "preload_native" if backend == "native" else "preload"
    context.set_forkserver_preload([f"weft.registration.{preload}"])
    with _importable():
        forkserver.ensure_running()
    return context


def begin_worker(python_path: str | None) -> None:
    """Make a new worker process what it would be without `worker_context`, but for what it shares.

    Parameters
    ----------
    python_path
        The variable ``PYTHONPATH`` of the process that started it; None where it had none.
    """
    _set_python_path(python_path)
    hold_little()


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Let a Python that is started inside find this library, wherever it was found here.

    A fork server says nothing when it cannot import what it should: where a script has found the library by `sys.path`
    alone, its workers would share nothing. The server needs it for itself; a program that a worker starts may be
    of another Python, and must not see it.
    """
    before = os.environ.get("PYTHONPATH")
    here = str(Path(weft.__file__).parents[1])
    os.environ["PYTHONPATH"] = here if not before else os.pathsep.join((here, before))
    try:
        yield
    finally:
        _set_python_path(before)


def _set_python_path(path: str | None) -> None:
    os.environ.pop("PYTHONPATH", None)
    if path is not None:
        os.environ["PYTHONPATH"] = path
