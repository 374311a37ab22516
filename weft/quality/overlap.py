"""Overlap of labels: do regions that both images name lie on one another?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weft.blocks import cut
from weft.blocks import region as region_of
from weft.grid import Grid
from weft.image import Image, Level, Region
from weft.quality.pulled import deep_spacing, pull_labels
from weft.transforms.model import Sequence as Transform

SAMPLES = (
    32_000_000  # voxels of the fixed labels that are compared at most; beyond it a coarser level is taken
)
TILE = 160  # edge of the parts that are in memory at once, voxels

# State of the labels: as they are in the fixed image, and the moving ones by the affine and by the whole transform.
STATES = ("affine", "final")


def label_overlap(
    fixed: Image, moving: Image, affine: Transform, transform: Transform
) -> tuple[list[dict[str, Any]], Grid]:
    """Dice overlap of each label, the moving labels brought onto the fixed grid by the nearest voxel.

    Dice is twice the common voxels over the sum of both. The labels are compared on the finest level of the fixed
    labels with at most `SAMPLES` voxels, read part by part.

    Parameters
    ----------
    fixed, moving
        Label images, each in the space of its image.
    affine, transform
        Maps from the fixed to the moving space: before and after.

    Returns
    -------
    rows, grid
        Per label of either image but 0, in ascending order: ``label``, ``voxels_fixed``, ``voxels_moved`` (after),
        ``dice_affine``, ``dice``, ``in_both`` (whether both images name it); and the grid that was compared.

    Raises
    ------
    ValueError
        When an image holds no integers.
    """
    for role, image in (("fixed", fixed), ("moving", moving)):
        if image.dtype.kind not in "iu":
            raise ValueError(f"the {role} labels are of type {image.dtype}; wanted integers")
    level = next((v for v in fixed.levels if v.grid.size <= SAMPLES), fixed.levels[-1])
    source = moving.level_at(deep_spacing(level.grid))
    here: Counter[int] = Counter()
    there: dict[str, Counter[int]] = {state: Counter() for state in STATES}
    common: dict[str, Counter[int]] = {state: Counter() for state in STATES}
    for part in _tiles(level.grid):
        one = level.read(0, part)
        here.update(_counts(one))
        pulled = pull_labels(moving, (affine, transform), level.grid, level.grid.crop(part))
        for state, two in zip(STATES, pulled, strict=True):
            there[state].update(_counts(two))
            common[state].update(_counts(one[one == two]))
    named = set(here) & _names(source)
    rows = []
    for label in sorted((set(here) | set(there["affine"]) | set(there["final"])) - {0}):
        before, after = (_dice(common[s][label], here[label], there[s][label]) for s in STATES)
        rows.append(
            {
                "label": label,
                "voxels_fixed": here[label],
                "voxels_moved": there["final"][label],
                "dice_affine": before,
                "dice": after,
                "in_both": label in named,
            }
        )
    return rows, level.grid


def summarise_overlap(rows: Sequence[Mapping[str, Any]], grid: Grid) -> dict[str, float | dict[str, float]]:
    """Numbers of `label_overlap`, over the labels that both images name.

    Returns
    -------
    dict
        ``labels`` and ``labels_in_one_image`` (counts), ``dice_affine_mean``, ``dice_mean``, ``dice_gain``, ``dice_min`` (with its
        label) and ``dice_spacing_um`` (voxel size that was compared).
    """
    both = [row for row in rows if row["in_both"]]
    counts = {"labels": float(len(both)), "labels_in_one_image": float(len(rows) - len(both))}
    if not both:
        return {**counts, "dice_mean": math.nan, "dice_gain": math.nan}
    before, after = (float(np.mean([row[name] for row in both])) for name in ("dice_affine", "dice"))
    worst = min(both, key=lambda row: row["dice"])
    return {
        **counts,
        "dice_affine_mean": before,
        "dice_mean": after,
        "dice_gain": after - before,
        "dice_min": {f"label {worst['label']}": worst["dice"]},
        "dice_spacing_um": deep_spacing(grid),
    }


def _names(source: Level) -> set[int]:
    """Every label of an image, read part by part."""
    names: set[int] = set()
    for part in _tiles(source.grid):
        names.update(np.unique(source.read(0, part)).tolist())
    return names


def _tiles(grid: Grid) -> list[Region]:
    return [region_of(name, grid.shape, (TILE,) * 3) for name in cut(grid.shape, (TILE,) * 3)]  # type: ignore[misc]


def _counts(labels: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _dice(common: int, one: int, two: int) -> float:
    return 2 * common / (one + two) if one + two else math.nan
