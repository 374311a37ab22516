"""How a transform bends space, and where it shrinks or stretches it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from scipy.ndimage import gaussian_filter, map_coordinates

from weft.figures import style
from weft.grid import Grid

HEIGHT = 2.9  # of the tallest slice, inches
LINES = 22  # grid lines along the longest side of a slice
FOLDED = "#111111"


def deformation(
    fixed: style.Volume,
    fixed_grid: Grid,
    displacement: np.ndarray,
    field_grid: Grid,
    jacobian: np.ndarray,
    path: str | Path,
    title: str,
    *,
    at: Sequence[float] | None = None,
) -> None:
    """Draw three orthogonal slices: grid lines where the displacement takes them, and the volume change.

    Parameters
    ----------
    fixed
        The fixed image, (z, y, x), any dtype.
    fixed_grid
        Its grid.
    displacement
        u of x + u(x), (3, z, y, x) um, components z, y, x: without the affine. Of u only the components within each
        slice are drawn.
    field_grid
        Where its samples lie, in the fixed space.
    jacobian
        Determinant of the transform's derivative, (z, y, x), on the field's grid; not above 0 is folded (drawn black).
    path
        PNG to write.
    title
        Above the picture.
    at
        Point that the slices run through, um, (z, y, x); default the middle of the fixed image.

    Raises
    ------
    ValueError
        When shapes and grids do not go together.
    """
    for name, found, wanted in (
        ("fixed image", tuple(fixed.shape), fixed_grid.shape),
        ("displacement", tuple(displacement.shape), (3, *field_grid.shape)),
        ("Jacobian", tuple(jacobian.shape), field_grid.shape),
    ):
        if found != wanted:
            raise ValueError(f"the {name} has the shape {found}; wanted {wanted}, that of its grid")
    middle = (fixed_grid.lower + fixed_grid.upper) / 2 if at is None else np.asarray(at, float)
    planes = [(0, 1, 2), (1, 0, 2), (2, 1, 0)]  # the axis cut, the axis down, the axis across
    extent = fixed_grid.extent
    scale = HEIGHT / max(extent[down] for _, down, _ in planes)
    scale = min(scale, 10.5 / sum(extent[across] for _, _, across in planes))
    boxes = [(extent[across] * scale, extent[down] * scale) for _, down, across in planes]
    row = max(height for _, height in boxes)
    width = 0.2 + sum(w for w, _ in boxes) + 0.15 * 2 + 0.8
    logarithm, limit = _log_volume(jacobian)
    with style.picture(path, max(width, 5.5), 0.72 + 2 * row + 0.5 + 0.2, title) as figure:
        left = 0.2
        colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad=FOLDED)
        for number, ((cut, down, across), (wide, high)) in enumerate(zip(planes, boxes, strict=True)):
            upper = style.add_axes(figure, left, 0.72, wide, high)
            lower = style.add_axes(figure, left, 0.72 + row + 0.5, wide, high)
            if number == 0:
                upper.set_title("grid lines, displaced", loc="left", color=style.MUTED)
                lower.set_title("volume change", loc="left", color=style.MUTED)
            frame = _frame(fixed_grid, down, across)
            image = _slice(fixed, fixed_grid, cut, middle[cut])
            low, high = style.stretch(image, 1, 99.7)
            look: Any = {"cmap": "gray", "vmin": low, "vmax": high * 1.25, "interpolation": "hanning"}
            upper.imshow(image, extent=frame, aspect="auto", **look)
            _lines(upper, displacement, field_grid, fixed_grid, (cut, down, across), middle[cut])
            look = {"cmap": colours, "vmin": -limit, "vmax": limit, "interpolation": "nearest"}
            change = _slice(logarithm, field_grid, cut, middle[cut])
            shown = lower.imshow(change, extent=_frame(field_grid, down, across), aspect="auto", **look)
            _outline(lower, image, frame)
            for axes in (upper, lower):
                axes.set(xlim=frame[:2], ylim=frame[2:])
                style.bare(axes)
            left += wide + 0.15
        bar = style.add_axes(figure, left + 0.02, 0.72 + row + 0.5, 0.11, row)
        key = figure.colorbar(shown, cax=bar)
        ticks = [float(t) for t in range(-int(limit), int(limit) + 1)]
        key.set_ticks(ticks, labels=[f"x {2.0**t:g}" for t in ticks])
        bar.tick_params(length=2)
        for spine in bar.spines.values():
            spine.set_visible(False)


def _log_volume(jacobian: np.ndarray) -> tuple[np.ma.MaskedArray, float]:
    """log2 of the volume change, folded voxels masked, and the limit of its colours (a factor of 2 at least)."""
    folded = ~(np.asarray(jacobian) > 0)
    logarithm = np.ma.masked_array(np.log2(np.where(folded, 1.0, jacobian)), folded)
    inside = logarithm.compressed()
    limit = float(np.percentile(np.abs(inside), 99.5)) if inside.size else 1.0
    return logarithm, min(max(1.0, limit), 4.0)


def _frame(grid: Grid, down: int, across: int) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a slice, um; the index grows downwards."""
    return (
        float(grid.lower[across]),
        float(grid.upper[across]),
        float(grid.upper[down]),
        float(grid.lower[down]),
    )


def _slice(volume: style.Volume, grid: Grid, cut: int, at: float) -> np.ndarray:
    """The slice of a volume nearest to the place ``at``, um, on the axis ``cut``; x goes across, or z where x is cut."""
    index = int(np.clip(round((at - grid.origin[cut]) / grid.spacing[cut]), 0, grid.shape[cut] - 1))
    plane = volume[tuple(index if axis == cut else slice(None) for axis in range(3))]
    return plane.T if cut == 2 else plane


def _lines(
    axes: Axes,
    displacement: np.ndarray,
    field_grid: Grid,
    fixed_grid: Grid,
    plane: tuple[int, int, int],
    at: float,
) -> None:
    cut, down, across = plane
    step = max(fixed_grid.extent[[down, across]]) / LINES
    lines = []
    for along, over in ((across, down), (down, across)):
        count = max(2, round(fixed_grid.extent[over] / step))
        for place in np.linspace(fixed_grid.lower[over], fixed_grid.upper[over], count + 1):
            points = np.empty((160, 3))
            points[:, cut], points[:, over] = at, place
            points[:, along] = np.linspace(fixed_grid.lower[along], fixed_grid.upper[along], len(points))
            index = field_grid.to_index(points).T
            moved = [
                points[:, a] + map_coordinates(displacement[a], index, order=1, mode="nearest")
                for a in (across, down)
            ]
            lines.append(np.stack(moved, axis=1))
    axes.add_collection(LineCollection(lines, colors="#ffb454", linewidths=0.7, alpha=0.9))


def _outline(axes: Axes, plane: np.ndarray, frame: tuple[float, float, float, float]) -> None:
    """A thin line around the tissue, to find one's way."""
    smooth = gaussian_filter(np.asarray(plane, np.float32), 1.0)
    low, high = style.stretch(smooth, 1, 99)
    level = low + 0.2 * (high - low)
    if min(smooth.shape) > 1 and smooth.min() < level < smooth.max():
        axes.contour(
            smooth, levels=[level], colors=style.INK, linewidths=0.6, alpha=0.6, extent=frame, origin="upper"
        )
