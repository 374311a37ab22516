"""Fusion: render tiles at their solved positions into regions of one output grid."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numba
import numpy as np

from weft.grid import Grid, Shape, Triple
from weft.illumination.model import Illumination
from weft.image import Region, TileSet

BLENDS = ("linear", "nearest", "max")

# Positions closer than this fraction of a voxel to an integer are taken as that integer, so that rounding
# in the last bit never costs a tile its outermost row.
_SNAP = 1e-6


class TileCache:
    """Planes of raw tiles, kept while they fit, for regions that are fused one after another.

    Parameters
    ----------
    tiles
        Where the planes come from.
    max_bytes
        Planes used longest ago are dropped beyond this; one request may exceed it while it is served.
    """

    def __init__(self, tiles: TileSet, max_bytes: int = 1 << 29) -> None:
        self.tiles = tiles
        self.max_bytes = max_bytes
        self._planes: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def read(self, tile: int, channel: int, region: Region) -> np.ndarray:
        """Voxels, (z, y, x), of a region (slices with start and stop) of a tile."""
        depth, rows, columns = region
        wanted = range(depth.start, depth.stop)
        with self._lock:
            found = {
                z: self._planes[(tile, channel, z)] for z in wanted if (tile, channel, z) in self._planes
            }
        absent = [z for z in wanted if z not in found]
        if absent:
            # One call for the run that holds all absent planes: chunked tiles decode each chunk once.
            # Outside the lock: threads read side by side, and at worst one plane twice.
            first, last = absent[0], absent[-1] + 1
            slab = self.tiles.read(tile, channel, (slice(first, last), slice(None), slice(None)))
            found |= {z: slab[z - first].copy() for z in absent}
        with self._lock:
            for z in wanted:
                key = (tile, channel, z)
                if key not in self._planes:
                    self._planes[key] = found[z]
                    self._bytes += found[z].nbytes
                self._planes.move_to_end(key)
            while self._bytes > self.max_bytes:
                self._bytes -= self._planes.popitem(last=False)[1].nbytes
        return np.stack([found[z][rows, columns] for z in wanted])


def output_grid(positions: np.ndarray, shape: Shape, spacing: Triple) -> Grid:
    """The grid that holds every tile.

    Parameters
    ----------
    positions
        Of the first voxel's centre of each tile, (n, 3) um.
    shape, spacing
        Of a tile: voxels (z, y, x) and um.

    Returns
    -------
    Grid
        Spacing of the tiles; its first voxel at the lowest position on every axis, its last one no farther
        than the last sample of any tile.

    Raises
    ------
    ValueError
        When there is no tile or a position is not finite.
    """
    positions = np.asarray(positions, float)
    if not positions.size or not np.isfinite(positions).all():
        raise ValueError("the output grid needs finite positions of at least one tile")
    lowest = positions.min(0)
    reach = np.floor((positions.max(0) - lowest) / spacing + _SNAP).astype(int)
    return Grid(tuple(int(n) for n in reach + shape), spacing, tuple(lowest))  # type: ignore[arg-type]


def fuse_region(
    tiles: TileSet,
    channel: int,
    positions: np.ndarray,
    illumination: Illumination | None,
    out_grid: Grid,
    region: Region,
    *,
    blend: str = "linear",
    dtype: np.dtype | type | str = np.uint16,
    offset: float = 0.0,
    cache: TileCache | None = None,
) -> tuple[np.ndarray | None, dict[str, int]]:
    """Render one region of the output from the tiles that touch it.

    The signal ``(raw - dark) / gain`` of a tile is sampled trilinearly at the output voxels; tiles are
    mixed by the product over the axes of the distance to their nearest border, which makes the mix linear
    across an overlap and lets a tile's weight vanish where its samples end. Everything is float32; tiles
    are added in their order, so the result depends on nothing else.

    Parameters
    ----------
    tiles
        Raw tiles; only the planes, rows and columns needed are read.
    channel
        Index of the channel.
    positions
        Solved positions of the first voxel's centre of each tile, (n, 3) um.
    illumination
        Gain and dark of the channel; None takes the raw values.
    out_grid
        Grid of the whole output, of the tiles' spacing.
    region
        Slices (z, y, x) in ``out_grid``.
    blend
        ``"linear"`` mixes, ``"nearest"`` takes the tile whose border is farthest, ``"max"`` the brightest.
    dtype
        Of the output. Integers are rounded half up and clipped to their range.
    offset
        Added to the signal before rounding, counts: keeps the noise around zero from being clipped.
    cache
        Shared by the regions of a batch; without one, each call reads what it needs.

    Returns
    -------
    array
        Voxels, (z, y, x), 0 where no tile is; None when no tile touches the region.
    counts
        ``voxels`` (covered by a tile), ``clipped_low``, ``clipped_high``.

    Raises
    ------
    ValueError
        When the blend is unknown, the spacings differ, or positions do not match the tiles.
    """
    positions = np.asarray(positions, float)
    if blend not in BLENDS:
        raise ValueError(f"fusion knows the blends {', '.join(BLENDS)}; found {blend!r}")
    if positions.shape != (len(tiles.tiles), 3) or not np.isfinite(positions).all():
        raise ValueError(
            f"fusion needs a finite position per tile, ({len(tiles.tiles)}, 3); found {positions.shape}"
        )
    if not np.allclose(out_grid.spacing, tiles.spacing, rtol=1e-9):
        raise ValueError(
            f"fusion renders at the tiles' spacing {tiles.spacing}; the output has {out_grid.spacing}"
        )
    bounds = [part.indices(n)[:2] for part, n in zip(region, out_grid.shape, strict=True)]
    start, stop = np.array(bounds).T
    counts = {"voxels": 0, "clipped_low": 0, "clipped_high": 0}

    inverse_gain, dark = _planes(illumination, tiles.shape[1:])
    total = weight = None
    for tile, corner in enumerate(out_grid.to_index(positions)):
        snapped = np.round(corner)
        corner = np.where(np.abs(corner - snapped) < _SNAP, snapped, corner)
        # Output voxels whose samples lie between the tile's first and last voxel centres.
        low = np.maximum(start, np.ceil(corner).astype(int))
        high = np.minimum(stop, np.floor(corner).astype(int) + tiles.shape)
        if (low >= high).any():
            continue
        if total is None:
            total = np.zeros(stop - start, np.float32)
            weight = np.zeros(stop - start, np.float32)
        first = np.floor(low - corner).astype(int)  # tile voxel at or before the first sample
        fraction = (low - corner - first).astype(np.float32)
        last = first + (high - low) - 1 + (fraction > 0)
        crop = tuple(slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
        raw = (
            cache.read(tile, channel, crop) if cache else tiles.read(tile, channel, crop)  # type: ignore[arg-type]
        )
        tents = [_tent(low[k] - corner[k], high[k] - low[k], tiles.shape[k]) for k in range(3)]
        gain_crop = np.ascontiguousarray(inverse_gain[crop[1:]])
        _add_tile(
            total,
            weight,
            np.ascontiguousarray(raw),
            gain_crop,
            gain_crop * dark[crop[1:]],
            fraction,
            low - start,
            high - low,
            tents[0],
            tents[1],
            tents[2],
            BLENDS.index(blend),
        )
    if total is None or weight is None:
        return None, counts
    out, covered, clipped_low, clipped_high = _finish(
        total, weight, np.dtype(dtype), np.float32(offset), blend
    )
    counts.update(voxels=covered, clipped_low=clipped_low, clipped_high=clipped_high)
    return out, counts


def _planes(illumination: Illumination | None, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """1 / gain and dark, float32 (y, x)."""
    if illumination is None:
        return np.ones(shape, np.float32), np.zeros(shape, np.float32)
    if illumination.gain.shape != shape:
        raise ValueError(f"the gain is a plane of {illumination.gain.shape}; the tiles have {shape} (y, x)")
    return (1.0 / illumination.gain).astype(np.float32), illumination.dark.astype(np.float32)


def _tent(first: float, n: int, size: int) -> np.ndarray:
    """Distance to the nearer end of the samples, relative to half the tile; never quite zero."""
    place = first + np.arange(n)
    return np.maximum(np.minimum(place, size - 1 - place) / max(0.5 * size, 1.0), 1e-4).astype(np.float32)


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_tile(total, weight, raw, gain, gain_dark, fraction, low, size, tent_z, tent_y, tent_x, blend):
    """Sample one tile at ``size`` output voxels from ``low`` on and mix it in.

    ``raw`` starts at the tile voxel at or before the first sample; ``fraction`` is how far behind it the
    samples lie. With a fraction of 0 the next voxel may not exist: it is replaced by the same one.
    """
    nz, ny, nx = raw.shape
    fz, fy, fx = fraction[0], fraction[1], fraction[2]
    one = np.float32(1.0)
    w00, w01, w10, w11 = (one - fz) * (one - fy), (one - fz) * fy, fz * (one - fy), fz * fy
    line = np.empty(nx, np.float32)
    for z in range(size[0]):
        z1 = min(z + 1, nz - 1)
        for y in range(size[1]):
            y1 = min(y + 1, ny - 1)
            a, b, c, d = raw[z, y], raw[z, y1], raw[z1, y], raw[z1, y1]
            g0, g1, h0, h1 = gain[y], gain[y1], gain_dark[y], gain_dark[y1]
            for x in range(nx):
                near = w00 * np.float32(a[x]) + w10 * np.float32(c[x])
                far = w01 * np.float32(b[x]) + w11 * np.float32(d[x])
                line[x] = g0[x] * near + g1[x] * far - ((one - fy) * h0[x] + fy * h1[x])
            out = total[low[0] + z, low[1] + y, low[2] : low[2] + size[2]]
            mix = weight[low[0] + z, low[1] + y, low[2] : low[2] + size[2]]
            side = tent_z[z] * tent_y[y]
            for x in range(size[2]):
                value = line[x] if fx == 0 else (one - fx) * line[x] + fx * line[x + 1]
                w = side * tent_x[x]
                if blend == 0:
                    out[x] += w * value
                    mix[x] += w
                elif blend == 1:
                    if w > mix[x]:
                        out[x], mix[x] = value, w
                elif mix[x] == 0 or value > out[x]:
                    out[x], mix[x] = value, one


def _finish(
    total: np.ndarray, weight: np.ndarray, dtype: np.dtype, offset: np.float32, blend: str
) -> tuple[np.ndarray, int, int, int]:
    """Divide by the weights, add the offset, round and clip; count what was covered and clipped."""
    if blend != "linear":  # the total is one tile's value; its weight only decided which
        weight[weight > 0] = 1.0
    out = np.empty(total.shape, dtype)
    if dtype.kind == "f":
        return out, *_divide(total, weight, out, offset)
    limits = np.iinfo(dtype)
    return out, *_round(total, weight, out, offset, float(limits.min), float(limits.max))


@numba.njit(cache=True, nogil=True)
def _divide(total, weight, out, offset):
    t, w, o = total.ravel(), weight.ravel(), out.ravel()
    covered = 0
    for i in range(t.size):
        if w[i] > 0:
            o[i] = t[i] / w[i] + offset
            covered += 1
        else:
            o[i] = 0
    return covered, 0, 0


@numba.njit(cache=True, nogil=True)
def _round(total, weight, out, offset, lowest, highest):
    t, w, o = total.ravel(), weight.ravel(), out.ravel()
    covered = low = high = 0
    for i in range(t.size):
        if w[i] > 0:
            value = np.floor(np.float64(t[i] / w[i] + offset) + 0.5)
            covered += 1
            low += value < lowest
            high += value > highest
            o[i] = min(max(value, lowest), highest)
        else:
            o[i] = 0
    return covered, low, high
