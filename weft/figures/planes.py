"""Rows of orthogonal slices with their axes in um: the layout that several pictures share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from weft.figures import style
from weft.grid import Grid

HEIGHT = 2.9  # of the tallest slice, inches
WIDEST = 10.5  # of a row
LEFT, TOP, GAP, BELOW, BAR = 0.62, 0.9, 0.55, 0.48, 1.0
AXES = "zyx"

# The axis that is cut, the axis down, the axis across.
PLANES = ((0, 1, 2), (1, 0, 2), (2, 1, 0))


@dataclass(frozen=True)
class PlaneRows:
    """A figure of rows of slices.

    Parameters
    ----------
    figure
        It.
    planes
        Of `PLANES`, those that are shown: one of an image of one plane.
    axes
        By row and plane; coordinates are um of the image's space, y grows downwards.
    bars
        Per row, room for a colour bar at its right.
    """

    figure: Figure
    planes: tuple[tuple[int, int, int], ...]
    axes: list[list[Axes]]
    bars: list[Axes]


@contextmanager
def plane_rows(
    path: str | Path, title: str, grid: Grid, rows: Sequence[str], at: Sequence[Any]
) -> Iterator[PlaneRows]:
    """A picture of rows of orthogonal slices, saved when the block ends without an error.

    Parameters
    ----------
    path
        PNG to write.
    title
        Above the picture.
    grid
        What the slices show of the space.
    rows
        Title of each row.
    at
        Per row, the point, (z, y, x) um, that the slices run through: it is written above each.
    """
    planes = tuple(p for p in PLANES if grid.shape[p[1]] > 1 and grid.shape[p[2]] > 1) or PLANES[:1]
    extent = grid.extent
    scale = min(
        HEIGHT / max(extent[down] for _, down, _ in planes),
        WIDEST / sum(extent[across] for _, _, across in planes),
    )
    boxes = [(extent[across] * scale, extent[down] * scale) for _, down, across in planes]
    row = max(height for _, height in boxes)
    width = LEFT + sum(w for w, _ in boxes) + GAP * (len(boxes) - 1) + BAR
    step = row + BELOW + 0.42
    with style.picture(path, max(width, 5.5), TOP + len(rows) * step, title) as figure:
        drawn: list[list[Axes]] = []
        bars = []
        for number, name in enumerate(rows):
            left, top = LEFT, TOP + number * step
            figure.text(
                0.16 / figure.get_figwidth(), 1 - (top - 0.24) / figure.get_figheight(), name,
                fontsize=9.5, color=style.INK, va="bottom",
            )  # fmt: skip
            drawn.append([])
            for (cut, down, across), (wide, high) in zip(planes, boxes, strict=True):
                axes = style.add_axes(figure, left, top, wide, high)
                _label(axes, grid, (cut, down, across), float(at[number][cut]), (wide, high))
                drawn[-1].append(axes)
                left += wide + GAP
            bars.append(style.add_axes(figure, left - GAP + 0.14, top, 0.11, row))
            style.bare(bars[-1])
        yield PlaneRows(figure, planes, drawn, bars)


def slice_at(volume: style.Volume, grid: Grid, cut: int, at: float) -> np.ndarray:
    """The slice of a volume nearest to the place ``at``, um, on the axis ``cut``; x goes across, or z where x is cut."""
    index = int(np.clip(round((at - grid.origin[cut]) / grid.spacing[cut]), 0, grid.shape[cut] - 1))
    plane = np.asarray(volume[tuple(index if axis == cut else slice(None) for axis in range(3))])
    return plane.T if cut == 2 else plane


def frame(grid: Grid, down: int, across: int) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a slice, um; the index grows downwards."""
    left, right = float(grid.lower[across]), float(grid.upper[across])
    return left, right, float(grid.upper[down]), float(grid.lower[down])


def show_grey(
    axes: Axes,
    plane: np.ndarray,
    extent: tuple[float, float, float, float],
    limits: tuple[float, float] | None = None,
) -> None:
    """A slice in shades of grey, between ``limits`` or stretched by itself; what is not a number is black."""
    low, high = limits or style.stretch(plane, 1, 99.7)
    axes.imshow(
        np.nan_to_num(np.asarray(plane, np.float32), nan=low), extent=extent, aspect="auto", cmap="gray",
        vmin=low, vmax=high * 1.15 if high > 0 else high, interpolation="hanning",
    )  # fmt: skip


def _label(axes: Axes, grid: Grid, plane: tuple[int, int, int], at: float, size: tuple[float, float]) -> None:
    """Limits, ticks (as many as have room in so many inches) and names of the axes of a slice."""
    cut, down, across = plane
    left, right, bottom, top = frame(grid, down, across)
    axes.set(xlim=(left, right), ylim=(bottom, top), facecolor="black")
    for axis, inches, room in ((axes.xaxis, size[0], 0.7), (axes.yaxis, size[1], 0.35)):
        axis.set_major_locator(MaxNLocator(int(np.clip(inches / room, 1, 4)), steps=[1, 2, 5, 10]))
    axes.set_xlabel(f"{AXES[across]} (um)", fontsize=7.5, labelpad=1, color=style.MUTED)
    axes.set_ylabel(f"{AXES[down]} (um)", fontsize=7.5, labelpad=1, color=style.MUTED)
    axes.tick_params(length=2, labelsize=7, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if grid.shape[cut] > 1:
        axes.set_title(
            f"{AXES[cut]} = {style.number_text(at)} um",
            loc="left",
            fontsize=8,
            color=style.MUTED,
            pad=3,
        )
