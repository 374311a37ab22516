"""Open the illumination that an earlier step left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr

from weft import receipts
from weft.illumination.model import Illumination


def load_illumination(receipt: str | Path, channel: int) -> Illumination:
    """Gain and dark of one channel."""
    store = Path(receipt).parent / receipts.read(receipt)["store"]
    planes = {
        name: np.asarray(zarr.open_array(str(store / name), mode="r")[channel]) for name in ("gain", "dark")
    }
    return Illumination(planes["gain"], planes["dark"])
