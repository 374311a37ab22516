"""Trials: registrations in processes of their own, each kept as a JSON file, so that a long run can be cut and go on."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np

import engine
import pairs
import peers

Score = Callable[[np.ndarray], dict[str, float]]
Inputs = tuple[np.ndarray, np.ndarray, np.ndarray | None]
VERSION = "1"  # raise it when trials are measured in another way
HERE = Path(__file__).resolve().parent


class Trials:
    """The trials of a run and where they are kept.

    Parameters
    ----------
    folder
        Of the results; made where it is missing.
    wanted
        Peers to run beside weft.
    ants_python
        A Python interpreter whose environment holds antspyx (and numpy); None for this one.
    """

    def __init__(self, folder: Path, wanted: list[str], ants_python: str | None = None) -> None:
        self.folder = folder
        self.ants_python = ants_python
        self.peers = [name for name in wanted if self._version(name)]

    def run(
        self,
        case: str,
        method: str,
        inputs: Callable[[], Inputs],
        score: Score,
        settings: Mapping[str, Any] | None = None,
        *,
        repeat: int = 0,
        memory: bool = False,
    ) -> dict[str, Any] | None:
        """The result of one registration: kept from before, or measured now.

        Parameters
        ----------
        case
            Name of the pair, dotted; it stands for the pair's voxels.
        method
            ``weft.backend``, ``weft.stages`` (see `engine`) or a peer's name.
        inputs
            Gives fixed image, moving image and affine.
        score
            Takes the dense result, gives numbers.
        repeat
            Number of the repetition.
        memory
            Measure the proportional memory of all its processes too, which costs some CPU.

        Returns
        -------
        What `trial` measured together with the scores; None when it failed, which is said and kept too.
        """
        facts = {
            "case": case,
            "method": method,
            "settings": dict(settings or {}),
            "memory": memory,
            "repeat": repeat,
            "version": [VERSION, pairs.GENERATION, self._version(method)],
        }
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
        kept = self.folder / f"{case}.{method}.{key}.json"
        if kept.exists():
            return json.loads(kept.read_text())["result"]
        result = self._measure(facts, inputs, score)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({**facts, "result": result}, indent=1) + "\n")
        numbers = {k: v for k, v in (result or {}).items() if isinstance(v, int | float)}
        print(
            f"{case} {method}: {', '.join(f'{k} {v:.4g}' for k, v in numbers.items()) or 'failed'}",
            flush=True,
        )
        return result

    def _measure(
        self, facts: dict[str, Any], inputs: Callable[[], Inputs], score: Score
    ) -> dict[str, Any] | None:
        fixed, moving, affine = inputs()
        python = self.ants_python if facts["method"] == "ants" and self.ants_python else sys.executable
        with tempfile.TemporaryDirectory(prefix="trial-") as name:
            folder = Path(name)
            np.save(folder / "fixed.npy", fixed)
            np.save(folder / "moving.npy", moving)
            if affine is not None:
                np.save(folder / "affine.npy", affine)
            (folder / "trial.json").write_text(json.dumps(facts))
            ended = subprocess.run(
                [python, HERE / "trial.py", folder],
                cwd=folder,  # some programs leave files where they run
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            if ended.returncode:
                print(f"{facts['case']} {facts['method']}: exit status {ended.returncode}", flush=True)
                print("\n".join(ended.stderr.decode(errors="replace").splitlines()[-5:]), flush=True)
                return None
            result = json.loads((folder / "result.json").read_text())
            return result | score(np.load(folder / "found.npy", mmap_mode="r"))

    def _version(self, method: str) -> str | None:
        """What tells two versions of a method's results apart; None, said once, where a peer is not installed."""
        if method.startswith("weft."):
            return engine.identity()
        if method == "ants" and self.ants_python:
            said = [self.ants_python, "-c", "import peers; print(peers.identity('ants'))"]
            ended = subprocess.run(said, cwd=HERE, capture_output=True, text=True)
            if ended.returncode == 0:
                return ended.stdout.strip()
        else:
            try:
                return peers.identity(method)
            except PackageNotFoundError:
                pass
        print(f"left out: {method}, for {peers.PACKAGES[method]} is not installed", flush=True)
        return None
