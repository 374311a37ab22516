"""TeraStitcher's XML projects, both ways: stacks, positions and displacements of a grid of tiles.

The format is known from TeraStitcher itself (version of March 2024): V, H and D are y, x and z of the images;
``ABS_*`` and displacements are whole voxels, voxel sizes um, the origin mm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from weft.grid import Triple
from weft.readers.checks import number
from weft.readers.xml import attribute, child, number_of, read_xml

PLANES = "TiledXY|2Dseries"
BLOCKS = "TiledXY|3Dseries"
LAYOUTS = (PLANES, BLOCKS)
_ROOT = "TeraStitcher"
_AXES = ("D", "V", "H")  # z, y, x
# TeraStitcher's scale of the width of a correlation peak; its reliability is sqrt((w^2 + peak^2) / 2), w = 1 - width / scale.
_WIDTH = 30


@dataclass(frozen=True)
class Displacement:
    """What a pair of neighbours measured: where stack ``b`` lies from stack ``a``, (z, y, x) each.

    Parameters
    ----------
    a, b
        (row, column) of both; b is the next one along a row (east) or a column (south).
    voxels, default
        Displacement measured, and that of the stage.
    reliability, peak
        0 ... 1: TeraStitcher's reliability, and the peak of the correlation.
    """

    a: tuple[int, int]
    b: tuple[int, int]
    voxels: tuple[int, int, int]
    default: tuple[int, int, int]
    reliability: Triple
    peak: Triple


@dataclass(frozen=True)
class Stack:
    """A tile: the files of a folder that match a regular expression, in order of their names.

    Parameters
    ----------
    row, column
        Place in the grid.
    position
        ``ABS_D, ABS_V, ABS_H``, voxels (z, y, x).
    folder
        ``DIR_NAME``, relative to the project's stacks; empty for a cell that was not scanned.
    ranges
        Which planes there are, half-open; None: all.
    files
        Regular expression of whole file names.
    blocks
        Planes of each file, of the layout of blocks.
    stitchable
        Whether TeraStitcher trusts its displacements.
    """

    row: int
    column: int
    position: tuple[int, int, int]
    folder: str
    ranges: tuple[tuple[int, int], ...] | None = None
    files: str = ".*"
    blocks: tuple[int, ...] | None = None
    bytes_per_voxel: int = 2
    stitchable: bool = True


@dataclass(frozen=True)
class Project:
    """A project, whatever step of TeraStitcher wrote it.

    Parameters
    ----------
    layout
        `PLANES` (a file per plane) or `BLOCKS` (files of several planes).
    stacks_dir
        Folder of the stacks, as written.
    spacing
        Voxel size, um, (z, y, x).
    origin
        Of the first voxel, um, (z, y, x).
    step
        Distance of neighbours that the stage meant, um, (y, x).
    shape
        Rows, columns and planes.
    """

    layout: str
    stacks_dir: str
    spacing: Triple
    origin: Triple
    step: tuple[float, float]
    shape: tuple[int, int, int]
    stacks: tuple[Stack, ...]
    displacements: tuple[Displacement, ...] = field(default=())
    plugin: str = ""


def read_project(path: Path) -> Project:
    """Read a project file of TeraStitcher, of any of its steps.

    Raises
    ------
    ValueError
        When it is no such file, of another layout, or something in it is missing or makes no sense.
    """
    root = read_xml(path, _ROOT)
    layout = root.get("volume_format", PLANES)
    if layout not in LAYOUTS:
        raise ValueError(f"{path}: volume_format is {layout!r}; wanted {' or '.join(LAYOUTS)}")
    reference = root.find("ref_sys")
    axes = (
        [abs(int(number_of(reference, f"ref{n}", path))) for n in (1, 2, 3)]
        if reference is not None
        else [1, 2, 3]
    )
    if sorted(axes[:2]) != [1, 2] or axes[2] != 3:
        raise ValueError(f"{path}: ref_sys is {axes}; wanted the planes along the third axis")
    spacing = _triple(child(root, "voxel_dims", path), path)
    origin = _triple(child(root, "origin", path), path)
    step = child(root, "mechanical_displacements", path)
    size = child(root, "dimensions", path)
    shape = [int(number_of(size, f"stack_{name}", path)) for name in ("rows", "columns", "slices")]
    nodes = [node for node in child(root, "STACKS", path) if node.tag == "Stack"]
    stacks = [_stack(node, path) for node in nodes]
    places = [(stack.row, stack.column) for stack in stacks]
    if sorted(places) != [(r, c) for r in range(shape[0]) for c in range(shape[1])]:
        raise ValueError(
            f"{path}: found {len(places)} stacks; wanted one for each of {shape[0]} rows and {shape[1]} columns"
        )
    if min(spacing_abs := [abs(v) for v in spacing]) <= 0:
        raise ValueError(f"{path}: voxel_dims are {spacing}; wanted sizes other than 0")
    return Project(
        layout=layout,
        stacks_dir=attribute(child(root, "stacks_dir", path), "value", path),
        spacing=(spacing_abs[0], spacing_abs[1], spacing_abs[2]),
        origin=(origin[0] * 1000, origin[1] * 1000, origin[2] * 1000),
        step=(abs(number_of(step, "V", path)), abs(number_of(step, "H", path))),
        shape=(shape[0], shape[1], shape[2]),
        stacks=tuple(stacks),
        displacements=tuple(
            d for node, at in zip(nodes, places, strict=True) for d in _displacements(node, at, path)
        ),
        plugin=root.get("input_plugin", ""),
    )


def _triple(element: Element, path: Path) -> Triple:
    z, y, x = (number_of(element, axis, path) for axis in _AXES)
    return z, y, x


def _whole(element: Element, names: Sequence[str], path: Path) -> tuple[int, int, int]:
    z, y, x = (round(number_of(element, name, path)) for name in names)
    return z, y, x


def _stack(node: Element, path: Path) -> Stack:
    row, column = (int(number_of(node, name, path)) for name in ("ROW", "COL"))
    where = f"{path}: stack of row {row}, column {column}"
    position = _whole(node, [f"ABS_{axis}" for axis in _AXES], path)
    folder, ranges = attribute(node, "DIR_NAME", path), _ranges(node.get("Z_RANGES"), where)
    if not folder or ranges == ():
        return Stack(row, column, position, "", ranges=(), stitchable=False)
    blocks = node.get("BLOCK_SIZES")
    return Stack(
        row=row,
        column=column,
        position=position,
        folder=folder,
        ranges=ranges,
        files=node.get("IMG_REGEX") or ".*",
        blocks=tuple(int(number(v, "BLOCK_SIZES", where)) for v in blocks.split(",")) if blocks else None,
        bytes_per_voxel=int(number_of(node, "N_BYTESxCHAN", path)) if node.get("N_BYTESxCHAN") else 2,
        stitchable=node.get("STITCHABLE") == "yes",
    )


def _ranges(text: str | None, where: str) -> tuple[tuple[int, int], ...] | None:
    """``[0,5);[7,9)`` as pairs; None where nothing is said."""
    if text is None:
        return None
    found, last = [], 0
    for part in filter(None, re.sub(r"\s", "", text).split(";")):
        pair = re.fullmatch(r"\[(\d+),(\d+)\)", part)
        if not pair or not last <= int(pair[1]) < int(pair[2]):
            raise ValueError(f"{where}: Z_RANGES is {text!r}; wanted ascending ranges such as [0,5);[7,9)")
        last = int(pair[2])
        found.append((int(pair[1]), last))
    return tuple(found)


def _displacements(node: Element, at: tuple[int, int], path: Path) -> list[Displacement]:
    """Displacements towards east and south; those towards west and north are the same ones, mirrored."""
    found = []
    for name, to in (("EAST", (at[0], at[1] + 1)), ("SOUTH", (at[0] + 1, at[1]))):
        for one in node.iterfind(f"{name}_displacements/Displacement"):
            parts = [child(one, axis, path) for axis in _AXES]
            numbers = {
                key: [number_of(part, key, path) for part in parts]
                for key in ("displ", "default_displ", "reliability", "nccPeak")
            }
            found.append(
                Displacement(
                    at,
                    to,
                    _rounded(numbers["displ"]),
                    _rounded(numbers["default_displ"]),
                    _three(numbers["reliability"]),
                    _three(numbers["nccPeak"]),
                )
            )
    return found


def _three(values: Sequence[float]) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])


def _rounded(values: Sequence[float] | np.ndarray) -> tuple[int, int, int]:
    return round(float(values[0])), round(float(values[1])), round(float(values[2]))


def tile_name(row: int, column: int) -> str:
    """Name of a stack's tile."""
    return f"r{row}_c{column}"


