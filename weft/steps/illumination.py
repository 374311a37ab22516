"""Open the illumination that an earlier step left."""

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
        What `load_illumination` gives for each channel.
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


def load_illumination(receipt: str | Path, channel: int) -> Illumination:
    """Gain and dark of one channel."""
    store = Path(receipt).parent / receipts.read(receipt)["store"]
    planes = {
        name: np.asarray(zarr.open_array(str(store / name), mode="r")[channel]) for name in ("gain", "dark")
    }
    return Illumination(planes["gain"], planes["dark"])
