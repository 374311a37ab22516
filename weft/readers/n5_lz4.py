"""N5 data sets compressed with LZ4, which TensorStore does not read: blocks of lz4-java's stream format."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from weft.image import Region

_MAGIC = b"LZ4Block"
_HEAD = struct.Struct("<8sBiii")  # magic, token, bytes compressed, bytes, checksum
_RAW, _LZ4 = 0x10, 0x20


def read_lz4(folder: Path, attributes: dict[str, Any], region: Region) -> np.ndarray:
    """Voxels, (z, y, x), of a region of a data set; blocks that are not there are zero.

    Parameters
    ----------
    folder
        The data set.
    attributes
        Of its ``attributes.json``.
    region
        Slices (z, y, x) with both ends given.

    Raises
    ------
    ValueError
        When a block is broken or truncated.
    """
    block = np.array(attributes["blockSize"][::-1])
    dtype = np.dtype(attributes["dataType"])
    start, stop = np.array([[part.start, part.stop] for part in region]).T
    out = np.zeros(stop - start, dtype)
    for place in np.ndindex(*(-(-stop // block) - start // block)):
        index = start // block + place
        file = folder.joinpath(*(str(n) for n in index[::-1]))
        if not file.is_file():
            continue
        voxels = _block(file, dtype)
        corner = index * block
        low, high = np.maximum(corner, start), np.minimum(corner + voxels.shape, stop)
        if (low < high).all():
            inner = tuple(slice(a, b) for a, b in zip(low - corner, high - corner, strict=True))
            outer = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
            out[outer] = voxels[inner]
    return out


def _block(file: Path, dtype: np.dtype) -> np.ndarray:
    """Voxels of a block, (z, y, x)."""
    data = file.read_bytes()
    mode, axes = struct.unpack(">HH", data[:4]) if len(data) >= 4 else (0, 0)
    if mode != 0 or axes != 3 or len(data) < 16:
        raise ValueError(f"{file}: it is no N5 block of three axes")
    shape = struct.unpack(">III", data[4:16])[::-1]
    raw = _stream(file, data[16:])
    if len(raw) < int(np.prod(shape)) * dtype.itemsize:
        raise ValueError(f"{file}: truncated; found {len(raw)} bytes of voxels for {shape}")
    return np.frombuffer(raw, dtype.newbyteorder(">"), int(np.prod(shape))).reshape(shape)


def _stream(file: Path, data: bytes) -> bytes:
    """The bytes of a stream of lz4-java, which is cut into blocks of its own."""
    import imagecodecs

    out, at = [], 0
    while at + _HEAD.size <= len(data):
        magic, token, size, length, _ = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        part = data[at : at + size]
        if magic != _MAGIC or token & 0xF0 not in (_RAW, _LZ4) or size < 0 or length < 0 or len(part) < size:
            raise ValueError(f"{file}: it is no LZ4 stream, or truncated")
        if length:  # an empty one ends the stream
            out.append(imagecodecs.lz4_decode(part, out=length) if token & 0xF0 == _LZ4 else part)
        at += size
    return b"".join(out)
