"""Estimate the gain of a channel from raw tiles, and accept it only when it makes held-out data flatter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.illumination import basis
from weft.illumination.model import Illumination
from weft.illumination.samples import Samples, Seam, draw, seam
from weft.image import TileSet
from weft.links.candidates import candidate_links
from weft.links.measure import measure_link
from weft.links.model import Link

METHODS = ("log_irls", "quantile", "mean", "none")

# Fewer planes than this with tissue are no basis for an estimate.
_LEAST_PLANES = 32
# Overlaps compared; more hardly change the fit but cost reading.
_MOST_SEAMS = 24
_SLABS_PER_SEAM = 32
# Pull of a coefficient towards zero, relative to one group of equations, times its degree squared.
_RIDGE = 1e-2
# Weight of a direction of gradients relative to one seam: enough for what narrow seams leave open.
_GRADIENT_SHARE = 10.0
_ITERATIONS = 10
# A gain outside these is not a lamp's: the fit ran away where no tissue was.
_PLAUSIBLE = (0.05, 20.0)


@dataclass(frozen=True)
class _Equations:
    """Rows ``value = terms @ coefficients``, many measurements (n) of each of m rows."""

    values: np.ndarray  # (n, m)
    weights: np.ndarray  # (n, m)
    terms: np.ndarray  # (m, 27)


def fit_illumination(
    tiles: TileSet,
    channel: int,
    *,
    dark: float | np.ndarray,
    method: str = "log_irls",
    samples: int = 384,
    seed: int = 0,
    links: Sequence[Link] | None = None,
    search_voxels: tuple[float, float, float] = (20.0, 20.0, 20.0),
) -> Illumination:
    """Estimate gain and dark of one channel, for raw = gain * signal + dark.

    ``"log_irls"`` fits the logarithm of the gain in smooth functions of the camera plane to two kinds of
    equations, by iteratively reweighted least squares (Cauchy weights). *Seams*: where two tiles overlap
    they saw the same content, so that log(signal i) - log(signal j) = log gain(p_i) - log gain(p_j)
    whatever the content is; the tiles' displacements are measured for it. *Gradients*: differences of
    neighbouring blocks inside the tissue, which hold the gain's gradient plus the content's; borders of
    regions are outliers to them. Seams decide most; gradients what seams cannot see (patterns
    of the period of the tiles) or where there are no neighbours.

    Parameters
    ----------
    tiles
        Raw tiles; about ``samples`` planes are read, and the overlaps of up to 24 pairs.
    channel
        Index of the channel.
    dark
        Counts without light: a number or a plane (y, x); see `resolve_dark`.
    method
        ``"log_irls"``; ``"quantile"`` (75th percentile over the samples) or ``"mean"``, smoothed, for dense
        tissue; ``"none"`` for gain 1.
    samples
        Planes to read, stratified over tiles and depth.
    seed
        Of the choice of planes.
    links
        Measured pairs to compare overlaps of; None measures some of the candidates on this channel.
    search_voxels
        Search window of those measurements.

    Returns
    -------
    Illumination
        Its ``report`` holds ``method``, ``planes``, ``seams``, ``shading_before`` and ``shading_after``
        (RMS of the log shading that is left on data held out of the fit), ``accepted`` and ``reason``. A
        gain that leaves held-out data no flatter is rejected: gain 1, the dark kept.

    Raises
    ------
    ValueError
        When the method is unknown, or the dark is no plane of the tiles.
    """
    if method not in METHODS:
        raise ValueError(f"illumination knows the methods {', '.join(METHODS)}; found {method!r}")
    shape = (tiles.shape[1], tiles.shape[2])
    dark_plane = np.asarray(dark, np.float32)
    if dark_plane.shape not in ((), shape):
        raise ValueError(f"the dark must be a number or a plane {shape} (y, x); found {dark_plane.shape}")
    dark_plane = np.broadcast_to(dark_plane, shape).copy()
    report: dict[str, Any] = {"method": method, "planes": 0, "seams": 0, "accepted": False}
    if method == "none" or not tiles.tiles:
        return Illumination.identity(shape, dark_plane, **report, reason="no gain asked for")

    drawn = draw(tiles, channel, dark_plane, samples, np.random.default_rng(seed))
    useful = int((drawn.tissue.mean((1, 2)) > 0.02).sum()) * drawn.planes // len(drawn.tile)
    report.update(planes=drawn.planes, planes_with_tissue=useful)
    if useful < min(_LEAST_PLANES, len(tiles.tiles) * tiles.shape[0] // 2):
        return Illumination.identity(shape, dark_plane, **report, reason="too few planes with tissue")
    if links is None:
        links = _some_links(tiles, channel, dark_plane, search_voxels)
    good = [link for link in links if link.status == "ok"]
    seams = [seam(tiles, channel, dark_plane, link, drawn.noise, _SLABS_PER_SEAM) for link in good]
    seams_found = [s for s in seams if s is not None and s.weight.sum() > 100]
    report["seams"] = len(seams_found)

    before, after = _held_out(drawn, seams_found, method, shape)
    gain = basis.gain_plane(_fit(drawn, seams_found, method, shape), shape)
    report.update(shading_before=round(before, 6), shading_after=round(after, 6))
    report.update(gain_min=round(float(gain.min()), 6), gain_max=round(float(gain.max()), 6))
    if not after < before:
        reason = "held-out data are no flatter with it"
    elif gain.min() < _PLAUSIBLE[0] or gain.max() > _PLAUSIBLE[1]:
        reason = "the gain leaves what is plausible"
    else:
        report["accepted"] = True
        return Illumination(gain, dark_plane, {**report, "reason": ""})
    return Illumination.identity(shape, dark_plane, **report, reason=reason)


def _some_links(tiles: TileSet, channel: int, dark: np.ndarray, search) -> list[Link]:
    """Measure up to `_MOST_SEAMS` candidate pairs, spread evenly over the tile set."""
    pairs = candidate_links(tiles.positions(), tiles.shape, tiles.spacing)
    chosen = sorted({round(k) for k in np.linspace(0, len(pairs) - 1, min(len(pairs), _MOST_SEAMS))})
    plain = Illumination.identity((dark.shape[0], dark.shape[1]), dark)
    found = []
    for k in chosen:
        i, j = pairs[k]
        found.append(measure_link(tiles, i, j, channel, plain, search_voxels=search))
    return found


def _fit(samples: Samples, seams: Sequence[Seam], method: str, shape: tuple[int, int]) -> np.ndarray:
    """Coefficients of log gain, (27,)."""
    if method != "log_irls":
        return _fit_plane(samples, method, shape)
    groups = [(_GRADIENT_SHARE, g) for g in _gradients(samples, shape)]
    groups += [(1.0, _seam_equations(s, shape)) for s in seams]
    groups = [(importance, g) for importance, g in groups if g.weights.any()]
    degrees = np.array([p + q for p, q in basis.TERMS], float)
    coefficients: np.ndarray = np.zeros(len(degrees))
    for _ in range(_ITERATIONS):
        matrix: np.ndarray = np.diag(_RIDGE * degrees**2)
        vector = np.zeros(len(degrees))
        for importance, group in groups:
            residual = group.values - (group.terms @ coefficients).astype(np.float32)
            scale = _spread(residual, group.weights)
            weights = group.weights / (1 + (residual / (2 * scale)) ** 2)
            # However many rows a group has, it counts by its importance and the inverse of its variance.
            share = importance / (group.weights.sum() * scale**2)
            total = weights.sum(0, dtype=float)
            matrix += share * (group.terms.T * total) @ group.terms
            vector += share * group.terms.T @ (weights * group.values).sum(0, dtype=float)
        # Rounded, so that the order in which a BLAS adds up leaves no trace.
        coefficients = np.round(np.linalg.solve(matrix, vector), 9)
    return coefficients


def _spread(residual: np.ndarray, weights: np.ndarray) -> float:
    """Standard deviation of the residuals that count, from their median magnitude."""
    return 1.4826 * float(np.median(np.abs(residual[weights > 0]))) + 1e-4


def _gradients(samples: Samples, shape: tuple[int, int]) -> list[_Equations]:
    """Differences of neighbouring blocks along y and along x."""
    logs, tissue = samples.log(), samples.tissue
    terms = basis.evaluate(samples.y[:, None], samples.x[None], shape)
    groups = []
    for axis in (0, 1):
        values = np.diff(logs, axis=axis + 1)
        first, second = ((slice(None),) * (axis + 1) + (part,) for part in (slice(None, -1), slice(1, None)))
        weights = tissue[first] & tissue[second]
        rows = np.diff(terms, axis=axis)
        n = len(values)
        groups.append(
            _Equations(
                values.reshape(n, -1),
                weights.reshape(n, -1).astype(np.float32),
                rows.reshape(-1, rows.shape[-1]),
            )
        )
    return groups


def _seam_equations(seam: Seam, shape: tuple[int, int]) -> _Equations:
    yi, xi, yj, xj = seam.places
    terms = basis.evaluate(yi[:, None], xi[None], shape) - basis.evaluate(yj[:, None], xj[None], shape)
    n = len(seam.ratio)
    weights = seam.weight.reshape(n, -1).astype(np.float32)
    return _Equations(seam.ratio.reshape(n, -1), weights, terms.reshape(-1, terms.shape[-1]))


def _fit_plane(samples: Samples, method: str, shape: tuple[int, int]) -> np.ndarray:
    """Coefficients from one statistic of all samples per block."""
    kept = samples.signal[samples.tissue.any((1, 2))]
    plane = kept.mean(0, dtype=float) if method == "mean" else np.quantile(kept, 0.75, axis=0)
    terms = basis.evaluate(samples.y[:, None], samples.x[None], shape).reshape(plane.size, -1)
    terms = np.column_stack([terms, np.ones(plane.size)])
    target = np.log(np.maximum(plane, max(samples.noise, 1e-3))).ravel()
    return np.linalg.lstsq(terms, target, rcond=None)[0][:-1]


def _held_out(
    samples: Samples, seams: Sequence[Seam], method: str, shape: tuple[int, int]
) -> tuple[float, float]:
    """RMS log shading of held-out data before and after a correction fitted to the rest, over two folds.

    With seams: what is left of the log ratio of the same content, on the seams that the fit did not see.
    Without: the gain that the held-out tiles ask for by themselves.
    """
    owners = np.unique(samples.tile)
    part = np.isin(samples.tile, owners[::2]) if len(owners) > 1 else np.arange(len(samples.tile)) % 2 == 0
    before, after = [], []
    for fold in (0, 1):
        train = _subset(samples, part if fold == 0 else ~part)
        coefficients = _fit(train, seams[fold::2], method, shape)
        if len(seams) >= 2:
            for held in seams[1 - fold :: 2]:
                rows = _seam_equations(held, shape)
                before.append(_seam_shading(rows, np.zeros_like(coefficients)))
                after.append(_seam_shading(rows, coefficients))
        else:
            wanted = _fit(_subset(samples, ~part if fold == 0 else part), [], method, shape)
            y, x = (np.linspace(0, n - 1, 32) for n in shape)
            terms = basis.evaluate(y[:, None], x[None], shape).reshape(1024, -1)
            before.append(float((terms @ wanted).var()))
            after.append(float((terms @ (wanted - coefficients)).var()))
    return float(np.sqrt(np.mean(before))), float(np.sqrt(np.mean(after)))


def _seam_shading(rows: _Equations, coefficients: np.ndarray) -> float:
    """Mean square of the log ratio per block, each the robust mean over the slabs."""
    residual = rows.values - (rows.terms @ coefficients).astype(np.float32)
    count = rows.weights.sum(0)
    seen = count > 0.25 * count.max()
    middle = np.ma.median(np.ma.masked_array(residual, rows.weights == 0), axis=0).filled(0)
    return float(np.mean(middle[seen] ** 2))


def _subset(samples: Samples, chosen: np.ndarray) -> Samples:
    kept = samples.signal[chosen], samples.tissue[chosen], samples.tile[chosen]
    return Samples(*kept, samples.y, samples.x, samples.noise, samples.planes)
