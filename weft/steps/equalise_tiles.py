"""Rule equalise_tiles: how much too bright each tile is."""

from __future__ import annotations

from typing import Any

import numpy as np

from weft import receipts
from weft.corrections import tell
from weft.illumination import equalise
from weft.steps.illumination import load_illumination, prepared_tiles
from weft.steps.sources import open_tiles
from weft.steps.tile_tables import read_fused, read_poses


def equalise_tiles(
    *,
    tiles: str,
    illumination: str,
    poses: str,
    path: str,
    source: dict[str, Any],
    policy: str,
    code: str,
    receipt: str,
) -> None:
    """Compare the tiles that are fused in all their overlaps and write a factor for every tile and channel."""
    index = receipts.read(tiles)
    kept = read_fused(poses)
    raw, positions = open_tiles(path, source), read_poses(poses)[kept]
    lights = load_illumination(illumination)
    flat = prepared_tiles(raw, illumination, lights).part(kept)
    factors = np.ones((len(raw.channels), len(raw.tiles)))
    reports = []
    with receipts.job_lock(receipt):
        for channel, name in enumerate(raw.channels):
            factors[channel, kept], report = equalise(
                flat, channel, lights[channel], positions, policy=policy
            )
            tell(index["image"], name, "brightness of tiles", report)
            reports.append(report)
        receipts.write_provenance(receipt, policy=policy, code=code)
        receipts.write(
            receipt,
            {
                "channels": list(raw.channels),
                "tiles": [tile.name for tile in raw.tiles],
                "factors": factors.tolist(),
                "reports": reports,
            },
        )
