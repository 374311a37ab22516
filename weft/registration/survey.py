"""What is measured of whole images, once and for all blocks: what is background, and statistics for the backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.grid import Grid
from weft.image import Image, box
from weft.registration.engine import less_zero
from weft.registration.features import log_intensity, otsu_threshold
from weft.registration.needs import of_backend
from weft.sampling import read_at, stage_grid, thinned

SMALL = 2_000_000  # voxels of the level that is looked at: the finest that has no more
LOOKED_AT = 500_000  # most of them that are looked at: with four times as many, backgrounds move by 2 %
PIECES = 8  # parts of an image that are read at the stage's voxel size
PIECE = 64  # voxels of their edges
TRIED = 8  # places looked at, of a stitched image, for each part that is read


@dataclass(frozen=True)
class Overview:
    """A channel of an image as a whole: the same for all stages.

    Parameters
    ----------
    image, channel
        The image and the index of its channel.
    values, grid
        Some of its voxels, (z, y, x), and where they lie: every so many-th of a coarse level.
    zero, background
        The value of nothing, and the one between background and content.
    """

    image: Image
    channel: int
    values: np.ndarray
    grid: Grid
    zero: float
    background: float


def overview(image: Image, channel: int) -> Overview:
    """Look at a channel of an image: where background ends by Otsu's threshold of the logarithm.

    Nothing is 0, however far the noise of a dark background reaches below it; but where content itself lies below 0, as
    in computed tomography, it is the darkest value. Of a stitched image, what no tile covers is neither background nor
    content, and nor is what is not finite.

    Raises
    ------
    ValueError
        When nothing of the image is finite.
    """
    small = (level for level in image.levels if level.grid.size <= SMALL)
    values, grid = thinned(next(small, image.levels[-1]), channel, LOOKED_AT)
    return Overview(image, channel, values, grid, *_darkness(image, channel, values, grid))


def _darkness(image: Image, channel: int, values: np.ndarray, grid: Grid) -> tuple[float, float]:
    """``zero`` and ``background`` of an overview."""
    covered = image.covered(grid)
    values = values if covered is None else values[covered]
    if values.dtype.kind == "f" and not (known := np.isfinite(values)).all():
        values = values[known]
        if not values.size:
            name = image.channels[channel]
            raise ValueError(
                f"channel {name!r} of an image holds no finite number; wanted an image of a specimen"
            )
    logarithm = log_intensity(values)
    content = values[logarithm > otsu_threshold(logarithm)]
    if not content.size:
        return 0.0, 0.0
    least = float(content.min())
    zero = 0.0 if least > 0 else float(values.min())
    return zero, (zero + least) / 2


def survey_images(
    plan: Mapping[str, Any],
    settings: Mapping[str, Any],
    fixed: Sequence[Overview],
    moving: Sequence[Overview],
) -> dict[str, Any]:
    """What all blocks of a stage are told of the images they are cut from, as plain numbers.

    Parameters
    ----------
    plan
        As `weft.registration.plan.plan_stage` makes it.
    settings
        ``backend`` and ``settings`` of the stage.
    fixed, moving
        Overviews of the channels, one or several.

    Returns
    -------
    ``zero`` of each channel of the fixed and of the moving image, what is taken off their values;
    ``background`` of both images, as then; and ``intensity``: what the backend's function ``image_statistics`` makes of parts of both, by ``fixed`` and ``moving``. Of several channels
    the latter two are lists. The last is None for a stage of one block, which shows the whole, for a backend without such
    a function and where the settings hold an ``intensity`` already.
    """
    told: dict[str, Any] = {
        "zero": [[seen.zero for seen in channels] for channels in (fixed, moving)],
        "background": [
            _one_or_all([seen.background - seen.zero for seen in channels]) for channels in (fixed, moving)
        ],
        "intensity": None,
    }
    measure = of_backend(settings["backend"], "image_statistics")
    if measure is None or len(plan["ids"]) < 2 or "intensity" in settings["settings"]:
        return told
    spacing = Grid.from_json(plan["grid"]).finest
    told["intensity"] = {}
    for role, channels in zip(("fixed", "moving"), (fixed, moving), strict=True):
        found = []
        for seen in channels:
            grid = stage_grid(seen.image.grid, spacing)
            parts = [less_zero(part, seen.zero) for part in _pieces(seen, grid)]
            found.append(measure(parts, grid.spacing, settings["settings"]))
        told["intensity"][role] = _one_or_all(found)
    return told


def _one_or_all(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _pieces(seen: Overview, grid: Grid) -> list[np.ndarray]:
    """Parts of an image on a stage's grid, around places with content that are spread over it.

    Of a stitched image they lie within what tiles cover; where no part does, they are those of which most is covered.
    """
    image, coarse, background = seen.image, seen.grid, seen.background
    content = np.flatnonzero(seen.values > background)
    if not content.size:
        content = np.arange(coarse.size)
    tried = PIECES if image.coverage is None else TRIED * PIECES
    chosen = content[np.linspace(0, len(content) - 1, 2 * tried + 1).astype(int)[1::2]]
    index = np.column_stack(np.unravel_index(chosen, coarse.shape))
    middle = grid.to_index(coarse.to_physical(index)).round().astype(int)
    edge = np.minimum(PIECE, grid.shape)
    first = np.clip(middle - edge // 2, 0, np.asarray(grid.shape) - edge)
    parts = [grid.crop(box(corner, corner + edge)) for corner in first]
    if image.coverage is not None:
        share = np.array([image.coverage.on(part).mean() for part in parts])
        best = (
            np.flatnonzero(share == 1) if (share == 1).any() else np.argsort(-share, kind="stable")[:PIECES]
        )
        parts = [parts[best[n]] for n in np.unique(np.linspace(0, len(best) - 1, PIECES).astype(int))]
    read = (read_at(image, seen.channel, part) for part in parts)
    if seen.values.dtype.kind != "f":
        return list(read)
    return [np.where(np.isfinite(values), values, values.dtype.type(background)) for values in read]
