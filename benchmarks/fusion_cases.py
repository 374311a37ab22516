"""Cases of `assembly.py`: fusion into compressed shards, its memory, and the pyramid."""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import report
from fusion_job import STORE
from weft import receipts
from weft.grid import Grid
from weft.pyramid import downsample
from weft.steps.level_builder import LevelBuilder
from weft.steps.levels import level_grids
from weft.steps.regions import split_name

HERE = Path(__file__).parent
TILE = (96, 256, 256)
OVERLAP = 32
DARK = 100.0
MVS_TILES = 16  # it takes about ten times as long; more tiles would only take longer


def fusion(given: argparse.Namespace) -> list[report.Row]:
    """Tiles with a flat-field at sub-voxel positions into shards, one thread and two; multiview-stitcher beside it."""
    rows: list[report.Row] = []
    for count in given.sizes:
        name = f"assembly.fusion.{count}-tiles"
        speed, levels, threads, ratio = [], [], [], []
        for seed in given.seeds:
            with tempfile.TemporaryDirectory(prefix="fusion-") as place:
                make_tiles(Path(place), round(count**0.5), seed)
                alone, whole = job(place, 1, 1), job(place, 1, 99)
                both = job(place, 2, 99)
                if both["digest"] != whole["digest"]:
                    raise SystemExit("fusion: two threads wrote other bytes than one")
                speed.append(alone["voxels"] / 1e6 / alone["cpu_seconds"])
                levels.append(whole["voxels"] / 1e6 / whole["cpu_seconds"])
                threads.append(both["cpu_seconds"] / whole["cpu_seconds"])
                if given.mvs_python and count <= MVS_TILES:
                    peer = run([given.mvs_python, HERE / "mvs_fusion.py", place])
                    ratio.append(speed[-1] / (peer["voxels"] / 1e6 / peer["cpu_seconds"]))
        rows += [
            report.row(f"{name}.voxels", [alone["voxels"] / 1e6], "Mvox"),
            report.row(f"{name}.speed", speed, "Mvox/CPU-s", at_least=65),
            report.row(f"{name}.with_all_levels", levels, "Mvox/CPU-s"),
            report.row(f"{name}.two_threads", threads, "ratio of CPU-s", at_most=1.1),
        ]
        if ratio:
            rows.append(report.row(f"{name}.multiview_stitcher_ratio", ratio, "ratio", at_least=10))
    return rows


def fusion_memory(given: argparse.Namespace) -> list[report.Row]:
    """Peak memory on volumes of 1, 4 and 16 times the size, two threads; raw rows may take 32 MB, as they soon do."""
    peaks = {}
    for side in (4, 8, 16):
        with tempfile.TemporaryDirectory(prefix="fusion-") as place:
            make_tiles(Path(place), side, given.seeds[0], distinct=1, depth=32)
            peaks[side] = job(place, 2, 99, cache=32)["peak"]
    name = "assembly.fusion.peak_memory"
    rows = [report.row(f"{name}.{(side // 4) ** 2}x", [peak], "B") for side, peak in peaks.items()]
    return [*rows, report.row(f"{name}.16x_of_1x", [peaks[16] / peaks[4]], "ratio", at_most=1.2)]


def pyramid(given: argparse.Namespace) -> list[report.Row]:
    """All levels above the finest one, against the time to write them when they are there already."""
    rows: list[report.Row] = []
    for kind in ("image_uint16", "labels_uint64"):
        labels = kind == "labels_uint64"
        mode = "mode" if labels else "mean"
        ratios = []
        for seed in given.seeds:
            data = label_image(seed) if labels else np.tile(smooth_image(seed, (64, 128, 256)), (2, 2, 2))
            grids = level_grids(Grid(data.shape, (1.0,) * 3), 32)
            levels = [data]
            for fine, coarse in itertools.pairwise(grids):
                factors = [round(b / a) for a, b in zip(fine.spacing, coarse.spacing, strict=True)]
                levels.append(downsample(levels[-1], factors, mode=mode))
            above = timed(grids, data, labels) - timed(grids[:1], data, labels)
            ratios.append(
                above / sum(timed([g], v, labels) for g, v in zip(grids[1:], levels[1:], strict=True))
            )
        rows.append(report.row(f"assembly.pyramid.{kind}.of_writing", ratios, "ratio of CPU-s", at_most=2))
    return rows


