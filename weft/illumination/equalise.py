"""One factor per tile, from what neighbours saw of the same content."""

from __future__ import annotations

import numpy as np

from weft.illumination.model import Illumination
from weft.illumination.samples import block_shape
from weft.image import TileSet, box
from weft.links.candidates import candidate_links
from weft.pyramid import downsample

# Slabs compared per overlap.
_SLABS = 16
# How far brightness may differ between tiles: the standard deviation of a tile's log factor; and the error of one overlap.
_PRIOR, _ERROR = 0.3, 0.02
_ITERATIONS = 20
# Blocks are compared where both tiles are brighter than this part of the brightest (99 %) in the overlap.
_BRIGHT = 0.1


def equalise(
    tiles: TileSet, channel: int, illumination: Illumination, positions: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """Factors by which tiles are too bright, so that neighbours agree where they overlap.

    Each overlap gives the median log ratio of the blocks that both tiles show; robust least squares (Cauchy
    weights) find one log factor per tile, pulled weakly towards 0: a tile without neighbours keeps 1. For lamps that
    drift and tiles that bleach; tissue that differs does not, for it is the same in both tiles.

    Parameters
    ----------
    tiles
        Raw tiles; up to 16 slabs of each overlap are read.
    channel
        Index of the channel.
    illumination
        Its gain and dark.
    positions
        Solved positions, (n, 3) um.

    Returns
    -------
    factors
        float64, (n,), geometric mean 1: divide a tile's signal by its factor.
    report
        ``pairs``, and the RMS log ratio of overlaps ``before`` and ``after``.
    """
    pairs, ratios = [], []
    for i, j in candidate_links(positions, tiles.shape, tiles.spacing):
        ratio = _log_ratio(tiles, channel, illumination, i, j, (positions[j] - positions[i]) / tiles.spacing)
        if ratio is not None:
            pairs.append((i, j))
            ratios.append(ratio)
    count = len(tiles.tiles)
    rows: np.ndarray = np.zeros((len(pairs), count))
    for row, (i, j) in enumerate(pairs):
        rows[row, i], rows[row, j] = 1.0, -1.0
    values = np.array(ratios)
    logs = np.zeros(count)
    for _ in range(_ITERATIONS if pairs else 0):
        weights = 1 / (_ERROR**2 * (1 + ((values - rows @ logs) / (3 * _ERROR)) ** 2))
        matrix = (rows.T * weights) @ rows + np.eye(count) / _PRIOR**2
        logs = np.linalg.solve(matrix, rows.T @ (weights * values))
    logs = np.round(logs - logs.mean(), 9)

    def spread(residual: np.ndarray) -> float:
        return float(np.sqrt(np.mean(residual**2))) if len(residual) else 0.0

    report = {"pairs": len(pairs), "before": spread(values), "after": spread(values - rows @ logs)}
    return np.exp(logs), report


def _log_ratio(
    tiles: TileSet, channel: int, illumination: Illumination, i: int, j: int, displacement: np.ndarray
) -> float | None:
    """Median log(signal i / signal j) over the blocks that both show; None where they show too little."""
    shift = np.round(displacement).astype(int)
    size = np.asarray(tiles.shape) - np.abs(shift)
    block = np.minimum(block_shape(tiles.shape), np.maximum(size, 1))
    if (size < 1).any():
        return None
    corners = np.maximum(shift, 0), np.maximum(-shift, 0)
    slabs = np.unique(np.linspace(0, size[0] - block[0], _SLABS).astype(int))
    pair = []
    for tile, corner in zip((i, j), corners, strict=True):
        means = []
        for z in slabs:
            start = corner + np.array([z, 0, 0])
            region = box(start, start + np.array([block[0], *size[1:]]))
            signal = illumination.correct(tiles.read(tile, channel, region), region[1:])
            means.append(downsample(signal, tuple(int(n) for n in block))[0])
        pair.append(np.stack(means))
    low = _BRIGHT * max(float(np.quantile(pair, 0.99)), 1e-3)
    both = (pair[0] > low) & (pair[1] > low)
    if both.sum() < 16:
        return None
    return float(np.median(np.log(pair[0][both] / pair[1][both])))
