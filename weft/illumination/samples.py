"""Block-reduced samples of raw planes: what the gain is estimated from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from weft.image import TileSet
from weft.links.model import Link
from weft.pyramid import downsample

# Planes are reduced to at most this many blocks per axis, and blocks to at least so many voxels
# (over neighbouring planes where pixels are few), so that the logarithm meets little noise.
BLOCKS = 64
VOXELS_PER_BLOCK = 16

# A block is tissue when its neighbourhood's mean is this many times the noise of one block.
_TISSUE = 5.0


@dataclass(frozen=True)
class Samples:
    """Signal of sampled slabs (raw minus dark), on blocks of the camera plane.

    Parameters
    ----------
    signal
        float32, (n, h, w).
    tissue
        bool, (n, h, w): blocks well above the noise.
    tile
        Tile of each sample, (n,).
    y, x
        Centres of the blocks, pixels, (h,) and (w,).
    noise
        Standard deviation of a block without tissue.
    planes
        Planes read.
    """

    signal: np.ndarray
    tissue: np.ndarray
    tile: np.ndarray
    y: np.ndarray
    x: np.ndarray
    noise: float
    planes: int

    def log(self) -> np.ndarray:
        """Logarithm of the signal, bounded below by the noise."""
        return np.log(np.maximum(self.signal, max(self.noise, 1e-3)))


@dataclass(frozen=True)
class Seam:
    """The same content seen by two tiles: log of their ratio on blocks of their overlap.

    Parameters
    ----------
    ratio
        float32, (n, h, w): log(signal of tile i) - log(signal of tile j), by slab.
    weight
        (n, h, w): 0 where either lacks tissue.
    places
        Centres of the blocks on the camera, pixels: y and x in tile i, then y and x in tile j.
    """

    ratio: np.ndarray
    weight: np.ndarray
    places: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def block_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Planes, rows and columns of a block, for tiles of ``shape`` (z, y, x)."""
    fy, fx = (-(-n // BLOCKS) for n in shape[1:])
    return min(shape[0], 8, -(-VOXELS_PER_BLOCK // (fy * fx))), fy, fx


def draw(tiles: TileSet, channel: int, dark: np.ndarray, planes: int, rng: np.random.Generator) -> Samples:
    """Read about ``planes`` planes, spread evenly over tiles and depth."""
    block = block_shape(tiles.shape)
    count = max(1, planes // block[0])
    slots = tiles.shape[0] // block[0]
    per_tile = min(slots, max(1, round(count / len(tiles.tiles))))
    chosen = np.arange(len(tiles.tiles))
    if count < len(chosen):
        chosen = np.sort(rng.choice(chosen, count, replace=False))
    signal, owner = [], []
    for tile in chosen:
        for z in _depths(slots, per_tile, rng) * block[0]:
            slab = tiles.read(int(tile), channel, (slice(z, z + block[0]), slice(None), slice(None)))
            signal.append(downsample(slab.astype(np.float32) - dark, block)[0])
            owner.append(tile)
    stack = np.stack(signal)
    noise = _noise(stack)
    y, x = (_centres(n, f) for n, f in zip(tiles.shape[1:], block[1:], strict=True))
    return Samples(stack, _tissue(stack, noise), np.array(owner), y, x, noise, len(owner) * block[0])


def seam(tiles: TileSet, channel: int, dark: np.ndarray, link: Link, noise: float, slabs: int) -> Seam | None:
    """Compare the two tiles of a link where they overlap, on up to ``slabs`` slabs; None without overlap."""
    block = block_shape(tiles.shape)
    shift = np.round(link.displacement / tiles.spacing).astype(int)
    size = np.asarray(tiles.shape) - np.abs(shift)
    if (size < np.maximum(block, 2)).any():
        return None
    first, second = np.maximum(shift, 0), np.maximum(-shift, 0)
    slots = int(size[0]) // block[0]
    ratio, weight = [], []
    for z in _depths(slots, min(slots, slabs), None) * block[0]:
        pair = []
        for tile, corner in ((link.i, first), (link.j, second)):
            start = int(corner[0] + z)
            rows, columns = (slice(int(c), int(c + n)) for c, n in zip(corner[1:], size[1:], strict=True))
            crop = (rows, columns)
            raw = tiles.read(tile, channel, (slice(start, start + block[0]), rows, columns))
            pair.append(downsample(raw.astype(np.float32) - dark[crop], block)[0])
        tissue = _tissue(np.stack(pair), noise).all(0)
        low = max(noise, 1e-3)
        ratio.append(np.log(np.maximum(pair[0], low)) - np.log(np.maximum(pair[1], low)))
        weight.append(tissue)
    y, x = (_centres(int(n), f) for n, f in zip(size[1:], block[1:], strict=True))
    places = (y + first[1], x + first[2], y + second[1], x + second[2])
    return Seam(np.stack(ratio).astype(np.float32), np.stack(weight), places)


def _depths(slots: int, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """``count`` of ``slots`` depths, one from each of as many equal parts."""
    edges = np.linspace(0, slots, count + 1)
    within = rng.random(count) if rng is not None else np.full(count, 0.5)
    return np.minimum((edges[:-1] + within * np.diff(edges)).astype(int), slots - 1)


def _centres(size: int, factor: int) -> np.ndarray:
    """Mean pixel of each block along an axis (the last may be incomplete)."""
    starts = np.arange(0, size, factor)
    return (starts + np.minimum(starts + factor, size) - 1) / 2


def _noise(signal: np.ndarray) -> float:
    """Noise of a block: from negative signals (what lies below the dark), else from the dimmest tenth."""
    below = signal[signal < 0]
    if below.size > 0.005 * signal.size:
        return float(np.sqrt(np.mean(below.astype(np.float64) ** 2)))
    steps = np.abs(np.diff(signal, axis=-1))
    dim = signal[:, :, 1:] <= np.quantile(signal, 0.1)
    return 1.4826 * float(np.median(steps[dim])) / 2**0.5 if dim.any() else 0.0


def _tissue(signal: np.ndarray, noise: float) -> np.ndarray:
    """Blocks whose neighbourhood, 3 x 3, is well above the noise: a choice that single values do not sway."""
    return ndimage.uniform_filter(signal, (0, 3, 3), mode="nearest") > max(_TISSUE * noise, 1e-3)
