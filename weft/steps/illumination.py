"""Open the illumination that an earlier step left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from weft import receipts
from weft.illumination.model import Illumination
from weft.illumination.stripes import without_stripes
from weft.image import TileSet


def stripeless(tiles: TileSet, lights: Sequence[Illumination], settings: dict[str, Any]) -> TileSet:
    """The tiles without their stripes, where ``settings`` (of `illumination`) ask for it."""
    if settings["stripes"] == "none":
        return tiles
    size = {name: settings[f"stripe_{name}"] for name in ("width", "length")}
    return without_stripes(tiles, lights, axis=settings["stripes"], **size)


def load_illumination(receipt: str | Path, channel: int) -> Illumination:
    """Gain and dark of one channel."""
    store = Path(receipt).parent / receipts.read(receipt)["store"]
    planes = {
        name: np.asarray(zarr.open_array(str(store / name), mode="r")[channel]) for name in ("gain", "dark")
    }
    return Illumination(planes["gain"], planes["dark"])
