"""Scans of overlapping tiles for `assembly.py`: made with known positions, and real ones with positions of others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

import report  # noqa: F401  (finds the library)
from weft.image import Tile, TileSet

GRID, SHAPE, OVERLAP, ERROR = (4, 4), (96, 256, 256), 32, 8.0
# Cells per voxel, and radius of the specimen relative to the scan: A is full, B leaves corners empty.
SETS = {"a": (4e-4, 1.0), "b": (8e-5, 0.55)}


@dataclass(frozen=True)
class Scan:
    """Tiles with the truth.

    Parameters
    ----------
    tiles
        As a reader hands them out, voxels of 1 um.
    true
        Positions of the tiles' first voxels, (n, 3) voxels.
    content
        Share of each tile that shows the specimen.
    """

    tiles: TileSet
    true: np.ndarray
    content: np.ndarray


def in_memory(arrays: list[np.ndarray] | np.ndarray, stage: np.ndarray) -> TileSet:
    """Tiles in memory, (z, y, x) each, at stage positions (n, 3) in voxels of 1 um."""
    tiles = tuple(Tile(f"T{n}", (float(z), float(y), float(x))) for n, (z, y, x) in enumerate(stage))
    return TileSet(
        tiles,
        arrays[0].shape,
        (1.0,) * 3,
        arrays[0].dtype,
        ("0",),
        lambda tile, _, region: arrays[tile][region],
    )


def synthetic(name: str, seed: int) -> Scan:
    """A scan of 4 x 4 tiles of 96 x 256 x 256 voxels that overlap by an eighth, under vignetting and noise.

    The specimen: small and large cells, fibres, and autofluorescence inside a disc. Every tile is off its
    stage position by up to 8 voxels along each axis, independently, and sampled between voxels.
    """
    density, radius = SETS[name]
    rng = np.random.default_rng(seed)
    step, margin = SHAPE[1] - OVERLAP, 12
    whole = tuple(
        n + 2 * margin for n in (SHAPE[0], step * (GRID[0] - 1) + SHAPE[1], step * (GRID[1] - 1) + SHAPE[2])
    )
    volume = _specimen(rng, whole, density, radius)
    y, x = np.mgrid[-1 : 1 : SHAPE[1] * 1j, -1 : 1 : SHAPE[2] * 1j]
    gain = np.exp(-((y - 0.1) ** 2 + (x + 0.15) ** 2) / 2.2).astype(np.float32)
    gain /= gain.mean()
    stage = np.array([(0, r * step, c * step) for r in range(GRID[0]) for c in range(GRID[1])], float)
    true = stage + rng.uniform(-ERROR, ERROR, stage.shape)
    arrays, content = [], []
    for place in true + margin:
        signal = _sample(volume, place)
        content.append(float((signal > 100).mean()))
        counts = signal * gain * 0.5 + 100
        counts += rng.standard_normal(counts.shape, np.float32) * np.sqrt(counts * 0.5 + 9)
        arrays.append(np.clip(np.rint(counts), 0, 65535).astype(np.uint16))
    return Scan(in_memory(arrays, stage), true, np.array(content))


def _specimen(rng: np.random.Generator, shape: tuple[int, ...], density: float, radius: float) -> np.ndarray:
    volume = np.zeros(shape, np.float32)
    count = int(volume.size * density)
    for number, light, width, gain in ((count, (1.5, 6000), 1.3, 1.0), (count // 30, (2, 2.0e6), 6, 0.35)):
        cells = np.zeros(shape, np.float32)
        cells[tuple(rng.integers(0, n, number) for n in shape)] = rng.gamma(*light, number)
        volume += gain * ndimage.gaussian_filter(cells, width, truncate=3)
    for _ in range(500):
        place, way = rng.uniform(0, 1, 3) * shape, rng.normal(size=3)
        way /= np.linalg.norm(way)
        for _ in range(250):
            way += rng.normal(size=3) * 0.12
            way /= np.linalg.norm(way)
            place = place + way
            q = place.astype(int)
            if (q < 0).any() or (q + 2 >= shape).any():
                break
            volume[q[0] : q[0] + 2, q[1] : q[1] + 2, q[2] : q[2] + 2] += 500
    coarse = rng.standard_normal([n // 24 + 2 for n in shape]).astype(np.float32)
    slow = ndimage.zoom(coarse, 24, order=1)[tuple(slice(0, n) for n in shape)]
    volume += 400 * np.clip(1 + 0.4 * slow, 0.1, None)
    y, x = (((np.arange(n) - n * c) / (n * 0.47)) ** 2 for n, c in zip(shape[1:], (0.53, 0.55), strict=True))
    disc = ndimage.gaussian_filter((y[:, None] + x < radius).astype(np.float32), 3)
    return volume * disc + 20


def _sample(volume: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The voxels of a tile whose first one lies at ``place``, trilinear."""
    whole = np.floor(place).astype(int)
    part = (place - whole).astype(np.float32)
    signal = volume[tuple(slice(w, w + n + 1) for w, n in zip(whole, SHAPE, strict=True))]
    for axis in range(3):
        ahead = np.take(signal, range(1, signal.shape[axis]), axis)
        here = np.take(signal, range(signal.shape[axis] - 1), axis)
        signal = here * (1 - part[axis]) + ahead * part[axis]
    return signal


