"""Open what earlier steps left of light: illumination, and brightness of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from weft import receipts
from weft.illumination.depth import without_depth
from weft.illumination.model import Illumination
from weft.illumination.stripes import without_stripes
from weft.image import TileSet


def prepared_tiles(
    tiles: TileSet, receipt: str | Path, lights: Sequence[Illumination], stripes: dict[str, Any] | None = None
) -> TileSet:
    """The tiles as one gain for all planes, that of ``lights``, corrects them; and without stripes where ``stripes`` ask for it.

    Parameters
    ----------
    tiles
        Raw tiles. As they are where the illumination does not change with depth and no stripes are to go.
    receipt
        Of the illumination.
    lights
        What `load_illumination` gives.
    stripes
        The settings of `illumination` that speak of them.
    """
    relief = load_relief(receipt)
    if relief is not None:
        tiles = without_depth(tiles, [light.dark for light in lights], list(relief))
    if stripes is None or stripes["stripes"] == "none":
        return tiles
    size = {name: stripes[f"stripe_{name}"] for name in ("width", "length")}
    return without_stripes(tiles, lights, axis=stripes["stripes"], **size)


def load_relief(receipt: str | Path) -> np.ndarray | None:
    """Gain of each slab over the gain of all planes, (c, slab, y, x); None where it does not change with depth."""
    path = Path(receipt).parent / receipts.read(receipt)["store"] / "relief"
    return np.asarray(zarr.open_array(str(path), mode="r")[:]) if path.exists() else None


def load_illumination(receipt: str | Path) -> list[Illumination]:
    """Gain and dark of every channel."""
    store = Path(receipt).parent / receipts.read(receipt)["store"]
    gains, darks = (np.asarray(zarr.open_array(str(store / name), mode="r")[:]) for name in ("gain", "dark"))
    return [Illumination(gain, dark) for gain, dark in zip(gains, darks, strict=True)]


def read_factors(receipt: str | list[str], channels: int, tiles: int) -> np.ndarray:
    """What the signal of each tile is divided by, float64 (channels, tiles); 1 where a step is handed no receipt."""
    if not isinstance(receipt, str):
        return np.ones((channels, tiles))
    return np.array(receipts.read(receipt)["factors"], float).reshape(channels, tiles)
