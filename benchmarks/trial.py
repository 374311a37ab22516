"""One registration in a process of its own, for `registration.py`.

``python trial.py FOLDER``: the folder holds fixed.npy, moving.npy, perhaps affine.npy, and trial.json with
``method`` (``weft.backend``, ``weft.stages`` or the name of a peer), ``settings`` and ``memory``. It leaves found.npy
(the dense result, see `peers`) and result.json: CPU seconds of the registration alone, in this process and its
children, after a warm-up and without reading or writing, and the peak of memory. Where that of all processes is asked
for, the warm-up happens in a process of its own: what it leaves behind would be held beside the registration.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

os.environ.update(dict.fromkeys(("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS"), "1"))
os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np

import peers
import report  # noqa: F401  (finds the library beside this folder)
from weft.logs import peak_memory


def main(folder: Path) -> None:
    """Run the trial of a folder."""
    trial = json.loads((folder / "trial.json").read_text())
    method, settings = trial["method"], trial["settings"]
    if trial["memory"]:
        own = multiprocessing.get_context("spawn").Process(target=_warm, args=(folder, method, settings))
        own.start()
        own.join()
    else:
        _warm(folder, method, settings)
    package, _, name = method.rpartition(".")
    work = getattr(_engine() if package else peers, name)
    fixed, moving, affine = _inputs(folder, settings)
    with _Memory(trial["memory"]) as memory:
        before = _cpu()
        found = work(fixed, moving, affine, settings)
        result: dict[str, Any] = {"cpu_seconds": _cpu() - before}
    result |= {
        "peak_memory": peak_memory(),
        "proportional_memory": memory.largest,
        "load": round(os.getloadavg()[0], 1),
        "blocks": getattr(found, "blocks", {}),
        "affine": np.asarray(getattr(found, "affine", None)).tolist(),
    }
    np.save(folder / "found.npy", np.asarray(found(), np.float32))
    (folder / "result.json").write_text(json.dumps(result))


def _warm(folder: Path, method: str, settings: dict[str, Any]) -> None:
    """Load or compile what the method needs."""
    package, _, name = method.rpartition(".")
    if package:
        fixed, moving, affine = _inputs(folder, settings)
        _engine().warm(name, (fixed, moving), affine, settings)
    else:
        peers.warm(name)


def _engine() -> Any:
    """The methods of weft, which the environment of a peer need not have."""
    import engine

    return engine


def _inputs(folder: Path, settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Fixed image, moving image and affine."""
    # Images in stores stand for these: then they are not read.
    mode: Any = "r" if "stores" in settings else None
    fixed, moving = (np.load(folder / f"{side}.npy", mmap_mode=mode) for side in ("fixed", "moving"))
    affine = np.load(folder / "affine.npy") if (folder / "affine.npy").exists() else None
    return fixed, moving, affine


def _cpu() -> float:
    """CPU seconds so far, user and system, of this process and its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


class _Memory:
    """Largest sum of the proportional set sizes of this process and all below it, bytes, sampled while it is open.

    A page that several processes share counts once in all. None where it is not asked for, or not Linux.
    """

    def __init__(self, wanted: bool) -> None:
        self.largest: int | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch) if wanted else None

    def __enter__(self) -> _Memory:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread:
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            total = _proportional(os.getpid())
            if total:
                self.largest = max(self.largest or 0, total)


def _proportional(process: int) -> int:
    """Bytes of a process and of its children."""
    place = Path(f"/proc/{process}")
    total = 0
    try:
        for line in (place / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total = int(line.split()[1]) * 1024
        for children in place.glob("task/*/children"):
            total += sum(_proportional(int(child)) for child in children.read_text().split())
    except (OSError, ValueError):
        pass  # it has just ended
    return total


if __name__ == "__main__":
    main(Path(sys.argv[1]))
