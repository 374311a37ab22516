"""TIFF tiles on a regular grid, found by a pattern of file names."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from weft.image import Tile, TileSet
from weft.readers.checks import (
    channel_names,
    natural_order,
    number,
    one_of,
    orientation_code,
    pairs,
    voxel_size,
    whole_number,
    words,
)
from weft.readers.fingerprint import existing
from weft.readers.tiff import TiffSource, is_tiff, open_planes, open_volume_file
from weft.readers.tile_volumes import TileVolumes, check_alike

Order = Literal["rows", "snake_rows", "columns", "snake_columns"]

_NUMBERS = ("row", "column", "tile", "z")
_FIELD = re.compile(r"\{([^{}]*)\}")


def open_tiff_grid(
    path: str | Path,
    *,
    pattern: str | None = None,
    overlap: float | str | Sequence[float] | None = None,
    step: str | Sequence[float] | None = None,
    columns: int | str | None = None,
    order: Order = "rows",
    first: int | str | None = None,
    flip: str = "",
    select: str | Mapping[str, str] | None = None,
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
    channels: Sequence[str] | None = None,
    sample: int | str | None = None,
) -> TileSet:
    """Index TIFF tiles of a regular grid by their names.

    Parameters
    ----------
    path
        Folder below which the files lie.
    pattern
        Path of a file relative to the folder, with fields in braces and ``*`` for any text, for instance
        ``r{row}_c{column}/z{z}_{channel}.tif`` or ``tile{tile}.tif``. ``{row}`` and ``{column}``, or ``{tile}``, say
        which tile a file is of; ``{z}`` numbers its planes, where each has a file; ``{channel}`` names a channel,
        where each has a file. Every other field (``{round}``, ``{well}``) needs one value, see ``select``.
    overlap
        Overlap of neighbours, percent of the tile: a number, or two, ``y,x``.
    step
        Distance of neighbours, um, ``y,x``, instead of ``overlap``.
    columns
        Of ``{tile}``: tiles per row (for an ``order`` by columns: rows per column).
    order
        Of ``{tile}``: by rows or by columns, each in the same direction or in turns to and fro (``snake_``).
    first
        Of ``{tile}``: the number of the first one (default: the smallest found).
    flip
        ``y``, ``x`` or ``yx``: rows or columns are counted against the direction in which the pixels are.
    select
        Values of further fields, ``round:2,well:B03``.
    spacing
        Voxel size, um, (z, y, x); needed unless OME-XML or ImageJ metadata of the first file state it.
    orientation
        Code of three letters; TIFF files say none.
    channels
        With ``{channel}``: which values are read, in this order. Else the names of the channels in a file.
    sample
        Which sample of files in colour is read: 0, 1, 2, or red, green, blue. Colours are refused without it.

    Returns
    -------
    TileSet
        Tiles by rows; ``missing`` names the places of the grid for which there is no file.

    Raises
    ------
    FileNotFoundError
        When the folder is missing.
    ValueError
        When the pattern makes no sense or matches nothing, two files are the same plane, a plane or channel of
        a tile is missing, an option makes no sense, or a tile is broken, or of another shape or type than the first.
    """
    root = existing(path)
    if not pattern or not (
        {"row", "column"} <= set(_fields(pattern, root)) or "tile" in _fields(pattern, root)
    ):
        raise ValueError(
            f"{root}: pattern is {pattern!r}; wanted the path of a file with the fields {{row}} and {{column}}, or {{tile}}"
        )
    one_of(order, get_args(Order), "order", root)
    if set(flip) - set("yx"):
        raise ValueError(f"{root}: flip is {flip!r}; wanted y, x or yx")
    files = _select(_match(root, pattern), select, root, pattern)
    places = _places(files, columns, order, first, root)
    named = _channel_values(files, channels, root)
    tiles, sources, missing = [], [], []
    rows = max(row for row, _ in places) + 1
    across = max(column for _, column in places) + 1
    for row in range(rows):
        for column in range(across):
            if (row, column) not in places:
                missing.append(f"r{row}_c{column}")
                continue
            sources.append(_sources(places[row, column], named, sample, root))
            tiles.append((f"r{row}_c{column}", row, column))
    volumes = [[source.volume for source in line] for line in sources]
    check_alike(volumes, [f"{root}: tile {name}" for name, *_ in tiles])
    first_source = sources[0][0]
    shape = first_source.volume.shape[1:]
    voxel = voxel_size(spacing or first_source.spacing, root)
    dy, dx = _step(overlap, step, (shape[1] * voxel[1], shape[2] * voxel[2]), root)

    def position(row: int, column: int) -> tuple[float, float, float]:
        line = rows - 1 - row if "y" in flip else row
        place = across - 1 - column if "x" in flip else column
        return 0.0, line * dy, place * dx

    count = len(named) if named else first_source.volume.shape[0]
    return TileSet(
        tiles=tuple(Tile(name, position(row, column), row, column) for name, row, column in tiles),
        shape=shape,
        spacing=voxel,
        dtype=first_source.volume.dtype,
        channels=channel_names(named or words(channels) or first_source.channels, count, root),
        reader=TileVolumes(volumes),
        orientation=orientation_code(orientation, root),
        missing=tuple(missing),
    )


@dataclass(frozen=True)
class _File:
    """A file with the values of the pattern's fields."""

    path: Path
    values: dict[str, str]


