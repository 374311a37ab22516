"""A backend that fails on chosen blocks: what ``native`` finds, shifted there, with the same good metric values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from weft.grid import Grid, Triple
from weft.registration.backends import native
from weft.registration.contract import Initial, Masks, Result


def register(
    fixed: np.ndarray,
    fixed_grid: Grid,
    moving: np.ndarray,
    moving_grid: Grid,
    initial: Initial,
    masks: Masks,
    settings: Mapping[str, Any],
    seed: int,
) -> Result:
    """As `weft.registration.contract.Backend`; ``settings["failures"]`` lists ``{"at", "shift", "once"}``.

    A block whose middle lies within a quarter of its edges of ``at`` is shifted by ``shift``; both are (z, y, x) um.
    With ``once``, the voxels of the block at its first try, a second one with another halo succeeds.
    """
    told = {name: value for name, value in settings.items() if name != "failures"}
    found = native.register(fixed, fixed_grid, moving, moving_grid, initial, masks, told, seed)
    middle = (np.asarray(fixed_grid.lower) + np.asarray(fixed_grid.upper)) / 2
    for failure in settings["failures"]:
        again = failure["once"] is not None and tuple(failure["once"]) != fixed_grid.shape
        if not again and np.all(np.abs(middle - failure["at"]) < np.asarray(fixed_grid.extent) / 4):
            shift = np.asarray(failure["shift"], np.float32)[:, None, None, None]
            found = replace(found, displacement=found.displacement + shift)
    return found


def image_statistics(
    parts: Sequence[np.ndarray], spacing: Triple, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``native`` wants to know of whole images."""
    return native.image_statistics(parts, spacing, {})
