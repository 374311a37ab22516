"""weft's own methods for the benchmark of registration, by its public functions.

As those of `peers`, but for the affine, which is in um, and what is dense: moving index less fixed index.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import report  # noqa: F401  (finds the library beside this folder)
from peers import Found, through_affine
from weft.code_digest import code_digest
from weft.grid import Grid
from weft.image import Image, Level
from weft.registration import register
from weft.registration.contract import Initial, load_backend
from weft.stores.ome_zarr import open_image
from weft.transforms.interpolate import resample_field
from weft.transforms.model import Displacements

IMAGE_SETTINGS = ("spacing", "orientation", "stores")
UNIT = ((1.0,) * 3,) * 2


def backend(
    fixed: np.ndarray, moving: np.ndarray, affine: np.ndarray | None, settings: Mapping[str, Any]
) -> Found:
    """One call of a backend on the whole volume: ``backend`` (default: native) and its ``settings``."""
    grids = _grids((fixed, moving), settings)
    matrix = np.eye(4) if affine is None else affine
    result = load_backend(settings.get("backend", "native"))(
        fixed, grids[0], moving, grids[1], Initial(matrix), (None, None), settings.get("settings", {}), 0
    )
    return Dense(grids, matrix, Displacements(result.displacement, result.grid))


def stages(
    fixed: np.ndarray, moving: np.ndarray, affine: np.ndarray | None, settings: Mapping[str, Any]
) -> Found:
    """`weft.registration.register`, without the inverse: its keywords are the settings, but for these.

    ``spacing`` and ``orientation`` are those of both images, and ``stores`` names two OME-Zarr images to use instead of
    the arrays, so that nothing is held as a whole.
    """
    options = {name: value for name, value in settings.items() if name not in IMAGE_SETTINGS}
    if affine is not None:
        options["affine"] = affine
    grids = _grids((fixed, moving), settings)
    codes = settings.get("orientation", (None, None))
    images = [
        Image((Level(array[None], grid),), orientation=code)
        for array, grid, code in zip((fixed, moving), grids, codes, strict=True)
    ]
    if "stores" in settings:
        images = [open_image(path) for path in settings["stores"]]
    found = register(*images, inverse=False, **options)
    matrix = found.transform.split()[2]
    displacements = next((s for s in found.transform.steps if isinstance(s, Displacements)), None)
    dense = Dense(grids, matrix, displacements)
    for row in (row for table in found.blocks.values() for row in table):
        dense.blocks[row["status"]] = dense.blocks.get(row["status"], 0) + 1
    return dense


class Dense:
    """A result, dense when called; ``affine`` in um, ``blocks`` counts the blocks by status."""

    def __init__(
        self, grids: tuple[Grid, Grid], affine: np.ndarray, displacements: Displacements | None
    ) -> None:
        self.grids = grids
        self.affine = affine
        self.displacements = displacements
        self.blocks: dict[str, int] = {}

    def __call__(self) -> np.ndarray:
        fixed, moving = self.grids
        u = np.zeros((3, *fixed.shape), np.float32)
        if self.displacements is not None:
            u = resample_field(self.displacements.field, self.displacements.grid, fixed)
            u /= np.asarray(fixed.spacing, np.float32)[:, None, None, None]
        return through_affine(np.linalg.inv(moving.matrix()) @ self.affine @ fixed.matrix(), u)


def warm(
    method: str,
    images: tuple[np.ndarray, np.ndarray],
    affine: np.ndarray | None,
    settings: Mapping[str, Any],
) -> None:
    """Load or compile the kernels that a call with these arguments uses, on small images of the same kind."""
    rng = np.random.default_rng(0)
    small = [(rng.random([min(n, 48) for n in v.shape]) * 1000).astype(v.dtype) for v in images]
    if method == "backend":
        backend(small[0], small[1], np.eye(4), {"spacing": settings.get("spacing", UNIT)})
        return
    known = {name: settings[name] for name in ("spacing", "orientation") if name in settings}
    both = [{"name": "coarse", "level": "x4", "block": "whole"}, {"name": "fine", "level": "x1", "block": 24}]
    middle = np.eye(4)
    if affine is None:
        search = {**settings.get("affine", {}), "policy": "warn"}
        stages(small[0], small[1], None, {**known, "affine": search, "stages": []})
    else:
        middle[:3, :3] = affine[:3, :3]
    stages(small[0], small[1], middle, {**known, "stages": both})


@functools.cache
def identity() -> str:
    """Digest of the code of weft that these methods use."""
    found = ("weft.registration.*", "weft.registration.backends.*")
    return code_digest(Path(__file__).parents[1], "benchmarks/engine.py", found)[:16]


def _grids(arrays: tuple[np.ndarray, np.ndarray], settings: Mapping[str, Any]) -> tuple[Grid, Grid]:
    fixed, moving = (
        Grid(array.shape, tuple(spacing))
        for array, spacing in zip(arrays, settings.get("spacing", UNIT), strict=True)
    )
    return fixed, moving
