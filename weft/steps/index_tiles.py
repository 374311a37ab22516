"""Rule index_tiles: list the tiles of an image."""

from __future__ import annotations

import hashlib
from typing import Any

from weft import receipts
from weft.image import TileSet
from weft.logs import progress
from weft.steps.sources import open_tiles

PLANES = 32  # planes that are in memory at once


def index_tiles(
    *,
    path: str,
    settings: dict[str, Any],
    raw_digest: str,
    state: str,
    code: str,
    receipt: str,
    phantom: str | None = None,
) -> None:
    """Write names, stage positions, shape and voxel digests of the tiles of an image."""
    tiles = open_tiles(path, settings)
    listed = []
    for n, tile in progress(enumerate(tiles.tiles), len(tiles.tiles), "index_tiles: tiles"):
        data = [_digest(tiles, n, c, raw_digest, state) for c in range(len(tiles.channels))]
        listed.append(
            {
                "name": tile.name,
                "position": list(tile.position),
                "row": tile.row,
                "column": tile.column,
                "data": data,
            }
        )
    receipts.write(
        receipt,
        {
            "image": settings["image"],
            "tiles": listed,
            "missing": list(tiles.missing),
            "shape": list(tiles.shape),
            "spacing": list(tiles.spacing),
            "dtype": str(tiles.dtype),
            "channels": list(tiles.channels),
            "orientation": tiles.orientation,
        },
    )
    receipts.write_provenance(receipt, source=path, settings=settings, code=code)


def _digest(tiles: TileSet, tile: int, channel: int, raw_digest: str, state: str) -> str:
    """Digest of a tile's voxels, or (`stat`) of the state of the source's files."""
    if raw_digest == "stat":
        return receipts.digest([state, tiles.tiles[tile].name, channel])
    sha = hashlib.sha256(f"{tiles.dtype}{tiles.shape}".encode())
    for start in range(0, tiles.shape[0], PLANES):
        sha.update(
            tiles.read(tile, channel, (slice(start, start + PLANES), slice(None), slice(None))).tobytes()
        )
    return sha.hexdigest()
