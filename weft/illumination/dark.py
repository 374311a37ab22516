"""Where the dark comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from weft.illumination.background import Background
from weft.illumination.samples import block_shape
from weft.image import TileSet
from weft.pyramid import downsample

# An empty tile varies by less than this part of the range of all tiles, and stays this near its bottom.
_FLAT, _LOW = 0.05, 0.1
# Tiles whose whole range is less than this many times the noise hold nothing to tell empty ones from.
_LEAST_RANGE = 10.0
# Planes of empty tiles that are read.
_PLANES = 48


def resolve_dark(
    source: float | str | Path, tiles: TileSet, channel: int, percentile: float = 50.0
) -> np.ndarray | None:
    """The dark of a channel, as a plane.

    Parameters
    ----------
    source
        Counts; or the path of an image (TIFF or .npy; a stack is averaged); or ``"empty_tiles"``: a
        percentile of the planes of tiles that hold nothing (light that reaches even those is part of it), refused when
        no tile stands out as empty; or ``"regress"``, which is left to `fit_illumination`.
    tiles
        Raw tiles.
    channel
        Index of the channel.
    percentile
        Of the planes of empty tiles, pixel by pixel.

    Returns
    -------
    ndarray or None
        float32, (y, x), counts; None for ``"regress"``.

    Raises
    ------
    FileNotFoundError
        When the image is not there.
    ValueError
        When it has another shape than the tiles, or no tile is empty.
    """
    shape = tiles.shape[1:]
    if isinstance(source, int | float):
        if not np.isfinite(source):
            raise ValueError(f"the dark must be a finite number of counts; found {source}")
        return np.full(shape, source, np.float32)
    if source == "regress":
        return None
    if source == "empty_tiles":
        return _from_empty_tiles(tiles, channel, percentile)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"the dark is to be read from {path}, which is not there")
    image = np.load(path, allow_pickle=False) if path.suffix == ".npy" else tifffile.imread(path)
    plane = np.asarray(image, np.float32)
    plane = plane.mean(0) if plane.ndim == 3 else plane
    if plane.shape != shape:
        raise ValueError(f"{path}: a dark image must have the tiles' {shape} (y, x); found {plane.shape}")
    return plane


def regress_dark(background: Background | None, gain: np.ndarray) -> np.ndarray:
    """The dark, float32 (y, x), of what the empty parts of the tiles show: dark + light * gain.

    The light is as much as leaves a dark that is uncorrelated with the gain, within what keeps it from
    becoming negative: a lamp's pattern in the empty parts is stray light and stays in the corrected image, evenly.
    Zero without a background.
    """
    shape = (gain.shape[0], gain.shape[1])
    if background is None:
        return np.zeros(shape, np.float32)
    columns = np.arange(shape[1])
    plane = np.stack([background.at(np.array(y), columns, shape) for y in range(shape[0])])
    tilt = gain.astype(float) - gain.mean(dtype=float)
    power = float((tilt**2).sum())
    light = float((tilt * plane).sum()) / power if power > 0 else 0.0
    light = float(np.clip(light, 0, max((plane / gain).min(), 0)))
    return (plane - light * gain).astype(np.float32)


def _from_empty_tiles(tiles: TileSet, channel: int, percentile: float) -> np.ndarray:
    depth, *block = block_shape(tiles.shape)
    probes = np.unique(np.linspace(0, tiles.shape[0] - depth, 8).astype(int))
    bounds, noises = [], []
    for tile in range(len(tiles.tiles)):
        slabs = [tiles.read(tile, channel, (slice(z, z + depth), slice(None), slice(None))) for z in probes]
        blocks = np.stack([downsample(slab.astype(np.float32), (depth, *block))[0] for slab in slabs])
        bounds.append(np.quantile(blocks, (0.005, 0.995)))
        noises.append(1.4826 * np.median(np.abs(np.diff(blocks, axis=-1))) / 2**0.5)
    low, high = np.array(bounds).T
    bottom, extent = low.min(), high.max() - low.min()
    empty = np.flatnonzero((high - low < _FLAT * extent) & (high < bottom + _LOW * extent))
    if extent < _LEAST_RANGE * min(noises) or not empty.size:
        raise ValueError(
            f"dark 'empty_tiles': no tile of channel {tiles.channels[channel]!r} stands out as empty "
            "(flat and far dimmer than the others); give the dark as counts or as an image"
        )
    depths = np.linspace(0, tiles.shape[0] - 1, max(1, _PLANES // empty.size)).astype(int)
    places = [(tile, z) for tile in empty[:_PLANES].tolist() for z in np.unique(depths).tolist()]
    planes = [tiles.read(tile, channel, (slice(z, z + 1), slice(None), slice(None)))[0] for tile, z in places]
    return np.percentile(planes, percentile, axis=0).astype(np.float32)
