"""How a transform bends space, and where it shrinks or stretches it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from scipy.ndimage import gaussian_filter

from weft.figures import style
from weft.figures.planes import frame, plane_rows, show_grey, slice_at
from weft.grid import Grid
from weft.transforms.jacobian import determinant
from weft.transforms.model import Displacements

LINES = 22  # grid lines along the longest side of a slice
OUTLINE = 1 / 120  # of the longest side: the width by which a slice is smoothed before its outline is drawn
FOLDED = "#111111"


def deformation(
    fixed: style.Volume,
    fixed_grid: Grid,
    displacements: Displacements,
    path: str | Path,
    title: str,
    *,
    at: Sequence[float] | None = None,
) -> None:
    """Draw three orthogonal slices: grid lines where the displacement takes them, and the logarithm of the volume change.

    Of the field only what the slices need is read. The change of volume is the Jacobian determinant by central
    differences at the field's samples, without the affine.

    Parameters
    ----------
    fixed
        The fixed image, (z, y, x), any dtype.
    fixed_grid
        Its grid.
    displacements
        u of x + u(x), um, without the affine. Of u only the components within each slice are drawn; a determinant not
        above 0 is folded (drawn black).
    path
        PNG to write.
    title
        Above the picture.
    at
        Point that the slices run through, um, (z, y, x); default the middle of the fixed image.

    Raises
    ------
    ValueError
        When the image does not lie on its grid.
    """
    if tuple(fixed.shape) != fixed_grid.shape:
        raise ValueError(
            f"the fixed image has the shape {tuple(fixed.shape)}; wanted {fixed_grid.shape}, that of its grid"
        )
    middle = (fixed_grid.lower + fixed_grid.upper) / 2 if at is None else np.asarray(at, float)
    rows = (
        "Grid lines of the fixed image, moved by the deformation",
        "Change of volume by the deformation (log scale; without the affine)",
    )
    with plane_rows(path, title, fixed_grid, rows, [middle, middle]) as picture:
        changes = [_log_volume(displacements, cut, middle[cut]) for cut, _, _ in picture.planes]
        limit = _limit(changes)
        colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad=FOLDED)
        for n, (cut, down, across) in enumerate(picture.planes):
            upper, lower = picture.axes[0][n], picture.axes[1][n]
            extent = frame(fixed_grid, down, across)
            image = slice_at(fixed, fixed_grid, cut, middle[cut])
            show_grey(upper, image, extent)
            _lines(upper, displacements, fixed_grid, (cut, down, across), middle[cut])
            lower.set_facecolor(style.PAPER)  # the last samples may end before the image, and black is a fold
            field_extent = frame(displacements.grid, down, across)
            shown = lower.imshow(
                changes[n], extent=field_extent, aspect="auto", cmap=colours, vmin=-limit, vmax=limit,
                interpolation="nearest",
            )  # fmt: skip
            _outline(lower, image, extent)
            for axes in (upper, lower):
                axes.set(xlim=extent[:2], ylim=extent[2:])
        key = picture.figure.colorbar(shown, cax=picture.bars[1])
        ticks = [t / 2 for t in range(-int(2 * limit), int(2 * limit) + 1)]
        ticks = ticks if limit <= 1 else [t for t in ticks if t == int(t)]
        key.set_ticks(ticks, labels=[f"\u00d7 {2.0**t:.3g}" for t in ticks])
        picture.bars[1].tick_params(length=2)


def _log_volume(displacements: Displacements, cut: int, at: float) -> np.ma.MaskedArray:
    """log2 of the determinant on the slice of samples nearest to ``at``, um; folds are masked."""
    grid = displacements.grid
    index = int(np.clip(round((at - grid.origin[cut]) / grid.spacing[cut]), 0, grid.shape[cut] - 1))
    first, last = max(index - 1, 0), min(index + 2, grid.shape[cut])
    region = tuple(slice(first, last) if axis == cut else slice(0, n) for axis, n in enumerate(grid.shape))
    u = np.ascontiguousarray(displacements.field[(slice(None), *region)], np.float32)
    values = np.take(determinant(u, grid.crop(region)), index - first, axis=cut)  # type: ignore[arg-type]
    values = values.T if cut == 2 else values
    folded = ~(values > 0)
    return np.ma.masked_array(np.log2(np.where(folded, 1.0, values)), folded)


def _limit(changes: Sequence[np.ma.MaskedArray]) -> float:
    """The limit of the colours, log2: half a factor of 2 at least, 4 factors at most, the same to both sides of 0."""
    inside = np.concatenate([change.compressed() for change in changes])
    most = float(np.percentile(np.abs(inside), 99.5)) if inside.size else 1.0
    return float(np.clip(np.ceil(2 * most) / 2, 0.5, 4.0))


def _lines(
    axes: Axes, displacements: Displacements, fixed_grid: Grid, plane: tuple[int, int, int], at: float
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
            lines.append(displacements.apply(points)[:, [across, down]])
    axes.add_collection(LineCollection(lines, colors="#ffb454", linewidths=0.7, alpha=0.9))


def _outline(axes: Axes, plane: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """A thin line around the tissue, to find one's way: around its texture it would hide what it lies on."""
    width = max(1.0, OUTLINE * max(plane.shape))
    smooth = gaussian_filter(np.nan_to_num(np.asarray(plane, np.float32)), width)
    low, high = style.stretch(smooth, 1, 99)
    level = low + 0.2 * (high - low)
    if min(smooth.shape) > 1 and smooth.min() < level < smooth.max():
        axes.contour(
            smooth, levels=[level], colors=style.INK, linewidths=0.6, alpha=0.6, extent=extent, origin="upper"
        )
