"""Cases of `assembly.py` about links and poses: scans with known positions, wrong links, real tiles."""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

import tile_scans
from report import Row, cpu_seconds, row
from weft.image import TileSet
from weft.links import Link, LinkSettings, candidate_links, measure_link
from weft.links.kernels import band_pass, ncc_at
from weft.links.seams import seam
from weft.poses import Poses, PoseSettings, solve_poses

UM = (1.0, 1.0, 1.0)
SEARCH = (20.0, 20.0, 20.0)  # the default of the setting links.search
# rms and largest error, voxels, that each set has to stay below, and CPU seconds for the links of a scan.
BARS = {"a": (0.27, 0.70), "b": (0.28, 0.75)}
SECONDS = 3.0
WRONG, TRIALS = (0.05, 0.1, 0.2, 0.3), 100
GRIDS = ((4, 4), (8, 10))
# The default, TeraStitcher's solve on the same links, and its measure with its solve.
WAYS = {
    "": (LinkSettings(), PoseSettings()),
    "spanning_tree.": (LinkSettings(), PoseSettings(method="terastitcher")),
    "mip_ncc.": (LinkSettings(method="mip_ncc"), PoseSettings(method="terastitcher")),
}
WARM_UP = ((5, 6), (5, 9), (5, 10), (9, 10))


def measured(tiles: TileSet, search: Sequence[float], settings: LinkSettings | None = None) -> list[Link]:
    """The links of a scan, as the workflow measures them by default."""
    pairs = candidate_links(tiles.positions(), tiles.shape, tiles.spacing, diagonal=None)
    window = (search[0], search[1], search[2])
    return [measure_link(tiles, i, j, 0, search_voxels=window, settings=settings) for i, j in pairs]


def synthetic(given: argparse.Namespace) -> list[Row]:
    """Errors of the positions of tiles that show something, and what all links and the solve cost."""
    rows = []
    for name, (rms, largest) in BARS.items():
        found: dict[str, list[float]] = {}
        for seed in given.seeds:
            scan = tile_scans.synthetic(name, seed)
            for key, (link, pose) in WAYS.items():
                positions, links, seconds = _timed(scan, link, pose)
                found.setdefault(f"{key}cpu_seconds", []).append(seconds)
                found.setdefault(f"{key}links", []).append(links)
                _note(found, key, _errors(positions, scan))
            _note(found, "stage.", _errors(scan.tiles.positions(), scan))
            if given.mvs_python:
                for key, value in _peer(given.mvs_python, scan).items():
                    found.setdefault(f"multiview_stitcher.{key}", []).append(value)
        bars = {"rms": rms, "max": largest, "cpu_seconds": SECONDS}
        for key, values in found.items():
            unit = "s" if "seconds" in key else "" if key.endswith("links") else "voxel"
            rows.append(row(f"links.{name}.{key}", values, unit, at_most=bars.get(key)))
            if key in ("rms", "max"):
                rows.append(row(f"links.{name}.worst_{key}", [max(values)], unit))
    return rows


def _timed(scan: tile_scans.Scan, link: LinkSettings, pose: PoseSettings) -> tuple[np.ndarray, int, float]:
    """Positions, number of links, and CPU seconds of links and solve."""
    tiles = scan.tiles
    # Kernels and FFT plans are made in a first pass over some links, empty ones and diagonals among them.
    first = [measure_link(tiles, i, j, 0, search_voxels=SEARCH, settings=link) for i, j in WARM_UP]
    solve_poses(tiles.positions(), first, UM, shape=tiles.shape, settings=pose)
    links: list[Link] = []
    poses: list[Poses] = []

    def work() -> None:
        links.extend(measured(tiles, SEARCH, link))
        poses.append(solve_poses(tiles.positions(), links, UM, shape=tiles.shape, settings=pose))

    seconds = cpu_seconds(work)
    return poses[0].positions, len(links), seconds


