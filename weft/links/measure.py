"""Measure one link: band-passed phase correlation in a window, scored and refined by NCC."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import scipy.fft
from scipy import ndimage

from weft.image import Region, TileSet
from weft.links.kernels import band_pass, ncc_at
from weft.links.model import Link, LinkSettings, Status
from weft.pyramid import downsample

if TYPE_CHECKING:  # the illumination room measures links itself
    from weft.illumination.model import Illumination

_STEPS = np.array([step for step in itertools.product((-1, 0, 1), repeat=3) if sum(map(abs, step)) == 1])

# Search at half resolution along axes that are long enough to have plenty of voxels left.
_BIN_FROM = 48

# A rival peak of less than this part of the best one's significance rests on too few voxels to count.
_SLIVER = 0.6

# A rival peak of less than this part of the best one's NCC is not looked at again.
_RIVAL = 0.5


def measure_link(
    tiles: TileSet,
    i: int,
    j: int,
    channel: int,
    illumination: Illumination | None = None,
    *,
    search_voxels: tuple[float, float, float] | None = None,
    search_um: tuple[float, float, float] | None = None,
    positions: np.ndarray | None = None,
    settings: LinkSettings | None = None,
) -> Link:
    """Measure where tile ``j`` lies relative to tile ``i``.

    The parts of both tiles that may overlap within the search window are read, corrected, brought to a
    logarithmic scale (so that a gain becomes an offset) and band-passed (which removes it). The highest
    peaks of their phase correlation inside the window are scored by the NCC of the band-passed overlap;
    the best is followed uphill at full resolution and interpolated by a parabola per axis.

    Parameters
    ----------
    tiles
        Raw tiles.
    i, j
        Places of the two tiles in the set.
    channel
        Channel to measure on.
    illumination
        Gain and dark of the channel, or None.
    search_voxels, search_um
        Half-width of the window around the stage's displacement, (z, y, x); give exactly one.
    positions
        Where to search around, (n, 3) um, instead of the stage positions.
    settings
        Thresholds; None takes the defaults.

    Returns
    -------
    Link
        With its status; the stage's displacement where nothing was measured.

    Raises
    ------
    ValueError
        When not exactly one search window is given, it is negative, or i and j are the same tile.
    """
    settings = settings or LinkSettings()
    if (search_voxels is None) == (search_um is None):
        raise ValueError("measure_link takes a search window in voxels or in um, and just one of them")
    if i == j:
        raise ValueError(f"a link needs two tiles; found tile {i} twice")
    spacing = np.asarray(tiles.spacing)
    window = np.asarray(search_voxels, float) if search_um is None else np.asarray(search_um, float) / spacing
    if window.shape != (3,) or not (window >= 0).all():
        raise ValueError(
            f"the search window must be three lengths (z, y, x) of at least zero; found {window}"
        )
    reach = np.ceil(window).astype(int)

    stage = tiles.positions() if positions is None else np.asarray(positions, float)
    expected = (stage[j] - stage[i]) / spacing
    shape = np.asarray(tiles.shape)
    crop_i, crop_j = _crops(expected, shape, reach)
    if crop_i is None or crop_j is None:
        return _no_link(i, j, stage, "empty")
    crop_i, crop_j = _most_structured(tiles, (i, j), channel, crop_i, crop_j, expected, reach, settings)

    a, b = _log_signals(tiles, (i, j), channel, illumination, (crop_i, crop_j))
    noise = [_noise_variance(v, settings) for v in (a, b)]
    a, b = (band_pass(v, settings.small_box, settings.large_box) for v in (a, b))
    if any(v.var() <= settings.content * n + 1e-10 for v, n in zip((a, b), noise, strict=True)):
        return _no_link(i, j, stage, "empty")

    # From here on, a shift is where voxel 0 of crop b lies in crop a.
    base = np.array([p.start - q.start for p, q in zip(crop_i, crop_j, strict=True)])
    center = expected - base
    shift, rival, ratio = _search(a, b, center, window, settings)
    if shift is None:
        return _no_link(i, j, stage, "low_ncc")
    least = settings.min_shared * min(a.size, b.size)
    shift, ncc = _climb(a, b, shift, least)
    part, top = _parabola(a, b, shift, ncc)
    displacement = shift + part + base
    distinct, second = False, None
    if rival is not None and ratio > _RIVAL:
        # At full resolution, where the binning does not favour either.
        rival, rival_ncc = _climb(a, b, rival, least)
        part, rival_top = _parabola(a, b, rival, rival_ncc)
        second = (rival + part + base) * spacing
        ratio = float(np.clip(rival_top / max(top, 1e-6), 0, 1))
        distinct = (1 - min(top, 1.0) ** 2) < settings.distinct * (1 - min(rival_top, 1.0) ** 2)
    taken = float((np.abs(displacement - expected) / np.maximum(window, 0.5 / settings.border)).max())
    overlap = float(np.prod(np.clip(shape - np.abs(displacement), 0, None) / shape))
    status: Status = "ok"
    if ncc < settings.min_ncc:
        status = "low_ncc"
    elif ratio > settings.max_peak_ratio and not distinct:
        status = "ambiguous"
    elif taken > settings.border:
        status = "window_border"
    elif overlap < settings.min_overlap:
        status = "small_overlap"
    confidence = float(ncc * (1.0 - ratio)) if status == "ok" else 0.0
    return Link(
        i, j, displacement * spacing, float(ncc), ratio, overlap, status, confidence, min(taken, 1.0), second
    )


def _no_link(i: int, j: int, stage: np.ndarray, status: Status) -> Link:
    return Link(i, j, stage[j] - stage[i], 0.0, 1.0, 0.0, status, 0.0)


def _crops(expected: np.ndarray, shape: np.ndarray, reach: np.ndarray) -> tuple[Region | None, Region | None]:
    """The parts of tiles i and j that can overlap for any displacement within ``reach`` of the expected."""
    d = np.round(expected).astype(int)
    starts = (np.maximum(0, d - reach), np.maximum(0, -d - reach))
    stops = (np.minimum(shape, d + shape + reach), np.minimum(shape, -d + shape + reach))
    if any((stop - start < 2).any() and (shape > 1).all() for start, stop in zip(starts, stops, strict=True)):
        return None, None
    return tuple(  # type: ignore[return-value]
        tuple(slice(int(p), int(q)) for p, q in zip(start, stop, strict=True))
        for start, stop in zip(starts, stops, strict=True)
    )


def _most_structured(tiles, pair, channel, crop_i, crop_j, expected, reach, settings):
    """Cut crops that are too large to their most structured part along z.

    The part is found on a few planes of tile i: the depth whose planes vary most.
    """
    area = np.prod([s.stop - s.start for s in crop_i[1:]])
    depth = crop_i[0].stop - crop_i[0].start
    keep = max(int(settings.max_voxels // area), 4 * int(reach[0]) + 16)
    if keep >= depth:
        return crop_i, crop_j
    probes = np.unique(np.linspace(crop_i[0].start, crop_i[0].stop - 1, 32).astype(int))
    spread = []
    for z in probes:
        plane = tiles.read(pair[0], channel, (slice(z, z + 1), *crop_i[1:]))
        plane = downsample(plane.astype(np.float32), (1, 4, 4))
        spread.append(float(np.std(np.log(np.maximum(plane, 1.0)))))
    centre = [
        np.mean([s for z, s in zip(probes, spread, strict=True) if abs(z - c) <= keep / 2]) for c in probes
    ]
    middle = int(probes[int(np.argmax(centre))])
    start = int(np.clip(middle - keep // 2, crop_i[0].start, crop_i[0].stop - keep))
    shift = round(float(expected[0]))
    low = max(crop_j[0].start, start - shift - int(reach[0]))
    high = min(crop_j[0].stop, start + keep - shift + int(reach[0]))
    return (slice(start, start + keep), *crop_i[1:]), (slice(low, high), *crop_j[1:])


def _log_signals(tiles, pair, channel, illumination, crops) -> list[np.ndarray]:
    """log(signal + c) of both crops, float32, with one floor and one c for both.

    c is the level of bright voxels, or four times the noise where that is more: the logarithm then
    compresses the brightest, while dim background and the edge of the tissue do not outweigh its texture
    (measured: a c near the noise doubles the error of links that hold an edge).
    """
    signals = []
    for tile, crop in zip(pair, crops, strict=True):
        raw = tiles.read(tile, channel, crop)
        signals.append(illumination.correct(raw, crop[1:]) if illumination else raw.astype(np.float32))
    sample = np.concatenate([_thin(v).ravel() for v in signals])
    floor = np.quantile(sample, 0.005)
    steps = np.concatenate([np.abs(np.diff(_thin(v, last=1), axis=-1)).ravel() for v in signals])
    softening = np.float32(max(np.quantile(sample, 0.98) - floor, 4 * np.median(steps), 1e-6))
    for v in signals:
        np.maximum(v, floor, out=v)
        v += softening - floor
        np.log(v, out=v)
        v -= v.mean()
    return signals


def _thin(volume: np.ndarray, last: int = 4) -> np.ndarray:
    """About 1e5 voxels of a volume, for statistics; whole lines with ``last=1``."""
    step = max(1, round((volume.size / last / 1e5) ** 0.5))
    return volume[::step, ::step, ::last]


def _noise_variance(log_signal: np.ndarray, settings: LinkSettings) -> float:
    """Variance that white noise alone has after the band-pass, from second differences along x."""
    lines = _thin(log_signal, last=1)
    if lines.shape[-1] < 3:
        return 0.0
    curvature = lines[..., :-2] - 2 * lines[..., 1:-1] + lines[..., 2:]
    sigma = 1.4826 * float(np.median(np.abs(curvature))) / 6**0.5
    small, large = (
        np.minimum(box, log_signal.shape).prod() for box in (settings.small_box, settings.large_box)
    )
    return sigma**2 * float(1 / small - 1 / large)


def _search(a, b, center, window, settings) -> tuple[np.ndarray | None, np.ndarray | None, float]:
    """The best shift (whole voxels) inside the window, its best rival, and their NCCs' ratio."""
    factors = np.where((np.minimum(a.shape, b.shape) >= _BIN_FROM) & (window >= 4), 2, 1)
    a, b = downsample(a, tuple(factors)), downsample(b, tuple(factors))
    center, window = center / factors, window / factors
    low, high = np.floor(center - window).astype(int), np.ceil(center + window).astype(int)
    shape = [
        scipy.fft.next_fast_len(int(max(p, q) + max(abs(lo), abs(hi))), real=True)
        for p, q, lo, hi in zip(a.shape, b.shape, low, high, strict=True)
    ]
    spectrum = scipy.fft.rfftn(a, shape) * np.conj(scipy.fft.rfftn(b, shape))
    magnitude = np.abs(spectrum)
    spectrum /= magnitude + 1e-6 * magnitude.max()
    correlation = scipy.fft.irfftn(spectrum, shape)
    allowed = [np.arange(lo, hi + 1) for lo, hi in zip(low, high, strict=True)]
    correlation = correlation[np.ix_(*(g % n for g, n in zip(allowed, shape, strict=True)))]
    tops = np.argwhere(ndimage.maximum_filter(correlation, 5) == correlation)
    order = np.argsort(-correlation[tuple(tops.T)], kind="stable")[: settings.peaks]
    least = settings.min_shared * min(a.size, b.size)
    scored = []
    for top in tops[order]:
        shift = top + low
        ncc, shared = ncc_at(a, b, shift)
        if shared >= least:
            scored.append((_significance(ncc, shared), ncc, shift))
    if not scored:
        return None, None, 1.0
    _, best, shift = max(scored, key=lambda entry: entry[0])
    if best <= 0:
        return shift * factors, None, 1.0
    summit, best = _climb(a, b, shift, least)
    height = _significance(best, ncc_at(a, b, summit)[1])
    rival, ratio = None, 0.0
    for _, _, start in scored:
        # A shoulder of the best peak (as along an edge) leads up to it; what stays apart is a rival,
        # unless its NCC rests on a sliver.
        other, ncc = _climb(a, b, start, least)
        apart = np.abs(other - summit).max() > 2 and (other >= low).all() and (other <= high).all()
        if apart and ncc / best > ratio and _significance(ncc, ncc_at(a, b, other)[1]) > _SLIVER * height:
            rival, ratio = other * factors, min(1.0, float(ncc / best))
    return summit * factors, rival, ratio


