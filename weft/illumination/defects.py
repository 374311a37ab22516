"""Tiles that no correction can mend: dead, saturated, doubled."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from weft.image import TileSet

# Planes looked at, per tile; a tile is saturated when more than this part of it is.
_PLANES = 8
_SATURATED = 0.01


def find_defects(tiles: TileSet, channel: int) -> dict[str, Any]:
    """Names of tiles that hold no picture, a clipped one, or another tile's.

    Parameters
    ----------
    tiles
        Raw tiles; 8 planes of each are read.
    channel
        Index of the channel.

    Returns
    -------
    dict
        ``dead`` (every plane looked at is of one value), ``saturated`` (more than 1 % of the voxels have the
        largest value that the tile set reaches, and more do than have the values just below) and ``doubled``
        (lists of tiles with the same voxels in all planes looked at).
    """
    planes = np.unique(np.linspace(0, tiles.shape[0] - 1, _PLANES).astype(int)).tolist()
    dead, tops, shares, prints = [], [], [], []
    for tile in range(len(tiles.tiles)):
        some = np.stack(
            [tiles.read(tile, channel, (slice(z, z + 1), slice(None), slice(None)))[0] for z in planes]
        )
        dead.append(all(plane.min() == plane.max() for plane in some))
        top = some.max()
        tops.append(float(top))
        # Signal thins out towards its top; where a sensor ends, values pile up on it.
        on_top = int((some == top).sum())
        below = int(((some < top) & (some >= top - max(0.02 * float(top), 1))).sum())
        shares.append(on_top / some.size if on_top > below else 0.0)
        prints.append(hashlib.sha256(some.tobytes()).hexdigest())
    ceiling = max(tops, default=0.0)
    names = [tile.name for tile in tiles.tiles]
    same: dict[str, list[str]] = {}
    for name, is_dead, key in zip(names, dead, prints, strict=True):
        if not is_dead:
            same.setdefault(key, []).append(name)
    full = [not d and t == ceiling and s > _SATURATED for d, t, s in zip(dead, tops, shares, strict=True)]
    return {
        "dead": [name for name, found in zip(names, dead, strict=True) if found],
        "saturated": [name for name, found in zip(names, full, strict=True) if found],
        "doubled": [group for group in same.values() if len(group) > 1],
    }