def _note(found: dict[str, list[float]], key: str, error: np.ndarray) -> None:
    found.setdefault(f"{key}rms", []).append(float(np.sqrt(np.mean(error**2))))
    found.setdefault(f"{key}max", []).append(float(error.max()))


def _errors(positions: np.ndarray, scan: tile_scans.Scan) -> np.ndarray:
    """Distances from the truth after the common shift, voxels, of tiles with more than 5 % of content."""
    shows = scan.content > 0.05
    off = positions - scan.true
    return np.linalg.norm((off - np.median(off[shows], axis=0))[shows], axis=1)


def _peer(python: str, scan: tile_scans.Scan) -> dict[str, float]:
    """The same scan through multiview-stitcher, in a process of the Python that has it."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/tiles.npy", np.stack([scan.tiles.read(n) for n in range(len(scan.tiles.tiles))]))
        np.save(f"{folder}/stage.npy", scan.tiles.positions())
        script = Path(__file__).with_name("multiview_links.py")
        subprocess.run([python, str(script), folder], check=True, stdout=subprocess.DEVNULL)
        costs = json.loads(Path(f"{folder}/result.json").read_text())
        error = _errors(np.load(f"{folder}/positions.npy"), scan)
    return {
        "rms": float(np.sqrt(np.mean(error**2))),
        "max": float(error.max()),
        "cpu_seconds": costs["cpu_seconds"],
    }


def wrong_links(given: argparse.Namespace) -> list[Row]:
    """Share of trials whose largest error stays below 1.5 voxels when some links are confident and wrong."""
    rows = []
    for diagonal, word in ((True, "eight_neighbours"), (False, "four_neighbours")):
        for shape in GRIDS:
            for wrong in WRONG:
                right = []
                for trial in range(TRIALS):
                    true, stage, links = _simulated(shape, wrong, given.seeds[0] * 1000 + trial, diagonal)
                    off = solve_poses(stage, links, UM).positions - true
                    right.append(np.linalg.norm(off - np.median(off, axis=0), axis=1).max() < 1.5)
                asked = 0.95 if diagonal and wrong == 0.1 else None
                name = f"wrong_links.{word}.{shape[0]}x{shape[1]}.{round(100 * wrong)}_percent.right"
                rows.append(row(name, [float(np.mean(right))], "", at_least=asked))
    true, stage, links = _simulated((100, 200), 0.1, 0, True)
    solved: list[Poses] = []
    seconds = cpu_seconds(lambda: solved.append(solve_poses(stage, links, UM)))
    off = np.linalg.norm(solved[0].positions - true - np.median(solved[0].positions - true, axis=0), axis=1)
    rows.append(row("wrong_links.20000_tiles.cpu_seconds", [seconds], "s", at_most=60))
    rows.append(row("wrong_links.20000_tiles.right", [float(np.mean(off < 1.5))], ""))
    return rows


def _simulated(
    shape: tuple[int, int], wrong: float, seed: int, diagonal: bool
) -> tuple[np.ndarray, np.ndarray, list[Link]]:
    """True and stage positions, and links of 0.1 voxel of noise, a share of them anywhere within 18 voxels."""
    rng = np.random.default_rng(seed)
    stage = np.array([(0, 224 * r, 224 * c) for r in range(shape[0]) for c in range(shape[1])], float)
    true = stage + rng.uniform(-8, 8, stage.shape)
    pairs = np.array(candidate_links(stage, (96, 256, 256), UM, diagonal=diagonal))
    found = true[pairs[:, 1]] - true[pairs[:, 0]] + rng.normal(0, 0.1, (len(pairs), 3))
    bad = rng.choice(len(pairs), round(wrong * len(pairs)), replace=False)
    found[bad] = (stage[pairs[:, 1]] - stage[pairs[:, 0]])[bad] + rng.uniform(-18, 18, (len(bad), 3))
    ncc = rng.uniform(0.6, 0.95, len(pairs))
    links = [
        Link(int(i), int(j), d, float(q), 0.2, 0.1, "ok", float(0.8 * q))
        for (i, j), d, q in zip(pairs, found, ncc, strict=True)
    ]
    return true, stage, links


def real(given: argparse.Namespace) -> list[Row]:
    """Real tiles: an electron microscope's with solved affines, photographs with registered positions, a mosaic."""
    if given.data is None:
        return []
    return [*_camera(given.data), *_photographs(given.data), *_mosaic(given.data)]


