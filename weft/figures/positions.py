"""Where the tiles lie: stage and solved positions, corrections, what is left over at each link."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from weft.figures import style

# How a tile came by its place; any other word gets the last colour.
STATUS_COLOURS = {
    "ok": "#cfe5dc",
    "solved": "#cfe5dc",
    "empty": "#e8ebee",
    "unlinked": "#fbe3c0",
    "excluded": "#ffffff",
    "": "#cfe5dc",
}
OTHER = "#f5c9c3"
ARROWS = LinearSegmentedColormap.from_list("arrows", ["#2b6cb0", "#7b3fa0", "#d62f4b", "#f28c1b"])
PANEL = 5.2  # longest side of a panel, inches


def positions(
    nominal: np.ndarray,
    solved: np.ndarray,
    size: Sequence[float],
    path: str | Path,
    title: str,
    *,
    names: Sequence[str] | None = None,
    status: Sequence[str] | None = None,
    links: np.ndarray | None = None,
    residuals: np.ndarray | None = None,
    used: np.ndarray | None = None,
) -> None:
    """Draw the tiles seen along z: at the left how the solve moved them, at the right what each link has left over.

    Arrows are drawn longer than they are (the picture says how much) and coloured by their true length in 3-D.

    Parameters
    ----------
    nominal, solved
        Positions of the tiles' first voxels by the stage and by the solve, (n, 3) um.
    size
        Extent of a tile, um, (z, y, x).
    path
        PNG to write.
    title
        Above the picture.
    names, status
        Of each tile; ``ok``, ``empty``, ``unlinked`` and others get their own colours.
    links
        Pairs of tiles, (m, 2) integers; with them the right panel is drawn.
    residuals
        Measured minus solved offset of each link, (m, 3) um; NaN where there is none.
    used
        Which links the solve used, (m,) bool; the others are drawn dashed.

    Raises
    ------
    ValueError
        When arrays do not go together.
    """
    nominal, solved = np.asarray(nominal, float).reshape(-1, 3), np.asarray(solved, float).reshape(-1, 3)
    n = len(nominal)
    names = [str(i) for i in range(n)] if names is None else list(names)
    status = [""] * n if status is None else list(status)
    if not len(solved) == len(names) == len(status) == n:
        raise ValueError(
            f"positions have {n} nominal, {len(solved)} solved tiles, {len(names)} names, {len(status)} status"
        )
    if n == 0:
        raise ValueError("there are no tiles to draw; wanted at least one")
    lower = np.minimum(nominal, solved).min(0)[1:]
    upper = np.maximum(nominal, solved).max(0)[1:] + np.asarray(size, float)[1:]
    margin = 0.03 * (upper - lower).max()
    view = (lower - margin, upper + margin)
    height, width = PANEL * (view[1] - view[0]) / (view[1] - view[0]).max()
    pair = links is not None and residuals is not None
    panels = 2 if pair else 1
    full_width = max(0.3 + panels * (width + 0.95), 4.6)
    with style.picture(path, full_width, height + 1.35, title) as figure:
        corrections = np.where(np.isfinite(solved), solved, nominal) - nominal
        axes = _panel(
            figure, 0.2, (width, height), view, "stage (dashed) and solved place, correction as arrow"
        )
        _tiles(axes, nominal, solved, size, names, status)
        centres = nominal + np.asarray(size, float) / 2
        _arrows(figure, axes, centres, corrections, np.asarray(size, float)[1:].min())
        if pair:
            axes = _panel(
                figure,
                1.15 + width,
                (width, height),
                view,
                "links (dashed: not used), and what each has left over",
            )
            _links(figure, axes, solved, size, np.asarray(links), np.asarray(residuals, float), used)
        _legend(figure, status)


def _panel(
    figure: Figure, left: float, box: tuple[float, float], view: tuple[np.ndarray, np.ndarray], title: str
) -> Axes:
    axes = style.add_axes(figure, left, 0.85, *box)
    (low_y, low_x), (high_y, high_x) = view
    axes.set(xlim=(low_x, high_x), ylim=(high_y, low_y))
    style.bare(axes)
    axes.set_title(title, loc="left", color=style.MUTED, fontsize=9)
    # A scale bar below, and which axis runs where.
    um = style.round_length((high_x - low_x) / 5)
    start, below = low_x + 0.02 * (high_x - low_x), axes.get_xaxis_transform()
    axes.plot(
        [start, start + um], [-0.025, -0.025], transform=below, color=style.MUTED, linewidth=2, clip_on=False
    )
    axes.text(
        start + um, -0.025, f"  {style.length_text(um)}    y \u2193  x \u2192",
        transform=below, color=style.MUTED, fontsize=7.5, va="center",
    )  # fmt: skip
    return axes


def _tiles(
    axes: Axes,
    nominal: np.ndarray,
    solved: np.ndarray,
    size: Sequence[float],
    names: list[str],
    status: list[str],
) -> None:
    _, height, width = size
    small = 8 if len(names) <= 36 else 5.5
    for at, place, name, word in zip(nominal, solved, names, status, strict=True):
        if np.isfinite(place).all():
            look: Any = {
                "facecolor": STATUS_COLOURS.get(word, OTHER),
                "edgecolor": "#51606e",
                "linewidth": 0.9,
            }
            axes.add_patch(Rectangle((place[2], place[1]), width, height, alpha=0.75, **look))
        axes.add_patch(
            Rectangle(
                (at[2], at[1]),
                width,
                height,
                fill=False,
                edgecolor=style.MUTED,
                linewidth=0.7,
                linestyle=(0, (4, 3)),
            )
        )
        if len(names) <= 150:
            axes.text(
                at[2] + width * 0.15, at[1] + height * 0.17, name, fontsize=small, color=style.MUTED, va="top"
            )


def _arrows(figure: Figure, axes: Axes, at: np.ndarray, vectors: np.ndarray, room: float) -> None:
    """Arrows (y, x) at points, the longest nearly half of ``room``, and the bar of their colours."""
    lengths = np.linalg.norm(vectors, axis=1)
    longest = max(float(lengths.max(initial=0.0)), 1e-9)
    factor = style.round_length(max(0.45 * room / longest, 1.0))
    colours, norm = ARROWS, Normalize(0, longest)
    drawn = factor * vectors
    axes.scatter(at[:, 2], at[:, 1], s=5, c=lengths, cmap=colours, norm=norm, zorder=5, linewidths=0)
    axes.quiver(
        at[:, 2], at[:, 1], drawn[:, 2], drawn[:, 1], lengths,
        angles="xy", scale_units="xy", scale=1, cmap=colours, norm=norm, zorder=5,
        units="inches", width=0.028, headwidth=4, headlength=4.5, headaxislength=4, minlength=0.1,
    )  # fmt: skip
    _colour_bar(figure, axes, colours, norm, f"um (3-D); arrows drawn x {factor:g}")


def _links(
    figure: Figure,
    axes: Axes,
    solved: np.ndarray,
    size: Sequence[float],
    links: np.ndarray,
    residuals: np.ndarray,
    used: np.ndarray | None,
) -> None:
    _, height, width = size
    centres = solved + np.asarray(size, float) / 2
    for place in solved:
        axes.add_patch(
            Rectangle(
                (place[2], place[1]), width, height, facecolor="#f5f7f9", edgecolor=style.LINE, linewidth=0.8
            )
        )
    used = np.ones(len(links), bool) if used is None else np.asarray(used, bool)
    for pair, taken in zip(links, used, strict=True):
        look: Any = {"color": "#9aa5b1"} if taken else {"color": "#c1121f", "linestyle": (0, (2, 2))}
        axes.plot(centres[pair, 2], centres[pair, 1], linewidth=1.0, zorder=3, **look)
    kept = used & np.isfinite(residuals).all(axis=1)
    middles = (centres[links[kept, 0]] + centres[links[kept, 1]]) / 2
    _arrows(figure, axes, middles, residuals[kept], min(height, width))


def _colour_bar(figure: Figure, axes: Axes, colours: Colormap, norm: Normalize, label: str) -> None:
    box = axes.get_position()
    bar = figure.add_axes(
        (box.x1 + 0.08 / figure.get_figwidth(), box.y0, 0.1 / figure.get_figwidth(), box.height)
    )
    figure.colorbar(ScalarMappable(norm, colours), cax=bar)
    bar.set_ylabel(label, fontsize=8, color=style.MUTED)
    bar.tick_params(length=2, labelsize=7.5)
    for spine in bar.spines.values():
        spine.set_visible(False)


def _legend(figure: Figure, status: list[str]) -> None:
    words = sorted({word for word in status if word})
    handles = [Patch(facecolor=STATUS_COLOURS.get(w, OTHER), edgecolor="#51606e", label=w) for w in words]
    if handles:
        height = figure.get_figheight()
        place = (0.1 / figure.get_figwidth(), 1 - 0.38 / height)
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=place, ncols=len(handles), handlelength=1.2
        )
