"""Rows of raw tiles, kept while they fit, for regions that are fused one after another."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future

import numpy as np

from weft.image import Region, TileSet

# A slab may take this part of the cache: where four tiles meet, all four fit.
_SHARE = 4


class TileCache:
    """Slabs of raw tiles, read once for all regions that need them.

    A slab holds whole planes where they fit, else whole rows, because that is how readers find voxels in files.

    Parameters
    ----------
    tiles
        Where the voxels come from.
    max_bytes
        Slabs used longest ago are dropped beyond this.
    """

    def __init__(self, tiles: TileSet, max_bytes: int = 1 << 29) -> None:
        self.tiles = tiles
        self.max_bytes = max_bytes
        self._slabs: OrderedDict[tuple[int, ...], Future[np.ndarray]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def read(self, tile: int, channel: int, region: Region) -> tuple[np.ndarray, tuple[int, int, int]]:
        """A C-contiguous array, (z, y, x), that holds a region of a tile, and where in it the region starts."""
        z, y, x = region
        _, height, width = self.tiles.shape
        row = (z.stop - z.start) * width * self.tiles.dtype.itemsize
        for rows in (slice(0, height), y):
            if row * (rows.stop - rows.start) * _SHARE <= self.max_bytes:
                whole = (z, rows, slice(0, width))
                return self._slab(tile, channel, whole), (0, y.start - rows.start, x.start)
        return _contiguous(self.tiles.read(tile, channel, region)), (0, 0, 0)

    def _slab(self, tile: int, channel: int, region: Region) -> np.ndarray:
        key = (tile, channel, *(end for part in region for end in (part.start, part.stop)))
        with self._lock:
            slab = self._slabs.get(key)
            absent = slab is None
            if slab is None:
                slab = self._slabs[key] = Future()
            self._slabs.move_to_end(key)
        if absent:  # outside the lock: threads read side by side, and wait for a slab that another one reads
            try:
                slab.set_result(_contiguous(self.tiles.read(tile, channel, region)))
            except BaseException as error:
                with self._lock:
                    del self._slabs[key]
                slab.set_exception(error)
                raise
            with self._lock:
                self._bytes += slab.result().nbytes
                for old in [key for key, one in self._slabs.items() if one.done()]:
                    if self._bytes <= self.max_bytes:
                        break
                    self._bytes -= self._slabs.pop(old).result().nbytes
        return slab.result()


def _contiguous(voxels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("="))
