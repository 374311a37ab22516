"""Cases of `registration.py` whose transform is known: clean and hard pairs, and blocks that fail."""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import pairs
from report import Row, row
from trials import Inputs, Trials
from weft.blocks import cut, region
from weft.grid import Grid
from weft.registration.backends.native_settings import NativeSettings
from weft.stores.ome_zarr import create_image, open_level, write_region

LARGEST_WHOLE = 256  # a larger volume is registered in 2 x 2 x 2 blocks
OVERLAP = 16
# The bars: mean endpoint error by edge, CPU beside that of the peers, memory of all processes, bytes.
EPE = {128: 0.42, 256: 0.15, 384: 0.10}
CPU = {"greedy": 1 / 20, "elastix": 1 / 30}
# Where a volume is small, greedy only comes near with its finest level; beside it, what it does without.
GREEDY_SMALL = {"iterations": "100x50x20"}
SMALL = 128
MEMORY = 1e9
HARD_EDGE = 256
HARD_EPE = {"inverted": 0.35, "missing": 0.30, "noise": 0.26, "no_affine": 0.16}
FAILED_TO_HEALTHY = 1.02
FAILING = ((128, 64), (256, 64))  # edges of a volume and of its blocks

Results = list[dict[str, Any] | None]


@dataclass(frozen=True)
class _Made:
    """A synthetic pair of a run: made once and kept, changed by ``kind`` whenever it is asked for."""

    folder: Path
    edge: int
    seed: int
    kind: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind or 'synthetic'}.{self.edge}.{self.seed}"

    def base(self) -> pairs.Pair:
        """The clean pair, from its folder."""
        folder = self.folder / f"{pairs.GENERATION}-{self.edge}-{self.seed}"
        if not folder.exists():
            unfinished = folder.with_name(f"{folder.name}.part")
            pairs.synthetic_pair(self.edge, self.seed).save(unfinished)
            unfinished.rename(folder)
        return pairs.Pair.load(folder)

    def load(self) -> pairs.Pair:
        pair = self.base()
        return pairs.harder(pair, self.kind) if self.kind in pairs.HARD else pair

    def inputs(self) -> Inputs:
        """The images and the start: the affine nearest to the truth, but for pairs of the kind ``no_affine``."""
        pair = self.load()
        affine = np.eye(4) if self.kind == "no_affine" else pairs.best_affine(self.base())
        return pair.fixed, pair.moving, affine

    def score(self, found: np.ndarray) -> dict[str, float]:
        return pairs.score(self.load(), found)


def synthetic_rows(given: argparse.Namespace, trials: Trials) -> list[Row]:
    """Clean pairs: in one piece up to 256 voxels, in blocks above."""
    rows = []
    for edge in given.sizes:
        method, settings = _method(edge)
        made = [_Made(given.out / "pairs", edge, seed) for seed in given.seeds]
        # One program after the other, so that a run that is cut has whole columns.
        results: dict[str, Results] = defaultdict(list)
        results["weft"] = [_run(trials, pair, method, settings, repeats=given.repeats) for pair in made]
        for peer in CPU:
            if peer in trials.peers:
                own = GREEDY_SMALL if peer == "greedy" and edge <= SMALL else {}
                results[peer] = [_run(trials, pair, peer, own) for pair in made]
        if edge <= SMALL and "greedy" in trials.peers:
            results["greedy_short"] = [_run(trials, pair, "greedy") for pair in made]
        name = f"registration.synthetic.{edge}"
        rows += _truth_rows(name, results["weft"], EPE.get(edge))
        for peer, ratio in CPU.items():
            rows += _peer_rows(name, peer, results, ratio if edge in EPE else None)
        rows += _peer_rows(name, "greedy_short", results)
        if edge > LARGEST_WHOLE:
            rows += _memory_rows(name, trials, made[0])
    return rows


