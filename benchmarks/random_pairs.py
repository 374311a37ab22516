"""Small random pairs of every kind: none may fold, crash or leave a number that is none, and each has its statuses.

``python random_pairs.py SEED FIRST STOP`` registers some of a seed's pairs and prints a line of JSON for each, so that a
pair that ends the process is known by the line that is missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

import engine
from report import Row, row
from trials import Trials
from weft.grid import Grid
from weft.registration import register
from weft.transforms.jacobian import smallest_determinant
from weft.transforms.model import Displacements

KINDS = (
    "plain",
    "unequal_edges",
    "plane",
    "slab",
    "masked",
    "empty",
    "constant",
    "saturated",
    "unrelated",
    "wrong_affine",
    "apart",
    "tiny",
)
PAIRS = 300  # over all seeds
QUICK = len(KINDS)
TYPES = (np.uint8, np.uint16, np.float32)


@dataclass(frozen=True)
class RandomPair:
    """Two images with their grids, masks (or None) and an affine to start from, um."""

    kind: str
    images: tuple[np.ndarray, np.ndarray]
    grids: tuple[Grid, Grid]
    masks: tuple[np.ndarray | None, np.ndarray | None]
    affine: np.ndarray


def random_pair(seed: int, number: int) -> RandomPair:
    """One of the pairs of a seed; kinds take turns."""
    rng = np.random.default_rng([seed, number])
    kind = KINDS[number % len(KINDS)]
    low, high = (2, 10) if kind == "tiny" else (14, 40)
    shape = rng.integers(low, high, 3)
    if kind in ("plane", "slab"):
        shape[0] = 1 if kind == "plane" else rng.integers(2, 6)
    spacing = rng.uniform(0.5, 30) * (rng.uniform(1, 5, 3) if kind == "unequal_edges" else np.ones(3))
    scene = _texture(tuple(shape), rng)
    moving = _bent(scene, rng) if kind != "unrelated" else _texture(tuple(shape), rng)
    if kind == "empty":
        moving = np.zeros_like(moving)
    if kind == "constant":
        scene = np.full_like(scene, 0.5)
    dtype = TYPES[rng.integers(len(TYPES))]
    images = tuple(_stored(v, dtype, kind == "saturated", rng) for v in (scene, moving))
    grids = tuple(Grid(v.shape, tuple(spacing), tuple(rng.uniform(-500, 500, 3))) for v in images)
    affine = np.eye(4)
    if kind == "wrong_affine":
        affine[:3, :3] += 0.3 * rng.standard_normal((3, 3))
    # Around the middles of the images, so that they meet.
    middles = [(np.asarray(grid.lower) + np.asarray(grid.upper)) / 2 for grid in grids]
    affine[:3, 3] = middles[1] - affine[:3, :3] @ middles[0]
    if kind == "apart":
        affine[:3, 3] += 3 * np.asarray(grids[1].extent)
    masks = tuple(_mask(v.shape, rng) if kind == "masked" else None for v in images)
    return RandomPair(kind, images, grids, masks, affine)  # type: ignore[arg-type]


def check(pair: RandomPair) -> dict[str, Any]:
    """Register a pair: ``statuses`` of its blocks, ``folded`` samples, ``finite``, or ``refused`` and why."""
    try:
        found = register(
            *pair.images,
            fixed_grid=pair.grids[0],
            moving_grid=pair.grids[1],
            fixed_mask=pair.masks[0],
            moving_mask=pair.masks[1],
            affine=pair.affine,
            inverse=False,
        )
    except ValueError as error:
        return {"refused": str(error)}
    numbers = [v for rows in found.blocks.values() for row in rows for v in row.values()]
    finite = all(np.isfinite(v) for v in numbers if isinstance(v, float))
    folded = 0
    for step in found.transform.steps:
        if isinstance(step, Displacements):
            field = np.asarray(step.field)
            finite &= bool(np.isfinite(field).all())
            folded = int((smallest_determinant(field, step.grid) <= 0).sum())
    statuses = [row.get("status") for rows in found.blocks.values() for row in rows]
    return {"statuses": statuses, "folded": folded, "finite": finite}


def _texture(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Smooth noise from 0 to 1."""
    values = ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(0.8, 2.5))
    values -= values.min()
    return values / max(values.max(), 1e-9)


def _bent(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The scene through a smooth displacement of a few voxels, with another brightness and noise."""
    index = np.indices(scene.shape, float)
    for axis in range(3):
        bend = ndimage.gaussian_filter(rng.standard_normal(scene.shape), 4)
        index[axis] += rng.uniform(0, 3) * bend / max(np.abs(bend).max(), 1e-9)
    moving = ndimage.map_coordinates(scene, index, order=1, mode="nearest")
    return moving ** rng.uniform(0.5, 2) * rng.uniform(0.3, 1) + 0.02 * rng.random(scene.shape)


def _stored(image: np.ndarray, dtype: Any, saturated: bool, rng: np.random.Generator) -> np.ndarray:
    if saturated:
        image = np.clip(image * rng.uniform(2, 6), 0, 1)
    if np.issubdtype(dtype, np.integer):
        return (np.clip(image, 0, 1) * np.iinfo(dtype).max).astype(dtype)
    return (image * rng.uniform(1e-3, 1e5)).astype(dtype)


def _mask(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return _texture(shape, rng) > rng.uniform(0, 1.05)


def random_rows(given: argparse.Namespace, trials: Trials) -> list[Row]:
    """What became of all pairs, over the seeds together."""
    count = QUICK if given.quick else PAIRS // len(given.seeds)
    done = [result for seed in given.seeds for result in _results(trials, seed, count)]
    statuses = Counter(status for result in done for status in result.get("statuses", ()))
    name = "registration.random"
    bad = {
        "crashed": sum("crashed" in result for result in done),
        "folded": sum(result.get("folded", 0) > 0 for result in done),
        "not_finite": sum(not result.get("finite", True) for result in done),
        "without_status": sum(None in result.get("statuses", ()) for result in done),
    }
    return [
        row(f"{name}.pairs", [len(done)], "pairs"),
        *(row(f"{name}.{what}", [n], "pairs", at_most=0) for what, n in bad.items()),
        row(f"{name}.refused", [sum("refused" in result for result in done)], "pairs", at_most=0),
        *(row(f"{name}.status.{status}", [n], "blocks") for status, n in sorted(statuses.items())),
    ]


def _results(trials: Trials, seed: int, count: int) -> list[dict[str, Any]]:
    """The lines of a seed's pairs, kept from before or found now; a pair that ends its process is ``crashed``."""
    kept = trials.folder / f"random.{seed}.{count}.{engine.identity()}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    done: list[dict[str, Any]] = []
    while len(done) < count:
        command = [sys.executable, __file__, *map(str, (seed, len(done), count))]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        done += [json.loads(line) for line in ended.stdout.splitlines() if line.endswith("}")]
        if len(done) < count:
            done.append({"crashed": ended.returncode})
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(done, indent=1) + "\n")
    return done


CASES: dict[str, Callable[[argparse.Namespace, Trials], list[Row]]] = {"random": random_rows}


def main(seed: int, first: int, stop: int) -> None:
    """Print what became of some pairs of a seed."""
    for number in range(first, stop):
        pair = random_pair(seed, number)
        print(json.dumps({"kind": pair.kind, **check(pair)}), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
