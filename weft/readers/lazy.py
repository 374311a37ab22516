"""Volumes that are read piece by piece, handed out as lazy dask arrays."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from weft.image import Region
from weft.readers.checks import reading

_MOST_CHUNKS = 100_000


class LazyVolume:
    """A volume, (c, z, y, x), of which any box can be read.

    Subclasses set ``shape`` and ``dtype`` and read boxes; they hold paths and numbers only (or drop the
    rest when pickled), so that a dask graph over them can travel to other processes.
    """

    shape: tuple[int, int, int, int]
    dtype: np.dtype
    ndim = 4

    def read(self, channel: int, region: Region) -> np.ndarray:
        """Voxels, (z, y, x), of ``region`` (slices with both ends given) of a channel."""
        raise NotImplementedError

    def paths(self, channel: int) -> Sequence[Path | None] | None:
        """Files that hold a channel and nothing else, in order of the planes; None where a channel has none.

        Where each plane has a file, None stands for a plane that is not there.
        """
        return None

    def __getitem__(self, key: Any) -> np.ndarray:
        """What dask asks for: an integer, a slice or a list of integers per axis."""
        boxes, within = zip(*(_box(part, n) for part, n in zip(key, self.shape, strict=True)), strict=True)
        region = boxes[1], boxes[2], boxes[3]
        voxels = np.empty([box.stop - box.start for box in boxes], self.dtype)
        for n, channel in enumerate(range(boxes[0].start, boxes[0].stop)):
            voxels[n] = self.read(channel, region)
        for axis in reversed(range(4)):
            voxels = voxels[(slice(None),) * axis + (within[axis],)]
        return voxels

    def lazy(self, chunk: tuple[int, int, int]) -> Any:
        """A dask array, (c, z, y, x), that reads ``chunk`` voxels, (z, y, x), at a time.

        Of a volume of very many chunks it reads the next multiples: dask's graph grows with their number.
        """
        import dask.array as da

        counts = [-(-n // max(1, c)) for c, n in zip(chunk, self.shape[1:], strict=True)]
        factor = 1
        while self.shape[0] * math.prod(-(-n // factor) for n in counts) > _MOST_CHUNKS:
            factor *= 2
        sizes = (1, *(max(1, min(c * factor, n)) for c, n in zip(chunk, self.shape[1:], strict=True)))
        return da.from_array(self, chunks=sizes, name=False, meta=np.empty((0,) * 4, self.dtype))


def _box(part: Any, size: int) -> tuple[slice, Any]:
    """The smallest slice of step 1 that holds an index, and the index within it."""
    if isinstance(part, slice):
        wanted = range(size)[part]
        if not len(wanted):
            return slice(0, 0), slice(None)
        return slice(min(wanted), max(wanted) + 1), slice(None, None, wanted.step)
    if isinstance(part, int | np.integer):
        return slice(int(part), int(part) + 1), 0
    wanted_list = np.asarray(part)
    start = int(wanted_list.min(initial=size - 1))
    return slice(start, int(wanted_list.max(initial=start)) + 1), wanted_list - start


class CropOf(LazyVolume):
    """A box of an array (c, z, y, x)."""

    def __init__(self, data: Any, box: Region) -> None:
        self.data, self.box = data, box
        self.shape = (data.shape[0], *(part.stop - part.start for part in box))
        self.dtype = np.dtype(data.dtype)

    def read(self, channel: int, region: Region) -> np.ndarray:
        z, y, x = (slice(b.start + r.start, b.start + r.stop) for b, r in zip(self.box, region, strict=True))
        return np.asarray(self.data[channel, z, y, x])


class RawVolume(LazyVolume):
    """Uncompressed planes, one after another in a file: only the rows that a box touches are read.

    Parameters
    ----------
    path
        File.
    offset
        Byte at which the first voxel lies.
    shape
        Voxels, (c, z, y, x).
    dtype
        Type of a voxel in the file, byte order included; voxels come out in native order.
    channels_last
        Planes are stored (z, c, y, x) instead of (c, z, y, x).
    """

    def __init__(
        self,
        path: Path,
        offset: int,
        shape: tuple[int, int, int, int],
        dtype: Any,
        channels_last: bool = False,
    ) -> None:
        self.path, self.offset, self.shape, self.channels_last = Path(path), offset, shape, channels_last
        self.stored = np.dtype(dtype)
        self.dtype = self.stored.newbyteorder("=")
        needed = offset + int(np.prod(shape, dtype=np.int64)) * self.stored.itemsize
        if (found := self.path.stat().st_size) < needed:
            raise ValueError(f"{self.path}: truncated; found {found} bytes, wanted {needed}")

    def read(self, channel: int, region: Region) -> np.ndarray:
        z, y, x = region
        channels, planes, height, width = self.shape
        rows = y.stop - y.start
        out = np.empty((z.stop - z.start, rows, x.stop - x.start), self.dtype)
        with open(self.path, "rb") as file:
            for n, plane in enumerate(range(z.start, z.stop)):
                stored = plane * channels + channel if self.channels_last else channel * planes + plane
                file.seek(self.offset + (stored * height + y.start) * width * self.stored.itemsize)
                found = np.fromfile(file, self.stored, rows * width)
                out[n] = found.reshape(rows, width)[:, x]
        return out

    def paths(self, channel: int) -> Sequence[Path | None] | None:
        return [self.path] if self.shape[0] == 1 else None

    def lazy_rows(self) -> Any:
        """A dask array whose chunks are about 2 MB of whole rows."""
        height, width = self.shape[2:]
        rows = max(1, min(height, 2**17 // width))
        return self.lazy((max(1, 2**20 // (rows * width)), rows, width))


class DecodedVolume(LazyVolume):
    """A compressed file that has no blocks: decoded whole into memory, once, when first read.

    Parameters
    ----------
    path, kind
        File, and the name of its format for messages.
    shape, dtype
        Of the decoded voxels, (c, z, y, x).
    decode
        Module-level function ``decode(path)`` that gives all voxels, (c, z, y, x).
    keep
        Hold the voxels as long as this object lives; else those of the last few files of all such objects are
        held, which is for tiles, of which there may be thousands.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        shape: tuple[int, int, int, int],
        dtype: Any,
        decode: Callable[[Path], np.ndarray],
        keep: bool = True,
    ) -> None:
        self.path, self.kind, self.shape, self.decode, self.keep = Path(path), kind, shape, decode, keep
        self.dtype = np.dtype(dtype)
        self._voxels: np.ndarray | None = None
        self._lock = threading.Lock()

    def read(self, channel: int, region: Region) -> np.ndarray:
        if not self.keep:
            with reading(self.path, self.kind):
                return _decoded_lately(self.decode, self.path)[(channel, *region)].copy()
        with self._lock:
            if self._voxels is None:
                with reading(self.path, self.kind):
                    self._voxels = self.decode(self.path)
        return self._voxels[(channel, *region)]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_voxels", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _voxels=None, _lock=threading.Lock())


@lru_cache(maxsize=8)
def _decoded_lately(decode: Callable[[Path], np.ndarray], path: Path) -> np.ndarray:
    return decode(path)