def hard_rows(given: argparse.Namespace, trials: Trials) -> list[Row]:
    """Pairs that are hard to register, once more with many iterations; all with the default settings else."""
    edge = HARD_EDGE if HARD_EDGE in given.sizes else min(given.sizes)
    more = {"settings": {"iterations": [4 * n for n in NativeSettings().iterations], "tolerance": 0.0}}
    rows = []
    for kind, bar in HARD_EPE.items():
        made = [_Made(given.out / "pairs", edge, seed, kind) for seed in given.seeds]
        results: dict[str, Results] = defaultdict(list)
        results["weft"] = [_run(trials, pair, "weft.backend", repeats=given.repeats) for pair in made]
        results["more"] = [_run(trials, pair, "weft.backend", more) for pair in made]
        if "greedy" in trials.peers:
            results["greedy"] = [_run(trials, pair, "greedy") for pair in made]
        name = f"registration.{kind}.{edge}"
        rows += _truth_rows(name, results["weft"], bar if edge == HARD_EDGE else None)
        rows += _peer_rows(name, "greedy", results)
        rows += _ratios(f"{name}.greedy.error_ratio", results["weft"], results["greedy"], "epe", 1)
        rows += _ratios(f"{name}.more_iterations.error_ratio", results["more"], results["weft"], "epe", 1)
        rows += _ratios(f"{name}.more_iterations.cpu_ratio", results["more"], results["weft"], "cpu_seconds")
        rows += _medians(f"{name}.more_iterations", results["more"], folded=("voxels", 0))
    return rows


def failure_rows(given: argparse.Namespace, trials: Trials) -> list[Row]:
    """Blocks that come back shifted, one of 8 grossly and a tenth of 64 by 2 voxels, against all healthy ones.

    They fail once, from the start that the stage before gives them, or at every try.
    """
    rows = []
    for edge, block in FAILING if not given.quick else FAILING[:1]:
        made = [_Made(given.out / "pairs", edge, seed) for seed in given.seeds]
        results: dict[str, Results] = {}
        for state in ("healthy", "once", "always"):
            results[state] = [
                _run(trials, pair, "weft.stages", _failing_stages(pair, block, state)) for pair in made
            ]
        name = f"registration.failures.{(edge // block) ** 3}_blocks"
        rows += _medians(name, results["healthy"], epe=("voxels", None))
        for state in ("once", "always"):
            at = f"{name}.{state}"
            rows += _medians(at, results[state], epe=("voxels", None), folded=("voxels", 0))
            rows += _ratios(f"{at}.error_ratio", results[state], results["healthy"], "epe", FAILED_TO_HEALTHY)
    return rows


