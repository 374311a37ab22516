"""Cases of `assembly.py` about illumination: tiles made with a known gain."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from report import Row, cpu_seconds, row
from weft.illumination import fit_illumination
from weft.image import Tile, TileSet

EDGE = 512
SCENES = ("dense", "sparse", "brain")
# The best single estimator of reference tables on seed 0, by scene and number of tiles; nobody corrects: .238.
BEST = {("dense", 64): 0.021, ("sparse", 64): 0.088, ("brain", 64): 0.0095, ("brain", 16): 0.085}
WITHIN = 1.25


def synthetic_tiles(count: int, scene: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Raw tiles, uint16 (count, 512, 512), and the gain they were made with, float32 (512, 512), mean 1.

    ``"dense"``: every tile full of tissue of its own brightness; ``"sparse"``: bright objects on a dim
    background, 30 % of the tiles empty; ``"brain"``: tissue with a border, tiles partly or wholly empty.
    raw = gain * content + dark (about 100 counts, sloping) with photon and read noise; tiles share no content.
    """
    rng = np.random.default_rng(seed)
    shape = (EDGE, EDGE)
    y, x = np.mgrid[-1 : 1 : EDGE * 1j, -1 : 1 : EDGE * 1j]
    gain = np.exp(-((y - 0.15) ** 2 / 1.1 + (x + 0.2) ** 2 / 1.6)) * (1 + 0.08 * x) + 0.25
    gain /= gain.mean()
    dark = 100 + 15 * y + 3 * np.sin(6 * x)
    tiles = np.empty((count, *shape), np.uint16)
    for n in range(count):
        signal = gain * _SCENES[scene](rng, shape) + dark
        noisy = rng.poisson(np.clip(signal, 0, None) * 2) / 2 + rng.normal(0, 3, shape)
        tiles[n] = np.clip(np.rint(noisy), 0, 65535)
    return tiles, gain.astype(np.float32)


def _texture(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    return noise / noise.std()


def _dense(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    coarse, fine = _texture(rng, shape, 20), _texture(rng, shape, 3)
    return rng.uniform(500, 2500) * np.clip(1 + 0.3 * coarse + 0.3 * fine, 0.05, None)


def _sparse(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    content = np.full(shape, 20.0)
    if rng.random() > 0.3:
        points = np.zeros(shape)
        count = rng.integers(20, 120)
        light = rng.uniform(2e4, 2e5, count)
        points[rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)] = light
        content += ndimage.gaussian_filter(points, rng.uniform(2, 5))
    return content


def _brain(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    inside = _texture(rng, shape, 120) > rng.uniform(-2, 2)
    fine = _texture(rng, shape, 4)
    tissue = rng.uniform(300, 900) * np.clip(1 + 0.35 * fine, 0.05, None)
    return np.where(inside, tissue, 15.0)


_SCENES: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "dense": _dense,
    "sparse": _sparse,
    "brain": _brain,
}


def tile_set(arrays: Sequence[np.ndarray] | np.ndarray, corners: np.ndarray) -> TileSet:
    """Tiles in memory, (z, y, x) each, at corners (n, 3) in voxels of 1 um."""

    def read(tile: int, channel: int, region: tuple[slice, slice, slice]) -> np.ndarray:
        return arrays[tile][region]

    tiles = tuple(Tile(f"T{n}", (float(z), float(y), float(x))) for n, (z, y, x) in enumerate(corners))
    return TileSet(tiles, arrays[0].shape, (1.0, 1.0, 1.0), arrays[0].dtype, ("0",), read)


def synthetic(given: argparse.Namespace) -> list[Row]:
    """Error of the gain with the default settings, RMSE of gains of mean 1, and what the fit costs."""
    rows = []
    for scene in SCENES:
        for count in given.sizes:
            errors, nothing, costs = [], [], []
            for seed in given.seeds:
                arrays, gain = synthetic_tiles(count, scene, seed)
                side_by_side = np.stack([np.zeros(count), np.zeros(count), EDGE * np.arange(count)], 1)
                tiles = tile_set(arrays[:, None], side_by_side)
                fitted = []
                costs.append(
                    cpu_seconds(lambda tiles=tiles, fitted=fitted: fitted.append(fit_illumination(tiles, 0)))
                )
                errors.append(rmse(fitted[0].gain, gain))
                nothing.append(rmse(np.ones_like(gain), gain))
            best = BEST.get((scene, count))
            name = f"illumination.{scene}.{count}"
            rows += [
                row(f"{name}.rmse", errors, "", at_most=best * WITHIN if best else None),
                row(f"{name}.worst", [max(errors)], "", at_most=min(nothing)),
                row(f"{name}.uncorrected", nothing, ""),
                row(f"{name}.cpu_seconds", costs, "s"),
            ]
    return rows


def rmse(found: np.ndarray, true: np.ndarray) -> float:
    """RMS difference of gains of mean 1."""
    return float(np.sqrt(np.mean((found / found.mean() - true) ** 2)))


CASES: dict[str, Callable[[argparse.Namespace], list[Row]]] = {"illumination": synthetic}