def best_displacements(project: Project) -> list[Displacement]:
    """One displacement for each pair of neighbours: along each axis the most reliable that any part measured.

    So does TeraStitcher's projection of displacements (``--displproj``); of equal ones the first counts.
    """
    by_pair: dict[tuple[tuple[int, int], tuple[int, int]], list[Displacement]] = {}
    for found in project.displacements:
        by_pair.setdefault((found.a, found.b), []).append(found)
    merged = []
    for parts in by_pair.values():
        places = np.argmax([part.reliability for part in parts], axis=0)
        best = [parts[place] for place in places]
        merged.append(
            Displacement(
                parts[0].a,
                parts[0].b,
                _rounded([best[axis].voxels[axis] for axis in range(3)]),
                parts[0].default,
                _three([best[axis].reliability[axis] for axis in range(3)]),
                _three([best[axis].peak[axis] for axis in range(3)]),
            )
        )
    return merged


def override_rows(project: Project, image: str, threshold: float) -> list[list[str]]:
    """Rows of a table of overrides that force the displacements of a project, the heading first.

    Parameters
    ----------
    project
        As read.
    image
        Name of the image that has the project's tiles.
    threshold
        Least reliability, along each axis, of a displacement that is taken over.
    """
    rows = [["image", "action", "tile_a", "tile_b", "z", "y", "x"]]
    for found in best_displacements(project):
        if min(found.reliability) >= threshold:
            moved = [_text(v * edge) for v, edge in zip(found.voxels, project.spacing, strict=True)]
            rows.append([image, "force", tile_name(*found.a), tile_name(*found.b), *moved])
    return rows


