"""Case of `assembly.py`: a microscope's own flat-field and dark, applied to real pixels."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage

from illumination_cases import tile_set
from report import Row, cpu_seconds, row
from weft.illumination import fit_illumination
from weft.image import TileSet
from weft.pyramid import downsample

PLANES = "cellfinder_block/tests/data/signal"
PROFILES = "fractal_illum/tests/data/illumination_correction"
GRID, OVERLAP, JITTER = 8, 0.15, 3
BAR = 0.02
PHOTONS = 0.5  # per count


def real_tiles(data: Path, seed: int) -> tuple[TileSet, np.ndarray]:
    """8 x 8 overlapping tiles cut from 26 planes of a cleared brain, seen through a plate scanner's lamp; its gain.

    The lamp's flat-field and dark are shrunk to the tile; the stage errs by up to 3 pixels.
    """
    rng = np.random.default_rng(seed)
    volume = np.stack([tifffile.imread(path) for path in sorted((data / PLANES).glob("*.tif"))])
    size = np.array([int((n - 2 * JITTER) / (GRID - (GRID - 1) * OVERLAP)) for n in volume.shape[1:]])
    gain, dark = (
        _shrunk(data / PROFILES / f"{name}_corr_matrix.png", size) for name in ("flatfield", "darkfield")
    )
    gain = (gain / gain.mean()).astype(np.float32)
    step = np.floor(size * (1 - OVERLAP)).astype(int)
    corners = np.array([(0, r * step[0], c * step[1]) for r in range(GRID) for c in range(GRID)])
    true = (
        corners + np.array([0, JITTER, JITTER]) + rng.integers(-JITTER, JITTER + 1, corners.shape) * [0, 1, 1]
    )
    arrays = []
    for _, y, x in true:
        light = volume[:, y : y + size[0], x : x + size[1]] * gain
        noisy = rng.poisson(light * PHOTONS) / PHOTONS + dark + rng.normal(0, 2, light.shape)
        arrays.append(np.clip(np.rint(noisy), 0, 65535).astype(np.uint16))

    return tile_set(arrays, corners), gain


def _shrunk(path: Path, size: np.ndarray) -> np.ndarray:
    image = np.asarray(Image.open(path)).astype(np.float32)
    reduced = downsample(image[None], (1, *(n // m for n, m in zip(image.shape, size, strict=True))))[0]
    return ndimage.zoom(reduced, size / reduced.shape, order=1, mode="nearest", grid_mode=True)


def real(given: argparse.Namespace) -> list[Row]:
    """RMSE of estimated over true gain minus 1, over the whole frame, with the default settings."""
    if given.data is None:
        return []
    errors, nothing, costs = [], [], []
    for seed in given.seeds:
        tiles, gain = real_tiles(given.data, seed)
        found = []
        costs.append(cpu_seconds(lambda tiles=tiles, found=found: found.append(fit_illumination(tiles, 0))))
        errors.append(_error(found[0].gain, gain))
        nothing.append(_error(np.ones_like(gain), gain))
    return [
        row("illumination.real.64.rmse", errors, "", at_most=BAR),
        row("illumination.real.64.worst", [max(errors)], ""),
        row("illumination.real.64.uncorrected", nothing, ""),
        row("illumination.real.64.cpu_seconds", costs, "s"),
    ]


def _error(found: np.ndarray, true: np.ndarray) -> float:
    ratio = found / true
    return float(np.sqrt(np.mean((ratio / ratio.mean() - 1) ** 2)))


CASES: dict[str, Callable[[argparse.Namespace], list[Row]]] = {"illumination_real": real}
