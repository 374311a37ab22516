"""Render tiles at their solved poses into regions of one output grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.fusion.cache import TileCache
from weft.fusion.kernels import (
    LINEAR,
    MAX,
    MEAN,
    NEAREST,
    SINUSOIDAL,
    add_affine,
    add_tile,
    add_weights,
    divide,
    round_half_up,
)
from weft.grid import Grid, Shape, Triple
from weft.illumination.model import Illumination
from weft.image import Region, TileSet, box

BLENDS = {"linear": LINEAR, "sinusoidal": SINUSOIDAL, "mean": MEAN, "nearest": NEAREST, "max": MAX}

# Positions closer than this fraction of a voxel to an integer are taken as that integer, so that rounding
# in the last bit never costs a tile its outermost row.
_SNAP = 1e-6
# Voxels of the region that are mixed at a time: their sums stay in a core's own cache.
_AT_A_TIME = 1 << 17


def output_grid(
    positions: np.ndarray, shape: Shape, spacing: Triple, linear: np.ndarray | None = None
) -> Grid:
    """The grid that holds every tile.

    Parameters
    ----------
    positions
        Of the first voxel's centre of each tile, (n, 3) um.
    shape, spacing
        Of a tile: voxels (z, y, x) and um.
    linear
        Linear part of each tile's pose, (n, 3, 3), as `fuse_region` takes it; None for translations.

    Returns
    -------
    Grid
        Spacing of the tiles; its first voxel at the lowest position on every axis, its last one no farther
        than the last sample of any tile.

    Raises
    ------
    ValueError
        When there is no tile or a pose is not finite.
    """
    positions = np.asarray(positions, float)
    if not positions.size or not np.isfinite(positions).all():
        raise ValueError("the output grid needs finite positions of at least one tile")
    if linear is None:
        lowest = positions.min(0)
        reach = np.floor((positions.max(0) - lowest) / spacing + _SNAP).astype(int)
        return Grid(tuple(int(n) for n in reach + shape), spacing, tuple(lowest))  # type: ignore[arg-type]
    corners = Grid(shape, spacing).corners()
    reached = positions[:, None] + np.einsum("nij,cj->nci", _checked(linear, len(positions)), corners)
    lowest = reached.min((0, 1))
    reach = np.floor((reached.max((0, 1)) - lowest) / spacing + _SNAP).astype(int)
    return Grid(tuple(int(n) + 1 for n in reach), spacing, tuple(lowest))  # type: ignore[arg-type]


def fuse_region(
    tiles: TileSet,
    channel: int,
    positions: np.ndarray,
    illumination: Illumination | None,
    out_grid: Grid,
    region: Region,
    *,
    linear: np.ndarray | None = None,
    factors: np.ndarray | None = None,
    blend: str = "linear",
    dtype: np.dtype | type | str = np.uint16,
    offset: float = 0.0,
    cache: TileCache | None = None,
) -> tuple[np.ndarray | None, dict[str, int]]:
    """Render one region of the output from the tiles that touch it.

    The signal ``(raw - dark) / gain`` of a tile is sampled trilinearly at the output voxels. A sample's weight is
    the product over the axes of its distance to the tile's nearer border. Everything is float32; tiles are added in
    their order, so the result depends on nothing else.

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
    linear
        Linear part of each tile's pose, (n, 3, 3): the voxel at the offset d (um, (z, y, x)) from the tile's first
        voxel lies at ``position + linear @ d``. None, and matrices of identity, for translations, which are faster.
    factors
        What the signal of each tile is divided by, (n,), as `weft.illumination.equalise` finds it; None for 1.
    blend
        ``"linear"`` mixes by the weights, so that across an overlap of two tiles the mix changes linearly;
        ``"sinusoidal"`` mixes along half a wave instead, as TeraStitcher does (Bria & Iannello 2012): a share
        s of the weights counts as sin^2(pi s / 2); ``"mean"`` takes the mean; ``"nearest"`` takes the tile whose
        border is farthest, without mixing; ``"max"`` the brightest.
    dtype
        Of the output: float32, or uint8 or uint16, to which values are rounded half up and clipped.
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
        When the blend or type is unknown, the spacings differ, or poses do not match the tiles.
    """
    positions, dtype = np.asarray(positions, float), np.dtype(dtype)
    if blend not in BLENDS:
        raise ValueError(f"fusion knows the blends {', '.join(BLENDS)}; found {blend!r}")
    if dtype not in (np.uint8, np.uint16, np.float32):
        raise ValueError(f"fusion writes uint8, uint16 or float32; found {dtype}")
    if positions.shape != (len(tiles.tiles), 3) or not np.isfinite(positions).all():
        raise ValueError(
            f"fusion needs a finite position per tile, ({len(tiles.tiles)}, 3); found {positions.shape}"
        )
    if not np.allclose(out_grid.spacing, tiles.spacing, rtol=1e-9):
        raise ValueError(
            f"fusion renders at the tiles' spacing {tiles.spacing}; the output has {out_grid.spacing}"
        )
    if illumination is not None and illumination.gain.shape != tiles.shape[1:]:
        raise ValueError(
            f"the gain is a plane of {illumination.gain.shape}; the tiles have {tiles.shape[1:]} (y, x)"
        )
    factors = np.ones(len(positions)) if factors is None else np.asarray(factors, float)
    if factors.shape != (len(positions),) or not (np.isfinite(factors) & (factors > 0)).all():
        raise ValueError(
            f"fusion needs a positive factor per tile, ({len(positions)},); found {factors.shape}"
        )
    each = factors.tolist()
    start, stop = np.array([part.indices(n)[:2] for part, n in zip(region, out_grid.shape, strict=True)]).T
    cache = cache or TileCache(tiles, max_bytes=0)  # which keeps nothing
    corners = out_grid.to_index(positions)
    matrices = _matrices(linear, positions, out_grid)
    touching = (
        _affine_piece(cache, tile, channel, matrices[tile], illumination, each[tile], start, stop)
        if tile in matrices
        else _shifted_piece(cache, tile, channel, corner, illumination, each[tile], start, stop)
        for tile, corner in enumerate(corners)
    )
    pieces = [piece for piece in touching if piece is not None]
    counts = {"voxels": 0, "clipped_low": 0, "clipped_high": 0}
    if not pieces:
        return None, counts
    out = np.empty(stop - start, dtype)
    step = max(1, _AT_A_TIME // max(1, out[0].size))
    for first in range(0, len(out), step):
        part = out[first : first + step]
        found = _mix(pieces, part, (first, first + len(part)), BLENDS[blend], np.float32(offset))
        for name, count in zip(counts, found, strict=True):
            counts[name] += int(count)
    return (out, counts) if counts["voxels"] else (None, counts)


@dataclass(frozen=True)
class _ShiftedPiece:
    """The part of a translated tile that a region needs, as `weft.fusion.kernels.add_tile` takes it."""

    sampling: tuple[np.ndarray, ...]
    low: np.ndarray
    size: np.ndarray
    tents: tuple[np.ndarray, ...]

    def weigh(self, whole: np.ndarray, planes: np.ndarray) -> None:
        add_weights(whole, planes, self.low, self.size, *self.tents)

    def mix(
        self, total: np.ndarray, weight: np.ndarray, whole: np.ndarray, planes: np.ndarray, how: int
    ) -> None:
        add_tile(total, weight, whole, planes, *self.sampling, self.low, self.size, *self.tents, how)  # type: ignore[call-arg]


@dataclass(frozen=True)
class _AffinePiece:
    """The part of a tile under an affine pose that a region needs, as `weft.fusion.kernels.add_affine` takes it."""

    values: np.ndarray
    origin: np.ndarray
    shape: np.ndarray
    matrix: np.ndarray

    def weigh(self, whole: np.ndarray, planes: np.ndarray) -> None:
        self._add(whole, whole, whole, planes, LINEAR, True)

    def mix(
        self, total: np.ndarray, weight: np.ndarray, whole: np.ndarray, planes: np.ndarray, how: int
    ) -> None:
        self._add(total, weight, whole, planes, how, False)

    def _add(
        self,
        total: np.ndarray,
        weight: np.ndarray,
        whole: np.ndarray,
        planes: np.ndarray,
        how: int,
        weigh: bool,
    ) -> None:
        where = (self.values, self.origin, self.shape, self.matrix)
        add_affine(total, weight, whole, planes, *where, _SNAP, how, weigh)


def _mix(
    pieces: list[_ShiftedPiece | _AffinePiece],
    out: np.ndarray,
    planes: tuple[int, int],
    how: int,
    offset: np.float32,
) -> tuple[int, int, int]:
    """Fill some planes of a region; give the counts of voxels covered, and clipped at either end."""
    total, weight = np.zeros(out.shape, np.float32), np.zeros(out.shape, np.float32)
    bounds = np.array(planes)
    whole = weight
    if how == SINUSOIDAL:
        whole = np.zeros(out.shape, np.float32)
        for piece in pieces:
            piece.weigh(whole, bounds)
    for piece in pieces:
        piece.mix(total, weight, whole, bounds, how)
    if how == NEAREST:  # the total is one tile's value; its weight only decided which
        np.sign(weight, out=weight)
    if out.dtype.kind == "f":
        return divide(total, weight, out, offset)
    return round_half_up(total, weight, out, offset, np.float32(np.iinfo(out.dtype).max))


def _shifted_piece(
    cache: TileCache,
    tile: int,
    channel: int,
    corner: np.ndarray,
    illumination: Illumination | None,
    factor: float,
    start: np.ndarray,
    stop: np.ndarray,
) -> _ShiftedPiece | None:
    """What a region (``start`` to ``stop``, output voxels) needs of a tile whose first voxel lies at ``corner``."""
    shape = cache.tiles.shape
    snapped = np.round(corner)
    corner = np.where(np.abs(corner - snapped) < _SNAP, snapped, corner)
    # Output voxels whose samples lie between the tile's first and last voxel centres.
    low = np.maximum(start, np.ceil(corner).astype(int))
    high = np.minimum(stop, np.floor(corner).astype(int) + shape)
    if (low >= high).any():
        return None
    size = high - low
    first = np.floor(low - corner).astype(int)  # tile voxel at or before the first sample
    fraction = (low - corner - first).astype(np.float32)
    crop = box(first, first + size + (fraction > 0))
    raw, origin = cache.read(tile, channel, crop)
    inverse_gain, dark = _correction(illumination, factor, crop)
    rows, fy = size[1], fraction[1]
    behind = slice(1, rows + 1) if fy > 0 else slice(0, rows)
    near, far = (1 - fy) * inverse_gain[:rows], fy * inverse_gain[behind]
    dark_rows = near * dark[:rows] + far * dark[behind]
    tents = tuple(_tent(low[k] - corner[k], size[k], shape[k]) for k in range(3))
    return _ShiftedPiece(
        (raw, np.array(origin), near, far, dark_rows, fraction[::2]), low - start, size, tents
    )


def _affine_piece(
    cache: TileCache,
    tile: int,
    channel: int,
    matrix: np.ndarray,
    illumination: Illumination | None,
    factor: float,
    start: np.ndarray,
    stop: np.ndarray,
) -> _AffinePiece | None:
    """What a region needs of a tile; ``matrix``, (3, 4), takes an index of the output to one of the tile."""
    shape = np.array(cache.tiles.shape)
    from_region = matrix.copy()
    from_region[:, 3] += matrix[:, :3] @ start
    ends = np.stack(np.meshgrid(*zip(np.zeros(3), stop - start - 1, strict=True), indexing="ij"), -1).reshape(
        -1, 3
    )
    reached = ends @ from_region[:, :3].T + from_region[:, 3]
    low = np.maximum(0, np.floor(reached.min(0) + _SNAP).astype(int))
    high = np.minimum(shape, np.ceil(reached.max(0) - _SNAP).astype(int) + 1)
    if (low >= high).any():
        return None
    crop = box(low, high)
    raw, origin = cache.read(tile, channel, crop)
    inverse_gain, dark = _correction(illumination, factor, crop)
    voxels = raw[tuple(slice(o, o + n) for o, n in zip(origin, high - low, strict=True))]
    values = (voxels.astype(np.float32) - dark) * inverse_gain
    return _AffinePiece(values, low, shape, from_region)


def _matrices(linear: np.ndarray | None, positions: np.ndarray, out_grid: Grid) -> dict[int, np.ndarray]:
    """For each tile that is not just translated, (3, 4): from an index of the output to one of the tile."""
    if linear is None:
        return {}
    spacing = np.asarray(out_grid.spacing)
    found = {}
    for tile, matrix in enumerate(_checked(linear, len(positions))):
        if not np.array_equal(matrix, np.eye(3)):
            back = np.linalg.inv(matrix)
            shift = back @ (np.asarray(out_grid.origin) - positions[tile])
            found[tile] = np.column_stack([back * spacing / spacing[:, None], shift / spacing])
    return found


def _checked(linear: np.ndarray, count: int) -> np.ndarray:
    linear = np.asarray(linear, float)
    if linear.shape != (count, 3, 3) or not np.isfinite(linear).all() or (np.linalg.det(linear) <= 0).any():
        raise ValueError(
            f"an affine pose needs a finite matrix of positive determinant per tile, ({count}, 3, 3); "
            f"found {linear.shape}"
        )
    return linear


def _correction(
    illumination: Illumination | None, factor: float, crop: Region
) -> tuple[np.ndarray, np.ndarray]:
    """1 / (gain * factor) and dark in a part of a tile, float32 (y, x)."""
    if illumination is None:
        shape = [part.stop - part.start for part in crop[1:]]
        return np.full(shape, 1.0 / factor, np.float32), np.zeros(shape, np.float32)
    gain, dark = illumination.gain[crop[1:]], illumination.dark[crop[1:]]
    return (1.0 / (factor * gain)).astype(np.float32), dark.astype(np.float32)


def _tent(first: float, n: int, size: int) -> np.ndarray:
    """Distance to the nearer end of the samples, relative to half the tile; never quite zero."""
    place = first + np.arange(n)
    return np.maximum(np.minimum(place, size - 1 - place) / max(0.5 * size, 1.0), 1e-4).astype(np.float32)