def _significance(ncc: float, shared: int) -> float:
    """Fisher's z of a correlation over so many voxels, up to a constant: a high NCC of few is worth less."""
    return float(np.arctanh(np.clip(ncc, -0.999, 0.999)) * np.sqrt(shared))


def _climb(a, b, shift, least: float, limit: int = 12) -> tuple[np.ndarray, float]:
    """Follow the NCC uphill, one voxel along one axis at a time, where ``least`` voxels are shared."""

    def height(place) -> float:
        ncc, shared = ncc_at(a, b, np.array(place))
        return ncc if shared >= least else -1.0

    seen = {tuple(shift): height(shift)}
    for _ in range(limit):
        around = [tuple(shift + step) for step in _STEPS]
        for place in around:
            if place not in seen:
                seen[place] = height(place)
        best = max(around, key=seen.__getitem__)
        if seen[best] <= seen[tuple(shift)]:
            break
        shift = np.array(best)
    return shift, seen[tuple(shift)]


def _parabola(a, b, shift, ncc: float) -> tuple[np.ndarray, float]:
    """Sub-voxel part of the peak, (3,), from the NCC one voxel to either side, and the NCC at its top."""
    part, top = np.zeros(3), ncc
    for axis in range(3):
        step = np.zeros(3, int)
        step[axis] = 1
        before, after = ncc_at(a, b, shift - step)[0], ncc_at(a, b, shift + step)[0]
        curvature = before - 2 * ncc + after
        if curvature < 0 and a.shape[axis] > 2:
            part[axis] = np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)
            top -= 0.25 * (before - after) * part[axis]
    return part, float(top)
