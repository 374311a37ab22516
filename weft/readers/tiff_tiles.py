"""TIFF tiles with a table of stage positions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weft.grid import Triple
from weft.image import Tile, TileSet
from weft.readers.checks import channel_names, inside, orientation_code, voxel_size
from weft.readers.fingerprint import existing
from weft.readers.picture import PICTURES, picture_volume
from weft.readers.tiff import TiffSource, open_planes, open_volume_file, planes_in
from weft.readers.tile_table import TileRow, find_table, read_tile_table
from weft.readers.tile_volumes import TileVolumes, check_alike


def open_tiff_tiles(
    path: str | Path,
    *,
    table: str | Path | None = None,
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
    channels: Sequence[str] | None = None,
    sample: int | str | None = None,
) -> TileSet:
    """Index TIFF tiles whose stage positions lie in a table.

    The table (comma- or tab-separated, with a header) has the columns ``tile``, ``path``, ``z``, ``y``, ``x``
    and, where wanted, ``channel``, ``row``, ``column``. A position is that of the centre of a tile's first voxel,
    um. ``path``, relative to the table, is a multi-page TIFF file, a folder of single-plane ones, a pattern of
    them (``tile0/*_ch1.tif``), or a picture (PNG, JPEG, BMP). One line per tile, or per tile and channel.
    A table that ends in ``.txt`` is a tile configuration of Fiji's Grid/Collection stitching: its positions are
    voxels.

    Parameters
    ----------
    path
        Folder that holds ``tiles.tsv``, ``tiles.csv`` or ``TileConfiguration.txt``, or the table itself.
    table
        Another name for the table, relative to the folder.
    spacing
        Voxel size, um, (z, y, x); needed unless the first file's OME-XML or ImageJ metadata state it.
    orientation
        Code of three letters; TIFF files say none.
    channels
        Names of channels, where the table has no column ``channel``; with that column, their order.
    sample
        Which sample of files in colour is read: 0, 1, 2, or red, green, blue. Colours are refused without it.

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
    place = find_table(existing(path), table)
    rows, in_voxels = read_tile_table(place)
    by_tile: dict[str, list[TileRow]] = {}
    for row in rows:
        by_tile.setdefault(row.tile, []).append(row)
    listed = list(dict.fromkeys(row.channel for row in rows if row.channel is not None))
    if listed and channels is not None and set(channels) != set(listed):
        raise ValueError(f"{place}: its channels are {', '.join(listed)}; wanted {', '.join(channels)}")
    listed = list(channels or listed) if listed else []

    sources = [_sources(lines, listed, place, sample) for lines in by_tile.values()]
    volumes = [[source.volume for source in line] for line in sources]
    check_alike(volumes, [place.parent / lines[0].path for lines in by_tile.values()])
    first = sources[0][0]
    count = len(listed) if listed else first.volume.shape[0]
    voxel = voxel_size(spacing or first.spacing, place)
    return TileSet(
        tiles=tuple(
            _tile(lines, voxel if in_voxels else (1.0, 1.0, 1.0), place) for lines in by_tile.values()
        ),
        shape=first.volume.shape[1:],
        spacing=voxel,
        dtype=first.volume.dtype,
        channels=channel_names(listed or channels or first.channels, count, place),
        reader=TileVolumes(volumes),
        orientation=orientation_code(orientation, place),
    )


def _tile(lines: list[TileRow], unit: Triple, place: Path) -> Tile:
    first = lines[0]
    if any(line.position != first.position for line in lines):
        raise ValueError(
            f"{place}: channels of tile {first.tile!r} have different positions; wanted one position per tile"
        )
    z, y, x = (v * u for v, u in zip(first.position, unit, strict=True))
    return Tile(first.tile, (z, y, x), first.row, first.column)


def _sources(
    lines: list[TileRow], channels: list[str], place: Path, sample: int | str | None
) -> list[TiffSource]:
    if not channels:
        return [_open(place, lines[0].path, sample)]
    by_channel = {line.channel: line.path for line in lines}
    if lost := [channel for channel in channels if channel not in by_channel]:
        raise ValueError(
            f"{place}: channel {lost[0]!r} of tile {lines[0].tile!r} is not there; wanted a line for each channel"
        )
    return [_open(place, by_channel[channel], sample) for channel in channels]


def _open(place: Path, name: str, sample: int | str | None) -> TiffSource:
    path = inside(place.parent, name, place)
    if any(sign in name for sign in "*?["):
        return open_planes([planes_in(place.parent, name)], sample=sample)
    existing(path)
    if path.is_dir():
        return open_planes([planes_in(path)], sample=sample)
    if path.name.lower().endswith(PICTURES):
        return TiffSource(picture_volume(path, sample=sample, keep=False))
    return open_volume_file(path, sample=sample)
