"""Read raw tiles once, whatever is asked of them how often."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weft.image import Region, TileSet

# Tiles of at most so many bytes in all are kept whole.
_SMALL = 256_000_000


def kept_whole(tiles: TileSet) -> bool:
    """Whether all of these tiles are small enough to be kept whole."""
    voxels = int(np.prod(tiles.shape)) * len(tiles.tiles) * len(tiles.channels)
    return voxels * tiles.dtype.itemsize <= _SMALL


def read_once(tiles: TileSet, regions: bool = False) -> TileSet:
    """The same tiles, whose voxels are read from the source once and then kept in memory.

    Up to 256 MB in all are read tile by tile and kept; more are read as they are asked for, and nothing is
    kept. With ``regions``, tiles of any size are read as they are asked for, and what was read is kept and
    answers requests for parts of it.
    """
    whole = kept_whole(tiles) and not regions
    if not whole and not regions:
        return tiles
    kept: dict[tuple[int, int], list[tuple[Region, np.ndarray]]] = {}

    def read(tile: int, channel: int, region: Region) -> np.ndarray:
        wanted = [range(*part.indices(n)) for part, n in zip(region, tiles.shape, strict=True)]
        parts = kept.setdefault((tile, channel), [])
        for held, voxels in parts:
            if all(h.start <= w.start and w.stop <= h.stop for h, w in zip(held, wanted, strict=True)):
                z, y, x = (
                    slice(w.start - h.start, w.stop - h.start) for h, w in zip(held, wanted, strict=True)
                )
                return voxels[z, y, x]
        z, y, x = (slice(0, n) for n in tiles.shape) if whole else (slice(w.start, w.stop) for w in wanted)
        parts.append(((z, y, x), tiles.read(tile, channel, (z, y, x))))
        return read(tile, channel, region)

    return replace(tiles, reader=read)
