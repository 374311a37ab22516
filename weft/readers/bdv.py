"""BigDataViewer and BigStitcher: tiles of an XML project whose voxels lie in HDF5, N5, OME-Zarr or TIFF files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from xml.etree.ElementTree import Element

import numpy as np

from weft.grid import Triple
from weft.image import Tile, TileSet
from weft.readers.bdv_volumes import LOADERS, open_view
from weft.readers.checks import (
    channel_names,
    inside,
    micrometres,
    number,
    one_of,
    orientation_code,
    pairs,
    voxel_size,
    whole_number,
    words,
)
from weft.readers.tile_volumes import TileVolumes, check_alike
from weft.readers.xml import attribute, child, project_file, read_xml, text_of

Affine = Literal["refuse", "centre"]

_SELECTED = ("angle", "illumination")
_NEGLIGIBLE = 0.5  # voxel


def open_bdv(
    path: str | Path,
    *,
    select: str | Mapping[str, str] | None = None,
    affine: Affine = "refuse",
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
    channels: Sequence[str] | None = None,
) -> TileSet:
    """Index the tiles of a BigDataViewer XML project, as BigStitcher has them.

    A tile's transformations are composed, the first of the list last, as BigDataViewer does it. What they say
    beyond the voxel size must be a shift: the unit of the project's space, which may be um or voxels, is found from
    both.

    Parameters
    ----------
    path
        The project's XML file, or a folder that holds just one.
    select
        Which angle, illumination and time point are read, by their identifiers: ``angle:0,illumination:1,time:3``.
        Needed where there are several.
    affine
        What becomes of a tile that is also turned, sheared or scaled, by more than half a voxel at its corners:
        ``refuse``, or ``centre``: it is placed where its centre belongs.
    spacing
        Voxel size, um, (z, y, x), instead of the project's.
    orientation
        Code of three letters; the project does not say.
    channels
        Names of the channels, of which only those of the project named so are read where all are names of it; else
        new names.

    Returns
    -------
    TileSet
        Tiles in order of their identifiers; ``missing`` names tiles that the project calls missing.

    Raises
    ------
    FileNotFoundError
        When a file is missing.
    ValueError
        When the project makes no sense or refers to entities or to files elsewhere, its voxels are in a format that
        weft does not read, something has to be selected, a tile is turned, or tiles differ in shape or type.
    """
    place = project_file(path, "BigDataViewer")
    one_of(affine, get_args(Affine), "affine", place)
    root = read_xml(place, "SpimData")
    sequence = child(root, "SequenceDescription", place)
    base = inside(place.parent, (root.findtext("BasePath") or ".").strip(), place)
    loader = child(sequence, "ImageLoader", place)
    one_of(loader.get("format", ""), LOADERS, "ImageLoader format", place)
    chosen = pairs(select)
    time = _time(sequence, chosen, place)
    setups = _chosen(_setups(sequence, place), chosen, place)
    unseen = {
        int(number(node.get("setup"), "MissingView", place))
        for node in sequence.iterfind("MissingViews/MissingView")
        if int(number(node.get("timepoint"), "MissingView", place)) == time
    }
    named = {setup.channel: setup.channel_name for setup in setups}
    wanted, names = _channels(named, words(channels), place)
    by_tile: dict[int, dict[int, _Setup]] = {}
    for setup in setups:
        if setup.channel in by_tile.setdefault(setup.tile, {}):
            raise ValueError(f"{place}: tile {setup.tile} has channel {setup.channel} twice; wanted it once")
        by_tile[setup.tile][setup.channel] = setup
    missing, seen = [], {}
    for tile, found in sorted(by_tile.items()):
        if any(found[c].number in unseen for c in wanted if c in found):
            missing.append(tile)
            continue
        if lost := [c for c in wanted if c not in found]:
            raise ValueError(
                f"{place}: tile {tile} has no channel {named[lost[0]]!r}; wanted all channels of it"
            )
        seen[tile] = [found[c] for c in wanted]
    if not seen:
        raise ValueError(f"{place}: it holds no tiles")
    first = next(iter(seen.values()))[0]
    voxel = voxel_size(spacing or first.voxel, place)
    volumes = [
        [open_view(loader, base, setup.number, time, setup.size, place) for setup in line]
        for line in seen.values()
    ]
    check_alike(volumes, [f"{place}: tile {tile}" for tile in seen])
    shape = volumes[0][0].shape[1:]
    affines = [_composed(root, line[0].number, time, place) for line in seen.values()]
    positions = _positions(affines, list(seen), shape, voxel, affine, place)
    return TileSet(
        tiles=tuple(Tile(f"tile{tile}", position) for tile, position in zip(seen, positions, strict=True)),
        shape=shape,
        spacing=voxel,
        dtype=volumes[0][0].dtype,
        channels=channel_names(names, len(wanted), place),
        reader=TileVolumes(volumes),
        orientation=orientation_code(orientation, place),
        missing=tuple(f"tile{tile}" for tile in missing),
    )


@dataclass(frozen=True)
class _Setup:
    """A view setup: one channel of one tile."""

    number: int
    size: tuple[int, int, int] | None
    voxel: Triple | None
    tile: int
    channel: int
    channel_name: str
    angle: int
    illumination: int


def _setups(sequence: Element, place: Path) -> list[_Setup]:
    setups = child(sequence, "ViewSetups", place)
    names = {
        int(number(node.findtext("id"), "id of a channel", place)): (node.findtext("name") or "").strip()
        for group in setups.iterfind("Attributes")
        if group.get("name") == "channel"
        for node in group
    }
    found = []
    for node in setups.iterfind("ViewSetup"):
        one = whole_number(text_of(node, "id", place), "id of a view setup", place)
        where = f"{place}: view setup {one}"
        values = {
            name: int(number(node.findtext(f"attributes/{name}") or 0, name, where))
            for name in ("tile", "channel", *_SELECTED)
        }
        stated = node.find("voxelSize")
        voxel = None
        if stated is not None:
            factor = _unit(stated.findtext("unit") or "", where)
            x, y, z = (number(v, "voxelSize", where) * factor for v in _three(stated.findtext("size"), where))
            voxel = z, y, x
        size = node.findtext("size")
        x, y, z = (whole_number(v, "size", where, 1) for v in _three(size, where)) if size else (0, 0, 0)
        found.append(
            _Setup(
                one,
                (z, y, x) if size else None,
                voxel,
                channel_name=names.get(values["channel"]) or str(values["channel"]),
                **values,
            )
        )
    return found


def _unit(unit: str, where: str) -> float:
    """Micrometres in a unit; projects without calibration are in pixels, which count as um."""
    return 1.0 if unit.strip().lower() in ("", "px", "pixel", "pixels") else micrometres(unit, where)


def _three(text: str | None, where: str) -> list[str]:
    parts = (text or "").replace(",", " ").split()
    if len(parts) != 3:
        raise ValueError(f"{where}: found {text!r}; wanted three numbers (x, y, z)")
    return parts


def _time(sequence: Element, chosen: dict[str, str], place: Path) -> int:
    """The time point that is read; every other name of ``chosen`` stays in it."""
    points = child(sequence, "Timepoints", place)
    kind = points.get("type", "")
    times: list[int] = []
    if kind == "range":
        first, last = (whole_number(text_of(points, name, place), name, place) for name in ("first", "last"))
        times = list(range(first, last + 1))
    elif kind == "list":
        times = [
            whole_number(node.findtext("id") or "", "time point", place)
            for node in points.iterfind("Timepoint")
        ]
    elif kind == "pattern":
        for part in text_of(points, "integerpattern", place).split(","):
            low, _, high = part.strip().partition("-")
            first = whole_number(low or 0, "integerpattern", place)
            times += range(first, whole_number(high.partition(":")[0] or first, "integerpattern", place) + 1)
    else:
        raise ValueError(f"{place}: the type of its time points is {kind!r}; wanted range, list or pattern")
    if "time" not in chosen and len(times) > 1:
        raise ValueError(
            f"{place}: there are {len(times)} time points; say which is wanted as `select=time:{times[0]}`"
        )
    time = (
        whole_number(chosen.pop("time"), "select of time", place) if "time" in chosen else (times or [0])[0]
    )
    if times and time not in times:
        raise ValueError(f"{place}: there is no time point {time}; wanted one of {times[0]} to {times[-1]}")
    return time


def _chosen(setups: list[_Setup], chosen: Mapping[str, str], place: Path) -> list[_Setup]:
    """View setups of one angle and one illumination."""
    if unknown := [name for name in chosen if name not in _SELECTED]:
        raise ValueError(f"{place}: select names {unknown[0]!r}; wanted angle, illumination or time")
    for name in _SELECTED:
        values = sorted({getattr(setup, name) for setup in setups})
        value = int(number(chosen[name], f"select of {name}", place)) if name in chosen else None
        if (value is None and len(values) > 1) or (value is not None and value not in values):
            raise ValueError(
                f"{place}: {name} has the values {', '.join(map(str, values))}; "
                f"say which is wanted as `select={name}:{values[0]}`"
            )
        setups = [setup for setup in setups if value is None or getattr(setup, name) == value]
    return setups


def _channels(
    named: Mapping[int, str], names: list[str] | None, place: Path
) -> tuple[list[int], list[str] | None]:
    """Identifiers of the channels that are read, and their names (None: their numbers)."""
    order = sorted(named)
    if names is not None and set(names) <= set(named.values()):
        return [next(c for c in order if named[c] == name) for name in names], names
    default = [named[c] for c in order] if len(set(named.values())) == len(named) else None
    return order, names or default


def _composed(root: Element, setup: int, time: int, place: Path) -> np.ndarray:
    """Matrix, 4 x 4, of voxel indices (z, y, x, 1) to the project's space, (z, y, x)."""
    for node in child(root, "ViewRegistrations", place).iterfind("ViewRegistration"):
        if (attribute(node, "setup", place), attribute(node, "timepoint", place)) != (str(setup), str(time)):
            continue
        whole = np.eye(4)
        for step in node.iterfind("ViewTransform"):
            where = f"{place}: transformation of view setup {setup}"
            if step.get("type", "affine") != "affine":
                raise ValueError(f"{where}: it is of type {step.get('type')!r}; wanted affine")
            values = [
                number(v, "affine", where) for v in text_of(step, "affine", place).replace(",", " ").split()
            ]
            if len(values) != 12:
                raise ValueError(f"{where}: it has {len(values)} numbers; wanted 12, three rows of four")
            whole = whole @ np.vstack([np.reshape(values, (3, 4)), [0, 0, 0, 1]])
        order = [2, 1, 0, 3]  # (x, y, z) to (z, y, x)
        return whole[np.ix_(order, order)]
    raise ValueError(f"{place}: view setup {setup} has no registration at time point {time}")


