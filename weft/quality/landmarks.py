"""Landmarks: points that a person marked in both images, and how far a transform misses them."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft.grid import Grid
from weft.transforms.model import Sequence as Transform
from weft.transforms.points import check_micrometres

AXES = ("z", "y", "x")
ROLES = ("fixed", "moving")
SUFFIXES = {"": "um", "_um": "um", "_voxel": "voxel"}  # of a column's name: its unit
WANTED = (
    "wanted a heading with fixed_z, fixed_y, fixed_x, moving_z, moving_y, moving_x (um; with the ending _voxel: "
    "voxel indices), a BigWarp export, or two files of points with the columns z, y, x (um or _voxel) or X, Y, Z (pixels)"
)


@dataclass(frozen=True)
class Landmarks:
    """Pairs of points that show the same place.

    Parameters
    ----------
    names
        One per pair.
    fixed, moving
        (n, 3) float64 um, (z, y, x), each in its image's space.
    """

    names: tuple[str, ...]
    fixed: np.ndarray
    moving: np.ndarray


def read_landmarks(paths: Sequence[str | Path], fixed: Grid, moving: Grid) -> Landmarks:
    """Read landmarks from one table of pairs, or from one table of points for each image.

    The kinds of tables, told apart by what is in them:

    - with a heading, tab- or comma-separated: columns ``fixed_z``, ``fixed_y``, ``fixed_x``, ``moving_z``,
      ``moving_y``, ``moving_x``, um; with the ending ``_voxel`` they are indices (0 is the centre of the first voxel).
      A column ``name`` is optional.
    - BigWarp's export, without a heading: name, active, x, y, z of the moving and x, y, z of the fixed point (two
      dimensions: x, y of both), um. Pairs that are not active, or not placed in both images, are left out.
    - two tables of points, the fixed image's first: columns ``z``, ``y``, ``x``, um, or with the ending ``_voxel`` indices;
      or, as BIRL has them, ``X``, ``Y`` (and ``Z``), pixel indices. Rows belong together by the first column, the name or
      number of the landmark; without such a column by their order.

    An axis of one voxel needs no column.

    Parameters
    ----------
    paths
        One file, or two.
    fixed, moving
        Grids of the images, to turn voxel indices into um and to see wrong units.

    Raises
    ------
    FileNotFoundError
        When a file is missing.
    ValueError
        In one sentence: a file that is none of these, a cell that is no number, no pair at all, most points outside
        of their image, or all of them beside the origin, as if in millimetres.
    """
    if len(paths) == 1:
        rows = _rows(Path(paths[0]))
        if len(rows[0][1]) in (6, 8) and rows[0][1][1].lower() in ("true", "false"):
            found = _bigwarp(Path(paths[0]), rows, (fixed, moving))
        else:
            found = _pairs(Path(paths[0]), rows, (fixed, moving))
    elif len(paths) == 2:
        found = _two_tables([Path(path) for path in paths], (fixed, moving))
    else:
        raise ValueError(f"landmarks: found {len(paths)} files; wanted one, or one for each image")
    where = " and ".join(map(str, paths))
    if not found.names:
        raise ValueError(f"{where}: holds no landmark that is placed in both images; wanted at least one")
    for role, grid, points in (("fixed", fixed, found.fixed), ("moving", moving, found.moving)):
        outside = int((~grid.contains(points)).sum())
        if 2 * outside > len(points):
            raise ValueError(
                f"{where}: {outside} of {len(points)} landmarks lie outside of the {role} image, which reaches from "
                f"{_place(grid.lower)} to {_place(grid.upper)} um (z, y, x); wanted other units or another order of the axes"
            )
        check_micrometres(points, grid, f"{where}: all {len(points)} landmarks of the {role} image")
    return found


def landmark_errors(
    landmarks: Landmarks, affine: Transform, transform: Transform, inverse: Transform
) -> list[dict[str, Any]]:
    """How far from its partner each landmark ends (target registration error).

    Fixed points are mapped to the moving space by the affine alone and by the whole transform, moving points to
    the fixed space by the inverse.

    Returns
    -------
    list of dict
        Per landmark: ``landmark``, its points ``fixed_*`` and ``moving_*``, ``mapped_*`` (the fixed point in the moving
        space), ``landed_affine_*`` and ``landed_*`` (the moving point in the fixed space), ``tre_affine_um``, ``tre_um``,
        ``tre_inverse_um``, and ``inside`` (whether it lies in the domain of the transform and of the inverse). Lengths
        in um.
    """
    before, after = affine.apply(landmarks.fixed), transform.apply(landmarks.fixed)
    inside = transform.inside(landmarks.fixed)
    back = inverse.apply(landmarks.moving)
    inside &= inverse.inside(landmarks.moving)
    lengths = {
        "tre_affine_um": np.linalg.norm(before - landmarks.moving, axis=1),
        "tre_um": np.linalg.norm(after - landmarks.moving, axis=1),
        "tre_inverse_um": np.linalg.norm(back - landmarks.fixed, axis=1),
    }
    undone = affine.inverse
    places = {"fixed": landmarks.fixed, "moving": landmarks.moving, "mapped": after, "landed": back}
    if undone is not None:
        places["landed_affine"] = undone.apply(landmarks.moving)
    return [
        {
            "landmark": name,
            **{f"{role}_{axis}": float(p[n, a]) for role, p in places.items() for a, axis in enumerate(AXES)},
            **{column: float(length[n]) for column, length in lengths.items()},
            "inside": bool(inside[n]),
        }
        for n, name in enumerate(landmarks.names)
    ]


def summarise_landmarks(
    rows: Sequence[Mapping[str, Any]], fixed: Grid, moving: Grid
) -> dict[str, float | dict[str, float]]:
    """Numbers of `landmark_errors`, over the landmarks inside the transform's domain.

    Returns
    -------
    dict
        ``landmarks`` and ``landmarks_outside`` (counts); ``tre_affine_median_um``, ``tre_median_um``, ``tre_p95_um``,
        ``tre_inverse_median_um``, ``tre_gain_um`` (median before less median after); ``tre_max_um`` with the landmark's name;
        ``rtre_affine_median``, ``rtre_median``, ``rtre_inverse_median``: the same over the diagonal of the image in whose
        space the error is measured; ``landmarks_improved_fraction``.
    """
    inside = [row for row in rows if row["inside"]]
    counts = {"landmarks": float(len(rows)), "landmarks_outside": float(len(rows) - len(inside))}
    if not inside:
        return {**counts, "tre_median_um": math.nan, "rtre_median": math.nan, "tre_gain_um": math.nan}
    before, after = (np.array([row[name] for row in inside]) for name in ("tre_affine_um", "tre_um"))
    diagonal = float(np.linalg.norm(_extent(moving)))
    worst = max(inside, key=lambda row: row["tre_um"])
    numbers: dict[str, float | dict[str, float]] = {
        **counts,
        "tre_affine_median_um": float(np.median(before)),
        "tre_median_um": float(np.median(after)),
        "tre_p95_um": float(np.percentile(after, 95)),
        "tre_max_um": {f"landmark {worst['landmark']}": worst["tre_um"]},
        "tre_gain_um": float(np.median(before) - np.median(after)),
        "rtre_affine_median": float(np.median(before)) / diagonal,
        "rtre_median": float(np.median(after)) / diagonal,
        "landmarks_improved_fraction": float(np.mean(after < before)),
    }
    back = float(np.median([row["tre_inverse_um"] for row in inside]))
    diagonal = float(np.linalg.norm(_extent(fixed)))
    return {**numbers, "tre_inverse_median_um": back, "rtre_inverse_median": back / diagonal}


def _extent(grid: Grid) -> np.ndarray:
    """Lengths of the axes, um; an axis of one voxel has none."""
    return np.where(np.asarray(grid.shape) > 1, grid.extent, 0.0)


# ---------------------------------------------------------------------- tables
def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Numbers and cells of the lines that hold something."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such table of landmarks")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; wanted a plain text table") from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = next((mark for mark in "\t;" if mark in first), ",")
    lines = enumerate(csv.reader(text.splitlines(), delimiter=separator), 1)
    rows = [(number, [cell.strip() for cell in row]) for number, row in lines if any(map(str.strip, row))]
    if not rows:
        raise ValueError(f"{path}: is empty; {WANTED}")
    return rows


def _pairs(path: Path, rows: list[tuple[int, list[str]]], grids: tuple[Grid, Grid]) -> Landmarks:
    """A table with a heading that names the images."""
    heading = rows[0][1]
    points = []
    for role, grid in zip(ROLES, grids, strict=True):
        points.append(_placed(path, rows, f"{role}_", grid)[0])
    at = heading.index("name") if "name" in heading else None
    names = [str(n) if at is None else row[at] for n, (_, row) in enumerate(rows[1:])]
    return Landmarks(tuple(names), *points)


def _bigwarp(path: Path, rows: list[tuple[int, list[str]]], grids: tuple[Grid, Grid]) -> Landmarks:
    """Name, active, the moving point, the fixed point; x comes first."""
    count = (len(rows[0][1]) - 2) // 2
    active = [row for row in rows if len(row[1]) < 2 or row[1][1].lower() == "true"]
    columns = [*range(2, 2 + 2 * count)]
    values = _numbers(path, active, columns, len(rows[0][1]), finite=False)
    placed = np.isfinite(values).all(axis=1)
    moving, fixed = np.split(values[placed], 2, axis=1)
    names = tuple(row[0] for (_, row), there in zip(active, placed, strict=True) if there)
    both = []
    for points, grid in ((fixed, grids[0]), (moving, grids[1])):
        full = np.tile(np.asarray(grid.origin), (len(points), 1))
        full[:, 3 - count :] = points[:, ::-1]
        both.append(full)
    return Landmarks(names, *both)


def _two_tables(paths: list[Path], grids: tuple[Grid, Grid]) -> Landmarks:
    """Two tables of points whose rows belong together by the first column, where it is no coordinate."""
    found = []
    for path, grid in zip(paths, grids, strict=True):
        rows = _rows(path)
        points, columns = _placed(path, rows, "", grid)
        if 0 in columns:  # no numbers: by the order of the rows
            names = [str(n) for n in range(len(points))]
        else:
            names = [row[0] for _, row in rows[1:]]
        if len(set(names)) < len(names):
            raise ValueError(
                f"{path}: the landmark {max(names, key=names.count)!r} stands twice; wanted one row each"
            )
        found.append(dict(zip(names, points, strict=True)))
    both = [name for name in found[0] if name in found[1]]
    fixed, moving = (np.array([points[name] for name in both]).reshape(-1, 3) for points in found)
    return Landmarks(tuple(both), fixed, moving)


def _placed(
    path: Path, rows: list[tuple[int, list[str]]], prefix: str, grid: Grid
) -> tuple[np.ndarray, list[int | None]]:
    """The points, um, of one image in a table with a heading, and their columns."""
    heading = rows[0][1]
    suffixes = [s for s in SUFFIXES if any(f"{prefix}{axis}{s}" in heading for axis in AXES)]
    if len({SUFFIXES[s] for s in suffixes}) > 1:
        raise ValueError(f"{path}: has columns {prefix}* in um and in voxels; wanted one unit for each image")
    names = [f"{prefix}{axis}{suffixes[0] if suffixes else ''}" for axis in AXES]
    unit = SUFFIXES[suffixes[0]] if suffixes else "um"
    if not prefix and not suffixes and any(axis.upper() in heading for axis in AXES):  # BIRL
        names, unit = [axis.upper() for axis in AXES], "voxel"
    columns = [_column(path, heading, name, n) for name, n in zip(names, grid.shape, strict=True)]
    return _physical(_numbers(path, rows[1:], columns, len(heading)), grid, unit), columns


def _column(path: Path, heading: list[str], name: str, voxels: int) -> int | None:
    """Index of a column; None for an axis of one voxel that has none."""
    if name in heading:
        return heading.index(name)
    if voxels == 1:
        return None
    raise ValueError(f"{path}: column {name!r} is missing; found {', '.join(heading)}; {WANTED}")


def _numbers(
    path: Path,
    rows: Sequence[tuple[int, list[str]]],
    columns: Sequence[int | None],
    width: int,
    finite: bool = True,
) -> np.ndarray:
    """Cells of some columns, (rows, columns) float64; NaN for a column that is not there."""
    values = np.full((len(rows), len(columns)), np.nan)
    for n, (line, row) in enumerate(rows):
        if len(row) != width:
            raise ValueError(f"{path}: line {line}: found {len(row)} cells; wanted {width}")
        for at, column in enumerate(columns):
            if column is None:
                continue
            try:
                values[n, at] = float(row[column])
            except ValueError:
                values[n, at] = np.nan
            if math.isnan(values[n, at]) or (finite and math.isinf(values[n, at])):
                raise ValueError(f"{path}: line {line}: found {row[column]!r}; wanted a number")
    return values


def _physical(values: np.ndarray, grid: Grid, unit: str) -> np.ndarray:
    """Points in um; an axis without a column is that of the image's only plane."""
    points = values if unit == "um" else grid.to_physical(values)
    return np.where(np.isnan(points), np.asarray(grid.origin), points)


def _place(point: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in point)
