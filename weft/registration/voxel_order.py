"""Whether the axes of a voxel size stand in another order than was meant: what an affine says of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from weft.grid import Grid, Triple
from weft.registration.linear_model import LinearModel

_UNLIKE = 1.02  # ratio of two lengths from which they are not the same
_UNEQUAL = 1.15  # ratio of the stretches of an affine from which they are looked into
_EXPLAINED = 1 / 3  # share of the stretches' inequality, as a logarithm, that another order may leave
_LOST = 1.3  # ratio of two axes' voxel sizes from which a search may be lost when they are swapped

ROLES = ("fixed", "moving")


def order_doubt(matrix: np.ndarray, fixed: Grid, moving: Grid, model: LinearModel) -> str | None:
    """What is to be said of an affine that stretches an image as swapped axes of its voxel size would.

    Specimens shrink and swell, but seldom by just the ratio of two edges of their voxels, along just these axes.

    Parameters
    ----------
    matrix
        (4, 4), um, fixed to moving.
    fixed, moving
        Grids at full resolution, um.
    model
        Of the affine.

    Returns
    -------
    str or None
        A sentence that names the order that would explain it; None where none would.
    """
    stretches = model.stretches(matrix[:3, :3])
    unequal = np.log(stretches[0] / stretches[-1])
    if unequal < np.log(_UNEQUAL):
        return None
    found = []
    for role, grid in zip(ROLES, (fixed, moving), strict=True):
        for size in _other_orders(grid, _UNLIKE):
            ratio = np.asarray(size) / grid.spacing
            linear = matrix[:3, :3] / ratio if role == "fixed" else ratio[:, None] * matrix[:3, :3]
            left = model.stretches(linear)
            found.append((np.log(left[0] / left[-1]), role, grid, size, left))
    found = [each for each in sorted(found, key=lambda each: each[0]) if each[0] <= _EXPLAINED * unequal][:2]
    if not found:
        return None
    # Often two: of one image or of the other.
    called = " or ".join(_with(role, grid, size) for _, role, grid, size, _ in found)
    return (
        f"the directions are stretched by {_listed(stretches)}; {called} it would be {_listed(found[0][-1])}: "
        "is the order of the axes right?"
    )


def reordered(grids: tuple[Grid, Grid], levels: tuple[Grid, Grid]) -> Iterator[tuple[str, Grid, Grid]]:
    """Orders of the axes of one of two voxel sizes without which, where they were meant, a search may be lost.

    Parameters
    ----------
    grids
        Of the fixed and the moving image at full resolution, um.
    levels
        Grids of these images at the level that is searched.

    Yields
    ------
    tuple
        How it is called, in a sentence; the fixed and the moving image's grid of the level with that voxel size.
    """
    for n, grid in enumerate(grids):
        for size in _other_orders(grid, _LOST):
            changed = list(levels)
            spacing: Triple = tuple(np.asarray(levels[n].spacing) * size / grid.spacing)
            changed[n] = replace(levels[n], spacing=spacing)
            yield _with(ROLES[n], grid, size), changed[0], changed[1]


def _other_orders(grid: Grid, ratio: float) -> list[Triple]:
    """The voxel size with its axes in other orders, where an axis changes by more than a ratio; z of a plane stays."""
    found = set()
    for order in itertools.permutations(range(3)):
        size: Triple = tuple(grid.spacing[axis] for axis in order)  # type: ignore[assignment]
        changes = [max(a / b, b / a) for a, b in zip(size, grid.spacing, strict=True)]
        if max(changes) > ratio and (grid.shape[0] > 1 or order[0] == 0):
            found.add(size)
    return sorted(found)


def _with(role: str, grid: Grid, size: Triple) -> str:
    return (
        f"with a voxel size of {', '.join(f'{s:g}' for s in size)} um (z, y, x) of the {role} image, where "
        f"{', '.join(f'{s:g}' for s in grid.spacing)} is given,"
    )


def _listed(stretches: np.ndarray) -> str:
    return ", ".join(f"{stretch:.2f}" for stretch in stretches)