def _positions(
    affines: Sequence[np.ndarray],
    tiles: Sequence[int],
    shape: tuple[int, int, int],
    voxel: Triple,
    affine: Affine,
    place: Path,
) -> list[Triple]:
    """Where the tiles' first voxels are, um."""
    size = np.asarray(voxel)
    determinant = abs(np.linalg.det(affines[0][:3, :3]))
    if not determinant > 0:
        raise ValueError(
            f"{place}: the transformation of tile {tiles[0]} is singular; wanted one that keeps volumes"
        )
    unit = (size.prod() / determinant) ** (1 / 3)  # um in one unit of the project's space
    far = np.asarray(shape, float) - 1
    corners = np.array(np.meshgrid(*([0.0, n] for n in far), indexing="ij")).reshape(3, -1).T
    positions: list[Triple] = []
    for tile, matrix in zip(tiles, affines, strict=True):
        placed = (corners @ matrix[:3, :3].T + matrix[:3, 3]) * unit
        shift = (placed - corners * size).mean(0)
        worst = float((np.abs(placed - corners * size - shift) / size).max())
        if worst > _NEGLIGIBLE and affine == "refuse":
            raise ValueError(
                f"{place}: tile {tile} is turned, sheared or scaled, by {worst:.3g} voxels at its corners; "
                "wanted a shift, or `affine=centre` to place it by its centre"
            )
        positions.append((float(shift[0]), float(shift[1]), float(shift[2])))
    return positions
