"""The affine start of a pair of images: what is read of them, and the search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from weft.image import Image
from weft.registration.affine import (
    AffineResult,
    AffineSettings,
    finest_level,
    is_planar,
    register_affine,
)
from weft.registration.given import given_start
from weft.registration.linear_model import LinearModel


def find_affine(
    fixed: tuple[Image, int],
    moving: tuple[Image, int],
    settings: AffineSettings,
    seed: int,
    progress: Callable[[str], None] | None = None,
    *,
    start: Mapping[str, Any] | None = None,
) -> AffineResult:
    """Find the affine between two images at the pyramid levels that the search needs.

    Parameters
    ----------
    fixed, moving
        Image (its orientation code counts) and index of its channel.
    settings, seed, progress
        As `weft.registration.affine.register_affine`.

    start
        A given start instead of a search: fields of `weft.config.Start`, its files where they lie.

    Raises
    ------
    FileNotFoundError
        When a file of the start is missing.
    ValueError
        As `weft.registration.affine.register_affine` and `weft.registration.given.given_start`.
    """
    codes = fixed[0].orientation, moving[0].orientation
    given = None
    if start is not None:
        model = LinearModel(settings.model, is_planar(fixed[0].grid, moving[0].grid))
        given = given_start(start, fixed[0].grid, moving[0].grid, codes, model)
    spacing = finest_level(fixed[0].grid, moving[0].grid, settings)
    fixed_level, moving_level = (image.level_at(spacing) for image, _ in (fixed, moving))
    return register_affine(
        fixed_level.read(fixed[1]),
        fixed_level.grid,
        moving_level.read(moving[1]),
        moving_level.grid,
        fixed_orientation=codes[0],
        moving_orientation=codes[1],
        settings=settings,
        seed=seed,
        progress=progress,
        start=given,
        refine=start is None or start.get("refine", True),
    )
