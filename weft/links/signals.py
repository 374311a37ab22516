"""What a link looks at: the crops that may overlap, read, corrected, on a logarithmic scale."""

from __future__ import annotations

import numpy as np

from weft.image import Region
from weft.pyramid import downsample

# Voxels that are read at a time where only their bins are kept.
_AT_ONCE = 1 << 23


def crops(expected: np.ndarray, shape: np.ndarray, reach: np.ndarray) -> tuple[Region | None, Region | None]:
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


def most_structured(tiles, pair, channel, crop_i, crop_j, expected, reach, settings):
    """Cut crops that are too large to their most structured part along z.

    The part is found on a few planes of tile i: the depth whose planes vary most.
    """
    area = np.prod([s.stop - s.start for s in crop_i[1:]])
    depth = crop_i[0].stop - crop_i[0].start
    keep = max(int(settings.most_read // area), 4 * int(reach[0]) + 16)
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


def log_signals(tiles, pair, channel, illumination, crops, factors=(1, 1, 1)) -> list[np.ndarray]:
    """log(signal + c) of both crops, float32, binned by ``factors``, with one floor and one c for both.

    c is the level of bright voxels, or four times the noise where that is more: the logarithm then
    compresses the brightest, while dim background and the edge of the tissue do not outweigh its texture
    (measured: a c near the noise doubles the error of links that hold an edge).
    """
    signals = corrected_signals(tiles, pair, channel, illumination, crops, factors)
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


def corrected_signals(tiles, pair, channel, illumination, crops, factors=(1, 1, 1)) -> list[np.ndarray]:
    """The signal of both crops, float32, binned by ``factors``."""
    return [
        _signal(tiles, tile, channel, illumination, crop, factors)
        for tile, crop in zip(pair, crops, strict=True)
    ]


def _signal(tiles, tile, channel, illumination, crop, factors) -> np.ndarray:
    """The corrected signal of a crop, binned; read some planes at a time, so that only the bins are held."""
    depth, rows, columns = crop
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    planes = max(1, _AT_ONCE // area // factors[0]) * factors[0]
    if max(factors) == 1:
        planes = depth.stop - depth.start
    parts = []
    for start in range(depth.start, depth.stop, planes):
        raw = tiles.read(tile, channel, (slice(start, min(start + planes, depth.stop)), rows, columns))
        part = illumination.correct(raw, (rows, columns)) if illumination else raw.astype(np.float32)
        parts.append(downsample(part, factors) if max(factors) > 1 else part)
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _thin(volume: np.ndarray, last: int = 4) -> np.ndarray:
    """About 1e5 voxels of a volume, for statistics; whole lines with ``last=1``."""
    step = max(1, round((volume.size / last / 1e5) ** 0.5))
    return volume[::step, ::step, ::last]


def noise_variance(log_signal: np.ndarray, boxes: tuple[int, int]) -> float:
    """Variance that white noise alone has after a band-pass of two boxes, from second differences along x."""
    lines = _thin(log_signal, last=1)
    if lines.shape[-1] < 3:
        return 0.0
    curvature = lines[..., :-2] - 2 * lines[..., 1:-1] + lines[..., 2:]
    sigma = 1.4826 * float(np.median(np.abs(curvature))) / 6**0.5
    small, large = (np.minimum(box, log_signal.shape).prod() for box in boxes)
    return sigma**2 * float(1 / small - 1 / large)
