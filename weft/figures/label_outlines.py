"""Borders of labels: those of the fixed image, and those of the moving image brought onto it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weft.figures import style
from weft.figures.overlay import balanced_grey
from weft.figures.planes import frame, plane_rows, slice_at
from weft.grid import Grid

# Of the eight colours of Okabe and Ito, which those can tell apart who do not see all colours.
FIXED, MOVED, BOTH = "#E69F00", "#56B4E9", "#FFFFFF"


def label_outlines(
    fixed: style.Volume,
    labels: style.Volume,
    moved: Sequence[tuple[str, style.Volume]],
    grid: Grid,
    path: str | Path,
    title: str,
) -> None:
    """Draw the borders of the fixed and the moved labels over the middle slices of the fixed image.

    Parameters
    ----------
    fixed
        The fixed image, (z, y, x).
    labels
        Its labels, integers.
    moved
        Title and the moving labels on the fixed grid, of each row: before and after registration.
    grid
        Grid of all of them.
    path
        PNG to write.
    title
        Above the picture.
    """
    middle = (grid.lower + grid.upper) / 2
    with plane_rows(path, title, grid, [name for name, _ in moved], [middle] * len(moved)) as picture:
        cuts = [cut for cut, _, _ in picture.planes]
        grey = balanced_grey([slice_at(fixed, grid, cut, middle[cut]) for cut in cuts])
        ours = [_borders(slice_at(labels, grid, cut, middle[cut])) for cut in cuts]
        for row, (_, volume) in zip(picture.axes, moved, strict=True):
            for axes, (cut, down, across), image, mine in zip(row, picture.planes, grey, ours, strict=True):
                theirs = _borders(slice_at(volume, grid, cut, middle[cut]))
                colours = np.repeat(0.55 * image[..., None], 3, axis=2)
                for where, colour in ((mine, FIXED), (theirs, MOVED), (mine & theirs, BOTH)):
                    colours[where] = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
                axes.imshow(colours, extent=frame(grid, down, across), aspect="auto", interpolation="nearest")
        width, height = picture.figure.get_size_inches()
        words = (
            ("fixed image", FIXED),
            ("moving image", MOVED),
            ("both (white in the picture)", style.MUTED),
        )
        left = width - 0.3 - sum(0.3 + 0.075 * len(text) for text, _ in words)
        for text, colour in words:
            picture.figure.text(
                left / width, 1 - 0.26 / height, f"\u25a0 {text}", color=colour, fontsize=8.5, va="center"
            )
            left += 0.3 + 0.075 * len(text)


def _borders(labels: np.ndarray) -> np.ndarray:
    """Voxels whose label differs from that of the next one along an axis."""
    borders = np.zeros(labels.shape, bool)
    borders[:-1] |= labels[:-1] != labels[1:]
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return borders
