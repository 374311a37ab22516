"""Agreement: blocks that share an overlap must have found the same displacements there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.blocks import index_of, region, with_halo
from weft.grid import Grid
from weft.registration.plan import block_field_grid
from weft.transforms.interpolate import Field, sample_field

PER_AXIS = 4  # places along each axis of an overlap at which two blocks are compared
TYPICAL = 25  # percentile of all pairs' differences that is taken for what blocks that are right differ by
TOLERANCE = 4.0  # times that is not yet an outlier

Load = Callable[[str], Field | None]


@dataclass(frozen=True)
class Agreement:
    """How well the blocks of a stage agree.

    Parameters
    ----------
    disagreement
        Per block, um: the median over its neighbours of the median length by which the two displacements
        differ in the overlap; 0 for a block without a field or without neighbours. Rejected neighbours do
        not count.
    rejected
        Blocks whose disagreement is too large, worst first.
    limit
        What counted as too large, um; None when none is rejected.
    """

    disagreement: dict[str, float]
    rejected: list[str]
    limit: float | None


def judge_agreement(
    plan: Mapping[str, Any], load: Load, moved: Mapping[str, float], limit: float | None
) -> Agreement:
    """Compare all neighbouring blocks and reject the outliers, one after the other.

    Two blocks are compared in the inner half of their overlap. A block is an outlier when it differs from
    most of its neighbours: by more than `limit`, and by more than four times what the better pairs of the
    stage differ by, so that a stage in which all blocks are uncertain loses none of them. Of several outliers
    the one in conflict with the most neighbours goes first, then the one that moved farthest, and the
    others are judged again without it.

    Parameters
    ----------
    plan
        As `weft.registration.plan.plan_stage` makes it.
    load
        Gives a block's total displacement as `weft.registration.combine.combine_blocks` takes it. Called
        once a block; memory grows with the number of blocks by a few kilobytes each.
    moved
        The largest displacement of each block, um, relative to the stage before.
    limit
        um; None rejects none.
    """
    differences: dict[str, dict[str, float]] = {name: {} for name in plan["ids"]}
    waiting: dict[tuple[str, str], np.ndarray] = {}
    for name in plan["ids"]:
        u = load(name)
        grid = block_field_grid(plan, name)
        for other in neighbours(plan, name):
            points = _shared_points(plan, name, other)
            found = None if u is None or points is None else sample_field(u, grid, points)
            if (other, name) not in waiting:
                waiting[name, other] = np.zeros((0, 3)) if found is None else found
                continue
            before = waiting.pop((other, name))
            if found is not None and len(before):
                distance = float(np.median(np.sqrt(((found - before) ** 2).sum(axis=1))))
                differences[name][other] = differences[other][name] = distance
    every = [value for name, values in differences.items() for other, value in values.items() if name < other]
    rejected: list[str] = []
    if limit is not None and every:
        limit = max(limit, TOLERANCE * float(np.percentile(every, TYPICAL)))
        rejected = _outliers(differences, moved, limit)
    without = set(rejected)
    return Agreement(
        {name: _typical_difference(differences, name, without) for name in plan["ids"]}, rejected, limit
    )


def disagreement_with_neighbours(
    plan: Mapping[str, Any], name: str, u: np.ndarray, load: Load
) -> float | None:
    """The disagreement, um, that a block would have with this displacement; None when no neighbour has one.

    Parameters
    ----------
    u
        (3, z, y, x) um, total, on the grid of the block's field.
    load
        Gives a neighbour's total displacement; None for one that has none or is rejected itself.
    """
    values = []
    for other in neighbours(plan, name):
        points, theirs = _shared_points(plan, name, other), load(other)
        if points is None or theirs is None:
            continue
        apart = sample_field(u, block_field_grid(plan, name), points)
        apart = apart - sample_field(theirs, block_field_grid(plan, other), points)
        values.append(float(np.median(np.sqrt((apart**2).sum(axis=1)))))
    return float(np.median(values)) if values else None


def _outliers(
    differences: Mapping[str, Mapping[str, float]], moved: Mapping[str, float], limit: float
) -> list[str]:
    """The outliers, worst first. Only the neighbours of one that goes are judged again."""
    rejected: dict[str, None] = {}
    standing: dict[str, tuple[int, float, str]] = {}
    waiting = list(differences)
    while True:
        for name in waiting:
            standing.pop(name, None)
            if name not in rejected and _typical_difference(differences, name, rejected) > limit:
                conflicts = sum(v > limit for other, v in differences[name].items() if other not in rejected)
                standing[name] = (conflicts, moved[name], name)
        if not standing:
            return list(rejected)
        worst = max(standing.values())[2]
        rejected[worst] = None
        waiting = [worst, *differences[worst]]


def _typical_difference(
    differences: Mapping[str, Mapping[str, float]], name: str, rejected: Collection[str]
) -> float:
    values = [value for other, value in differences[name].items() if other not in rejected]
    return float(np.median(values)) if values else 0.0


def neighbours(plan: Mapping[str, Any], name: str) -> list[str]:
    """The up to 26 blocks around a block."""
    counts = [-(-n // b) for n, b in zip(plan["grid"]["shape"], plan["block"], strict=True)]
    place = index_of(name)
    found = []
    for offset in itertools.product((-1, 0, 1), repeat=3):
        other = [i + o for i, o in zip(place, offset, strict=True)]
        if any(offset) and all(0 <= i < n for i, n in zip(other, counts, strict=True)):
            found.append(".".join(map(str, other)))
    return found


def _shared_points(plan: Mapping[str, Any], name: str, other: str) -> np.ndarray | None:
    """Points, (n, 3) um, in the inner half of the overlap of two blocks: at its border a field is least sure."""
    shape = plan["grid"]["shape"]
    halo = [plan["overlap"] // 2] * 3
    one, two = (with_halo(region(n, shape, plan["block"]), halo, shape) for n in sorted((name, other)))
    first = np.array([max(a.start, b.start) for a, b in zip(one, two, strict=True)])
    last = np.array([min(a.stop, b.stop) for a, b in zip(one, two, strict=True)])
    if (last <= first).any():
        return None
    places = (np.arange(PER_AXIS) + 0.5) / PER_AXIS
    index = np.stack(np.meshgrid(places, places, places, indexing="ij"), -1).reshape(-1, 3)
    return Grid.from_json(plan["grid"]).to_physical(first + index * (last - first) - 0.5)
