"""Rule export_terastitcher: hand an image's tiles, links and positions back as TeraStitcher projects."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from string import digits as DIGITS
from typing import Any

import numpy as np

from weft import receipts
from weft.image import TileSet
from weft.readers.terastitcher_project import BLOCKS, PLANES, Displacement, Project, Stack, write_project
from weft.readers.tiff import open_volume_file
from weft.steps.sources import open_tiles


def export_terastitcher(
    *,
    tiles: str,
    links: str,
    solved_links: str,
    poses: str,
    path: str,
    source: dict[str, Any],
    code: str,
    receipt: str,
) -> None:
    """Write a project for each channel, which TeraStitcher merges (``--merge``) or goes on from.

    Positions are rounded to whole voxels, for TeraStitcher knows no others; the receipt says by how much.
    """
    index = receipts.read(tiles)
    raw = open_tiles(path, source)
    names = [tile["name"] for tile in index["tiles"]]
    if lost := [tile["name"] for tile in index["tiles"] if tile["row"] is None or tile["column"] is None]:
        raise ValueError(
            f"image {index['image']!r}: tile {lost[0]!r} has no row and column; TeraStitcher wants tiles of a grid"
        )
    spacing = np.asarray(index["spacing"])
    placed = _positions(poses, names)
    origin = placed.min(0)
    exact = (placed - origin) / spacing
    voxels = np.round(exact).astype(int)
    # Rows and columns of the scan may count from anywhere; a matrix counts from 0.
    grid = np.array([[tile["row"], tile["column"]] for tile in index["tiles"]], int)
    grid -= grid.min(0)
    stage = np.array([tile["position"] for tile in index["tiles"]])
    step = _step(grid, stage, np.asarray(index["shape"]) * spacing)
    displacements = _displacements(links, solved_links, names, grid, step, placed, spacing)
    stitched = {place for d in displacements if min(d.reliability) > 0 for place in (d.a, d.b)}

    folder = Path(receipt).with_name("terastitcher")
    folder.mkdir(exist_ok=True)
    files = {}
    for channel, name in enumerate(index["channels"]):
        layout, top, stacks = _stacks(raw, channel, grid, voxels, stitched, index["image"])
        project = Project(
            layout=layout,
            stacks_dir=str(top),
            spacing=_three(spacing),
            origin=_three(origin),
            step=(float(step[0]), float(step[1])),
            shape=(int(grid[:, 0].max()) + 1, int(grid[:, 1].max()) + 1, index["shape"][0]),
            stacks=stacks,
            displacements=displacements,
        )
        file = folder / f"xml_merging_channel{channel}.xml"
        partial = file.with_name(f"partial-{file.name}")
        write_project(partial, project)
        partial.replace(file)
        files[file.name] = name
    receipts.write_provenance(receipt, source=path, code=code)
    receipts.write(
        receipt,
        {
            "files": files,
            "rounded_voxel": float(np.abs(exact - voxels).max()),
            "data": receipts.digest([voxels.tolist(), [vars(d) for d in displacements]]),
        },
    )


def _positions(poses: str, names: Sequence[str]) -> np.ndarray:
    """Solved positions, (n, 3) um, of the tiles by name."""
    with open(poses, newline="") as handle:
        found = {
            row["tile"]: [float(row[axis]) for axis in "zyx"]
            for row in csv.DictReader(handle, delimiter="\t")
        }
    return np.array([found[name] for name in names])


def _step(grid: np.ndarray, stage: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Distance, um, (y, x), that the stage meant between neighbours: the median over all pairs of them.

    Along an axis without neighbours it is a tile's ``extent``, (z, y, x), as TeraStitcher has it.
    """
    place = {tuple(at): n for n, at in enumerate(grid.tolist())}
    steps = []
    for axis in range(2):
        found = [
            stage[m, axis + 1] - stage[n, axis + 1]
            for (row, column), n in place.items()
            if (m := place.get((row + (axis == 0), column + (axis == 1)))) is not None
        ]
        steps.append(abs(float(np.median(found))) if found else float(extent[axis + 1]))
    return np.array(steps)


