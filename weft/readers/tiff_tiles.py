"""TIFF tiles with a table of stage positions."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weft.image import Region, Tile, TileSet
from weft.readers.checks import channel_names, orientation_code, voxel_size
from weft.readers.fingerprint import existing
from weft.readers.tiff import TiffSource, open_planes, open_volume_file, planes_in

TABLES = ("tiles.tsv", "tiles.csv")


def open_tiff_tiles(
    path: str | Path,
    *,
    table: str | Path | None = None,
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
    channels: Sequence[str] | None = None,
) -> TileSet:
    """Index TIFF tiles whose stage positions lie in a table.

    The table (comma- or tab-separated, with a header) has the columns ``tile``, ``path``, ``z``, ``y``, ``x``
    and, where wanted, ``channel``, ``row``, ``column``. A position is that of the centre of a tile's first voxel,
    um. ``path``, relative to the table, is a multi-page TIFF file, a folder of single-plane ones, or a pattern of
    them (``tile0/*_ch1.tif``). One line per tile, or per tile and channel.

    Parameters
    ----------
    path
        Folder that holds ``tiles.csv`` or ``tiles.tsv``, or the table itself.
    table
        Another name for the table, relative to the folder.
    spacing
        Voxel size, um, (z, y, x); needed unless the first file's OME-XML or ImageJ metadata state it.
    orientation
        Code of three letters; TIFF files say none.
    channels
        Names of channels, where the table has no column ``channel``; with that column, their order.

    Returns
    -------
    TileSet
        Tiles in the order of the table.

    Raises
    ------
    FileNotFoundError
        When the table or a file of it is missing.
    ValueError
        When a column, a number, a channel of a tile or the voxel size is missing or makes no sense, or a
        tile is broken, or of another shape or type than the first.
    """
    place = _table(existing(path), table)
    rows = _rows(place)
    by_channel = "channel" in rows[0]
    by_tile: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_tile.setdefault(row["tile"], []).append(row)
    listed = list(dict.fromkeys(row["channel"] for row in rows)) if by_channel else []
    if by_channel and channels is not None and set(channels) != set(listed):
        raise ValueError(f"{place}: its channels are {', '.join(listed)}; wanted {', '.join(channels)}")
    listed = list(channels or listed) if by_channel else []

    tiles = [_tile(name, lines, place) for name, lines in by_tile.items()]
    sources = [_sources(name, lines, listed, place) for name, lines in by_tile.items()]
    first = sources[0][0].volume
    for line in sources:
        for source in line:
            _check_same(source, sources[0][0])
    count = len(listed) if by_channel else first.shape[0]
    return TileSet(
        tiles=tuple(tiles),
        shape=first.shape[1:],
        spacing=voxel_size(spacing or sources[0][0].spacing, place),
        dtype=first.dtype,
        channels=channel_names(listed or channels or sources[0][0].channels, count, place),
        reader=_Reader(sources),
        orientation=orientation_code(orientation, place),
    )


@dataclass(frozen=True)
class _Reader:
    """Reads a region of a tile: of file ``sources[tile][channel]``, or of channel of ``sources[tile][0]``."""

    sources: list[list[TiffSource]]

    def __call__(self, tile: int, channel: int, region: Region) -> np.ndarray:
        sources = self.sources[tile]
        count = len(sources) if len(sources) > 1 else sources[0].volume.shape[0]
        if not 0 <= channel < count:
            raise ValueError(f"channel {channel} of tile {tile} is not there; it has {count} channels")
        if len(sources) > 1:
            return sources[channel].volume.read(0, region)
        return sources[0].volume.read(channel, region)


def _table(path: Path, table: str | Path | None) -> Path:
    if path.is_file():
        return path
    if table is not None:
        return existing(path / table)
    for name in TABLES:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(
        f"{path}: no table of stage positions; wanted {' or '.join(TABLES)}, or give `table`"
    )


def _rows(place: Path) -> list[dict[str, str]]:
    text = place.read_text(encoding="utf-8-sig")
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    rows = [
        {k: (v or "").strip() for k, v in row.items() if k}
        for row in csv.DictReader(text.splitlines(), delimiter=delimiter)
    ]
    if not rows:
        raise ValueError(f"{place}: has no tiles; wanted one per line")
    if lost := [name for name in ("tile", "path", "z", "y", "x") if name not in rows[0]]:
        raise ValueError(f"{place}: column {lost[0]!r} is missing; wanted tile, path, z, y, x")
    lines = Counter((row["tile"], row.get("channel")) for row in rows)
    if twice := [tile for (tile, _), count in lines.items() if count > 1]:
        raise ValueError(
            f"{place}: tile {twice[0]!r} is listed twice; wanted one line per tile (and channel)"
        )
    return rows


def _tile(name: str, lines: list[dict[str, str]], place: Path) -> Tile:
    position = [_number(lines[0][axis], axis, name, place) for axis in "zyx"]
    for line in lines[1:]:
        if [_number(line[axis], axis, name, place) for axis in "zyx"] != position:
            raise ValueError(
                f"{place}: channels of tile {name!r} have different positions; wanted one position per tile"
            )
    row, column = (
        int(_number(lines[0][key], key, name, place)) if lines[0].get(key) else None
        for key in ("row", "column")
    )
    return Tile(name, (position[0], position[1], position[2]), row, column)


def _number(text: str, column: str, tile: str, place: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{place}: {column} of tile {tile!r} is {text!r}; wanted a number")
    return value


def _sources(name: str, lines: list[dict[str, str]], channels: list[str], place: Path) -> list[TiffSource]:
    if not channels:
        return [_open(place.parent, lines[0]["path"])]
    by_channel = {line["channel"]: line["path"] for line in lines}
    if lost := [channel for channel in channels if channel not in by_channel]:
        raise ValueError(
            f"{place}: channel {lost[0]!r} of tile {name!r} is not there; wanted a line for each channel"
        )
    return [_open(place.parent, by_channel[channel]) for channel in channels]


def _open(folder: Path, name: str) -> TiffSource:
    if any(sign in name for sign in "*?["):
        return open_planes([planes_in(folder, name)])
    path = existing(folder / name)
    return open_planes([planes_in(path)]) if path.is_dir() else open_volume_file(path.absolute())


def _check_same(source: TiffSource, first: TiffSource) -> None:
    found, wanted = source.volume, first.volume
    place = getattr(found, "path", None) or found.files[0][0].parent  # type: ignore[attr-defined]
    if found.shape != wanted.shape:
        raise ValueError(
            f"{place}: the tile has shape {found.shape}; wanted {wanted.shape} (c, z, y, x), as the first"
        )
    if found.dtype != wanted.dtype:
        raise ValueError(f"{place}: the tile is {found.dtype}; wanted {wanted.dtype}, as the first")