def camera_tiles(data: Path) -> tuple[TileSet, np.ndarray, np.ndarray]:
    """Four tiles of an electron microscope with the affines that its alignment team solved.

    Returns the tiles at whole tens of pixels near the solved positions, seen by a mean camera (the solved
    scales are up to 8 % off one), and the solved poses: linear parts, (4, 3, 3), and positions, (4, 3),
    pixels (z, y, x) of the level that is read, half the camera's.
    """
    from PIL import Image

    folder = data / "render_em_tiles/render-app/src/test/resources/stitch-test"
    specs = json.loads((folder / "test_4_tiles_level_1.json").read_text())
    arrays, linear, position = [], np.tile(np.eye(3), (4, 1, 1)), np.zeros((4, 3))
    for n, spec in enumerate(specs):
        url = spec["mipmapLevels"]["1"]["imageUrl"]
        arrays.append(np.asarray(Image.open(folder / Path(url).name).convert("L"))[None])
        xx, yx, xy, yy, x, y = map(float, spec["transforms"]["specList"][0]["dataString"].split())
        linear[n, 1:, 1:] = (yy, yx), (xy, xx)
        # A pixel of the level is the mean of two by two: its middle lies half a camera pixel on.
        half = linear[n, 1:, 1:] @ (0.5, 0.5)
        position[n, 1:] = (np.array([y, x]) + half) / 2
    stage = position @ np.linalg.inv(linear.mean(0)).T
    return in_memory(arrays, np.round(stage / 10) * 10), linear, position


def photographs(data: Path) -> tuple[TileSet, np.ndarray]:
    """Ten photographs in a row and their registered positions, (10, 3) pixels."""
    import tifffile

    folder = data / "starrynight_stitch/starrynight/tests/fixtures/stitch_images"
    arrays = [tifffile.imread(folder / f"{n}.tif")[None] for n in range(1, 11)]
    places = [_positions(folder / f"tile_config{word}.txt") for word in ("", ".registered")]
    return in_memory(arrays, places[0]), places[1]


def _positions(path: Path) -> np.ndarray:
    """Positions (z, y, x) of a tile configuration file: lines of ``name; ; (x, y)``."""
    lines = [line for line in path.read_text().splitlines() if ";" in line]
    pairs = [line.rsplit(";", 1)[1].strip(" ()").split(",") for line in lines]
    return np.array([(0.0, float(y), float(x)) for x, y in pairs])


def mosaic(data: Path) -> TileSet:
    """Two tiles of a CZI mosaic."""
    import czifile

    path = data / "czi_mosaic/src/multiview_stitcher/test-datasets/mosaic_test.czi"
    arrays, places = [], []
    with czifile.CziFile(path) as file:
        for entry in sorted(file.filtered_subblock_directory, key=lambda e: e.mosaic_index or 0):
            start = dict(zip(entry.axes, entry.start, strict=True))
            arrays.append(np.squeeze(entry.data_segment().data())[None])
            places.append((0.0, float(start["Y"]), float(start["X"])))
    return in_memory(arrays, np.array(places) - places[0])
