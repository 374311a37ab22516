"""COLM acquisitions: a grid of light-sheet tiles, one TIFF file per plane and channel."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from weft.grid import Triple
from weft.image import Region, Tile, TileSet
from weft.readers.checks import channel_names, orientation_code, voxel_size
from weft.readers.fingerprint import existing
from weft.readers.tiff import PlaneHeader, check_plane, is_tiff, plane_header, read_plane

SETTINGS = "Experiment.ini"
CELLS = "Scanned Cells.txt"
# Side of a pixel, um, of the full 2048-pixel frame behind each objective.
_PIXEL = {4.0: 1.46, 10.0: 0.585, 25.0: 0.234}
_FRAME = 2048
_NAME = re.compile(r"CHN(\d+).*?PLN(\d+)", re.IGNORECASE)


def open_colm(
    path: str | Path,
    *,
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
    channels: Sequence[str] | None = None,
    check: Literal["none", "first", "full"] = "first",
) -> TileSet:
    """Index a COLM acquisition.

    The folder holds ``Experiment.ini``, ``Scanned Cells.txt`` and the tiles,
    ``VW0/LOC<nnn>/*CHN0<c>*PLN<zzzz>*.tif``, where LOC number = column + row * columns of the scan grid.
    The stage position of a tile, the centre of its first voxel, is nominal and not rounded::

        (0, row * pixels * (1 - vertical overlap) * voxel_y, column * pixels * (1 - horizontal overlap) * voxel_x)

    Parameters
    ----------
    path
        Folder of the acquisition.
    spacing
        Voxel size, um, (z, y, x), instead of that of the stack step (kept as a fraction) and the objective
        (1.46, 0.585 or 0.234 um for 4x, 10x or 25x, times 2048 / X Resolution).
    orientation
        Code of three letters; the microscope does not say.
    channels
        Names of the channels, instead of their numbers.
    check
        Which headers are compared now: the first plane of each tile and channel, all, or none; a plane is
        always checked when it is read. Names and numbers of the planes are checked in any case.

    Returns
    -------
    TileSet
        Tiles in order of their LOC number; ``missing`` names the cells that were not scanned.

    Raises
    ------
    FileNotFoundError
        When the folder, a settings file or a scanned tile is missing.
    ValueError
        When a setting is missing or makes no sense, a channel or plane is missing, or a header is broken or
        differs from the others.
    """
    root = existing(path)
    settings = _Settings(existing(root / SETTINGS))
    scanned = _scanned_cells(existing(root / CELLS), settings.rows, settings.columns)
    if spacing is None:
        spacing = settings.spacing()
    voxel = voxel_size(spacing, root / SETTINGS)
    shape = (settings.planes, settings.height, settings.width)
    names = channel_names(channels, settings.channels, root)

    folder = root / "VW0" if (root / "VW0").is_dir() else root
    tiles, files, missing = [], [], []
    for row in range(settings.rows):
        for column in range(settings.columns):
            name = f"LOC{column + row * settings.columns:03}"
            if not scanned[row][column]:
                missing.append(name)
                continue
            files.append(_planes(existing(folder / name), settings.channels, settings.planes))
            tiles.append(Tile(name, settings.position(row, column, voxel), row, column))
    if not tiles:
        raise ValueError(f"{root / CELLS}: no cell was scanned; wanted at least one")
    header = _check_headers(folder, tiles, files, shape[1:], check)
    return TileSet(
        tiles=tuple(tiles),
        shape=shape,
        spacing=voxel,
        dtype=header.dtype,
        channels=names,
        reader=_Reader(folder, tuple(tile.name for tile in tiles), files, header),
        orientation=orientation_code(orientation, root),
        missing=tuple(missing),
    )


@dataclass(frozen=True)
class _Reader:
    """Reads a region of a tile: the rows it touches of the planes it touches."""

    folder: Path
    tiles: tuple[str, ...]
    files: list[list[list[str]]]
    header: PlaneHeader

    def __call__(self, tile: int, channel: int, region: Region) -> np.ndarray:
        z, y, x = region
        if not 0 <= channel < len(self.files[tile]):
            raise ValueError(
                f"{self.folder}: channel {channel} is not there; it has {len(self.files[tile])} channels"
            )
        out = np.empty((z.stop - z.start, y.stop - y.start, x.stop - x.start), self.header.dtype)
        folder = self.folder / self.tiles[tile]
        for n, name in enumerate(self.files[tile][channel][z]):
            out[n] = read_plane(folder / name, y, x, self.header)
        return out

    def paths(self, tile: int, channel: int) -> list[Path]:
        """Files of a channel of a tile, by planes."""
        return [self.folder / self.tiles[tile] / name for name in self.files[tile][channel]]


class _Settings:
    """The keys of ``Experiment.ini`` that say where tiles and voxels lie."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            self.values.read_string(path.read_text(encoding="utf-8-sig", errors="replace"))
        except configparser.Error as error:
            raise ValueError(
                f"{path}: cannot be read as settings ({' '.join(str(error).split())})"
            ) from error
        self.columns = self.count("North Scan Region", "Num Horizontal")
        self.rows = self.count("North Scan Region", "Num Vertical")
        self.planes = self.count("Experiment Settings", "Num in stack (Top Left Corner)")
        self.channels = self.count("Experiment Settings", "Num Enabled Channels")
        self.width = self.count("Experiment Settings", "X Resolution")
        square = not self.values.has_option("Experiment Settings", "Y Resolution")
        self.height = self.width if square else self.count("Experiment Settings", "Y Resolution")
        self.overlap_x = self.overlap("Actual Horizontal Overlap (%)")
        self.overlap_y = self.overlap("Actual Vertical Overlap (%)")

    def text(self, section: str, key: str) -> str:
        if not self.values.has_option(section, key):
            raise ValueError(f"{self.path}: [{section}] {key!r} is missing; wanted a value")
        return self.values.get(section, key).strip().strip('"').strip()

    def number(self, section: str, key: str) -> float:
        text = self.text(section, key)
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{self.path}: [{section}] {key!r} is {text!r}; wanted a number") from None

    def count(self, section: str, key: str) -> int:
        value = self.number(section, key)
        if not value.is_integer() or value < 1:
            raise ValueError(
                f"{self.path}: [{section}] {key!r} is {value:g}; wanted a whole number of at least 1"
            )
        return int(value)

    def overlap(self, key: str) -> float:
        percent = self.number("North Scan Region Stats", key)
        if not 0 <= percent < 100:
            raise ValueError(
                f"{self.path}: [North Scan Region Stats] {key!r} is {percent:g}; wanted 0 to 100"
            )
        return percent / 100

    def spacing(self) -> Triple:
        """Voxel size, um, (z, y, x), of the stack step and the objective."""
        step = self.number("North Scan Region", "Stack Step (mm)") * 1000
        if not step > 0:
            raise ValueError(
                f"{self.path}: [North Scan Region] 'Stack Step (mm)' is {step / 1000:g}; wanted more than 0"
            )
        objective = self.text("Objectives", "North")
        found = re.search(r"(\d+(?:\.\d+)?)\s*[xX×]", objective)
        pixel = _PIXEL.get(float(found[1])) if found else None
        if pixel is None:
            raise ValueError(
                f"{self.path}: [Objectives] 'North' is {objective!r}; wanted 4x, 10x or 25x, or give `spacing`"
            )
        side = pixel * _FRAME / self.width
        return step, side, side

    def position(self, row: int, column: int, voxel: Triple) -> Triple:
        """Nominal stage position of a tile, um, (z, y, x)."""
        y = row * self.height * (1 - self.overlap_y) * voxel[1]
        return 0.0, y, column * self.width * (1 - self.overlap_x) * voxel[2]


def _scanned_cells(path: Path, rows: int, columns: int) -> list[list[bool]]:
    """Which cells of the scan grid were scanned: one line per row, cells between commas, 1 = scanned."""
    lines = [
        line for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if line.strip()
    ]
    cells = [
        [cell.strip().strip('"').strip() == "1" for cell in line.strip().removesuffix(",").split(",")]
        for line in lines
    ]
    if len(cells) != rows or any(len(line) != columns for line in cells):
        found = f"{len(cells)} lines of {sorted({len(line) for line in cells})} cells"
        raise ValueError(f"{path}: found {found}; wanted {rows} lines of {columns} cells, as {SETTINGS} says")
    return cells


def _planes(folder: Path, channels: int, planes: int) -> list[list[str]]:
    """File names of a tile, ``[channel][z]``, each list complete and in order of the plane numbers."""
    found: Mapping[int, dict[int, str]] = {channel: {} for channel in range(channels)}
    with os.scandir(folder) as entries:
        for entry in entries:
            tokens = _NAME.search(entry.name) if is_tiff(entry.name) else None
            if tokens and int(tokens[1]) in found:
                channel, plane = int(tokens[1]), int(tokens[2])
                if plane in found[channel]:
                    raise ValueError(
                        f"{folder}: both {found[channel][plane]} and {entry.name} are plane {plane} of channel {channel}"
                    )
                found[channel][plane] = entry.name
    for channel, names in found.items():
        if not names:
            raise ValueError(
                f"{folder}: channel {channel} is not there; wanted {planes} files named *CHN0{channel}*PLN*.tif"
            )
        if set(names) != set(range(planes)):
            lost = sorted(set(range(planes)) - set(names)) or sorted(set(names) - set(range(planes)))
            raise ValueError(
                f"{folder}: channel {channel} has {len(names)} planes; wanted {planes} from PLN0000 on, "
                f"as {SETTINGS} says (look at plane {lost[0]})"
            )
    return [[names[plane] for plane in range(planes)] for names in found.values()]


def _check_headers(
    folder: Path,
    tiles: Sequence[Tile],
    files: Sequence[Sequence[Sequence[str]]],
    shape: tuple[int, int],
    check: Literal["none", "first", "full"],
) -> PlaneHeader:
    """Compare headers with the shape that the settings state and the type of the very first plane."""
    paths = [
        folder / tile.name / name
        for tile, channels in zip(tiles, files, strict=True)
        for names in channels
        for name in (names if check == "full" else names[:1])
    ]
    if check == "none":
        paths = paths[:1]
    wanted = PlaneHeader(shape, plane_header(paths[0]).dtype)
    for path in paths:
        check_plane(path, plane_header(path), wanted)
    return wanted
