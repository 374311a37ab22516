"""The flat-field and the dark frame of each channel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from weft.figures import style

ROW = 2.3  # height of a channel's row, inches


def illumination(
    gain: np.ndarray,
    dark: np.ndarray,
    path: str | Path,
    title: str,
    *,
    channels: Sequence[str] | None = None,
) -> None:
    """Draw gain and dark of every channel as pictures, and their profiles along the middle row and column.

    Parameters
    ----------
    gain
        Flat-field, (c, y, x), mean about 1.
    dark
        Offset in grey values: (c, y, x), or one number per channel, (c,).
    path
        PNG to write.
    title
        Above the picture.
    channels
        Their names.

    Raises
    ------
    ValueError
        When gain and dark do not go together.
    """
    gain = np.asarray(gain, float)
    dark = np.asarray(dark, float)
    if gain.ndim != 3 or dark.shape not in (gain.shape, gain.shape[:1]):
        raise ValueError(
            f"gain has the shape {gain.shape} and dark {dark.shape}; wanted (c, y, x), dark also (c,)"
        )
    dark = np.broadcast_to(dark if dark.ndim == 3 else dark[:, None, None], gain.shape)
    names = [str(c) for c in range(len(gain))] if channels is None else list(channels)
    width = float(np.clip(ROW * gain.shape[2] / gain.shape[1], 0.8, 4.0))
    spread = max(0.05, float(np.abs(gain - 1).max()))
    with style.picture(path, 2 * width + 5.6, 0.75 + len(gain) * (ROW + 0.85), title) as figure:
        for row, (name, flat, offset) in enumerate(zip(names, gain, dark, strict=True)):
            top = 0.75 + row * (ROW + 0.85)
            axes = style.add_axes(figure, 0.2, top, width, ROW)
            _picture(figure, axes, flat, "viridis", (1 - spread, 1 + spread), f"channel {name}: gain")
            _contours(axes, flat)
            axes = style.add_axes(figure, 1.0 + width, top, width, ROW)
            if np.ptp(offset) > 0:
                _picture(
                    figure, axes, offset, "magma", style.stretch(offset, 0.5, 99.5), "dark (grey values)"
                )
            else:
                _constant(axes, float(offset.flat[0]))
            _profiles(style.add_axes(figure, 2.2 + 2 * width, top, 3.2, ROW), flat)


def _picture(
    figure: Figure, axes: Axes, image: np.ndarray, colours: str, limits: tuple[float, float], title: str
) -> None:
    shown = axes.imshow(
        image, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="antialiased"
    )
    style.bare(axes)
    axes.set_title(title, loc="left")
    box = axes.get_position()
    bar = figure.add_axes(
        (box.x1 + 0.07 / figure.get_figwidth(), box.y0, 0.09 / figure.get_figwidth(), box.height)
    )
    figure.colorbar(shown, cax=bar)
    bar.tick_params(length=2, labelsize=7.5)
    for spine in bar.spines.values():
        spine.set_visible(False)


def _constant(axes: Axes, value: float) -> None:
    axes.set_title("dark (grey values)", loc="left")
    axes.set_facecolor("#eef1f4")
    style.bare(axes)
    middle: Any = {"ha": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.5, f"{value:.5g}", fontsize=17, **middle)
    axes.text(0.5, 0.4, "everywhere", fontsize=8.5, color=style.MUTED, **middle)


def _contours(axes: Axes, flat: np.ndarray) -> None:
    levels = np.arange(0.1, 3.0, 0.1)
    inside = levels[(levels > flat.min()) & (levels < flat.max())]
    if inside.size:
        lines = axes.contour(flat, levels=inside, colors="white", linewidths=0.5, alpha=0.7)
        axes.clabel(lines, fontsize=6.5, fmt="%.1f")


def _profiles(axes: Axes, flat: np.ndarray) -> None:
    rows, columns = flat.shape
    axes.axhline(1, color=style.MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
    axes.plot(
        np.linspace(0, 1, columns), flat[rows // 2], color=style.ACCENT, linewidth=1.4, label="middle row"
    )
    axes.plot(
        np.linspace(0, 1, rows), flat[:, columns // 2], color="#c4622d", linewidth=1.4, label="middle column"
    )
    axes.set(xlim=(0, 1), xlabel="place in the frame", ylim=(0, max(1.6, 1.08 * float(flat.max()))))
    axes.set_title("gain along the frame", loc="left")
    axes.grid(axis="y")
    axes.legend(loc="lower right", ncols=2)
