"""What the correction of illumination makes of the tiles: one alone, and all of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weft.figures import style

PANEL = 2.9  # height of a panel, inches
_GAP, _WORDS = 0.25, 0.45


@dataclass(frozen=True)
class FlatFieldPicture:
    """One channel.

    Parameters
    ----------
    channel, tile
        Names of the channel, and of the tile that is shown alone.
    raw, corrected
        A plane of that tile, (y, x): less the dark, and divided by the gain as well.
    mosaic_raw, mosaic_corrected
        The same of many tiles at their solved positions, (y, x); NaN where there is none.
    """

    channel: str
    tile: str
    raw: np.ndarray
    corrected: np.ndarray
    mosaic_raw: np.ndarray
    mosaic_corrected: np.ndarray


def flat_field(pictures: Sequence[FlatFieldPicture], path: str | Path, title: str) -> None:
    """Draw a row for each channel: a tile before and after, and the mosaic before and after, each pair on one scale of grey.

    Parameters
    ----------
    pictures
        In order.
    path
        PNG to write.
    title
        Above the picture.
    """
    widths = [_width([one.raw for one in pictures]), _width([one.mosaic_raw for one in pictures])]
    row = PANEL + _WORDS + _GAP
    full = _GAP + 2 * sum(widths) + 4 * _GAP
    with style.picture(path, full, 0.5 + row * len(pictures), title) as figure:
        for n, one in enumerate(pictures):
            top, left = 0.5 + n * row, _GAP
            panels = (
                (f"channel {one.channel}: {one.tile}, raw less dark", one.raw, one.corrected),
                ("all tiles, raw less dark", one.mosaic_raw, one.mosaic_corrected),
            )
            for (words, before, after), width in zip(panels, widths, strict=True):
                limits = style.stretch(after)
                for head, image in ((words, before), ("corrected", after)):
                    place = (left, top + _WORDS, width, PANEL)
                    style.panel(figure, place, head, image, limits).set_facecolor("#eef1f4")
                    left += width + _GAP


def paste(planes: Sequence[np.ndarray], corners: np.ndarray) -> np.ndarray:
    """Planes (y, x) beside each other, a later one over an earlier; NaN where there is none.

    Parameters
    ----------
    planes
        Of one shape.
    corners
        Of each plane's first pixel, pixels, (n, 2), whole numbers of 0 or more.
    """
    height, width = corners.max(0) + planes[0].shape
    canvas = np.full((height, width), np.nan, np.float32)
    for plane, (y, x) in zip(planes, corners, strict=True):
        canvas[y : y + plane.shape[0], x : x + plane.shape[1]] = plane
    return canvas


def _width(images: Sequence[np.ndarray]) -> float:
    """Of panels that hold these images, inches."""
    longest = max((image.shape[1] / image.shape[0] for image in images), default=1.0)
    return PANEL * float(np.clip(longest, 0.6, 2.0))
