"""Runs itk-elastix in a helper process: loaded once, one forked child per registration."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from importlib.metadata import version
from pathlib import Path

import numpy as np

from weft.registration import elastix_worker


def run_elastix(
    fixed: np.ndarray,
    moving: np.ndarray,
    masks: tuple[np.ndarray | None, np.ndarray | None],
    parameters: Mapping[str, Sequence[str]],
    timeout: float | None = None,
) -> dict[str, list[str]]:
    """Register two images with itk-elastix, in one thread of another process.

    The images are given a voxel size of 1 and the origin 0, so lengths in `parameters` and in the result are
    voxels: elastix' step lengths then do not depend on the unit.

    Parameters
    ----------
    fixed, moving
        (z, y, x) arrays, taken as float32.
    masks
        (fixed mask or None, moving mask or None), bool arrays of the images' shapes.
    parameters
        An elastix parameter map. Several threads may call at a time; each has a child of its own.
    timeout
        Seconds after which the registration is ended.

    Returns
    -------
    dict
        elastix' transform parameter map; its points are ITK's (x, y, z).

    Raises
    ------
    RuntimeError
        When elastix fails on these images, or crashes: other registrations are not touched by it.
    TimeoutError
        When the time is over.
    """
    with tempfile.TemporaryDirectory(prefix="weft-elastix-") as name:
        folder = Path(name)
        np.save(folder / "fixed.npy", np.ascontiguousarray(fixed, np.float32), allow_pickle=False)
        np.save(folder / "moving.npy", np.ascontiguousarray(moving, np.float32), allow_pickle=False)
        for side, mask in zip(("fixed", "moving"), masks, strict=True):
            if mask is not None:
                np.save(folder / f"{side}_mask.npy", mask.astype(np.uint8), allow_pickle=False)
        (folder / "parameters.json").write_text(json.dumps({k: list(v) for k, v in parameters.items()}))
        status = _helper().run(folder, timeout)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            raise RuntimeError(f"elastix was ended by signal {signal.Signals(number).name} on this block")
        if status != 0:
            error = folder / "error.txt"
            reason = (
                error.read_text() if error.exists() else f"exit status {os.waitstatus_to_exitcode(status)}"
            )
            raise RuntimeError(f"elastix failed on this block: {reason}")
        return json.loads((folder / "result.json").read_text())


def elastix_version() -> str:
    """Version of the installed itk-elastix."""
    return version("itk-elastix")


class _Helper:
    """The helper process and the registrations that wait for it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        environment = {**os.environ, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
        # -P: the worker's folder is not a place to import from.
        self.process = subprocess.Popen(
            [sys.executable, "-P", elastix_worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._answers, self._requests = self.process.stdout, self.process.stdin
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[int]] = {}
        self._count = 0
        if not self._answers.readline():
            raise RuntimeError(
                f"the elastix helper process ended at its start with status {self.process.wait()}: "
                "itk-elastix cannot be loaded"
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def run(self, folder: Path, timeout: float | None) -> int:
        """Wait status of the child that worked on `folder`."""
        future: Future[int] = Future()
        with self._lock:
            self._count += 1
            request = self._count
            self._waiting[request] = future
        try:
            self._send({"id": request, "folder": str(folder)})
            return future.result(timeout)
        except FutureTimeoutError:
            self._send({"id": request, "kill": True})
            future.result()  # the child is gone before its folder is
            raise TimeoutError(f"elastix did not finish within {timeout:g} s") from None
        except BrokenPipeError:
            raise RuntimeError("the elastix helper process has ended") from None

    def close(self) -> None:
        """End the process and its children."""
        if self.owner == os.getpid() and self.process.poll() is None:
            self._requests.close()
            self.process.wait()

    def _send(self, message: dict[str, object]) -> None:
        with self._lock:
            self._requests.write(json.dumps(message).encode() + b"\n")
            self._requests.flush()

    def _listen(self) -> None:
        """Hand answers to those who wait; tell them all when the process ends."""
        for line in self._answers:
            answer = json.loads(line)
            with self._lock:
                future = self._waiting.pop(answer["id"])
            future.set_result(answer["status"])
        with self._lock:
            orphans, self._waiting = list(self._waiting.values()), {}
        for future in orphans:
            future.set_exception(RuntimeError("the elastix helper process has ended"))


_current: _Helper | None = None
_starting = threading.Lock()


def _helper() -> _Helper:
    """This process's helper, started when there is none."""
    global _current
    with _starting:
        if _current is None or _current.owner != os.getpid() or _current.process.poll() is not None:
            _current = _Helper()
            atexit.register(_current.close)
        return _current
