"""Stripes that absorbers leave along the light sheet: found on each plane, divided out where voxels are read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from weft.illumination.model import Illumination
from weft.illumination.pieces import between, pieces
from weft.image import Region, TileSet

AXES = ("y", "x")
# Pixels along a stripe that a median is taken of, spread evenly over a piece of it.
_SAMPLES = 64
# Signal below this part of the bright one (95 %) counts as it: its logarithm would be the noise's.
_FLOOR = 0.05
# Most rows have no stripe: what their medians scatter by, times this, is none.
_SURE = 1.0
_ROUNDS = 3
# A stripe is no darker or brighter than this factor: what is, is the specimen.
_MOST = 3.0
# Coarse fields that are kept: with 2048 rows and 8 pieces of a stripe, 64 KB each.
_KEPT = 1024


def find_stripes(signal: np.ndarray, *, axis: str, width: int, length: int) -> np.ndarray:
    """Log brightness of the stripes of a plane, as against what is around them.

    As in wavelet and Fourier filters (Muench et al., Stripe and ring artifact removal with combined wavelet-Fourier
    filtering, Optics Express 2009), what varies across a direction and hardly along it is taken for stripes. Here each
    pixel is compared with the mean logarithm of the tissue about it, across the stripes, and the median is taken along them:
    neither a bright structure nor the border of tissue, both of which a linear filter smears along its direction, is
    taken for a stripe. What is no larger than the scatter of all rows is left.

    Parameters
    ----------
    signal
        Raw less dark, (y, x); a gain that varies slowly does not matter.
    axis
        ``"y"`` or ``"x"``: along which the stripes run.
    width
        Of the broadest stripe, pixels.
    length
        Pixels along which a stripe hardly changes.

    Returns
    -------
    ndarray
        float32, (across, pieces): of each row or column across the stripes, on the middles of pieces of them.
    """
    plane = signal if axis == "x" else signal.T
    parts = _pieces(plane.shape[1], length)
    places = [np.unique(np.linspace(a, b - 1, _SAMPLES).astype(int)) for a, b in parts]
    some = plane[:, np.concatenate(places)].astype(np.float32)
    ends = np.cumsum([len(part) for part in places])[:-1]
    bright = float(np.quantile(some, 0.95))
    found = np.zeros((len(plane), len(parts)), np.float32)
    if bright <= 0:
        return found
    seen = some > _FLOOR * bright
    logs = np.where(seen, np.log(np.maximum(some, _FLOOR * bright)), 0)
    shares = np.maximum(_box(seen.astype(np.float32), width), 1e-6)
    compared = seen & (shares > 0.5)  # a cell alone is no tissue that a stripe could cross
    of_place = np.repeat(np.arange(len(parts)), [len(part) for part in places])
    for _ in range(_ROUNDS):  # what is around a stripe is known better once the stripe is gone
        left = np.where(seen, logs - found[:, of_place], 0)
        apart = np.where(compared, left - _box(left, width) / shares, np.inf)
        for piece, (values, count) in enumerate(
            zip(np.split(apart, ends, axis=1), np.split(compared, ends, axis=1), strict=True)
        ):
            found[:, piece] += _median(values, count.sum(1))
    scatter = 1.4826 * float(np.median(np.abs(found[found != 0]))) if found.any() else 0.0
    sure = 1 - (_SURE * scatter / np.maximum(np.abs(found), 1e-9)) ** 2
    most = np.log(_MOST)
    return np.clip(found * np.maximum(sure, 0), -most, most).astype(np.float32)


def _box(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over ``width`` rows to either side."""
    return ndimage.uniform_filter1d(values, 2 * width + 1, axis=0, mode="nearest")


def _median(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Median of the ``count`` finite values of each row; 0 where they are fewer than half."""
    middle = np.sort(values, axis=1)[np.arange(len(values)), np.maximum(count - 1, 0) // 2]
    return np.where(count >= values.shape[1] / 2, middle, 0).astype(np.float32)


def without_stripes(
    tiles: TileSet, illumination: Sequence[Illumination], *, axis: str, width: int, length: int
) -> TileSet:
    """The same tiles, float32, their stripes divided out of what is above the dark wherever voxels are read.

    Parameters
    ----------
    tiles
        Raw tiles. The stripes of a plane are found on the whole of it, once; they are kept for about a thousand planes.
    illumination
        Of each channel; its dark counts.
    axis, width, length
        As `find_stripes` takes them.

    Raises
    ------
    ValueError
        When the axis is unknown.
    """
    if axis not in AXES:
        raise ValueError(f"stripes run along {' or '.join(AXES)}; found {axis!r}")
    fields: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()
    lock = threading.Lock()

    def field(tile: int, channel: int, z: int) -> np.ndarray:
        key = tile, channel, z
        with lock:
            if key in fields:
                fields.move_to_end(key)
                return fields[key]
        plane = tiles.read(tile, channel, (slice(z, z + 1), slice(None), slice(None)))[0]
        signal = plane.astype(np.float32) - illumination[channel].dark
        found = find_stripes(signal, axis=axis, width=width, length=length)
        with lock:
            fields[key] = found
            while len(fields) > _KEPT:
                fields.popitem(last=False)
        return found

    def read(tile: int, channel: int, region: Region) -> np.ndarray:
        z, y, x = region
        dark = illumination[channel].dark[y, x]
        signal = tiles.read(tile, channel, region).astype(np.float32) - dark
        along, across = (x, y) if axis == "x" else (y, x)
        size = tiles.shape[2 if axis == "x" else 1]
        low, high, part = between(np.arange(along.start, along.stop), _pieces(size, length))
        for n, plane in enumerate(range(z.start, z.stop)):
            coarse = field(tile, channel, plane)[across]
            logs = coarse[:, low] * (1 - part) + coarse[:, high] * part
            signal[n] *= np.exp(-(logs if axis == "x" else logs.T))
        return signal + dark

    return replace(tiles, dtype=np.dtype(np.float32), reader=read)


def _pieces(size: int, length: int) -> list[tuple[int, int]]:
    """Where the pieces of a stripe of ``size`` pixels begin and end, each about ``length`` long."""
    return pieces(size, max(1, round(size / length)))
