"""Tiles that are volumes of their own: one reader for all of them, and the check that they are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weft.image import Region
from weft.readers.lazy import LazyVolume


@dataclass(frozen=True)
class TileVolumes:
    """Reads a region of a tile, as `TileSet` asks for it.

    Parameters
    ----------
    volumes
        ``volumes[tile][channel]``, each of one channel; or ``volumes[tile]`` of a single volume that holds all
        channels.
    """

    volumes: Sequence[Sequence[LazyVolume]]

    def __call__(self, tile: int, channel: int, region: Region) -> np.ndarray:
        volume, part = self._channel(tile, channel)
        return volume.read(part, region)

    def paths(self, tile: int, channel: int) -> Sequence[Path | None] | None:
        """Files that hold a channel of a tile and nothing else, as `LazyVolume.paths` gives them."""
        volume, part = self._channel(tile, channel)
        return volume.paths(part)

    def _channel(self, tile: int, channel: int) -> tuple[LazyVolume, int]:
        volumes = self.volumes[tile]
        count = len(volumes) if len(volumes) > 1 else volumes[0].shape[0]
        if not 0 <= channel < count:
            raise ValueError(f"channel {channel} of tile {tile} is not there; it has {count} channels")
        return (volumes[channel], 0) if len(volumes) > 1 else (volumes[0], channel)


def check_alike(volumes: Sequence[Sequence[LazyVolume]], places: Sequence[str | Path]) -> None:
    """Refuse tiles that differ in shape or type, or have a file for each channel but several channels in it.

    Parameters
    ----------
    volumes
        As in `TileVolumes`.
    places
        What an error calls each tile.

    Raises
    ------
    ValueError
        At the first tile that differs from the first one.
    """
    wanted = volumes[0][0]
    for place, tile in zip(places, volumes, strict=True):
        for found in tile:
            if found.shape != wanted.shape:
                raise ValueError(
                    f"{place}: the tile has shape {found.shape}; wanted {wanted.shape} (c, z, y, x), as the first"
                )
            if found.dtype != wanted.dtype:
                raise ValueError(f"{place}: the tile is {found.dtype}; wanted {wanted.dtype}, as the first")
        if len(tile) > 1 and wanted.shape[0] > 1:
            raise ValueError(
                f"{place}: its files hold {wanted.shape[0]} channels each; wanted one, for each channel has a file"
            )
