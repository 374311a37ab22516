"""Where two images agree: the local correlation over the fixed image, and its worst places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from weft.figures import style
from weft.figures.planes import frame, plane_rows, show_grey, slice_at
from weft.grid import Grid

COLOURS = "viridis"
SHOWN = (0.0, 1.0)  # correlations at the ends of the colours


def likeness_map(
    fixed: style.Volume,
    fixed_grid: Grid,
    maps: Sequence[tuple[str, style.Volume]],
    map_grid: Grid,
    regions: Sequence[Mapping[str, Any]],
    path: str | Path,
    title: str,
) -> None:
    """Draw the local correlation over the fixed image, before and after, and once more through the worst region.

    Parameters
    ----------
    fixed, fixed_grid
        The fixed image, (z, y, x), and its grid.
    maps
        Title and map, (z, y, x), -1 to 1, of each row; NaN where nothing is known. The absolute value is drawn: the same
        structure with inverted contrast is as well aligned.
    map_grid
        Grid of the maps.
    regions
        The worst places, worst first: ``region`` (its number), ``z_um``, ``y_um``, ``x_um``. Those that lie near a slice are
        ringed and numbered.
    path
        PNG to write.
    title
        Above the picture.
    """
    middle = (fixed_grid.lower + fixed_grid.upper) / 2
    places = [np.array([float(region[f"{axis}_um"]) for axis in "zyx"]) for region in regions]
    rows, at = list(maps), [middle] * len(maps)
    if places:
        rows.append(
            (
                "After, through the worst region (rings: see the table)",
                maps[-1][1],
            )
        )
        at.append(places[0])
    colours = matplotlib.colormaps[COLOURS].with_extremes(bad=(0, 0, 0, 0))
    with plane_rows(path, title, fixed_grid, [name for name, _ in rows], at) as picture:
        # One stretch for all rows, or a slice without tissue would show its noise.
        central = [slice_at(fixed, fixed_grid, cut, middle[cut]).ravel() for cut, _, _ in picture.planes]
        limits = style.stretch(np.concatenate(central), 1, 99.7)
        for n, ((_, volume), point) in enumerate(zip(rows, at, strict=True)):
            for axes, (cut, down, across) in zip(picture.axes[n], picture.planes, strict=True):
                extent = frame(fixed_grid, down, across)
                show_grey(axes, slice_at(fixed, fixed_grid, cut, point[cut]), extent, limits)
                shown = axes.imshow(
                    np.ma.masked_invalid(np.abs(slice_at(volume, map_grid, cut, point[cut]))),
                    extent=frame(map_grid, down, across), aspect="auto", cmap=colours, vmin=SHOWN[0], vmax=SHOWN[1],
                    alpha=0.78, interpolation="nearest",
                )  # fmt: skip
                axes.set(xlim=extent[:2], ylim=extent[2:])
                if n == len(maps):
                    _rings(axes, places, (cut, down, across), point, 3 * max(map_grid.spacing))
            key = picture.figure.colorbar(shown, cax=picture.bars[n])
            key.set_label("local correlation (absolute)", fontsize=7.5, color=style.MUTED)


def _rings(
    axes: Axes, places: Sequence[np.ndarray], plane: tuple[int, int, int], at: np.ndarray, reach: float
) -> None:
    cut, down, across = plane
    for number, place in enumerate(places, 1):
        if abs(place[cut] - at[cut]) > reach:
            continue
        axes.plot(
            place[across], place[down], marker="o", markersize=11, markerfacecolor="none",
            markeredgecolor="white", markeredgewidth=1.4,
        )  # fmt: skip
        axes.annotate(
            str(number), (place[across], place[down]), xytext=(7, 5), textcoords="offset points",
            color="white", fontsize=8, fontweight="bold", annotation_clip=False,
        )  # fmt: skip
