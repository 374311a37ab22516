"""One factor per tile, from what neighbours saw of the same content."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import spsolve

from weft.corrections import POLICIES, outcome
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
_LEAST_BLOCKS = 16
# A factor outside these is no lamp's that drifts.
_PLAUSIBLE = (0.2, 5.0)


def equalise(
    tiles: TileSet, channel: int, illumination: Illumination, positions: np.ndarray, *, policy: str = "check"
) -> tuple[np.ndarray, dict[str, Any]]:
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
    policy
        ``"check"`` replaces all factors by 1 when those found on half of the slabs leave the other half of the overlaps
        no more alike, or one is not plausible; ``"force"`` uses them anyway.

    Returns
    -------
    factors
        float64, (n,), geometric mean 1: divide a tile's signal by its factor.
    report
        ``pairs``; the RMS log ratio of overlaps ``before`` and ``after``; the same of slabs that the fit did not see,
        ``held_out_before`` and ``held_out_after``; the ``least`` and ``largest`` factor found; ``accepted`` and ``reason``.

    Raises
    ------
    ValueError
        When the policy is unknown.
    """
    if policy not in POLICIES:
        raise ValueError(f"equalise knows the policies {', '.join(POLICIES)}; found {policy!r}")
    pairs, ratios = [], []
    for i, j in candidate_links(positions, tiles.shape, tiles.spacing):
        ratio = _log_ratios(tiles, channel, illumination, i, j, (positions[j] - positions[i]) / tiles.spacing)
        if ratio is not None:
            pairs.append((i, j))
            ratios.append(ratio)
    count = len(tiles.tiles)
    values = np.array(ratios).reshape(-1, 3)
    rows = _differences(pairs, count)
    whole, even, odd = (_solve(rows, values[:, n]) for n in range(3))
    report: dict[str, Any] = {
        "pairs": len(pairs),
        "before": _rms(values[:, 0]),
        "after": _rms(values[:, 0] - rows @ whole),
        "held_out_before": _rms(values[:, 1:]),
        "held_out_after": _rms(values[:, 1:] - np.stack([rows @ odd, rows @ even], 1)),
        "least": round(float(np.exp(whole.min(initial=0.0))), 6),
        "largest": round(float(np.exp(whole.max(initial=0.0))), 6),
    }
    report |= outcome(_objection(report), policy)
    return np.exp(whole) if report["accepted"] else np.ones(count), report


def _objection(report: dict[str, Any]) -> str:
    """Why the factors should not be used; empty when nothing speaks against them."""
    if not report["pairs"]:
        return "no two tiles show the same content"
    if not report["held_out_after"] < report["held_out_before"]:
        return "overlaps that the fit did not see agree no better with it"
    if report["least"] < _PLAUSIBLE[0] or report["largest"] > _PLAUSIBLE[1]:
        return "a factor leaves what is plausible"
    return ""


def _differences(pairs: list[tuple[int, int]], count: int) -> sparse.csr_array:
    """The matrix, (pairs, tiles), that takes log factors to the log ratios of overlaps."""
    rows = np.repeat(np.arange(len(pairs)), 2)
    values = np.tile([1.0, -1.0], len(pairs))
    columns = np.array(pairs, int).reshape(-1)
    return sparse.csr_array((values, (rows, columns)), shape=(len(pairs), count))


def _solve(rows: sparse.csr_array, values: np.ndarray) -> np.ndarray:
    """Log factor of each tile, of mean 0."""
    count = rows.shape[1]
    logs = np.zeros(count)
    prior = sparse.eye_array(count, format="csc") / _PRIOR**2
    for _ in range(_ITERATIONS if len(values) else 0):
        weights = 1 / (_ERROR**2 * (1 + ((values - rows @ logs) / (3 * _ERROR)) ** 2))
        matrix = rows.T @ sparse.diags_array(weights) @ rows + prior
        logs = spsolve(matrix.tocsc(), rows.T @ (weights * values))
    return np.round(logs - logs.mean(), 9) if count else logs


def _rms(values: np.ndarray) -> float:
    return round(float(np.sqrt(np.mean(values**2))), 6) if values.size else 0.0


def _log_ratios(
    tiles: TileSet, channel: int, illumination: Illumination, i: int, j: int, displacement: np.ndarray
) -> tuple[float, float, float] | None:
    """Median log(signal i / signal j) over the blocks that both show: of all slabs, of the even and of the odd ones.

    None where they show too little. Where all tissue lies in slabs of one kind, the others' median is that of all.
    """
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
    if both.sum() < _LEAST_BLOCKS:
        return None
    ratio = np.log(np.where(both, pair[0], 1) / np.where(both, pair[1], 1))
    whole = float(np.median(ratio[both]))
    # A fold needs slabs of its own; a single plane is halved by its rows.
    fold = np.arange(len(slabs))[:, None, None] if len(slabs) > 1 else np.arange(both.shape[1])[None, :, None]
    halves = [both & (fold % 2 == parity) for parity in (0, 1)]
    even, odd = (
        float(np.median(ratio[half])) if half.sum() >= _LEAST_BLOCKS // 2 else whole for half in halves
    )
    return whole, even, odd
