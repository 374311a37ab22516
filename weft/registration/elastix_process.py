"""Runs itk-elastix in a helper process: loaded once, one forked child per registration."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from weft.registration import elastix_worker
from weft.registration.itk_image import itk_displacement


def run_elastix(
    fixed: np.ndarray,
    moving: np.ndarray,
    masks: tuple[np.ndarray | None, np.ndarray | None],
    maps: Sequence[Mapping[str, Sequence[str]]],
    seed: int = 0,
    timeout: float | None = None,
    *,
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    displacement: bool = False,
    log: Path | None = None,
) -> tuple[list[dict[str, list[str]]], np.ndarray | None]:
    """Register two images with itk-elastix, in one thread of another process.

    The images' origin is 0; an axis of a single voxel is left out, so that a single plane is registered in its plane.

    Parameters
    ----------
    fixed, moving
        (z, y, x) arrays of one shape, taken as float32.
    masks
        (fixed mask or None, moving mask or None), bool arrays of the images' shapes.
    maps
        elastix parameter maps, each run on top of those before. Several threads may call at a time; each has a child of
        its own.
    seed
        Of what elastix draws at random, where a map does not say.
    timeout
        Seconds after which the registration is ended.
    spacing
        Voxel size (z, y, x), in elastix' unit; by default lengths in `maps` and in the result are voxels.
    displacement
        Whether the displacement of all maps together is wanted.
    log
        Folder for what elastix writes of its own: its log and its files of the transforms, whatever came of it.

    Returns
    -------
    transforms, displacement
        elastix' transform parameter maps, one for each of `maps`, points in ITK's (x, y, z); and the displacement of all
        of them at the voxels, (3, z, y, x) float32 in elastix' unit, or None.

    Raises
    ------
    RuntimeError
        When elastix fails on these images, or crashes: other registrations are not touched by it.
    TimeoutError
        When the time is over.
    """
    with tempfile.TemporaryDirectory(prefix="weft-elastix-") as name:
        folder = Path(name)
        shape = np.shape(fixed)
        axes = [axis for axis in range(3) if shape[axis] > 1]
        arrays: dict[str, np.ndarray | None] = {
            "fixed": np.asarray(fixed, np.float32),
            "moving": np.asarray(moving, np.float32),
            "fixed_mask": None if masks[0] is None else masks[0].astype(np.uint8),
            "moving_mask": None if masks[1] is None else masks[1].astype(np.uint8),
        }
        for file, array in arrays.items():
            if array is not None:
                np.save(folder / f"{file}.npy", np.ascontiguousarray(array.squeeze()), allow_pickle=False)
        request = {
            "maps": [
                {
                    "RandomSeed": [str(seed % 2**31 or 1)],
                    **{key: list(values) for key, values in one.items()},
                    "WriteResultImage": ["false"],
                }
                for one in maps
            ],
            "spacing": [float(spacing[axis]) for axis in reversed(axes)],
            "displacement": displacement,
        }
        (folder / "request.json").write_text(json.dumps(request))
        try:
            status = _helper().run(folder, timeout)
        finally:
            if log is not None:
                log.mkdir(parents=True, exist_ok=True)
                for written in (folder / "elastix.log", *sorted(folder.glob("*.txt"))):
                    if written.exists():
                        shutil.copyfile(written, log / written.name)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            raise RuntimeError(f"elastix was ended by signal {signal.Signals(number).name} on this block")
        if status != 0:
            error = folder / "error.txt"
            reason = (
                error.read_text() if error.exists() else f"exit status {os.waitstatus_to_exitcode(status)}"
            )
            raise RuntimeError(f"elastix failed on this block: {reason}")
        found = None
        if displacement:
            values = np.load(folder / "displacement.npy", allow_pickle=False)
            found = itk_displacement(values, shape, axes)
        return json.loads((folder / "result.json").read_text()), found


def elastix_version() -> str:
    """Version of the installed itk-elastix.

    Raises
    ------
    ValueError
        When it is not installed.
    """
    try:
        return version("itk-elastix")
    except PackageNotFoundError:
        raise ValueError("elastix needs the package itk-elastix, which is not installed") from None


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