def _displacements(
    links: str,
    solved_links: str,
    names: Sequence[str],
    grid: np.ndarray,
    step: np.ndarray,
    placed: np.ndarray,
    spacing: np.ndarray,
) -> tuple[Displacement, ...]:
    """Links between neighbours in a row or a column.

    One that failed, or that the solve did not use, is the stage's, with reliability 0; one that was forced by hand is
    as the tiles came to lie, with reliability 1.
    """
    place = {name: n for n, name in enumerate(names)}
    with open(solved_links, newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    weights = {(row["tile_a"], row["tile_b"]): float(row["weight"]) for row in rows}
    forced = {(row["tile_a"], row["tile_b"]) for row in rows if row["status"] == "forced"}
    found = []
    with open(links, newline="") as handle:
        for row in csv.DictReader(handle, delimiter="\t"):
            a, b = place[row["tile_a"]], place[row["tile_b"]]
            pair = row["tile_a"], row["tile_b"]
            measured = np.array([float(row[axis]) for axis in "zyx"]) / spacing
            if pair in forced:
                measured = (placed[b] - placed[a]) / spacing
            if tuple(grid[b]) < tuple(grid[a]):
                a, b, measured = b, a, -measured
            apart = tuple((grid[b] - grid[a]).tolist())
            if apart not in ((0, 1), (1, 0)):
                continue
            default = np.array([0.0, *(np.array(apart) * step / spacing[1:])])
            used = weights.get(pair, 0.0) > 0
            trust = float(np.clip(1.0 if pair in forced else float(row["ncc"]), 0, 1)) if used else 0.0
            found.append(
                Displacement(
                    a=(int(grid[a][0]), int(grid[a][1])),
                    b=(int(grid[b][0]), int(grid[b][1])),
                    voxels=_whole(measured if used else default),
                    default=_whole(default),
                    reliability=(trust, trust, trust),
                    peak=(trust, trust, trust),
                )
            )
    return tuple(sorted(found, key=lambda d: (d.a, d.b)))


def _stacks(
    raw: TileSet,
    channel: int,
    grid: np.ndarray,
    voxels: np.ndarray,
    stitched: set[tuple[int, int]],
    image: str,
) -> tuple[str, Path, tuple[Stack, ...]]:
    """Layout, folder of all stacks, and the stacks: a folder and a regular expression for the files of each tile."""
    listed = [_paths(raw, n, channel, image) for n in range(len(raw.tiles))]
    layout = PLANES if all(len(paths) == raw.shape[0] for paths in listed) else BLOCKS
    parents = [next(path.parent for path in paths if path) for paths in listed]
    top = Path(os.path.commonpath(parents))
    if top in parents:  # a stack is a folder below that of all stacks, never that one itself
        top = top.parent
    there = {tuple(at): n for n, at in enumerate(grid.tolist())}
    stacks = []
    for row in range(int(grid[:, 0].max()) + 1):
        for column in range(int(grid[:, 1].max()) + 1):
            n = there.get((row, column))
            if n is None:
                stacks.append(Stack(row, column, (0, 0, 0), "", ranges=(), stitchable=False))
                continue
            files = [path for path in listed[n] if path]
            blocks = (
                tuple(open_volume_file(path).volume.shape[1] for path in files) if layout == BLOCKS else None
            )
            if blocks and sum(blocks) != raw.shape[0]:
                raise ValueError(
                    f"image {image!r}: {parents[n]} holds {sum(blocks)} of {raw.shape[0]} planes; wanted all in files of several planes"
                )
            stacks.append(
                Stack(
                    row,
                    column,
                    _whole(voxels[n]),
                    parents[n].relative_to(top).as_posix(),
                    ranges=((0, raw.shape[0]),) if blocks else _ranges(listed[n]),
                    files=_pattern(files),
                    blocks=blocks,
                    bytes_per_voxel=raw.dtype.itemsize,
                    stitchable=(row, column) in stitched,
                )
            )
    return layout, top, tuple(stacks)


def _paths(raw: TileSet, tile: int, channel: int, image: str) -> list[Path | None]:
    """Files of a tile, by planes, None for a plane that is not there; TeraStitcher has to find them in this order."""
    where = f"image {image!r}: channel {raw.channels[channel]!r} of tile {raw.tiles[tile].name!r}"
    found = getattr(raw.reader, "paths", lambda *_: None)(tile, channel)
    if not found:
        raise ValueError(
            f"{where} has no TIFF files of its own; TeraStitcher wants a file per plane or per tile for each channel"
        )
    paths = [Path(os.path.abspath(path)) if path else None for path in found]
    names = [path.name for path in paths if path]
    if names != sorted(names):
        raise ValueError(
            f"{where} has files whose numbers are not padded, as {names[0]}; TeraStitcher sorts names by their characters"
        )
    return paths


def _ranges(paths: Sequence[Path | None]) -> tuple[tuple[int, int], ...]:
    """Planes that are there, as half-open ranges."""
    edges = np.flatnonzero(np.diff([0, *(path is not None for path in paths), 0]))
    return tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2))


def _pattern(paths: Sequence[Path]) -> str:
    """A regular expression of the names of a tile's files, and of no other file in their folder."""
    names = [path.name for path in paths]
    if len(names) == 1:
        return re.escape(names[0])
    head, tail = _shared(names), _shared([name[::-1] for name in names])[::-1]
    pattern = f"{re.escape(head.rstrip(DIGITS))}.*{re.escape(tail.lstrip(DIGITS))}"
    found = {entry.name for entry in paths[0].parent.iterdir() if re.fullmatch(pattern, entry.name)}
    return pattern if found == set(names) else "|".join(re.escape(name) for name in names)


def _shared(names: Sequence[str]) -> str:
    """What all names begin with."""
    return "".join(c[0] for c in takewhile(lambda c: len(set(c)) == 1, zip(*names, strict=False)))


def _three(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _whole(values: np.ndarray) -> tuple[int, int, int]:
    return round(float(values[0])), round(float(values[1])), round(float(values[2]))
