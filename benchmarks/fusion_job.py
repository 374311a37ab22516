"""One fusion in a process of its own: `python fusion_job.py FOLDER THREADS LEVELS CACHE`; `fusion_cases.py` makes the folder.

CACHE is what raw rows may take, MB.

Prints JSON: voxels, CPU seconds, peak memory, bytes written, and a digest of all files.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import report  # noqa: F401  (it finds the library)
from weft import receipts
from weft.fusion import TileCache, fuse_region, output_grid
from weft.illumination import Illumination
from weft.image import Tile, TileSet, box
from weft.logs import peak_memory
from weft.pyramid import downsample
from weft.readers.lazy import RawVolume
from weft.steps.level_builder import LevelBuilder
from weft.steps.levels import level_grids
from weft.steps.regions import split_name

STORE = {"chunk": (64, 64, 64), "shard": (128, 256, 256)}


def main() -> None:
    """Fuse as the rule `fuse_tiles` does, from uncompressed files into shards."""
    folder, threads, levels = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    about = json.loads((folder / "tiles.json").read_text())
    tiles = open_tiles(folder, about)
    positions = tiles.positions()
    gain = np.load(folder / "gain.npy")
    light = Illumination(gain, np.full(gain.shape, about["dark"], np.float32))
    grid = output_grid(positions, tiles.shape, tiles.spacing)
    # What is compiled, or loaded from the compiler's cache, at the first call.
    middle = np.array(grid.shape) // 2
    fuse_region(tiles, 0, positions, light, grid, box(middle, middle + 4))
    downsample(np.zeros((4, 4, 4), np.uint16), (2, 2, 2))
    keyed = receipts.KeyedStore(folder / f"fused-{threads}-{levels}.zarr", "0" * 64)
    builder = LevelBuilder(keyed, level_grids(grid, 128)[:levels], 1, np.uint16, labels=False, store=STORE)
    cache = TileCache(tiles, max_bytes=int(sys.argv[4]) * 1_000_000)

    def fuse(name: str) -> tuple[np.ndarray | None, dict[str, Any]]:
        _, where = split_name(name, builder.levels[0])
        voxels, counts = fuse_region(tiles, 0, positions, light, grid, where, cache=cache)
        return voxels, {"counts": counts}

    start = time.process_time()
    builder.build(builder.names(), fuse, threads=threads, what="fusion")
    seconds = time.process_time() - start
    files = receipts.file_digests(keyed.path)
    said = {
        "voxels": grid.size,
        "cpu_seconds": seconds,
        "peak": peak_memory(),
        "written": sum((keyed.path / name).stat().st_size for name in files),
        "digest": receipts.digest(files),
    }
    print(json.dumps(said))


def open_tiles(folder: Path, about: dict[str, Any]) -> TileSet:
    """The tiles of a folder; several may share a file."""
    shape = tuple(about["shape"])
    volumes = [RawVolume(folder / name, 0, (1, *shape), "<u2") for name in about["files"]]
    return TileSet(
        tuple(Tile(f"tile{n}", tuple(p)) for n, p in enumerate(about["positions"])),
        shape,
        (1.0, 1.0, 1.0),
        np.dtype(np.uint16),
        ("0",),
        lambda tile, channel, region: volumes[tile].read(channel, region),
    )


if __name__ == "__main__":
    main()
