"""The affine start of a pair of images: what is read of them, and the search."""

from __future__ import annotations

from collections.abc import Callable

from weft.image import Image
from weft.registration.affine import AffineResult, AffineSettings, finest_level, register_affine


def find_affine(
    fixed: tuple[Image, int],
    moving: tuple[Image, int],
    settings: AffineSettings,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> AffineResult:
    """Find the affine between two images at the pyramid levels that the search needs.

    Parameters
    ----------
    fixed, moving
        Image (its orientation code counts) and index of its channel.
    settings, seed, progress
        As `weft.registration.affine.register_affine`.

    Raises
    ------
    ValueError
        As `weft.registration.affine.register_affine`.
    """
    spacing = finest_level(fixed[0].grid, moving[0].grid, settings)
    fixed_level, moving_level = (image.level_at(spacing) for image, _ in (fixed, moving))
    return register_affine(
        fixed_level.read(fixed[1]),
        fixed_level.grid,
        moving_level.read(moving[1]),
        moving_level.grid,
        fixed_orientation=fixed[0].orientation,
        moving_orientation=moving[0].orientation,
        settings=settings,
        seed=seed,
        progress=progress,
    )
