"""The same content seen by two tiles: what overlaps say of the gain, whatever the content is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from weft.illumination.model import Illumination
from weft.illumination.reading import kept_whole, read_once
from weft.illumination.samples import Samples, above_noise, block_shape, centres, depths
from weft.image import TileSet
from weft.links.candidates import candidate_links
from weft.links.measure import measure_link
from weft.links.model import Link, LinkSettings
from weft.pyramid import downsample

# Overlaps compared; more hardly change the fit but cost reading.
_MOST_SEAMS = 24
_SLABS_PER_SEAM = 32
# Blocks that both tiles show, over all slabs, for a seam to count.
_LEAST_BLOCKS = 100
# Planes of an overlap that are read for its measurement, besides four times the search along z.
_PLANES = 48
_PLAIN = LinkSettings(matches=False)
# Overlaps of a large scan take no more than this part of its planes.
_MOST_READ = 0.5


Places = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Shared:
    """What two tiles show of the same content, on blocks of their overlap.

    Parameters
    ----------
    light
        float32, (2, n, h, w): block means of raw minus dark of tiles i and j, by slab.
    places
        Centres of the blocks on the camera, pixels: y and x in tile i, then y and x in tile j.
    """

    light: np.ndarray
    places: Places

    def seam(self, samples: Samples) -> Seam:
        """The ratio of both, with the background and the noise of these samples."""
        grounds = samples.background_on(*self.places[:2]), samples.background_on(*self.places[2:])
        signal = [light - np.float32(ground) for light, ground in zip(self.light, grounds, strict=True)]
        weight = [above_noise(np.stack(pair), samples.noise, 3).all(0) for pair in zip(*signal, strict=True)]
        low = max(samples.noise, 1e-3)
        first, second = (np.log(np.maximum(v, low)) for v in signal)
        return Seam((first - second).astype(np.float32), np.stack(weight), self.places)


@dataclass(frozen=True)
class Seam:
    """Log of the ratio of the same content in two tiles, on blocks of their overlap.

    Parameters
    ----------
    ratio
        float32, (n, h, w): log(signal of tile i) - log(signal of tile j), by slab.
    weight
        (n, h, w): 0 where either lacks tissue.
    places
        Centres of the blocks on the camera, pixels: y and x in tile i, then y and x in tile j.
    """

    ratio: np.ndarray
    weight: np.ndarray
    places: Places


def seams_of(shared: Sequence[Shared], samples: Samples) -> list[Seam]:
    """The seams on which enough blocks stand out of the background of these samples."""
    seams = [pair.seam(samples) for pair in shared]
    return [seam for seam in seams if seam.weight.sum() > _LEAST_BLOCKS]


def read_shared(
    tiles: TileSet,
    channel: int,
    dark: np.ndarray,
    samples: Samples,
    links: Sequence[Link] | None,
    search_voxels: tuple[float, float, float],
) -> list[Shared]:
    """What measured links share; without links, what some candidates do, spread evenly and measured here.

    Each overlap is read once, over as many planes as its measurement needs, where the samples of both
    tiles hold most tissue.
    """
    if links is None:
        pairs = candidate_links(tiles.positions(), tiles.shape, tiles.spacing)
        depth = min(tiles.shape[0], _PLANES + 4 * int(np.ceil(search_voxels[0])))
        most = max(1, int(_MOST_READ * len(tiles.tiles) * tiles.shape[0] / (2 * depth)))
        most = _MOST_SEAMS if kept_whole(tiles) else most
        count = min(len(pairs), _MOST_SEAMS, most)
        chosen = sorted({round(k) for k in np.linspace(0, len(pairs) - 1, count)})
        known: list[Link | tuple[int, int]] = [pairs[k] for k in chosen]
    else:
        depth = tiles.shape[0]
        known = [link for link in links if link.status == "ok"]
    plain = Illumination.identity(samples.shape, dark)
    found = []
    for item in known:
        i, j = (item.i, item.j) if isinstance(item, Link) else item
        window = _window(tiles, _best_start(samples, (i, j), tiles.shape[0], depth), depth)
        near = read_once(window, regions=True)
        link = (
            item
            if isinstance(item, Link)
            else measure_link(near, i, j, channel, plain, search_voxels=search_voxels, settings=_PLAIN)
        )
        if link.status == "ok":
            found.append(_shared(near, channel, dark, link))
    return [pair for pair in found if pair is not None]


def _window(tiles: TileSet, start: int, depth: int) -> TileSet:
    """``depth`` planes of every tile from ``start`` on, as tiles of their own."""

    def read(tile, channel, region):
        z = slice(region[0].start + start, region[0].stop + start)
        return tiles.read(tile, channel, (z, *region[1:]))

    return replace(tiles, shape=(depth, *tiles.shape[1:]), reader=read)


def _best_start(samples: Samples, pair: tuple[int, int], planes: int, depth: int) -> int:
    """First plane of the ``depth`` planes where the samples of both tiles hold most tissue."""
    if depth >= planes:
        return 0
    shares = []
    for tile in pair:
        share = samples.tissue[samples.tile == tile].mean((1, 2))
        places = (np.arange(len(share)) + 0.5) / max(len(share), 1)
        shares.append(np.interp(np.linspace(0, 1, 65), places, share) if len(share) else np.zeros(65))
    both = np.minimum(*shares)
    middle = float(np.flatnonzero(both == both.max()).mean()) / 64 * planes
    return int(np.clip(middle - depth / 2, 0, planes - depth))


def _shared(tiles: TileSet, channel: int, dark: np.ndarray, link: Link) -> Shared | None:
    """Read what the two tiles of a link share; None without overlap."""
    block = block_shape(tiles.shape)
    shift = np.round(link.displacement / tiles.spacing).astype(int)
    size = np.asarray(tiles.shape) - np.abs(shift)
    if (size < np.maximum(block, 2 * (np.asarray(tiles.shape) > 1))).any():
        return None
    first, second = np.maximum(shift, 0), np.maximum(-shift, 0)
    slots = int(size[0]) // block[0]
    y, x = (centres(int(n), f) for n, f in zip(size[1:], block[1:], strict=True))
    places = (y + first[1], x + first[2], y + second[1], x + second[2])
    light = []
    for z in depths(slots, min(slots, _SLABS_PER_SEAM), None) * block[0]:
        pair = []
        for tile, corner in ((link.i, first), (link.j, second)):
            start = int(corner[0] + z)
            rows, columns = (slice(int(c), int(c + n)) for c, n in zip(corner[1:], size[1:], strict=True))
            raw = tiles.read(tile, channel, (slice(start, start + block[0]), rows, columns))
            pair.append(downsample(raw.astype(np.float32) - dark[rows, columns], block)[0])
        light.append(pair)
    return Shared(np.stack(light, axis=1).astype(np.float32), places)
