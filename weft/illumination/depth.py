"""Illumination that changes with depth: how the gain of a slab of planes differs from that of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from weft.illumination.estimate import fit_illumination
from weft.illumination.model import Illumination
from weft.illumination.pieces import between, pieces
from weft.image import Region, TileSet


def fit_depth(
    tiles: TileSet, channel: int, whole: Illumination, slabs: int, *, samples: int = 384, **options: Any
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """How the gain of each slab of planes differs from the gain of all planes.

    The tiles are divided by the gain of all planes, and what each slab then asks for is found and checked as any gain
    is: where held-out tiles of the slab are no flatter with it, the slab keeps the gain of all planes.

    Parameters
    ----------
    tiles
        Raw tiles.
    channel
        Index of the channel.
    whole
        Gain and dark of all planes.
    slabs
        How many slabs of about equal depth; at most one for each plane.
    samples
        Planes read, over all slabs.
    options
        As `fit_illumination` takes them.

    Returns
    -------
    relief
        float32, (slabs, y, x): gain of a slab over the gain of all planes.
    reports
        One for each slab, as `fit_illumination` gives them.
    """
    flat = _divided(tiles, channel, whole)
    found = []
    for start, stop in _slabs(tiles.shape[0], slabs):
        part = _window(flat, start, stop)
        found.append(
            fit_illumination(part, channel, dark=whole.dark, samples=max(1, samples // slabs), **options)
        )
    return np.stack([light.gain for light in found]), [light.report for light in found]


def without_depth(tiles: TileSet, dark: Sequence[np.ndarray], relief: Sequence[np.ndarray]) -> TileSet:
    """The same tiles, float32, as if all planes had one gain: what is above the dark is divided by the relief.

    Parameters
    ----------
    tiles
        Raw tiles.
    dark, relief
        Of each channel: a plane (y, x), and what `fit_depth` gave; between the middles of slabs it is linear.
    """
    slabs = _slabs(tiles.shape[0], len(relief[0]))

    def read(tile: int, channel: int, region: Region) -> np.ndarray:
        z, y, x = region
        offset, planes = dark[channel][y, x], relief[channel][:, y, x]
        signal = tiles.read(tile, channel, region).astype(np.float32) - offset
        for n, (low, high, part) in enumerate(zip(*between(np.arange(z.start, z.stop), slabs), strict=True)):
            signal[n] /= (1 - part) * planes[low] + part * planes[high]
        return signal + offset

    return replace(tiles, dtype=np.dtype(np.float32), reader=read)


def _slabs(planes: int, slabs: int) -> list[tuple[int, int]]:
    """First plane of each slab, and the one behind it."""
    return pieces(planes, min(slabs, planes))


def _divided(tiles: TileSet, channel: int, light: Illumination) -> TileSet:
    def read(tile: int, other: int, region: Region) -> np.ndarray:
        assert other == channel
        return light.correct(tiles.read(tile, channel, region), region[1:]) + light.dark[region[1:]]

    return replace(tiles, dtype=np.dtype(np.float32), reader=read)


def _window(tiles: TileSet, start: int, stop: int) -> TileSet:
    """Some planes of every tile, as tiles of their own."""

    def read(tile: int, channel: int, region: Region) -> np.ndarray:
        z = slice(region[0].start + start, region[0].stop + start)
        return tiles.read(tile, channel, (z, *region[1:]))

    return replace(tiles, shape=(stop - start, *tiles.shape[1:]), reader=read)
