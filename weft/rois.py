"""What lies in each region of an atlas: voxels, volume, intensity, cells; left, right and both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import find_objects

from weft.grid import Grid
from weft.image import Region
from weft.ontology import Ontology

NONE, LEFT, RIGHT = 0, 1, 2
SIDES = {"left": (LEFT,), "right": (RIGHT,), "both": (NONE, LEFT, RIGHT)}
BOX = (
    "z_micrometer",
    "y_micrometer",
    "x_micrometer",
    "len_z_micrometer",
    "len_y_micrometer",
    "len_x_micrometer",
)


@dataclass(frozen=True)
class MeasuredBlock:
    """One block of the sample, as `measure_regions` takes it.

    Parameters
    ----------
    region
        Where the block lies in the sample's grid.
    annotation
        Region id of every voxel, (z, y, x), integer; 0 is outside the atlas.
    sides
        Side of every voxel, (z, y, x) uint8: 0 none, 1 left, 2 right (see `side_of_points`).
    intensities
        (c, z, y, x), any dtype; with no channels, (0, z, y, x).
    """

    region: Region
    annotation: np.ndarray
    sides: np.ndarray
    intensities: np.ndarray


def side_of_points(
    points: np.ndarray, grid: Grid, orientation: str, midplane: float | None = None
) -> np.ndarray:
    """On which side of the atlas points lie.

    Parameters
    ----------
    points
        (..., 3) um, in the atlas's space.
    grid
        The atlas's grid.
    orientation
        The atlas's code: three letters, where each axis (z, y, x) points as its index grows.
    midplane
        Position of the plane between left and right on the left-right axis, um; default the middle of the grid.

    Returns
    -------
    numpy.ndarray
        (...) uint8: 1 left, 2 right, 0 on the plane itself (or where the point is not a number).

    Raises
    ------
    ValueError
        When the code has no left-right axis.
    """
    letters = orientation.lower()
    axes = [axis for axis, letter in enumerate(letters) if letter in "lr"]
    if len(letters) != 3 or len(axes) != 1:
        raise ValueError(
            f"orientation {orientation!r} has no single left-right axis; wanted one l or r in three letters"
        )
    (axis,) = axes
    if midplane is None:
        midplane = float((grid.lower[axis] + grid.upper[axis]) / 2)
    beyond = np.asarray(points)[..., axis] - midplane
    ahead, behind = (RIGHT, LEFT) if letters[axis] == "r" else (LEFT, RIGHT)
    return np.where(beyond > 0, ahead, np.where(beyond < 0, behind, NONE)).astype(np.uint8)


def measure_regions(
    blocks: Iterable[MeasuredBlock],
    grid: Grid,
    channels: Sequence[str],
    ontology: Ontology,
    cells: np.ndarray | None = None,
) -> pd.DataFrame:
    """Measure every region of an annotation, streamed over blocks; memory does not grow with the volume.

    Parameters
    ----------
    blocks
        Blocks that tile the sample, without overlap. Integer intensities are summed exactly, so the result does not
        depend on how the sample was cut; floats are summed in float64 in the order of the blocks.
    grid
        The sample's grid: its voxel volume, and where the cells' points lie.
    channels
        Names of the channels of the blocks' intensities.
    ontology
        The hierarchy, for names and the roll-up.
    cells
        Points, (n, 3) um, in the sample's space; None: no cells were looked for. A cell belongs to the region of the
        voxel that it lies in.

    Returns
    -------
    pandas.DataFrame
        Three rows per region (``side`` left, right, both; parents before children), for every region found and
        all that it is part of. ``both`` holds the voxels that lie exactly between the sides, too. Columns:

        - ``id``, ``acronym``, ``name``, ``parent_id`` (0 for a root), ``depth``, ``side``;
        - its own: ``voxels``, ``volume_mm3``, ``mean_<channel>`` (NaN without voxels), ``cells``;
        - with all regions inside it: ``total_voxels``, ``total_volume_mm3``, ``total_mean_<channel>``, ``total_cells``;
        - box around its own voxels: ``z_micrometer`` ... ``len_x_micrometer`` (lower corner and lengths, um; NaN
          without voxels).

        Regions that the ontology does not know come last, without a name or a parent. ``attrs`` lists them
        (``unknown_regions``) and counts what is in no region: ``voxels_outside`` and, where there are cells,
        ``cells_outside`` (annotation 0, or off the grid).

    Raises
    ------
    ValueError
        When an annotation is not of integer type or negative, a block's arrays differ in shape, or a number of
        channels is not that of ``channels``.
    """
    tally = _Tally(len(channels))
    finder = _CellFinder(cells, grid) if cells is not None else None
    for block in blocks:
        _check(block, len(channels))
        tally.add_voxels(block)
        if finder is not None:
            tally.add_cells(*finder.inside(block))
    outside = [tally.rows.pop((0, side), None) for side in (NONE, LEFT, RIGHT)]
    table = _table(tally.rows, grid, channels, ontology, cells is not None)
    table.attrs["unknown_regions"] = sorted({region for region, _ in tally.rows if region not in ontology})
    table.attrs["voxels_outside"] = sum(row.voxels for row in outside if row is not None)
    if cells is not None:
        table.attrs["cells_outside"] = len(cells) - sum(row.cells for row in tally.rows.values())
    return table


def roi_table(table: pd.DataFrame) -> pd.DataFrame:
    """The regions as a table of regions of interest: one row per region that has voxels, indexed by its acronym.

    Columns are the box (lower corner and lengths, um) and the region's own numbers for both sides together, all
    float32 but the label: what an OME-Zarr ROI table (AnnData, ``masking_roi_table``) wants as its X and obs.
    """
    rows = table[(table["side"] == "both") & (table["voxels"] > 0)]
    numbers = [
        *BOX,
        *(c for c in map(str, rows) if c in ("voxels", "volume_mm3", "cells") or c.startswith("mean_")),
    ]
    names = rows["acronym"].where(
        ~rows["acronym"].duplicated(keep=False), rows["acronym"] + "_" + rows["id"].astype(str)
    )
    rois = rows[numbers].astype(np.float32).set_index(pd.Index(names, name="FieldIndex"))
    rois.insert(0, "label", rows["id"].to_numpy())
    return rois


@dataclass
class _Row:
    """Sums over one region on one side."""

    voxels: int
    sums: np.ndarray  # (c,) float64
    cells: int
    lower: np.ndarray  # (3,) first voxel
    upper: np.ndarray  # (3,) one after the last voxel

    @classmethod
    def empty(cls, channels: int) -> _Row:
        largest = np.iinfo(np.int64).max
        return cls(0, np.zeros(channels), 0, np.full(3, largest), np.full(3, -1))

    def __add__(self, other: _Row) -> _Row:
        return _Row(
            self.voxels + other.voxels,
            self.sums + other.sums,
            self.cells + other.cells,
            np.minimum(self.lower, other.lower),
            np.maximum(self.upper, other.upper),
        )


class _Tally:
    """Rows by (region id, side), filled block by block."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.rows: dict[tuple[int, int], _Row] = {}

    def add_voxels(self, block: MeasuredBlock) -> None:
        # pandas' hash table numbers the ids that are there; bincount then sums by number in one pass.
        numbers, ids = pd.factorize(block.annotation.ravel())
        keys = numbers * 3 + block.sides.ravel()
        length = 3 * len(ids)
        voxels = np.bincount(keys, minlength=length)
        sums = [np.bincount(keys, weights=channel.ravel(), minlength=length) for channel in block.intensities]
        boxes = find_objects((keys + 1).reshape(block.annotation.shape), max_label=length)
        start = np.array([part.start for part in block.region])
        for key in np.flatnonzero(voxels):
            box = boxes[key]
            found = _Row(
                int(voxels[key]),
                np.array([channel[key] for channel in sums]),
                0,
                start + [part.start for part in box],
                start + [part.stop for part in box],
            )
            place = int(ids[key // 3]), int(key % 3)
            self.rows[place] = self.rows[place] + found if place in self.rows else found

    def add_cells(self, ids: np.ndarray, sides: np.ndarray) -> None:
        for region, side in zip(ids.tolist(), sides.tolist(), strict=True):
            if region:  # its voxel was counted just before, so the row is there
                self.rows[region, side].cells += 1


class _CellFinder:
    """Looks up which cells lie in a block; they are sorted by z once, so that a block sees only its planes."""

    def __init__(self, points: np.ndarray, grid: Grid) -> None:
        points = np.asarray(points, float).reshape(-1, 3)
        index = np.floor(grid.to_index(points[grid.contains(points)]) + 0.5).astype(np.int64)
        index = np.minimum(index, np.asarray(grid.shape) - 1)  # a point on the very last face
        self.index = index[np.argsort(index[:, 0], kind="stable")]

    def inside(self, block: MeasuredBlock) -> tuple[np.ndarray, np.ndarray]:
        """Region id and side of each cell in the block."""
        lower = np.array([part.start for part in block.region])
        first, last = np.searchsorted(self.index[:, 0], [lower[0], block.region[0].stop])
        local = self.index[first:last] - lower
        local = local[np.all((local >= 0) & (local < block.annotation.shape), axis=1)]
        return block.annotation[tuple(local.T)], block.sides[tuple(local.T)]


def _check(block: MeasuredBlock, channels: int) -> None:
    where = "x".join(f"[{part.start}, {part.stop})" for part in block.region)
    if not np.issubdtype(block.annotation.dtype, np.integer):
        raise ValueError(f"the annotation at {where} is of type {block.annotation.dtype}; wanted integers")
    shape = tuple(part.stop - part.start for part in block.region)
    for name, found, wanted in (
        ("annotation", block.annotation.shape, shape),
        ("sides", block.sides.shape, shape),
        ("intensities", block.intensities.shape, (channels, *shape)),
    ):
        if tuple(found) != wanted:
            raise ValueError(f"the {name} at {where} have the shape {tuple(found)}; wanted {wanted}")
    if block.annotation.size and block.annotation.min() < 0:
        raise ValueError(
            f"the annotation at {where} holds {block.annotation.min()}; wanted ids of 0 and above"
        )
    if block.sides.size and block.sides.max() > RIGHT:
        raise ValueError(
            f"the sides at {where} hold {block.sides.max()}; wanted 0 (none), 1 (left) or 2 (right)"
        )


def _table(
    rows: dict[tuple[int, int], _Row],
    grid: Grid,
    channels: Sequence[str],
    ontology: Ontology,
    with_cells: bool,
) -> pd.DataFrame:
    by_side = {side: _merge(rows, places) for side, places in SIDES.items()}
    totals = {
        side: ontology.roll_up({k: v for k, v in own.items() if k in ontology})
        for side, own in by_side.items()
    }
    unknown = sorted(region for region in by_side["both"] if region not in ontology)
    empty = _Row.empty(len(channels))

    def numbers(row: _Row, prefix: str) -> dict[str, float]:
        values: dict[str, float] = {
            f"{prefix}voxels": row.voxels,
            f"{prefix}volume_mm3": row.voxels * float(np.prod(grid.spacing)) * 1e-9,
        }
        for channel, total in zip(channels, row.sums, strict=True):
            values[f"{prefix}mean_{channel}"] = total / row.voxels if row.voxels else np.nan
        return values | ({f"{prefix}cells": row.cells} if with_cells else {})

    def box(row: _Row) -> np.ndarray:
        if not row.voxels:
            return np.full(6, np.nan)
        return np.concatenate([grid.lower + row.lower * grid.spacing, (row.upper - row.lower) * grid.spacing])

    named = [
        (s.id, s.acronym, s.name, s.parent or 0, depth)
        for s, depth in ontology.walk()
        if s.id in totals["both"]
    ] + [(region, str(region), "", 0, 0) for region in unknown]
    records = []
    for region, acronym, name, parent, depth in named:
        for side in SIDES:
            own = by_side[side].get(region, empty)
            total = totals[side].get(region, own)
            records.append(
                {
                    "id": region,
                    "acronym": acronym,
                    "name": name,
                    "parent_id": parent,
                    "depth": depth,
                    "side": side,
                }
                | numbers(own, "")
                | numbers(total, "total_")
                | dict(zip(BOX, box(own), strict=True))
            )
    if records:
        return pd.DataFrame.from_records(records)
    columns = [
        "id",
        "acronym",
        "name",
        "parent_id",
        "depth",
        "side",
        *numbers(empty, ""),
        *numbers(empty, "total_"),
        *BOX,
    ]
    return pd.DataFrame(columns=columns)


def _merge(rows: dict[tuple[int, int], _Row], sides: tuple[int, ...]) -> dict[int, _Row]:
    merged: dict[int, _Row] = {}
    for region, side in sorted(rows):
        if side in sides:
            row = rows[region, side]
            merged[region] = merged[region] + row if region in merged else row
    return merged