CASES = {"fusion": fusion, "fusion_memory": fusion_memory, "pyramid": pyramid}


# ------------------------------------------------------------------ measuring
def job(place: str, threads: int, levels: int, cache: int = 512) -> dict[str, Any]:
    """One fusion in a process of its own."""
    return run([sys.executable, HERE / "fusion_job.py", place, threads, levels, cache])


def run(command: list[Any]) -> dict[str, Any]:
    """What a process says last."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def timed(grids: list[Grid], data: np.ndarray, labels: bool) -> float:
    """CPU seconds to write a volume with these levels; best of three."""
    found = []
    for _ in range(3):
        with tempfile.TemporaryDirectory(prefix="pyramid-") as place:
            keyed = receipts.KeyedStore(Path(place) / "image.zarr", "0" * 64)
            builder = LevelBuilder(keyed, grids, 1, data.dtype, labels=labels, store=STORE)

            def make(name: str, builder=builder) -> tuple[np.ndarray, dict[str, Any]]:
                return data[split_name(name, builder.levels[0])[1]], {}

            start = time.process_time()
            builder.build(builder.names(), make, threads=1, what="pyramid")
            found.append(time.process_time() - start)
    return min(found)


# ------------------------------------------------------------------ data
def smooth_image(seed: int, shape: tuple[int, int, int] = TILE) -> np.ndarray:
    """Tissue-like voxels, uint16, with the noise of a camera."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), 3)
    light = DARK + 1800 + 1500 * smooth / np.abs(smooth).max()
    return np.clip(rng.normal(light, np.sqrt(light)), 0, 65535).astype("<u2")


def label_image(seed: int) -> np.ndarray:
    """Regions with curved borders, about 40 voxels wide, uint64, numbered far apart."""
    rng = np.random.default_rng(seed)
    number = np.zeros((64, 128, 256), np.uint64)
    for _ in range(3):
        cell = ndimage.zoom(rng.normal(size=(4, 8, 16)), 16, order=1, grid_mode=True, mode="grid-constant")
        number = number * np.uint64(7) + np.digitize(cell, np.linspace(-1, 1, 6)).astype(np.uint64)
    return np.tile(number * np.uint64(2**50 + 7), (2, 2, 2))


def make_tiles(folder: Path, side: int, seed: int, distinct: int = 16, depth: int = TILE[0]) -> None:
    """``side`` x ``side`` tiles, off their nominal places by up to 5 voxels, under a gain that falls to the corners."""
    rng = np.random.default_rng(seed)
    shape = (depth, *TILE[1:])
    base = smooth_image(seed, shape)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in TILE[1:]), indexing="ij")
    gain = (1.2 - 0.4 * (y**2 + x**2)).astype(np.float32)
    gain /= gain.mean()
    np.save(folder / "gain.npy", gain)
    for n in range(min(distinct, side**2)):
        signal = np.roll(base, (7 * n, 31 * n, 17 * n), (0, 1, 2)) - DARK
        (DARK + gain * signal).clip(0, 65535).astype("<u2").tofile(folder / f"{n}.raw")
    step = TILE[1] - OVERLAP
    places = [(0, row * step, column * step) for row in range(side) for column in range(side)]
    about = {
        "shape": shape,
        "dark": DARK,
        "files": [f"{n % distinct}.raw" for n in range(side**2)],
        "positions": (np.array(places, float) + rng.uniform(-5, 5, (side**2, 3))).tolist(),
    }
    (folder / "tiles.json").write_text(json.dumps(about))