def _fields(pattern: str, root: Path) -> list[str]:
    names = _FIELD.findall(pattern)
    wrong = [name for name in names if not name.isidentifier()]
    parts = re.split(r"[\\/]", pattern)
    if (
        wrong
        or len(set(names)) != len(names)
        or ".." in parts
        or Path(pattern).is_absolute()
        or "**" in parts
    ):
        raise ValueError(
            f"{root}: pattern is {pattern!r}; wanted a path below the folder, each field a different word in braces"
        )
    return names


def _match(root: Path, pattern: str) -> list[_File]:
    """Files that match the pattern, in natural order."""
    tokens = re.split(r"(\{[^{}]*\}|\*)", pattern)
    wanted, names = "", ""
    for token in tokens:
        if token == "*":
            wanted, names = wanted + "*", names + "[^/]*"
        elif field := _FIELD.fullmatch(token):
            wanted += "*"
            names += f"(?P<{field[1]}>{'[0-9]+' if field[1] in _NUMBERS else '[^/]+?'})"
        else:
            wanted, names = wanted + glob.escape(token), names + re.escape(token)
    whole = re.compile(names)
    found = []
    for file in sorted(root.glob(re.sub(r"\*+", "*", wanted)), key=lambda file: natural_order(str(file))):
        match = whole.fullmatch(file.relative_to(root).as_posix())
        if match and is_tiff(file.name):
            found.append(_File(file, match.groupdict()))
    if not found:
        raise ValueError(f"{root}: no TIFF file matches the pattern {pattern!r}")
    return found


def _select(
    files: list[_File], select: str | Mapping[str, str] | None, root: Path, pattern: str
) -> list[_File]:
    """The files of one value of each field that tells neither tile, nor plane, nor channel."""
    chosen = pairs(select)
    free = [name for name in files[0].values if name not in (*_NUMBERS, "channel")]
    if unknown := [name for name in chosen if name not in free]:
        raise ValueError(
            f"{root}: select names {unknown[0]!r}, which is no further field of the pattern {pattern!r}"
        )
    for name in free:
        values = list(dict.fromkeys(file.values[name] for file in files))
        value = chosen.get(name, values[0])
        if value not in values or (name not in chosen and len(values) > 1):
            raise ValueError(
                f"{root}: field {name!r} of the pattern has the values {', '.join(values[:9])}; "
                f"say which is wanted as `select={name}:{values[0]}`"
            )
        files = [file for file in files if file.values[name] == value]
    return files


