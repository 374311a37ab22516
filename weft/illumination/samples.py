"""Block-reduced samples of raw planes: what the gain is estimated from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from weft.illumination.background import Background, find_background
from weft.image import TileSet
from weft.pyramid import downsample

# Planes are reduced to at most this many blocks per axis, and blocks to at least so many voxels
# (over neighbouring planes where pixels are few), so that the logarithm meets little noise.
BLOCKS = 64
VOXELS_PER_BLOCK = 16

# A block is tissue when it and the blocks about it exceed the background by so many times the noise of one:
# blocks that a border cuts would tell of the border.
_TISSUE = 8.0
_MARGINS = (5, 3, 1)
_LEAST_TISSUE = 0.02


@dataclass(frozen=True)
class Samples:
    """Signal of sampled slabs on blocks of the camera plane.

    Parameters
    ----------
    signal
        float32, (n, h, w): block means of raw minus dark and background.
    tissue
        bool, (n, h, w): blocks well inside what is well above the noise.
    tile
        Tile of each sample, (n,).
    y, x
        Centres of the blocks, pixels, (h,) and (w,).
    shape
        Of a tile, (y, x).
    noise
        Standard deviation of a block without tissue.
    camera_noise
        The same by the pixels' noise alone.
    planes
        Planes read.
    background
        What the empty parts show beyond the dark; None where none are known.
    """

    signal: np.ndarray
    tissue: np.ndarray
    tile: np.ndarray
    y: np.ndarray
    x: np.ndarray
    shape: tuple[int, int]
    noise: float
    camera_noise: float
    planes: int
    background: Background | None

    def log(self) -> np.ndarray:
        """Logarithm of the signal, bounded below by the noise."""
        return np.log(np.maximum(self.signal, max(self.noise, 1e-3)))

    def part(self, chosen: np.ndarray) -> Samples:
        """The samples of a boolean choice (n,)."""
        return replace(self, signal=self.signal[chosen], tissue=self.tissue[chosen], tile=self.tile[chosen])

    def with_background(self) -> Samples:
        """The same light, with what was taken for a background counted as content."""
        if self.background is None:
            return self
        ground = self.background.at(self.y[:, None], self.x[None], self.shape).astype(np.float32)
        signal = self.signal + ground
        noise = self.camera_noise
        return replace(self, signal=signal, tissue=_tissue(signal, noise), noise=noise, background=None)

    def background_on(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray | float:
        """The background at blocks centred on ``rows`` (h,) and ``columns`` (w,) of the camera."""
        return self.background.at(rows[:, None], columns[None], self.shape) if self.background else 0.0


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
    signal, owner, noises = [], [], []
    for tile in chosen:
        for z in depths(slots, per_tile, rng) * block[0]:
            slab = tiles.read(int(tile), channel, (slice(z, z + block[0]), slice(None), slice(None)))
            slab = slab.astype(np.float32) - dark
            noises.append(_pixel_noise(slab))
            signal.append(downsample(slab, block)[0])
            owner.append(tile)
    stack = np.stack(signal)
    shape = (tiles.shape[1], tiles.shape[2])
    y, x = (centres(n, f) for n, f in zip(shape, block[1:], strict=True))
    background = find_background(stack, y, x, shape)
    noise = camera = float(np.quantile(noises, 0.1) / np.prod(block) ** 0.5)
    if background is not None:
        noise = background.noise
        stack -= background.at(y[:, None], x[None], shape).astype(np.float32)
    facts = np.array(owner), y, x, shape, noise, camera, len(owner) * block[0], background
    return Samples(stack, _tissue(stack, noise), *facts)


def depths(slots: int, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """``count`` of ``slots`` depths, one from each of as many equal parts."""
    edges = np.linspace(0, slots, count + 1)
    within = rng.random(count) if rng is not None else np.full(count, 0.5)
    return np.minimum((edges[:-1] + within * np.diff(edges)).astype(int), slots - 1)


def centres(size: int, factor: int) -> np.ndarray:
    """Mean pixel of each block along an axis (the last may be incomplete)."""
    starts = np.arange(0, size, factor)
    return (starts + np.minimum(starts + factor, size) - 1) / 2


def above_noise(signal: np.ndarray, noise: float, margin: int) -> np.ndarray:
    """Blocks of (n, h, w) that are tissue, and all about them, ``margin`` x ``margin``."""
    inside = signal > max(_TISSUE * noise, 1e-3)
    return ndimage.minimum_filter(inside, (0, margin, margin), mode="nearest")


def _tissue(signal: np.ndarray, noise: float) -> np.ndarray:
    """Tissue with the widest margin that leaves enough of it."""
    for margin in _MARGINS:
        tissue = above_noise(signal, noise, margin)
        if tissue.mean() > _LEAST_TISSUE:
            break
    return tissue


def _pixel_noise(slab: np.ndarray) -> float:
    """Noise of a pixel, from second differences along x: smooth content has little of them."""
    if slab.shape[2] < 3:
        return 0.0
    bend = slab[0, ::4, :-2] - 2 * slab[0, ::4, 1:-1] + slab[0, ::4, 2:]
    return 1.4826 * float(np.median(np.abs(bend))) / 6**0.5
