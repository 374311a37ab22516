"""Two images on one grid, one in magenta and one in green: grey where they agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from weft.figures import style

HEIGHT = 4.6  # of a group of slices, inches
GAP = 0.03
GUTTER = 0.3
MARGIN = 0.16


def overlay(
    fixed: style.Volume,
    warped: style.Volume,
    spacing: Sequence[float],
    path: str | Path,
    title: str,
    *,
    before: style.Volume | None = None,
    at: Sequence[int] | None = None,
    captions: tuple[str, str] = ("before", "after"),
) -> None:
    """Draw three orthogonal slices through the overlay of a registered pair, before and after side by side.

    Parameters
    ----------
    fixed
        (z, y, x), any dtype; drawn in magenta. Anything that slices like an array.
    warped
        The moving image on the fixed grid, after registration; drawn in green.
    spacing
        Voxel size, um, (z, y, x).
    path
        PNG to write.
    title
        Above the picture.
    before
        The moving image on the fixed grid as it was before registration, shown at the left.
    at
        Voxel (z, y, x) that the slices run through; default the middle.
    captions
        What stands above the two sides, e.g. with their scores.

    Raises
    ------
    ValueError
        When the images are not of one shape.
    """
    sides = [warped] if before is None else [before, warped]
    names = captions[1:] if before is None else captions
    for image in sides:
        if tuple(image.shape) != tuple(fixed.shape):
            raise ValueError(
                f"images to overlay have the shapes {fixed.shape} and {image.shape}; wanted one shape"
            )
    at = [n // 2 for n in fixed.shape] if at is None else at
    lengths = np.asarray(fixed.shape) * np.asarray(spacing, float)

    # The (y, x) slice with the (z, x) slice below it and the (z, y) slice, turned, at its right.
    scale = HEIGHT / (lengths[0] + lengths[1])
    depth, height, width = lengths * scale
    group = width + GAP + depth
    wide = group > 1.7 * HEIGHT
    columns, rows = (1, len(sides)) if wide else (len(sides), 1)
    if columns == 1:
        shrink = min(1.0, 9.0 / group)
        depth, height, width, group = (v * shrink for v in (depth, height, width, group))
    tall = height + GAP + depth
    full_width = max(2 * MARGIN + columns * group + (columns - 1) * GUTTER, 4.0)
    with style.picture(path, full_width, 0.78 + rows * tall + (rows - 1) * 0.4 + MARGIN, title) as figure:
        fixed_grey = balanced_grey(style.slices_at(fixed, at))
        for i, (image, name) in enumerate(zip(sides, names, strict=True)):
            left = MARGIN + (i % columns) * (group + GUTTER)
            top = 0.78 + (i // columns) * (tall + 0.4)
            figure.text(left / full_width, 1 - (top - 0.07) / figure.get_figheight(), name, fontsize=9.5)
            backdrop = style.add_axes(figure, left, top, group, tall)
            backdrop.set_facecolor("black")
            style.bare(backdrop)
            moving_grey = balanced_grey(style.slices_at(image, at))
            front, below, beside = (
                np.stack([f, m, f], axis=-1) for f, m in zip(fixed_grey, moving_grey, strict=True)
            )
            axes = _draw(figure, front, left, top, width, height, "yx")
            _draw(figure, below, left, top + height + GAP, width, depth, "zx")
            _draw(figure, beside.swapaxes(0, 1), left + width + GAP, top, depth, height, "yz")
            if depth > 1.0:  # the empty corner has room for the bar
                axes = style.add_axes(figure, left + width + GAP, top + height + GAP, depth, depth)
                style.bare(axes)
                axes.set(xlim=(0, depth), ylim=(depth, 0), facecolor="black")
                style.scale_bar(axes, depth, depth, per_um=width / lengths[2])
            else:
                style.scale_bar(axes, width, height, per_um=width / lengths[2])
        _legend(figure)


def balanced_grey(planes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The slices between 0 and 1: one stretch for all, tissue's median at one half, so that two contrasts balance.

    What is not a number lies outside of the image: it is black and does not count, or an image with a bright background
    would be stretched from the black around it.
    """
    planes = [np.asarray(plane, np.float32) for plane in planes]
    voxels = np.concatenate([plane[np.isfinite(plane)] for plane in planes])
    low, high = style.stretch(voxels, 1, 99.5)
    grey = np.clip((voxels - low) / (high - low), 0, 1)
    tissue = grey[grey > 0.1]
    middle = float(np.median(tissue)) if tissue.size else 0.5
    gamma = float(np.clip(np.log(0.5) / np.log(np.clip(middle, 0.05, 0.95)), 0.4, 3.0))
    return [np.clip((np.nan_to_num(plane, nan=low) - low) / (high - low), 0, 1) ** gamma for plane in planes]


def _draw(
    figure: Figure, plane: np.ndarray, left: float, top: float, width: float, height: float, names: str
) -> Axes:
    """A slice, with the names of the axes that run down and across it where it has room."""
    axes = style.add_axes(figure, left, top, width, height)
    axes.imshow(plane, extent=(0, width, height, 0), aspect="auto", interpolation="hanning")
    style.bare(axes)
    if min(width, height) > 0.5:
        axes.text(0.05, 0.05, f"{names[0]} \u2193  {names[1]} \u2192", color="white", fontsize=7, va="top")
    return axes


def _legend(figure: Figure) -> None:
    width, height = figure.get_size_inches()
    x = 0.16
    for text, colour in (("fixed", "#d100d1"), ("moving", "#00a000"), ("where they agree", style.MUTED)):
        figure.text(x / width, 1 - 0.44 / height, "\u25a0", color=colour, fontsize=9, va="center")
        figure.text((x + 0.15) / width, 1 - 0.44 / height, text, color=style.MUTED, fontsize=8.5, va="center")
        x += 0.3 + 0.075 * len(text)
