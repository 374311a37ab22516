"""Tables of tiles: files and stage positions, as a table with a heading or as Fiji's tile configuration."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from weft.grid import Triple
from weft.readers.checks import number

TABLES = ("tiles.tsv", "tiles.csv", "TileConfiguration.txt")


@dataclass(frozen=True)
class TileRow:
    """A line of a table of tiles.

    Parameters
    ----------
    tile, path, channel
        Name of the tile, its file or files, and the channel that these are (None: all).
    position
        Of the first voxel's centre, (z, y, x), in um, or in voxels of a tile configuration.
    row, column
        Place in the scan grid, where the table says it.
    """

    tile: str
    path: str
    position: Triple
    channel: str | None = None
    row: int | None = None
    column: int | None = None


def find_table(path: Path, table: str | Path | None) -> Path:
    """The table of a source: itself, the file of that name in it, or the one of a usual name.

    Raises
    ------
    FileNotFoundError
        When there is none.
    """
    if path.is_file():
        return path
    for name in TABLES if table is None else (str(table),):
        if (path / name).is_file():
            return path / name
    wanted = ", ".join(TABLES) if table is None else str(table)
    raise FileNotFoundError(f"{path}: no table of stage positions; wanted {wanted}, or give `table`")


def read_tile_table(place: Path) -> tuple[list[TileRow], bool]:
    """Lines of a table, and whether its positions are in voxels (a tile configuration) rather than um.

    Raises
    ------
    ValueError
        When a column or number is missing, there are no tiles, or one is listed twice.
    """
    text = place.read_text(encoding="utf-8-sig")
    fiji = place.suffix.lower() == ".txt"
    rows = _configuration(text, place) if fiji else _table(text, place)
    if not rows:
        raise ValueError(f"{place}: has no tiles; wanted one per line")
    lines = Counter((row.tile, row.channel) for row in rows)
    if twice := [tile for (tile, _), count in lines.items() if count > 1]:
        raise ValueError(
            f"{place}: tile {twice[0]!r} is listed twice; wanted one line per tile (and channel)"
        )
    return rows, fiji


def _table(text: str, place: Path) -> list[TileRow]:
    """A comma- or tab-separated table with the columns tile, path, z, y, x and, optional, channel, row, column."""
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter)
    cells = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
    named = [name.strip() for name in reader.fieldnames or ()]
    if lost := [name for name in ("tile", "path", "z", "y", "x") if name not in named]:
        raise ValueError(f"{place}: column {lost[0]!r} is missing; wanted tile, path, z, y, x")
    rows = []
    for row in cells:
        tile = row["tile"]
        z, y, x = (number(row[axis], f"{axis} of tile {tile!r}", place) for axis in "zyx")
        line, column = (
            int(number(row[key], f"{key} of tile {tile!r}", place)) if row.get(key) else None
            for key in ("row", "column")
        )
        rows.append(TileRow(tile, row["path"], (z, y, x), row.get("channel"), line, column))
    return rows


def _configuration(text: str, place: Path) -> list[TileRow]:
    """Fiji's tile configuration: ``dim = 2`` (or 3), then ``file; ; (x, y)`` (or ``(x, y, z)``) in voxels."""
    rows, axes = [], None
    for n, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        if setting := re.fullmatch(r"(\w+)\s*=\s*(\w+)", line):
            if setting[1].lower() == "dim":
                axes = int(number(setting[2], "dim", place))
            elif setting[2].lower() != "false":
                raise ValueError(f"{place}: line {n} is {line!r}; wanted a file for each tile")
            continue
        parts = [part.strip() for part in line.split(";")]
        found = re.fullmatch(r"\(([^()]*)\)", parts[-1])
        position = [number(v, f"line {n}", place) for v in found[1].split(",")] if found else []
        if len(parts) != 3 or len(position) != axes or axes not in (2, 3):
            raise ValueError(
                f"{place}: line {n} is {line!r}; wanted `file; ; (x, y)` after `dim = 2`, or (x, y, z) after `dim = 3`"
            )
        x, y, z = (*position, 0.0)[:3]
        rows.append(TileRow(Path(parts[0]).stem, parts[0], (z, y, x)))
    return rows
