"""TeraStitcher projects: tiles and positions of its XML files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from weft.grid import Triple
from weft.image import Region, Tile, TileSet
from weft.readers.checks import channel_names, inside, one_of, orientation_code, voxel_size, words
from weft.readers.fingerprint import existing
from weft.readers.lazy import LazyVolume
from weft.readers.terastitcher_project import PLANES, Project, Stack, read_project, tile_name
from weft.readers.tiff import PlaneFiles, is_tiff, open_volume_file, plane_header
from weft.readers.tile_volumes import TileVolumes, check_alike
from weft.readers.xml import project_file

Positions = Literal["placed", "stage"]


def open_terastitcher(
    path: str | Path,
    *,
    stacks: str | Sequence[str] | None = None,
    files: str | Sequence[str] | None = None,
    positions: Positions = "placed",
    sample: int | str | None = None,
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
    channels: Sequence[str] | None = None,
) -> TileSet:
    """Index the tiles of a TeraStitcher project.

    Both of its layouts are read: a TIFF file per plane (``TiledXY|2Dseries``) and files of several planes
    (``TiledXY|3Dseries``). Planes that ``Z_RANGES`` leaves out are zero. The displacements and reliabilities of
    the project are what `weft.readers.terastitcher_project.read_project` gives.

    Parameters
    ----------
    path
        The project's XML file, of any of TeraStitcher's steps, or a folder that holds just one.
    stacks
        Folder of the stacks, relative to the XML file's: one, or one for each channel. By default what the project
        says, where that lies below the XML file's folder, else that folder (TeraStitcher writes its projects
        there).
    files
        Patterns of file names (``*CHN00*,*CHN01*``), one for each channel, beside the project's regular expression.
    positions
        ``placed``: where the project says the tiles are, which is where TeraStitcher put them once it has;
        ``stage``: the regular grid of its mechanical displacements.
    sample
        Which sample of files in colour is read: 0, 1, 2, or red, green, blue. Colours are refused without it.
    spacing
        Voxel size, um, (z, y, x), instead of the project's.
    orientation
        Code of three letters; the project does not say.
    channels
        Names of the channels.

    Returns
    -------
    TileSet
        Tiles by rows; ``missing`` names the cells of the grid that are empty.

    Raises
    ------
    FileNotFoundError
        When the file, a folder or a file of a stack is missing.
    ValueError
        When the project makes no sense or refers to an entity or to files elsewhere, a stack has more or fewer
        planes than it should, or files are broken, or of another shape or type than the first.
    """
    place = project_file(path, "TeraStitcher")
    project = read_project(place)
    one_of(positions, get_args(Positions), "positions", place)
    named = words(stacks)
    folders = [inside(place.parent, name, place) for name in named] if named else [_stacks(place, project)]
    patterns = words(files) or ["*"]
    count = max(len(folders), len(patterns))
    if {len(folders), len(patterns)} - {1, count}:
        raise ValueError(
            f"{place}: {len(folders)} folders of stacks and {len(patterns)} patterns are given; wanted one for each channel"
        )
    sources = list(zip(folders * (count // len(folders)), patterns * (count // len(patterns)), strict=True))
    voxel = voxel_size(spacing or project.spacing, place)
    scanned = sorted((s for s in project.stacks if s.folder), key=lambda s: (s.row, s.column))
    empty = sorted((s.row, s.column) for s in project.stacks if not s.folder)
    if not scanned:
        raise ValueError(f"{place}: all its stacks are empty; wanted at least one")
    volumes = [
        [_volume(stack, project, folder, pattern, sample, place) for folder, pattern in sources]
        for stack in scanned
    ]
    check_alike(volumes, [f"{place}: stack {stack.folder}" for stack in scanned])
    first = volumes[0][0]
    return TileSet(
        tiles=tuple(
            Tile(tile_name(s.row, s.column), _position(s, project, voxel, positions), s.row, s.column)
            for s in scanned
        ),
        shape=first.shape[1:],
        spacing=voxel,
        dtype=first.dtype,
        channels=channel_names(words(channels), count if count > 1 else first.shape[0], place),
        reader=TileVolumes(volumes),
        orientation=orientation_code(orientation, place),
        missing=tuple(tile_name(*place) for place in empty),
    )


def _stacks(place: Path, project: Project) -> Path:
    """Where the stacks lie: as the project says, where that is below its own folder; else that folder."""
    try:
        folder = inside(place.parent, project.stacks_dir, place)
    except ValueError:
        return place.parent
    return folder if folder.is_dir() else place.parent


def _position(stack: Stack, project: Project, voxel: Triple, positions: Positions) -> Triple:
    if positions == "placed":
        found = np.asarray(stack.position) * voxel
    else:
        found = np.asarray([0.0, stack.row * project.step[0], stack.column * project.step[1]])
    z, y, x = (float(v) for v in found + project.origin)
    return z, y, x


def _volume(
    stack: Stack, project: Project, folder: Path, pattern: str, sample: int | str | None, place: Path
) -> LazyVolume:
    """The voxels of a stack, all planes of the volume, those that are not there being zero."""
    planes = project.shape[2]
    where = existing(inside(folder, stack.folder, place))
    try:
        wanted = re.compile(stack.files)
    except re.error as error:
        raise ValueError(f"{place}: IMG_REGEX {stack.files!r} is no regular expression ({error})") from error
    # In the order of TeraStitcher, which is that of the characters.
    names = sorted(
        file.name
        for file in where.iterdir()
        if is_tiff(file.name) and wanted.fullmatch(file.name) and fnmatch(file.name, pattern)
    )
    if not names:
        raise FileNotFoundError(f"{where}: no TIFF file matches {stack.files!r} and {pattern!r}")
    if planes < 1:
        if stack.ranges is not None or project.layout != PLANES:
            raise ValueError(f"{place}: stack_slices is {planes}; wanted the number of planes")
        planes = len(names)
    ranges = ((0, planes),) if stack.ranges is None else stack.ranges
    if ranges[-1][1] > planes:
        raise ValueError(
            f"{place}: Z_RANGES of {stack.folder} end at plane {ranges[-1][1]}; it has {planes} planes"
        )
    there = [z for start, stop in ranges for z in range(start, stop)]
    if project.layout != PLANES:
        return _blocks(stack, [where / name for name in names], there, planes, sample)
    if len(names) != len(there):
        raise ValueError(f"{where}: holds {len(names)} planes; wanted {len(there)}, as {place.name} says")
    at = dict(zip(there, names, strict=True))
    return PlaneFiles(
        [[where / at[z] if z in at else None for z in range(planes)]], plane_header(where / names[0], sample)
    )


def _blocks(
    stack: Stack, files: list[Path], there: list[int], planes: int, sample: int | str | None
) -> LazyVolume:
    """Files of several planes each, one after another."""
    sizes = stack.blocks or tuple(open_volume_file(f.absolute(), sample).volume.shape[1] for f in files)
    if len(sizes) != len(files) or sum(sizes) != len(there):
        raise ValueError(
            f"{files[0].parent}: {len(files)} files of {sum(sizes)} planes are found; "
            f"wanted {len(sizes)} of {len(there)}, as the project says"
        )
    return BlockFiles(files, sizes, there, planes, sample)


class BlockFiles(LazyVolume):
    """A volume cut along z into TIFF files of several planes.

    Parameters
    ----------
    files, sizes
        Paths, and the planes of each.
    there
        Which planes these are, in order; all others are zero.
    planes
        Planes of the volume.
    sample
        Which sample of files in colour is read.
    """

    def __init__(
        self,
        files: Sequence[Path],
        sizes: Sequence[int],
        there: Sequence[int],
        planes: int,
        sample: int | str | None = None,
    ) -> None:
        self.files, self.sizes, self.sample = tuple(files), tuple(sizes), sample
        first = open_volume_file(self.files[0].absolute(), sample).volume
        if first.shape[0] != 1:
            raise ValueError(f"{self.files[0]}: it has {first.shape[0]} channels; wanted one for each file")
        self.shape, self.dtype = (1, planes, *first.shape[2:]), first.dtype
        starts = np.repeat(np.arange(len(sizes)), sizes)
        within = np.concatenate([np.arange(n) for n in sizes])
        self.place = np.full((planes, 2), -1)
        self.place[list(there)] = np.stack([starts, within], 1)

    def read(self, channel: int, region: Region) -> np.ndarray:
        z, y, x = region
        out = np.zeros((z.stop - z.start, y.stop - y.start, x.stop - x.start), self.dtype)
        place = self.place[z]
        for n in np.unique(place[:, 0]):
            if n < 0:
                continue
            rows = np.flatnonzero(place[:, 0] == n)
            start, stop = place[rows[0], 1], place[rows[-1], 1] + 1
            volume = open_volume_file(self.files[n].absolute(), self.sample).volume
            wanted = (1, self.sizes[n], *self.shape[2:])
            if (volume.shape, volume.dtype) != (wanted, self.dtype):
                raise ValueError(
                    f"{self.files[n]}: it has shape {volume.shape} and type {volume.dtype}; "
                    f"wanted {wanted} (c, z, y, x) and {self.dtype}"
                )
            out[rows] = volume.read(0, (slice(int(start), int(stop)), y, x))
        return out

    def paths(self, channel: int) -> Sequence[Path | None] | None:
        return self.files