def _places(
    files: list[_File], columns: int | str | None, order: str, first: int | str | None, root: Path
) -> dict[tuple[int, int], list[_File]]:
    """Files of each place, (row, column), counted from 0."""
    found: dict[tuple[int, int], list[_File]] = {}
    if "tile" not in files[0].values:
        least = [min(int(file.values[name]) for file in files) for name in ("row", "column")]
        for file in files:
            place = int(file.values["row"]) - least[0], int(file.values["column"]) - least[1]
            found.setdefault(place, []).append(file)
        return found
    if columns is None:
        raise ValueError(
            f"{root}: columns is missing; wanted the number of tiles per row for a pattern with {{tile}}"
        )
    along: int = whole_number(columns, "columns", root, 1)
    start = (
        min(int(file.values["tile"]) for file in files)
        if first is None
        else whole_number(first, "first", root)
    )
    for file in files:
        line, n = divmod(int(file.values["tile"]) - start, along)
        if line < 0:
            raise ValueError(f"{file.path}: its number is below `first`, {start}")
        if order.startswith("snake_") and line % 2:
            n = along - 1 - n
        found.setdefault((line, n) if order.endswith("rows") else (n, line), []).append(file)
    return found


def _channel_values(files: list[_File], channels: Sequence[str] | None, root: Path) -> list[str]:
    """Values of the field {channel} in the order in which they are read; empty where there is no such field."""
    if "channel" not in files[0].values:
        return []
    values = sorted({file.values["channel"] for file in files}, key=natural_order)
    wanted = words(channels) or values
    if lost := [name for name in wanted if name not in values]:
        raise ValueError(f"{root}: there is no channel {lost[0]!r}; the files have {', '.join(values)}")
    return wanted


def _sources(
    files: list[_File], channels: list[str], sample: int | str | None, root: Path
) -> list[TiffSource]:
    """A source for each channel of a tile."""
    if not channels:
        return [_source(files, sample, root)]
    by_channel = {name: [f for f in files if f.values["channel"] == name] for name in channels}
    if lost := [name for name, found in by_channel.items() if not found]:
        raise ValueError(
            f"{root}: channel {lost[0]!r} of the tile of {files[0].path.name} is not there; wanted all channels of it"
        )
    return [_source(found, sample, root) for found in by_channel.values()]


def _source(files: list[_File], sample: int | str | None, root: Path) -> TiffSource:
    if "z" not in files[0].values:
        if len(files) > 1:
            raise ValueError(f"{root}: both {files[0].path.name} and {files[1].path.name} are the same tile")
        return open_volume_file(files[0].path.absolute(), sample)
    planes = {int(file.values["z"]): file.path for file in files}
    if len(planes) < len(files):
        raise ValueError(f"{root}: two files of the tile of {files[0].path.name} are the same plane")
    numbers = sorted(planes)
    if numbers[-1] - numbers[0] + 1 != len(numbers):
        lost = next(n for n in range(numbers[0], numbers[-1]) if n not in planes)
        raise ValueError(f"{root}: plane {lost} of the tile of {files[0].path.name} is missing")
    return open_planes([[planes[n] for n in numbers]], sample=sample)


def _step(
    overlap: float | str | Sequence[float] | None,
    step: str | Sequence[float] | None,
    size: tuple[float, float],
    root: Path,
) -> tuple[float, float]:
    """Distance of neighbours, um, (y, x)."""
    if (overlap is None) == (step is None):
        raise ValueError(f"{root}: wanted either `overlap` in percent, or `step`, um, of neighbours (y, x)")
    if step is not None:
        sizes = [number(v, "step", root) for v in words(step) or ()]
        if len(sizes) != 2 or min(sizes) <= 0:
            raise ValueError(f"{root}: step is {step!r}; wanted two positive numbers, um, (y, x)")
        return sizes[0], sizes[1]
    given = words(str(overlap) if isinstance(overlap, int | float) else overlap) or []
    shares = [number(v, "overlap", root) for v in given]
    if len(shares) not in (1, 2) or not all(0 <= v < 100 for v in shares):
        raise ValueError(
            f"{root}: overlap is {overlap!r}; wanted percent of a tile, 0 to 100, or two for (y, x)"
        )
    return size[0] * (1 - shares[0] / 100), size[1] * (1 - shares[-1] / 100)
