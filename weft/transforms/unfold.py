"""Unfold: smooth a displacement field where it folds, and only there."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from scipy import ndimage

from weft.grid import Grid
from weft.image import Region, box
from weft.transforms.folds import find_folds
from weft.transforms.interpolate import Field, check_field

REACH = 3  # samples around a fold that are smoothed with it
THRESHOLD = 0.02  # a sample is folded where the smallest determinant of the cells around it is not above this
CELL = 32  # samples: folds in cells that touch, or have one cell between them, are mended together
RIM = 2  # samples at the border of a part that stay as they are, so that it fits what lies around it


class WritableField(Field, Protocol):
    """A field of which parts can be replaced: an array, or `weft.transforms.formats.ngff.FieldWriter`."""

    def __setitem__(self, region: Any, values: np.ndarray, /) -> None:
        """Replace the part ``(slice(None), z, y, x)``."""
        ...


def unfold(
    u: np.ndarray,
    grid: Grid,
    *,
    threshold: float = THRESHOLD,
    iterations: int = 20,
    held: np.ndarray | None = None,
) -> tuple[np.ndarray, int, int]:
    """Smooth a displacement field around its folds until none is left.

    Parameters
    ----------
    u
        (3, z, y, x) float32, um, components z, y, x.
    grid
        Where its samples lie.
    threshold
        A sample is folded where the smallest determinant of the cells around it is not above this.
    iterations
        At most so many passes; the smoothed neighbourhood grows with each.
    held
        (z, y, x) bool, samples that stay as they are; None: no sample.

    Returns
    -------
    u, folded, left
        The new field, (3, z, y, x) float32 um (the old one's values away from folds); how many samples were
        folded, and how many still are.
    """
    check_field(u, grid)
    u = np.array(u, np.float32)
    folded = find_folds(u, grid.spacing, threshold)
    count = left = int(folded.sum())
    for i in range(iterations):
        if left == 0:
            break
        reach = REACH + i // 2
        for around in ndimage.find_objects(
            ndimage.label(ndimage.binary_dilation(folded, iterations=reach))[0]
        ):
            wide = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in around)
            weight = ndimage.gaussian_filter(
                ndimage.binary_dilation(folded[wide], iterations=reach).astype(np.float32), 1.0, truncate=4
            )
            if held is not None:
                weight[held[wide]] = 0
            for component in u[(slice(None), *wide)]:
                component += weight * (ndimage.gaussian_filter(component, 1.5, mode="nearest") - component)
        folded = find_folds(u, grid.spacing, threshold)
        left = int(folded.sum())
    return u, count, left


def folds_within(u: np.ndarray, grid: Grid, inner: Region, threshold: float = THRESHOLD) -> np.ndarray:
    """Indices, (n, 3) int64, of the folded samples of the part ``inner`` of a field, (3, z, y, x) um on ``grid``."""
    return np.argwhere(find_folds(u, grid.spacing, threshold)[inner]) + [part.start for part in inner]


def unfold_parts(field: WritableField, grid: Grid, folds: np.ndarray) -> int:
    """Unfold a field that is not in memory, around the folds that were found in it.

    Folds that lie close are mended together. Memory: the box around the largest such group, about 100 bytes a sample;
    it grows with that group, not with the field.

    Parameters
    ----------
    field
        (3, z, y, x) float32 um; its parts around folds are replaced.
    grid
        Where its samples lie.
    folds
        (n, 3) indices of all folded samples.

    Returns
    -------
    How many samples are still folded.
    """
    left = 0
    for part in _groups(folds, grid):
        where = (slice(None), *part)
        held = np.ones(tuple(p.stop - p.start for p in part), bool)
        held[
            tuple(
                slice(0 if p.start == 0 else RIM, None if p.stop == n else -RIM)
                for p, n in zip(part, grid.shape, strict=True)
            )
        ] = False
        mended, _, here = unfold(np.asarray(field[where]), grid.crop(part), held=held)
        field[where] = mended
        left += here
    return left


def _groups(folds: np.ndarray, grid: Grid) -> list[Region]:
    """Boxes around groups of folds that do not overlap."""
    if not len(folds):
        return []
    cells = np.zeros([-(-n // CELL) for n in grid.shape], bool)
    cells[tuple((folds // CELL).T)] = True
    cells = ndimage.binary_dilation(cells, np.ones((3, 3, 3), bool))
    boxes = [[(s.start, s.stop) for s in found] for found in ndimage.find_objects(ndimage.label(cells)[0])]
    merged: list[list[tuple[int, int]]] = []
    for one in boxes:
        # A group may reach around another: what overlaps becomes one, again and again.
        while (other := next((m for m in merged if _overlap(one, m)), None)) is not None:
            merged.remove(other)
            one = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(one, other, strict=True)]
        merged.append(one)
    return [
        box([a * CELL for a, _ in one], [min(b * CELL, n) for (_, b), n in zip(one, grid.shape, strict=True)])
        for one in merged
    ]


def _overlap(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> bool:
    return all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True))
