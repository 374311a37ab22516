"""Draw what `docs/assembly.md` shows: one tile of each scene, its true gain, and what each estimator makes of 64 tiles."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from illumination_cases import EDGE, SCENES, rmse, synthetic_tiles, tile_set
from weft.illumination import fit_illumination

METHODS = ("auto", "log_irls", "gradients", "quantile", "mean", "median", "n4")
COUNT, SEED = 64, 101


def main(folder: Path) -> None:
    """Write illumination.png into a folder."""
    figure = Figure(figsize=(1.35 * (len(METHODS) + 2), 1.75 * len(SCENES)), layout="constrained")
    axes = figure.subplots(len(SCENES), len(METHODS) + 2)
    for row, scene in zip(axes, SCENES, strict=True):
        arrays, gain = synthetic_tiles(COUNT, scene, SEED)
        corners = np.stack([np.zeros(COUNT), np.zeros(COUNT), EDGE * np.arange(COUNT)], 1)
        tiles = tile_set(arrays[:, None], corners)
        shown = arrays[int(np.argsort(arrays.std((1, 2)))[COUNT * 3 // 4])]
        low, high = np.quantile(shown, (0.01, 0.995))
        row[0].imshow(shown[::4, ::4], cmap="gray", vmin=low, vmax=high)
        row[0].set_title(f"a tile, {scene}", fontsize=8)
        _gain(row[1], gain, "true gain")
        for place, method in zip(row[2:], METHODS, strict=True):
            light = fit_illumination(tiles, 0, method=method)
            used = light.report["method"] if light.report["accepted"] else "refused"
            name = method if used == method else f"{method}: {used}"
            _gain(place, light.gain, f"{name}\nerror {rmse(light.gain, gain):.3f}")
    for place in axes.flat:
        place.set_axis_off()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "illumination.png", dpi=90)


def _gain(axes, gain: np.ndarray, title: str) -> None:
    axes.imshow(gain[::4, ::4], cmap="viridis", vmin=0.3, vmax=1.6)
    axes.set_title(title, fontsize=8)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
