"""A whole image before and after its bias is taken off, and the bias."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weft.figures import style

PANEL = 2.9  # height of a panel, inches
_GAP, _WORDS, _BAR = 0.25, 0.45, 0.6


def bias(
    channels: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]], path: str | Path, title: str
) -> None:
    """Draw a row for each channel.

    Parameters
    ----------
    channels
        Of each: its name, and a plane, (y, x), as it is, divided by the gain, and the gain.
    path
        PNG to write.
    title
        Above the picture.
    """
    shape = channels[0][1].shape
    width, row = PANEL * float(np.clip(shape[1] / shape[0], 0.6, 2.0)), PANEL + _WORDS + _GAP
    with style.picture(path, _GAP + 3 * (width + _GAP) + _BAR, 0.5 + row * len(channels), title) as figure:
        for n, (name, before, after, gain) in enumerate(channels):
            top = 0.5 + n * row + _WORDS
            limits = style.stretch(after)
            first, second, third = ((_GAP + k * (width + _GAP), top, width, PANEL) for k in range(3))
            style.panel(figure, first, f"channel {name}: as it is", before, limits)
            style.panel(figure, second, "seen through it", after, limits)
            axes = style.panel(figure, third, "gain")
            spread = max(0.05, float(np.abs(gain - 1).max()))
            shown = axes.imshow(gain, cmap="viridis", vmin=1 - spread, vmax=1 + spread)
            bar = style.add_axes(figure, _GAP + 3 * (width + _GAP) - 0.15, top, 0.1, PANEL)
            figure.colorbar(shown, cax=bar)
            bar.tick_params(length=2, labelsize=7.5)
