"""The affine start of a pair of images: what is read of them, and the search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from weft.grid import Grid
from weft.image import Image
from weft.logs import warn
from weft.registration.affine import (
    AffineResult,
    AffineSettings,
    finest_level,
    is_planar,
    register_affine,
)
from weft.registration.given import given_start
from weft.registration.linear_model import LinearModel
from weft.registration.voxel_order import order_doubt, reordered
from weft.sampling import read_mask

_EFFORTS = 2  # of the search for what would have fitted


def find_affine(
    fixed: tuple[Image, int],
    moving: tuple[Image, int],
    settings: AffineSettings,
    seed: int,
    progress: Callable[[str], None] | None = None,
    *,
    start: Mapping[str, Any] | None = None,
    masks: tuple[Image | None, Image | None] = (None, None),
) -> AffineResult:
    """Find the affine between two images at the pyramid levels that the search needs.

    Parameters
    ----------
    fixed, moving
        Image (its orientation code counts) and index of its channel.
    settings, seed, progress
        As `weft.registration.affine.register_affine`.

    start
        A given start instead of a search: fields of `weft.config.registration.Start`, its files where they lie.
    masks
        Images, in the spaces of the fixed and of the moving image, that say where these count
        (`weft.sampling.read_mask`, from a half on). What no tile of a stitched image covers never does, nor what is not
        finite.

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
    values = fixed_level.read(fixed[1]), moving_level.read(moving[1])
    counts = (
        _numbers("fixed", values[0], where_it_counts("fixed", fixed[0], masks[0], fixed_level.grid)),
        _numbers("moving", values[1], where_it_counts("moving", moving[0], masks[1], moving_level.grid)),
    )

    def between(
        fixed_grid: Grid = fixed_level.grid,
        moving_grid: Grid = moving_level.grid,
        settings: AffineSettings = settings,
        **more: Any,
    ) -> AffineResult:
        return register_affine(
            values[0],
            fixed_grid,
            values[1],
            moving_grid,
            fixed_orientation=codes[0],
            moving_orientation=codes[1],
            settings=settings,
            seed=seed,
            progress=progress,
            masks=counts,
            **more,
        )

    found = between(start=given, refine=start is None or start.get("refine", True))
    grids = fixed[0].grid, moving[0].grid
    verdict, doubt = found.accepted, None
    if start is None and verdict != "accept":
        levels = fixed_level.grid, moving_level.grid
        doubt = _fits_otherwise(found, between, codes, settings, reordered(grids, levels))
        verdict = "refuse" if doubt else verdict
    if verdict != "refuse":
        doubt = order_doubt(found.matrix, *grids, LinearModel(settings.model, is_planar(*grids)))
        verdict = "warn" if doubt else verdict
    notes = [doubt, _part("fixed", grids[0], masks[0]), _part("moving", grids[1], masks[1])]
    return replace(found, accepted=verdict, notes=(*found.notes, *filter(None, notes)))


def _fits_otherwise(
    found: AffineResult,
    between: Callable[..., AffineResult],
    codes: tuple[str | None, str | None],
    settings: AffineSettings,
    orders: Iterable[tuple[str, Grid, Grid]],
) -> str | None:
    """With which order of a voxel size's axes, or with which orientation, a doubtful pair would fit far better.

    ``between`` is the search: with other grids, other settings, some of its efforts; ``orders`` as of `reordered`.
    """
    needed = max(settings.min_score, settings.accept_margin * found.score)
    if needed > 1:
        return None
    fits = []
    for called, *tried in orders:
        other = _tried(between, *tried)
        if other is not None and other.accepted == "accept" and other.score >= needed:
            fits.append((-other.score, called))
    if fits:  # often two: of one image or of the other
        called = " or ".join(called for _, called in sorted(fits)[:2])
        return f"{called} an affine fits (score {-min(fits)[0]:.3f}): is the order of the axes right?"
    free = replace(settings, orientation="search", handedness="search")
    if free == settings:
        return None
    other = _tried(between, settings=free)
    # Left and right need not be told apart to see that a code is wrong.
    if other is None or other.score < needed:
        return None
    if None in codes:
        return f"as a mirror image it fits (score {other.score:.3f}): wanted orientation codes of both images that say so"
    return (
        f"with the orientation code {other.moving_orientation!r} of the moving image, where {codes[1]!r} is given, an affine "
        f"fits (score {other.score:.3f}): are both codes right?"
    )


def _tried(between: Callable[..., AffineResult], *grids: Grid, **settings: Any) -> AffineResult | None:
    """What a search finds otherwise; None where the images could not even meet."""
    try:
        return between(*grids, **settings, efforts=_EFFORTS)
    except ValueError:
        return None


def where_it_counts(role: str, image: Image, mask: Image | None, grid: Grid) -> np.ndarray | None:
    """Where an image counts, (z, y, x) bool on a grid of its space: in its mask, and where tiles cover it; None: everywhere.

    A mask that covers a part of the image only is warned of: what lies beyond it does not count.

    Raises
    ------
    ValueError
        When that is nowhere, by the mask alone.
    """
    covered = image.covered(grid)
    if mask is None:
        return covered
    inside = read_mask(mask, grid) >= 0.5
    if not inside.any():
        raise ValueError(
            f"{role}_mask counts nowhere in the {role} image: {_reaches(mask.grid, grid)}; "
            "wanted a mask in the image's space, above 0 where it counts: is its voxel size right?"
        )
    if part := _part(role, image.grid, mask):
        warn(part)
    return inside if covered is None else inside & covered


def _part(role: str, grid: Grid, mask: Image | None) -> str | None:
    """What is to be said of a mask whose grid ends within the image; None of others, by a voxel of the larger ones."""
    if mask is None:
        return None
    own = mask.grid
    counts = np.maximum(own.shape, grid.shape) > 1  # across two planes there is nothing to cover
    missing = np.stack([own.lower - grid.lower, grid.upper - own.upper])[:, counts]
    if (missing <= np.maximum(own.spacing, grid.spacing)[counts]).all():
        return None
    share = np.prod(1 - np.maximum(missing, 0).sum(0) / grid.extent[counts])
    return (
        f"{role}_mask covers {np.floor(1000 * share) / 10:g} % of the {role} image: {_reaches(own, grid)}; "
        "what lies beyond it does not count: is its voxel size right?"
    )


def _reaches(mask: Grid, image: Grid) -> str:
    """Where a mask and its image lie."""
    places = [
        " x ".join(f"{low:.4g} to {high:.4g}" for low, high in zip(grid.lower, grid.upper, strict=True))
        for grid in (mask, image)
    ]
    return f"it reaches {places[0]} um (z, y, x), the image {places[1]} um"


def _numbers(role: str, values: np.ndarray, counts: np.ndarray | None) -> np.ndarray | None:
    """Where an image counts, without what is not finite."""
    if values.dtype.kind != "f" or (known := np.isfinite(values)).all():
        return counts
    if not known.any():
        raise ValueError(f"the {role} image holds no finite number; wanted an image of a specimen")
    return known if counts is None else counts & known