def write_project(path: Path, project: Project) -> None:
    """Write a project that TeraStitcher goes on with: at its merging, or at `--displproj` and what follows.

    Reliabilities become those peak widths of which TeraStitcher makes the same reliability again, as it does
    whenever it reads a project.
    """
    root = Element(
        _ROOT, volume_format=project.layout, input_plugin=project.plugin or _plugin(project.layout)
    )
    SubElement(root, "stacks_dir", value=project.stacks_dir)
    SubElement(root, "ref_sys", ref1="1", ref2="2", ref3="3")
    z, y, x = project.spacing
    SubElement(root, "voxel_dims", V=_text(y), H=_text(x), D=_text(z))
    z, y, x = (v / 1000 for v in project.origin)
    SubElement(root, "origin", V=_text(y), H=_text(x), D=_text(z))
    SubElement(root, "mechanical_displacements", V=_text(project.step[0]), H=_text(project.step[1]))
    rows, columns, planes = (str(n) for n in project.shape)
    SubElement(root, "dimensions", stack_rows=rows, stack_columns=columns, stack_slices=planes)
    nodes = SubElement(root, "STACKS")
    for stack in sorted(project.stacks, key=lambda stack: (stack.row, stack.column)):
        _write_stack(nodes, stack, project)
    ElementTree.indent(root, " " * 4)
    text = ElementTree.tostring(root, encoding="unicode")
    head = f'<?xml version="1.0" encoding="UTF-8" ?>\n<!DOCTYPE {_ROOT} SYSTEM "{_ROOT}.DTD">\n'
    path.write_text(f"{head}{text}\n", encoding="utf-8")


def _write_stack(nodes: Element, stack: Stack, project: Project) -> None:
    ranges = ((0, project.shape[2]),) if stack.ranges is None else stack.ranges
    blocks: dict[str, Any] = {}
    if project.layout == BLOCKS:
        sizes = stack.blocks or ()
        starts = [sum(sizes[:n]) for n in range(len(sizes))]
        blocks = {
            "N_BLOCKS": str(len(sizes)),
            "BLOCK_SIZES": ",".join(map(str, sizes)),
            "BLOCKS_ABS_D": ",".join(map(str, starts)),
        }
    z, y, x = (str(v) for v in stack.position)
    node = SubElement(
        nodes,
        "Stack",
        **blocks,
        N_CHANS="1",
        N_BYTESxCHAN=str(stack.bytes_per_voxel),
        ROW=str(stack.row),
        COL=str(stack.column),
        ABS_V=y,
        ABS_H=x,
        ABS_D=z,
        STITCHABLE="yes" if stack.stitchable else "no",
        DIR_NAME=stack.folder,
        Z_RANGES=";".join(f"[{a},{b})" for a, b in ranges) if stack.folder else "",
        IMG_REGEX=stack.files if stack.folder else "",
    )
    place = stack.row, stack.column
    for name, to, sign in (
        ("NORTH", (place[0] - 1, place[1]), -1),
        ("EAST", (place[0], place[1] + 1), 1),
        ("SOUTH", (place[0] + 1, place[1]), 1),
        ("WEST", (place[0], place[1] - 1), -1),
    ):
        side = SubElement(node, f"{name}_displacements")
        pair = (place, to) if sign > 0 else (to, place)
        for found in (d for d in project.displacements if (d.a, d.b) == pair):
            _write_displacement(side, found, sign)


def _write_displacement(side: Element, found: Displacement, sign: int) -> None:
    node = SubElement(side, "Displacement", TYPE="MIP_NCC")
    for n in (1, 2, 0):  # V, H, D
        peak, reliability = found.peak[n], found.reliability[n]
        narrow = np.sqrt(max(2 * reliability**2 - peak**2, 0.0))
        SubElement(
            node,
            _AXES[n],
            displ=str(sign * found.voxels[n]),
            default_displ=str(sign * found.default[n]),
            reliability=_text(reliability),
            nccPeak=_text(peak),
            nccWidth=str(round(_WIDTH * (1 - min(narrow, 1.0)))),
            nccWRangeThr=str(_WIDTH - 1),
            nccInvWidth=str(_WIDTH),
            delay="0",
        )


def _plugin(layout: str) -> str:
    return "tiff2D" if layout == PLANES else "tiff3D"


def _text(value: float) -> str:
    """The shortest decimals of a number."""
    return f"{value:.10g}"
