"""Shards: one file of a sharded Zarr array, packed on the calling thread and there whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc, Zstd
from zarr.codecs import BloscCodec, BytesCodec, ShardingCodec, ZstdCodec

from weft.receipts import writing

# What the index of a shard says of a chunk that holds nothing but the fill value.
_ABSENT = np.iinfo(np.uint64).max
_SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}


def compressor(dtype: Any, codec: str = "lz4") -> BloscCodec | ZstdCodec:
    """The codec of an array's chunks.

    Parameters
    ----------
    dtype
        Of a voxel. Integers of 32 and 64 bits are labels: long runs of few values, which Zstandard packs best.
    codec
        For all else: ``"lz4"``, or ``"zstd"``, which takes less room and more time; both sort the bits first.
    """
    dtype = np.dtype(dtype)
    if dtype.kind in "ui" and dtype.itemsize >= 4:
        return ZstdCodec(level=1)
    return BloscCodec(cname=codec, clevel=1, shuffle="bitshuffle", typesize=dtype.itemsize)  # type: ignore[arg-type]


def array_folder(array: zarr.Array) -> Path:
    """Folder of an array."""
    return Path(array.store.root) / array.path  # type: ignore[attr-defined]


@dataclass(frozen=True)
class ShardWriter:
    """Writes whole shards of an array that `weft.stores.ome_zarr.create_level` made.

    The library's own path goes through an event loop and a thread per chunk, and costs about as much CPU time as
    the packing itself. A shard, as Zarr's specification of the codec ``sharding_indexed`` has it, is little: the
    packed chunks one after another, then their offsets and sizes and the checksum of these.

    Parameters
    ----------
    array
        (c, z, y, x), fill value 0, sharded, its chunks packed by Blosc or Zstandard.

    Raises
    ------
    ValueError
        When the array is laid out in another way.
    """

    array: zarr.Array

    def __post_init__(self) -> None:
        if self._packer is None or self.array.fill_value:
            raise ValueError(
                f"{array_folder(self.array)}: wanted shards of chunks packed by Blosc or Zstandard, with the fill "
                f"value 0; found {self.array.metadata.codecs}"  # type: ignore[union-attr]
            )

    @cached_property
    def _packer(self) -> Blosc | Zstd | None:
        sharding: Any = self.array.metadata.codecs[0]  # type: ignore[union-attr]
        inner: tuple[Any, ...] = sharding.codecs if isinstance(sharding, ShardingCodec) else ()
        if [type(codec) for codec in inner] == [BytesCodec, ZstdCodec]:
            return Zstd(inner[1].level)
        if [type(codec) for codec in inner] == [BytesCodec, BloscCodec]:
            return Blosc(inner[1].cname.value, inner[1].clevel, _SHUFFLES[inner[1].shuffle.value])
        return None

    def path(self, index: Sequence[int]) -> Path:
        """File of a shard, by its index (c, z, y, x) among the shards."""
        return array_folder(self.array) / self.array.metadata.encode_chunk_key(tuple(index))

    def write(self, index: Sequence[int], voxels: np.ndarray) -> None:
        """Write a shard; one of zeros has no file.

        Parameters
        ----------
        index
            (c, z, y, x) among the shards.
        voxels
            (z, y, x), of the array's dtype; fewer than a shard holds where the array ends.
        """
        path = self.path(index)
        packed, table = self._pack(voxels)
        if not packed:
            self.remove(index)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        tail = table.astype("<u8").tobytes()
        # Zarr's own name for a file that is being written: what a killed job leaves is known by it.
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            with writing(path), open(partial, "wb") as file:
                file.writelines(packed)
                file.write(tail + google_crc32c.value(tail).to_bytes(4, "little"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, index: Sequence[int]) -> None:
        """Leave no file of a shard: all of its voxels are zero then."""
        self.path(index).unlink(missing_ok=True)

    def _pack(self, voxels: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        """The packed chunks in C order, and where each lies: (z, y, x, 2) of offset and size."""
        outer, inner = np.array(self.array.shards[1:]), np.array(self.array.chunks[1:])  # type: ignore[index]
        table = np.full((*(outer // inner), 2), _ABSENT, np.uint64)
        packer: Any = self._packer
        chunk = np.zeros(inner, voxels.dtype.newbyteorder("<"))
        packed: list[bytes] = []
        offset = 0
        for where in np.ndindex(*table.shape[:3]):
            start = inner * where
            part = voxels[tuple(slice(a, a + n) for a, n in zip(start, inner, strict=True))]
            if part.shape != chunk.shape:
                chunk[...] = 0
            chunk[tuple(slice(0, n) for n in part.shape)] = part
            if chunk.view(np.uint8).any():  # bits, so that a minus zero is kept
                packed.append(packer.encode(chunk))
                table[where] = offset, len(packed[-1])
                offset += len(packed[-1])
        return packed, table