def _camera(data: Path) -> list[Row]:
    """Distance of the tiles' corners from the solved ones, after the affine that all tiles may share, pixels."""
    tiles, linear, position = tile_scans.camera_tiles(data)
    links = measured(tiles, (0, 20, 20))
    corners = np.array([(0, y, x) for y in (0, tiles.shape[1] - 1) for x in (0, tiles.shape[2] - 1)], float)
    wanted = (position[:, None] + np.einsum("nij,cj->nci", linear, corners)).reshape(-1, 3)[:, 1:]
    rows = []
    models: tuple[Literal["translation", "auto"], ...] = ("translation", "auto")
    for model in models:
        settings = PoseSettings(model=model)
        poses = solve_poses(tiles.positions(), links, UM, shape=tiles.shape, settings=settings)
        parts = np.tile(np.eye(3), (4, 1, 1)) if poses.linear is None else poses.linear
        found = (poses.positions[:, None] + np.einsum("nij,cj->nci", parts, corners)).reshape(-1, 3)[:, 1:]
        ones = np.c_[found, np.ones(len(found))]
        off = ones @ np.linalg.lstsq(ones, wanted, rcond=None)[0] - wanted
        error = float(np.sqrt(np.mean((off**2).sum(1))))
        bar = 1.0 if model == "auto" else None
        rows.append(row(f"real.render_em_tiles.{model}.corner_rms", [error], "pixel", at_most=bar))
    return rows


def _photographs(data: Path) -> list[Row]:
    """Distance from the registered positions, and how well both agree with the pixels at each seam."""
    tiles, registered = tile_scans.photographs(data)
    poses = solve_poses(tiles.positions(), measured(tiles, (0, 40, 90)), UM)
    off = poses.positions - registered
    error = np.linalg.norm(off - np.median(off, axis=0), axis=1)
    steps = np.linalg.norm(np.diff(off, axis=0), axis=1)
    name = "real.starrynight_stitch"
    rows = [
        row(f"{name}.max", [float(error.max())], "pixel", at_most=2),
        row(f"{name}.seams_within_2_pixels", [float((steps <= 2).sum())], ""),
    ]
    for n, step in enumerate(steps):
        rows.append(row(f"{name}.seam_{n + 1}.apart", [float(step)], "pixel"))
        for word, positions in (("registered", registered), ("weft", poses.positions)):
            rows.append(row(f"{name}.seam_{n + 1}.ncc.{word}", [_agreement(tiles, n, positions)], ""))
    return rows


def _agreement(tiles: TileSet, n: int, positions: np.ndarray) -> float:
    """NCC of the structures of some ten pixels that tiles n and n + 1 show of the same place."""
    d = np.round(positions[n + 1] - positions[n]).astype(np.int64)
    logs = (np.log(tiles.read(k).astype(np.float32) + 30) for k in (n, n + 1))
    a, b = (band_pass(v, 7, 31) for v in logs)
    return float(ncc_at(a, b, d)[0])


def _mosaic(data: Path) -> list[Row]:
    """NCC of the overlap by the stage and by the link."""
    tiles = tile_scans.mosaic(data)
    poses = solve_poses(tiles.positions(), measured(tiles, (0, 20, 20)), UM)
    rows = []
    for word, positions in (("stage", tiles.positions()), ("solved", poses.positions)):
        found = seam(tiles, (0, 1), 0, None, positions)
        ncc = float("nan") if found is None else found.ncc
        rows.append(row(f"real.czi_mosaic.{word}.ncc", [ncc], ""))
    return rows


CASES: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "links": synthetic,
    "wrong_links": wrong_links,
    "real_tiles": real,
}
