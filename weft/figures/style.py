"""What all pictures share: one look, one way of saving without dates or versions, a scale bar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

INK = "#1f2933"
MUTED = "#66727f"
LINE = "#d5dbe1"
PAPER = "#ffffff"
ACCENT = "#1d6fa5"
DPI = 150

_LOOK: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
}


class Volume(Protocol):
    """Anything (z, y, x) that slices like an array: only the slices that are shown are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x)."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """Voxels."""
        ...


@contextmanager
def picture(path: str | Path, width: float, height: float, title: str = "") -> Iterator[Figure]:
    """A figure of ``width`` x ``height`` inches, saved to ``path`` as PNG when the block ends without an error.

    The user's own matplotlib settings do not reach it, and the file carries no date and no version.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_LOOK)
        figure = Figure(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(figure)
        if title:
            figure.text(
                0.16 / width, 1 - 0.14 / height, title, ha="left", va="top", fontsize=12, fontweight="bold"
            )
        yield figure
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes placed in inches, measured from the figure's top left corner."""
    full_width, full_height = figure.get_size_inches()
    box = (left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height)
    return figure.add_axes(box)


def bare(axes: Axes) -> None:
    """Take away ticks and frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def panel(
    figure: Figure,
    place: tuple[float, float, float, float],
    words: str,
    image: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
    *,
    colour: str = INK,
) -> Axes:
    """Axes without ticks, with words above them, and an image in grey where one is given.

    Parameters
    ----------
    place
        Left, top, width, height, as `add_axes`.
    words, colour
        Above the panel, at its left.
    image, limits
        (y, x), nothing where it is NaN; and the values of black and white.
    """
    axes = add_axes(figure, *place)
    bare(axes)
    axes.set_title(words, loc="left", fontsize=8, color=colour)
    if image is not None and limits is not None:
        axes.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="antialiased")
    return axes


def stretch(image: np.ndarray, low: float = 1.0, high: float = 99.7) -> tuple[float, float]:
    """Limits of display, the ``low`` and ``high`` percentiles of the finite voxels; never equal."""
    finite = np.asarray(image)[np.isfinite(image)]
    if finite.size == 0:
        return 0.0, 1.0
    bottom, top = (float(v) for v in np.percentile(finite, [low, high]))
    if top <= bottom:
        bottom, top = float(finite.min()), float(finite.max())
    return (bottom, top) if top > bottom else (bottom, bottom + 1.0)


def slices_at(volume: Volume, at: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three orthogonal slices through the voxel ``at``: (y, x), (z, x) and (z, y)."""
    z, y, x = at
    return np.asarray(volume[z]), np.asarray(volume[:, y]), np.asarray(volume[:, :, x])


def round_length(length: float) -> float:
    """The largest of 1, 2, 5 x 10^n that is no longer than ``length`` (and above 0)."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(max(step for step in (1, 2, 5) if step * power <= length * (1 + 1e-9)) * power)


def number_text(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, and as many as it takes before the point: no exponent of a large one."""
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text else text


def length_text(um: float) -> str:
    """A length in the unit that reads best."""
    if um >= 1000:
        return f"{um / 1000:g} mm"
    return f"{um:g} um" if um >= 1 else f"{um * 1000:g} nm"


def scale_bar(axes: Axes, width: float, height: float, per_um: float = 1.0, colour: str = "white") -> None:
    """A bar of up to a quarter of the picture, at its lower left.

    ``width`` and ``height`` are the picture's in the axes' units (y grows downwards); ``per_um`` is how many of
    these make a micrometre.
    """
    um = round_length(width / per_um / 4)
    length, small = um * per_um, min(width, height)
    left, bottom, thick = 0.05 * small, height - 0.05 * small, 0.014 * small
    axes.add_patch(Rectangle((left, bottom - thick), length, thick, color=colour, linewidth=0))
    middle = left + length / 2
    axes.text(
        middle, bottom - 2.2 * thick, length_text(um), color=colour, ha="center", va="bottom", fontsize=7.5
    )