def _method(edge: int) -> tuple[str, dict[str, Any]]:
    """How a volume of an edge is registered."""
    return ("weft.backend", {}) if edge <= LARGEST_WHOLE else ("weft.stages", _stages(edge // 2))


def _stages(block: int, **fine: Any) -> dict[str, Any]:
    """The default stages, with blocks of an edge."""
    return {
        "stages": [
            {"name": "coarse", "level": "x4", "block": "whole"},
            {"name": "fine", "level": "x1", "block": block, "overlap": OVERLAP, **fine},
        ]
    }


def _failing_stages(pair: _Made, block: int, state: str) -> dict[str, Any]:
    """The default stages with some blocks that fail: one of eight grossly, else a tenth by 2 voxels in any direction."""
    middles = np.array(list(itertools.product(np.arange(block / 2, pair.edge, block) - 0.5, repeat=3)))
    if state == "healthy":
        at, shifts = middles[:0], middles[:0]
    elif len(middles) == 8:
        at, shifts = middles[2:3], np.array([[15.0, -12.0, 9.0]])
    else:
        rng = np.random.default_rng(pair.seed)
        shifts = rng.standard_normal((len(middles) // 10, 3))
        shifts *= 2 / np.linalg.norm(shifts, axis=1, keepdims=True)
        at = rng.choice(middles, len(shifts), replace=False)
    failures = []
    for middle, shift in zip(at, shifts, strict=True):
        neighbours = 0 + (middle > block) + (middle < pair.edge - block)
        once = (block + OVERLAP * neighbours).tolist() if state == "once" else None
        failures.append({"at": middle.tolist(), "shift": shift.tolist(), "once": once})
    return _stages(block, backend="faulty:register", settings={"failures": failures})


def _run(
    trials: Trials, pair: _Made, method: str, settings: dict[str, Any] | None = None, repeats: int = 1
) -> dict[str, Any] | None:
    """A trial, with the median CPU of its repeats."""
    results = [
        trials.run(pair.name, method, pair.inputs, pair.score, settings, repeat=n) for n in range(repeats)
    ]
    done = [result for result in results if result is not None]
    if not done:
        return None
    return done[0] | {"cpu_seconds": float(np.median([result["cpu_seconds"] for result in done]))}


def _memory_rows(name: str, trials: Trials, pair: _Made) -> list[Row]:
    """Proportional memory of the blocked run, with two workers, each a process, reading its blocks from disk."""
    edge = pair.edge
    stores = [str(_store(pair, side).resolve()) for side in ("fixed", "moving")]
    settings = _stages(edge // 2) | {"workers": 2, "processes": True, "stores": stores}
    result = trials.run(pair.name, "weft.stages", pair.inputs, pair.score, settings, memory=True)
    if result is None or result["proportional_memory"] is None:
        return []
    bar = MEMORY if edge in EPE else None
    return [row(f"{name}.two_processes.memory", [result["proportional_memory"]], "B", at_most=bar)]


def _store(pair: _Made, side: str) -> Path:
    """One image of a pair as OME-Zarr."""
    path = pair.folder / f"{pairs.GENERATION}-{pair.edge}-{pair.seed}-{side}.ome.zarr"
    if not path.exists():
        unfinished = path.with_name(f"{path.name}.part")
        image = getattr(pair.load(), side)
        shard = (128, 128, 128)
        create_image(unfinished, [Grid(image.shape, (1.0,) * 3)], image.dtype, shard=shard)
        level = open_level(unfinished / "0")
        for block in cut(image.shape, shard):
            part = region(block, image.shape, shard)
            write_region(level, 0, part, np.asarray(image[part]), "0")
        unfinished.rename(path)
    return path


def _truth_rows(name: str, results: Results, bar: float | None) -> list[Row]:
    """Error, overlap, plausibility and cost."""
    return _medians(
        name,
        results,
        epe=("voxels", bar),
        epe_p95=("voxels", None),
        dice=("", None),
        folded=("voxels", 0),
        smallest_jacobian=("", None),
        cpu_seconds=("CPU-s", None),
        peak_memory=("B", None),
    )


def _peer_rows(name: str, peer: str, results: dict[str, Results], bar: float | None = None) -> list[Row]:
    """A peer's error and cost, and weft's cost as a share of it."""
    if not any(results[peer]):
        return []
    numbers = _medians(
        f"{name}.{peer}",
        results[peer],
        epe=("voxels", None),
        folded=("voxels", None),
        cpu_seconds=("CPU-s", None),
    )
    return numbers + _ratios(f"{name}.{peer}.cpu_ratio", results["weft"], results[peer], "cpu_seconds", bar)


def _medians(name: str, results: Results, **wanted: tuple[str, float | None]) -> list[Row]:
    """Medians over the seeds, with unit and bar."""
    done = [result for result in results if result is not None]
    if not done:
        return []
    return [
        row(f"{name}.{key}", [result[key] for result in done], unit or "1", at_most=bar)
        for key, (unit, bar) in wanted.items()
    ]


def _ratios(name: str, ours: Results, theirs: Results, key: str, bar: float | None = None) -> list[Row]:
    """The median over the seeds of one number against another."""
    values = [a[key] / b[key] for a, b in zip(ours, theirs, strict=False) if a is not None and b is not None]
    return [row(name, values, "ratio", at_most=bar)] if values else []


CASES: dict[str, Callable[[argparse.Namespace, Trials], list[Row]]] = {
    "synthetic": synthetic_rows,
    "hard": hard_rows,
    "failures": failure_rows,
}
