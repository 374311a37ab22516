"""What a block leaves to be looked at: a log of its backend and its volumes, in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from weft.grid import Grid
from weft.registration.contract import Initial, Masks
from weft.registration.itk_image import itk_image
from weft.registration.pull import pull
from weft.transforms.interpolate import resample_field

_folder: ContextVar[Path | None] = ContextVar("folder of a block", default=None)


@contextmanager
def block_folder(folder: Path | None) -> Iterator[None]:
    """Let backends leave their logs of the block registered inside, by the calling thread, in a folder."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def folder_of_block() -> Path | None:
    """Where a backend may leave a log of the block at hand; None where none is wanted.

    No setting of the backend, as results do not depend on it.
    """
    return _folder.get()


def write_seen(
    folder: Path,
    fixed: np.ndarray,
    fixed_grid: Grid,
    moving: np.ndarray,
    moving_grid: Grid,
    initial: Initial,
    masks: Masks,
) -> None:
    """Write a block as a backend gets it: ``fixed.mha``, its masks, and ``moving.mha`` through the start.

    Parameters
    ----------
    folder
        Of the block; it is there.
    fixed, fixed_grid, moving, moving_grid, initial, masks
        As `weft.registration.contract.Backend`; of several channels the first one is written.
    """
    one, other = (v if v.ndim == 3 else v[0] for v in (fixed, moving))
    seen, covered = pull(other, moving_grid, None if masks[1] is None else masks[1] > 0, initial, fixed_grid)
    _write(folder / "fixed.mha", one.astype(np.float32), fixed_grid)
    _write(folder / "moving.mha", seen, fixed_grid)
    if masks[0] is not None:
        _write(folder / "fixed_mask.mha", (masks[0] > 0).astype(np.uint8), fixed_grid)
    _write(folder / "moving_mask.mha", covered.astype(np.uint8), fixed_grid)


def write_found(
    folder: Path,
    fixed_grid: Grid,
    moving: np.ndarray,
    moving_grid: Grid,
    affine: np.ndarray,
    u: np.ndarray,
    grid: Grid,
) -> None:
    """Write what a backend found, whether or not it passes the gates.

    ``result.mha`` is the moving image through the affine and u; ``displacement.mha`` is u, um, components in ITK's order
    x, y, z.

    Parameters
    ----------
    fixed_grid, moving, moving_grid, affine
        As a backend gets them.
    u, grid
        Total displacement, (3, z, y, x) um, and its grid.
    """
    other = moving if moving.ndim == 3 else moving[0]
    finite = np.nan_to_num(np.asarray(u, np.float32), posinf=0.0, neginf=0.0)
    seen, _ = pull(other, moving_grid, None, Initial(affine, finite, grid), fixed_grid)
    _write(folder / "result.mha", seen, fixed_grid)
    full = resample_field(finite, grid, fixed_grid)
    _write(folder / "displacement.mha", np.moveaxis(full[::-1], 0, -1), fixed_grid, vectors=True)


def _write(path: Path, array: np.ndarray, grid: Grid, *, vectors: bool = False) -> None:
    import SimpleITK as sitk  # only here: workers that write nothing are spared its 40 MB

    sitk.WriteImage(itk_image(array, grid, vectors=vectors), str(path), useCompression=True)
