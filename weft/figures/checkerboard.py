"""Fixed and moving image in alternating squares: edges that go on across a border are aligned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weft.figures import style
from weft.figures.overlay import balanced_grey
from weft.figures.planes import frame, plane_rows, slice_at
from weft.grid import Grid

SQUARES = 9  # along the longest side of the image
TINTS = np.array([(1.0, 0.92, 0.78), (0.78, 0.92, 1.0)])  # of squares of the fixed and of the moving image


def checkerboard(
    fixed: style.Volume,
    moved: Sequence[tuple[str, style.Volume]],
    grid: Grid,
    path: str | Path,
    title: str,
    *,
    at: Sequence[float] | None = None,
) -> None:
    """Draw three orthogonal slices as checkerboards of the fixed and the moving image, one row for each state of the latter.

    Parameters
    ----------
    fixed
        The fixed image, (z, y, x), any dtype.
    moved
        Title and image, on the fixed grid, of each row: before and after registration. What is not a number lies
        outside of the moving image and is black. Squares of the fixed image are tinted warm, those of the moving one cold.
    grid
        Grid of all of them.
    path
        PNG to write.
    title
        Above the picture.
    at
        Point that the slices run through, um, (z, y, x); default the middle.

    Raises
    ------
    ValueError
        When the images do not lie on the grid.
    """
    for image in (fixed, *(volume for _, volume in moved)):
        if tuple(image.shape) != grid.shape:
            raise ValueError(
                f"an image of the checkerboard has the shape {tuple(image.shape)}; wanted {grid.shape}"
            )
    middle = (grid.lower + grid.upper) / 2 if at is None else np.asarray(at, float)
    edge = max(grid.extent) / SQUARES
    with plane_rows(path, title, grid, [name for name, _ in moved], [middle] * len(moved)) as picture:
        cuts = [cut for cut, _, _ in picture.planes]
        ours = balanced_grey([slice_at(fixed, grid, cut, middle[cut]) for cut in cuts])
        for row, (_, volume) in zip(picture.axes, moved, strict=True):
            theirs = balanced_grey([slice_at(volume, grid, cut, middle[cut]) for cut in cuts])
            for axes, (_, down, across), a, b in zip(row, picture.planes, ours, theirs, strict=True):
                rows, columns = (np.arange(grid.shape[n]) * grid.spacing[n] // edge for n in (down, across))
                board = (rows[:, None] + columns) % 2 == 0
                squares = np.where(board, a, b)[..., None] * TINTS[(~board).astype(int)]
                axes.imshow(squares, extent=frame(grid, down, across), aspect="auto", interpolation="nearest")
