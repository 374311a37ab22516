"""Overlap of labels: do regions that both images name lie on one another?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.blocks import blocks_along_axes, cut, within_blocks
from weft.blocks import region as region_of
from weft.grid import Grid
from weft.image import Image, Level, Region
from weft.quality.pulled import deep_spacing, pull_labels
from weft.transforms.model import Sequence as Transform

SAMPLES = (
    32_000_000  # voxels of the fixed labels that are compared at most; beyond it a coarser level is taken
)
TILE = 160  # edge of the parts that are in memory at once, voxels

# States of the moving labels: by the affine and by the whole transform.
STATES = ("affine", "final")


@dataclass(frozen=True)
class LabelOverlap:
    """What `label_overlap` found.

    Parameters
    ----------
    labels
        Per label of either image but 0, in ascending order: ``label``, ``voxels_fixed``, ``voxels_moved`` (after),
        ``dice_affine``, ``dice``, ``in_both`` (whether both images name it).
    blocks
        By name of a block: ``labels`` (how many that both images name lie in it), and ``dice_affine`` and ``dice`` of their
        voxels in it taken together: a label that reaches into the block with a corner counts as that corner.
    grid
        The grid that was compared.
    """

    labels: list[dict[str, Any]]
    blocks: dict[str, dict[str, float]]
    grid: Grid


def label_overlap(
    fixed: Image,
    moving: Image,
    affine: Transform,
    transform: Transform,
    plan: Mapping[str, Any] | None = None,
) -> LabelOverlap:
    """Dice overlap of each label, the moving labels brought onto the fixed grid by the nearest voxel.

    Dice is twice the common voxels over the sum of both. The labels are compared on the finest level of the fixed
    labels with at most `SAMPLES` voxels, read part by part.

    Parameters
    ----------
    fixed, moving
        Label images, each in the space of its image.
    affine, transform
        Maps from the fixed to the moving space: before and after.
    plan
        Of the stage whose blocks are looked at one by one; None for none.

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
    along = blocks_along_axes(plan, level.grid)
    blocks: dict[str, _Counts] = {}
    for part in _tiles(level.grid):
        one = level.read(0, part)
        both = pull_labels(moving, (affine, transform), level.grid, level.grid.crop(part))
        for name, within in within_blocks(along, part):
            blocks.setdefault(name, _Counts()).add(one[within], [two[within] for two in both])
    whole = _Counts()
    for counts in blocks.values():
        whole.update(counts)
    named = set(whole.fixed) & _names(source) - {0}
    rows = [
        {
            "label": label,
            "voxels_fixed": whole.fixed[label],
            "voxels_moved": whole.moved["final"][label],
            "dice_affine": whole.dice("affine", [label]),
            "dice": whole.dice("final", [label]),
            "in_both": label in named,
        }
        for label in sorted(whole.labels - {0})
    ]
    return LabelOverlap(
        rows,
        {} if plan is None else {name: counts.row(named) for name, counts in blocks.items()},
        level.grid,
    )


def summarise_overlap(rows: Sequence[Mapping[str, Any]], grid: Grid) -> dict[str, float | dict[str, float]]:
    """Numbers of the labels of `label_overlap`, over those that both images name.

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


class _Counts:
    """Voxels of each label: of the fixed ones, of the moved ones before and after, and of those on one another."""

    def __init__(self) -> None:
        self.fixed: Counter[int] = Counter()
        self.moved: dict[str, Counter[int]] = {state: Counter() for state in STATES}
        self.common: dict[str, Counter[int]] = {state: Counter() for state in STATES}

    def add(self, fixed: np.ndarray, moved: Sequence[np.ndarray]) -> None:
        """Count the same part of the fixed labels and of the moved ones, by the affine and by the whole transform."""
        self.fixed.update(_counts(fixed))
        for state, labels in zip(STATES, moved, strict=True):
            self.moved[state].update(_counts(labels))
            self.common[state].update(_counts(fixed[fixed == labels]))

    def update(self, other: _Counts) -> None:
        """Add what another one counted."""
        self.fixed.update(other.fixed)
        for state in STATES:
            self.moved[state].update(other.moved[state])
            self.common[state].update(other.common[state])

    @property
    def labels(self) -> set[int]:
        return set(self.fixed).union(*self.moved.values())

    def dice(self, state: str, labels: Iterable[int]) -> float:
        """Dice of some labels taken together; NaN where there is none of them."""
        kept = list(labels)
        both = sum(self.fixed[label] + self.moved[state][label] for label in kept)
        return 2 * sum(self.common[state][label] for label in kept) / both if both else math.nan

    def row(self, named: set[int]) -> dict[str, float]:
        kept = sorted(self.labels & named)
        return {
            "labels": len(kept),
            "dice_affine": self.dice("affine", kept),
            "dice": self.dice("final", kept),
        }


def _counts(labels: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
