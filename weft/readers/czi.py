"""Zeiss CZI files: the tiles of a mosaic.

The container is read by czifile; planes are decoded here, one at a time, with imagecodecs (JPEG XR and Zstandard too).
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from defusedxml import DefusedXmlException, ElementTree

from weft.grid import Triple
from weft.image import Region, Tile, TileSet
from weft.readers.checks import (
    channel_names,
    number,
    orientation_code,
    pairs,
    reading,
    sample_number,
    voxel_size,
)
from weft.readers.fingerprint import existing

_KIND = "a CZI file"
_PLACES = "XYZCM"  # every other dimension (scene, time, view ...) has to have one value
_COMPRESSIONS = {0: "none", 1: "JPEG", 2: "LZW", 4: "JPEG XR", 5: "Zstandard", 6: "Zstandard with header"}


def open_czi(
    path: str | Path,
    *,
    select: str | Mapping[str, Any] | None = None,
    sample: int | str | None = None,
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
    channels: Sequence[str] | None = None,
) -> TileSet:
    """Index the tiles of a mosaic in a Zeiss CZI file.

    Parameters
    ----------
    path
        File.
    select
        Which scene, time point, view ... is read, by the letters of the file's dimensions: ``S:0,T:2``. Needed
        where there are several.
    sample
        Which sample of pixels in colour is read: 0, 1, 2, or red, green, blue. Colours are refused without it.
    spacing
        Voxel size, um, (z, y, x), instead of the file's. A file of one plane states none along z: its pixel's height
        is taken.
    orientation
        Code of three letters; CZI files say none.
    channels
        Names of the channels instead of the file's.

    Returns
    -------
    TileSet
        Tiles in order of their mosaic index, at the positions of the subblock directory; sub-blocks of the file's
        own pyramid are left out.

    Raises
    ------
    FileNotFoundError
        When the file is missing.
    ValueError
        When the file is broken or truncated, several scenes and so on are found and none is selected, a plane of a
        tile is missing, tiles differ in shape, type or from plane to plane in position, or the compression is
        another than none, JPEG, LZW, JPEG XR or Zstandard.
    """
    path = existing(path)
    blocks, xml = _directory(path)
    blocks = _select(blocks, pairs(select), path)
    first = blocks[0]
    for block in blocks:
        if block.size != first.size or block.kind != first.kind:
            raise ValueError(
                f"{path}: tile {block.tile} has {block.size} pixels (y, x) of {block.kind}; "
                f"wanted {first.size} of {first.kind}, as the first"
            )
        if block.compression not in _COMPRESSIONS:
            raise ValueError(
                f"{path}: compression {block.compression} is unknown; wanted one of {', '.join(_COMPRESSIONS.values())}"
            )
    stored = np.dtype(first.kind)
    if stored.shape and sample is None:
        raise ValueError(
            f"{path}: its pixels have {stored.shape[0]} colours; say with `sample` which is read"
        )
    chosen = sample_number(sample, stored.shape[0], path) if stored.shape and sample is not None else None

    numbers = sorted({block.tile for block in blocks})
    planes = sorted({block.z for block in blocks})
    found = sorted({block.channel for block in blocks})
    table = {(block.tile, block.channel, block.z): block for block in blocks}
    if len(table) < len(blocks):
        raise ValueError(f"{path}: a plane of a tile is there twice; wanted one for each tile, channel and z")
    for tile in numbers:
        for channel in found:
            if lost := [z for z in planes if (tile, channel, z) not in table]:
                raise ValueError(f"{path}: plane {lost[0]} of tile {tile}, channel {channel} is missing")
    names, stated = _metadata(xml, path)
    voxel = voxel_size(spacing or _spacing(stated, len(planes)), path)
    return TileSet(
        tiles=tuple(
            _tile(tile, [b for b in blocks if b.tile == tile], voxel, planes[0], path) for tile in numbers
        ),
        shape=(len(planes), *first.size),
        spacing=voxel,
        dtype=stored.base.newbyteorder("="),
        channels=channel_names(channels or _names(names, found), len(found), path),
        reader=_Reader(
            path,
            [[[table[tile, channel, z] for z in planes] for channel in found] for tile in numbers],
            chosen,
        ),
        orientation=orientation_code(orientation, path),
    )


@dataclass(frozen=True)
class _Block:
    """A sub-block: one plane of a tile.

    ``corner`` is that of its first pixel in the mosaic, (y, x) pixels; ``others`` the values of further dimensions.
    """

    offset: int
    compression: int
    kind: str
    tile: int
    channel: int
    z: int
    corner: tuple[int, int]
    size: tuple[int, int]
    others: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class _Reader:
    """Reads a region of a tile: whole rows of planes that are not compressed, else whole planes."""

    path: Path
    blocks: list[list[list[_Block]]]
    sample: int | None

    def __call__(self, tile: int, channel: int, region: Region) -> np.ndarray:
        if not 0 <= channel < len(self.blocks[tile]):
            raise ValueError(
                f"{self.path}: channel {channel} is not there; it has {len(self.blocks[tile])} channels"
            )
        z, y, x = region
        first = self.blocks[tile][channel][0]
        dtype = np.dtype(first.kind).base.newbyteorder("=")
        out = np.empty((z.stop - z.start, y.stop - y.start, x.stop - x.start), dtype)
        with open(self.path, "rb") as file, reading(self.path, _KIND):
            for n, block in enumerate(self.blocks[tile][channel][z]):
                rows = _rows(file, block, y)
                out[n] = rows[:, x] if self.sample is None else rows[:, x, self.sample]
        return out


def _directory(path: Path) -> tuple[list[_Block], str]:
    """The sub-blocks of full resolution, in order of the file, and the metadata (XML)."""
    from czifile import CziFile

    with reading(path, _KIND), warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns of what is missing from a file
        with CziFile(str(path), multifile=False) as file:
            if file.header.file_part or file.header.primary_file_guid != file.header.file_guid:
                raise ValueError("it is a part of several files; wanted a single one")
            entries = list(file.subblock_directory)
            xml = file.metadata() or ""
    blocks = []
    for entry in entries:
        dimensions = {d.dimension: d for d in entry.dimension_entries}
        if "X" not in dimensions or "Y" not in dimensions:
            raise ValueError(
                f"{path}: a sub-block has the dimensions {', '.join(dimensions)}; wanted X and Y"
            )
        if any(d.stored_size != d.size for d in dimensions.values()):
            continue  # of the file's own pyramid
        if thick := [d for name, d in dimensions.items() if name not in "XY" and d.size != 1]:
            raise ValueError(
                f"{path}: a sub-block has {thick[0].size} values of {thick[0].dimension}; wanted a plane each"
            )
        starts = {name: int(d.start) for name, d in dimensions.items()}
        blocks.append(
            _Block(
                offset=int(entry.file_position),
                compression=int(entry.compression),
                kind=str(entry.dtype),
                tile=starts.get("M", 0),
                channel=starts.get("C", 0),
                z=starts.get("Z", 0),
                corner=(starts["Y"], starts["X"]),
                size=(int(dimensions["Y"].size), int(dimensions["X"].size)),
                others=tuple((name, value) for name, value in starts.items() if name not in _PLACES),
            )
        )
    if not blocks:
        raise ValueError(f"{path}: it holds no planes")
    return blocks, xml


def _select(blocks: list[_Block], select: Mapping[str, str], path: Path) -> list[_Block]:
    """The blocks of one value of each dimension that is neither place nor channel."""
    names = sorted({name for block in blocks for name, _ in block.others})
    if unknown := [name for name in select if name not in names]:
        raise ValueError(
            f"{path}: select names {unknown[0]!r}; the file's further dimensions are {', '.join(names)}"
        )
    for name in names:
        values = sorted({dict(block.others).get(name, 0) for block in blocks})
        wanted = int(number(select[name], f"select of {name}", path)) if name in select else values[0]
        if wanted not in values or (name not in select and len(values) > 1):
            raise ValueError(
                f"{path}: dimension {name} has the values {', '.join(map(str, values))}; "
                f"say which is wanted as `select={name}:{values[0]}`"
            )
        blocks = [block for block in blocks if dict(block.others).get(name, 0) == wanted]
    return blocks


def _tile(number: int, blocks: list[_Block], voxel: Triple, first_plane: int, path: Path) -> Tile:
    corners = {block.corner for block in blocks}
    if len(corners) > 1:
        raise ValueError(
            f"{path}: planes of tile {number} lie at {len(corners)} places, as {sorted(corners)[:2]}; wanted one"
        )
    y, x = corners.pop()
    return Tile(f"M{number:03}", (first_plane * voxel[0], y * voxel[1], x * voxel[2]))


def _metadata(xml: str, path: Path) -> tuple[dict[int, str], dict[str, float]]:
    """Names of channels by number, and pixel sizes, um, by axis, as far as the metadata state them."""
    if not xml:
        return {}, {}
    try:
        root = ElementTree.fromstring(xml.rstrip("\0"))
    except (DefusedXmlException, ElementTree.ParseError) as error:
        raise ValueError(f"{path}: its metadata cannot be read as XML ({error})") from error
    sizes = {}
    for distance in root.iterfind(".//Scaling/Items/Distance"):
        value = distance.findtext("Value")
        if value and distance.get("Id"):
            sizes[str(distance.get("Id"))] = number(value, "Scaling", path) * 1e6
    names = {}
    for n, channel in enumerate(root.iterfind(".//Information/Image/Dimensions/Channels/Channel")):
        names[n] = channel.get("Name") or str(n)
    return names, sizes


def _spacing(sizes: Mapping[str, float], planes: int) -> Triple | None:
    if "X" not in sizes or "Y" not in sizes or ("Z" not in sizes and planes > 1):
        return None
    return sizes.get("Z", sizes["Y"]), sizes["Y"], sizes["X"]


def _names(names: Mapping[int, str], channels: Sequence[int]) -> list[str] | None:
    found = [names.get(channel, str(channel)) for channel in channels]
    return found if len(set(found)) == len(found) else None


def _rows(file: Any, block: _Block, y: slice) -> np.ndarray:
    """Rows of a plane, (y, x) or (y, x, colours)."""
    offset, size = _payload(file, block.offset)
    stored = np.dtype(block.kind)
    base = stored.base
    width = block.size[1] * int(np.prod(stored.shape, dtype=int))
    if block.compression:
        pixels = _decoded(file.name, offset, size, block)[y]
    else:
        needed = block.size[0] * width * base.itemsize
        file.seek(offset + y.start * width * base.itemsize)
        found = np.fromfile(file, base, (y.stop - y.start) * width)
        if size < needed or found.size < (y.stop - y.start) * width:
            raise ValueError(f"truncated: a plane of tile {block.tile} has fewer than {needed} bytes")
        pixels = found.reshape(-1, block.size[1], *stored.shape)
    # Colours are stored blue first, but those of JPEG and JPEG XR come out red first.
    if stored.shape and block.compression not in (1, 4):
        pixels = pixels[..., [2, 1, 0, *range(3, stored.shape[0])]]
    return pixels.astype(base.newbyteorder("="), copy=False)


def _payload(file: Any, position: int) -> tuple[int, int]:
    """Where the pixels of the sub-block at ``position`` begin, and their bytes."""
    file.seek(position)
    head = file.read(32 + 16 + 32)
    if len(head) < 80 or head[:14] != b"ZISRAWSUBBLOCK":
        raise ValueError(f"truncated: there is no sub-block at byte {position}")
    metadata, _, size = struct.unpack("<iiq", head[32:48])
    dimensions = struct.unpack("<i", head[76:80])[0]
    # The directory entry takes 32 bytes and 20 per dimension; both together at least 256 with what stands before.
    entry = 32 + 20 * dimensions
    return position + 48 + max(entry, 240) + metadata, size


@lru_cache(maxsize=8)
def _decoded(path: str, offset: int, size: int, block: _Block) -> np.ndarray:
    """A compressed plane, (y, x) or (y, x, colours)."""
    import imagecodecs

    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise ValueError(f"truncated: found {len(data)} bytes of a plane, wanted {size}")
    stored = np.dtype(block.kind)
    shape = (*block.size, *stored.shape)
    if block.compression in (1, 4):
        decode = imagecodecs.jpeg8_decode if block.compression == 1 else imagecodecs.jpegxr_decode
        return np.asarray(decode(data)).reshape(shape)
    if block.compression == 2:
        raw = imagecodecs.lzw_decode(data)
    elif block.compression == 5:
        raw = imagecodecs.zstd_decode(data)
    else:
        raw = _zstd_with_header(data, stored.base.itemsize)
    return np.frombuffer(raw, stored.base).reshape(shape)


def _zstd_with_header(data: bytes, itemsize: int) -> bytes:
    """Zstandard behind a header whose first byte is its length; it may say that low and high bytes lie apart."""
    import imagecodecs

    apart = data[0] >= 3 and data[1] == 1 and bool(data[2] & 1)
    raw = bytes(imagecodecs.zstd_decode(data[data[0] :]))
    if not apart or itemsize != 2:
        return raw
    return np.frombuffer(raw, np.uint8).reshape(2, -1).T.tobytes()
