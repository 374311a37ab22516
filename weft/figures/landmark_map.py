"""Landmarks: from where each was marked to where its partner lands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap, Normalize

from weft.figures import style
from weft.figures.planes import frame, plane_rows, show_grey, slice_at
from weft.grid import Grid

# Without its darkest part, which could not be told from a dark background.
COLOURS = ListedColormap(matplotlib.colormaps["plasma"](np.linspace(0.35, 1, 192)), name="landmarks")
LONGEST = 0.12  # of the image's longest side: how long the longest arrow is drawn
FACTORS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def landmark_map(
    fixed: style.Volume,
    grid: Grid,
    points: np.ndarray,
    landed: Sequence[tuple[str, np.ndarray]],
    path: str | Path,
    title: str,
) -> None:
    """Draw all landmarks over the middle slices of the fixed image, with arrows to where their partners land.

    Arrows are enlarged by the factor that the row's title names; their colours mean the same in all rows.

    Parameters
    ----------
    fixed, grid
        The fixed image, (z, y, x), and its grid.
    points
        Landmarks in the fixed image, (n, 3) um.
    landed
        Title and points, (n, 3) um in the fixed space, of each row: where the moving image's landmarks land, before
        and after registration.
    path
        PNG to write.
    title
        Above the picture.

    Raises
    ------
    ValueError
        When there are not as many points in each.
    """
    points = np.asarray(points, float).reshape(-1, 3)
    errors = [np.asarray(there, float) - points for _, there in landed]
    lengths = [np.linalg.norm(error, axis=1) for error in errors]
    longest = max((float(length.max()) for length in lengths if length.size), default=0.0)
    factors = [_enlargement(length, LONGEST * max(grid.extent)) for length in lengths]
    middle = (grid.lower + grid.upper) / 2
    names = [
        name if factor == 1 else f"{name}; arrows {factor} times their length"
        for (name, _), factor in zip(landed, factors, strict=True)
    ]
    scale = Normalize(0, longest or 1.0)
    with plane_rows(path, title, grid, names, [middle] * len(landed)) as picture:
        for n, (error, length, factor) in enumerate(zip(errors, lengths, factors, strict=True)):
            for axes, (cut, down, across) in zip(picture.axes[n], picture.planes, strict=True):
                extent = frame(grid, down, across)
                show_grey(axes, slice_at(fixed, grid, cut, middle[cut]), extent)
                axes.images[0].set_alpha(0.6)
                start = points[:, [across, down]]
                tip = start + factor * error[:, [across, down]]
                axes.scatter(start[:, 0], start[:, 1], s=7, c="white", linewidths=0, zorder=3)
                # Far arrows first: short ones stay visible.
                order = np.argsort(-length, kind="stable")
                axes.quiver(
                    *start[order].T, *(tip - start)[order].T, color=COLOURS(scale(length[order])),
                    angles="xy", scale_units="xy", scale=1, width=0.007, headwidth=4, zorder=4,
                )  # fmt: skip
                axes.set(xlim=extent[:2], ylim=extent[2:])
            key = picture.figure.colorbar(matplotlib.cm.ScalarMappable(scale, COLOURS), cax=picture.bars[n])
            key.set_label("distance (um)", fontsize=7.5, color=style.MUTED)


def _enlargement(lengths: np.ndarray, room: float) -> int:
    """By how much arrows may be drawn longer, so that nine of ten are no longer than ``room``, um."""
    typical = float(np.percentile(lengths, 90)) if lengths.size else 0.0
    return max((factor for factor in FACTORS if factor * typical <= room), default=1)
