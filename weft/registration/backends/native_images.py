"""Images as the native engine compares them: contrast, one scale for all blocks, pyramid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numba import njit

from weft.grid import Shape, Triple
from weft.pyramid import downsample, halving
from weft.registration.backends.native_jit import JIT

Contrast = Literal["linear", "root", "log"]
WINDOWS = 6_000  # of an image, or of all its parts, that are looked at for local variance and noise
FAINT = 0.002  # of the local variance: windows with less count alike as background


@dataclass(frozen=True)
class Statistics:
    """What brings the blocks of one image to one scale (the fields of `intensity_statistics`)."""

    contrast: Contrast
    unit: float
    mean: float
    std: float
    local_variance: tuple[float, ...]

    @classmethod
    def from_mapping(cls, value: Mapping[str, Any]) -> Statistics:
        """The statistics that `intensity_statistics` wrote; a missing field is a ValueError."""
        missing = sorted(set(cls.__dataclass_fields__) - set(value))
        if missing:
            raise ValueError(
                f"intensity statistics lack {', '.join(missing)}; write them by intensity_statistics"
            )
        return cls(
            value["contrast"],
            float(value["unit"]),
            float(value["mean"]),
            float(value["std"]),
            tuple(float(v) for v in value["local_variance"]),
        )

    @property
    def empty(self) -> bool:
        """True for an image that is constant, or of zeros where its logarithm is wanted."""
        return self.std <= 0 or (self.contrast == "log" and self.unit <= 0)

    def variance_and_noise(
        self, level: np.ndarray, weights: np.ndarray | None, halvings: int
    ) -> tuple[float, float, float]:
        """Local variance of the scaled image after so many halvings, and how much of it is white noise.

        The variance is the known one, else the level's own. The noise is that of the level, where `weights` (of
        its shape) are above 0: from the second difference (1, -2, 1) along every axis in turn, which hardly sees what
        is smooth on the scale of a voxel (Immerkaer, Fast noise variance estimation, 1996), over windows of 5^3: its
        share of their variance, 0 to 1, by windows that count by their variance; and its variance in the background,
        by windows that count by the reciprocal of theirs.
        """
        v, n = _local_variance(level, weights)
        noise = min(1.0, _ratio((v * n).sum(), (v * v).sum()))
        if weights is not None:
            v, n = _local_variance(level)
        variance = _ratio((v * v).sum(), v.sum())
        faint = 1 / (v + FAINT * variance) if variance > 0 else v
        background = _ratio((faint * n).sum(), faint.sum())
        if self.local_variance:
            variance = self.local_variance[min(halvings, len(self.local_variance) - 1)]
        return variance, noise, background


def intensity_statistics(
    images: np.ndarray | Sequence[np.ndarray],
    contrast: Contrast = "root",
    halvings: int = 4,
    spacing: Triple = (1.0, 1.0, 1.0),
) -> dict[str, Any]:
    """Scale and noise floor of an image, for all its blocks: settings["intensity"] of the native engine.

    Without them every block is brought to its own mean and standard deviation, and a nearly empty one is
    registered by its noise.

    Parameters
    ----------
    images
        The image at the resolution registered at, (z, y, x), or a sequence of parts of it (parts are
        walked through twice, one at a time).
    contrast
        ``linear`` compares the values, ``root`` sqrt(mean of the image + value) (which brings the noise of
        bright tissue to one level and leaves that of the dark background below it), ``log``
        log(1 + value / mean of the image). Negative values count as 0 in
        the last two.
    halvings
        Levels of the pyramid below the image's own resolution to measure.
    spacing
        Voxel size, um: the levels halve the axes along which it is finest.

    Returns
    -------
    Plain numbers, fit for JSON: ``contrast``, ``unit`` (the mean), ``mean`` and ``std`` (of the compared
    values), ``local_variance`` (per level: mean variance in windows of 5^3, weighted by itself, in units
    of ``std``^2).

    """
    parts = [images] if isinstance(images, np.ndarray) else images
    known = block_statistics(parts, contrast)
    if known.empty:
        return asdict(replace(known, local_variance=(0.0,)))
    sums = np.zeros((halvings + 1, 2))
    for part in parts:
        level, size = scale(part, known), spacing
        for k in range(halvings + 1):
            v, _ = _local_variance(level, most=WINDOWS // len(parts))
            sums[k] += v.sum(), (v * v).sum()
            factors = halving(level.shape, size)
            level = reduced(level, factors)
            size = (size[0] * factors[0], size[1] * factors[1], size[2] * factors[2])
    variance = [_ratio(v2, v1) for v1, v2 in sums]
    for k in range(1, len(variance)):
        variance[k] = variance[k] or variance[k - 1]  # a level too small for a window
    return asdict(replace(known, local_variance=tuple(variance)))


def block_statistics(parts: Sequence[np.ndarray], contrast: Contrast) -> Statistics:
    """The statistics of an image given in parts, without its local variance."""
    moments = [_moments(_some(part)) for part in parts]
    count = sum(m[0] for m in moments)
    unit = sum(m[1] for m in moments) / max(count, 1)
    mean, square = unit, sum(m[2] for m in moments) / max(count, 1)
    if contrast != "linear":
        draft = Statistics(contrast, unit, 0.0, 1.0, ())
        if draft.empty:
            return replace(draft, std=0.0)
        moments = [_moments(scale(_some(part), draft)) for part in parts]
        mean, square = (sum(m[k] for m in moments) / count for k in (1, 2))
    variance = square - mean * mean
    # A constant image leaves rounding errors: one part in 10^5 of the mean is no contrast.
    std = float(np.sqrt(variance)) if variance > (1e-5 * mean) ** 2 else 0.0
    return Statistics(contrast, unit, mean, std, ())


def _some(image: np.ndarray) -> np.ndarray:
    """Every second plane and row, float32: enough for a mean."""
    return np.ascontiguousarray(image[::2, ::2], np.float32)


def scale(image: np.ndarray, statistics: Statistics) -> np.ndarray:
    """The values to compare, float32: contrast applied, mean 0 and standard deviation 1 by `statistics`."""
    out = np.empty(image.shape, np.float32)
    for plane, values in zip(out, image, strict=True):
        plane[...] = values
        _scale_plane(plane, statistics)
    return out


def _scale_plane(out: np.ndarray, statistics: Statistics) -> None:
    """`scale` of one plane, in place: small enough for the cache."""
    mean, factor = np.float32(statistics.mean), np.float32(1 / statistics.std)
    if statistics.contrast == "root":
        _scale_roots(out, np.float32(max(statistics.unit, 0.0)), mean, factor)
        return
    if statistics.contrast == "log":
        np.maximum(out, 0, out=out)
        out *= np.float32(1 / statistics.unit)
        out += np.float32(1)
        np.log(out, out=out)
    out -= mean
    out *= factor


@njit(**JIT)
def _scale_roots(out, unit, mean, factor):
    """(sqrt(unit + value) - mean) factor; negative values count as 0."""
    for y in range(out.shape[0]):
        row = out[y]
        for x in range(row.shape[0]):
            row[x] = (np.sqrt(max(row[x], np.float32(0)) + unit) - mean) * factor


def reduced(image: np.ndarray, factors: Shape) -> np.ndarray:
    """The next level of a (z, y, x) float32 image: means of voxels, 1 or 2 along each axis, edges repeated."""
    if all(factor == 2 or n == 1 for factor, n in zip(factors, image.shape, strict=True)):
        return halve(image)
    return downsample(image, factors)


@njit(**JIT)
def halve(a):
    """(Z, Y, X) float32 -> ceil(half), means of 2^3 voxels (edge repeated)."""
    Z, Y, X = a.shape
    out = np.empty(((Z + 1) // 2, (Y + 1) // 2, (X + 1) // 2), np.float32)
    eighth = np.float32(0.125)
    quarter = np.float32(0.25)
    for z in range(out.shape[0]):
        z0 = 2 * z
        z1 = min(z0 + 1, Z - 1)
        for y in range(out.shape[1]):
            y0 = 2 * y
            y1 = min(y0 + 1, Y - 1)
            p = a[z0, y0]
            q = a[z0, y1]
            r = a[z1, y0]
            s = a[z1, y1]
            o = out[z, y]
            for x in range(X // 2):
                i = 2 * x
                j = i + 1
                o[x] = eighth * (p[i] + p[j] + q[i] + q[j] + r[i] + r[j] + s[i] + s[j])
            if X & 1:
                o[X // 2] = quarter * (p[X - 1] + q[X - 1] + r[X - 1] + s[X - 1])
    return out


@njit(**JIT)
def _moments(a):
    """Count, sum and sum of squares."""
    total = 0.0
    total2 = 0.0
    for z in range(a.shape[0]):
        for y in range(a.shape[1]):
            row = 0.0
            row2 = 0.0
            for x in range(a.shape[2]):
                v = float(a[z, y, x])
                row += v
                row2 += v * v
            total += row
            total2 += row2
    return a.size, total, total2


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b > 0 else 0.0


def _local_variance(
    image: np.ndarray, weights: np.ndarray | None = None, most: int = WINDOWS
) -> tuple[np.ndarray, np.ndarray]:
    """Variance and white noise of about `most` windows of 5^3 voxels, two float64 vectors.

    An axis shorter than a window is padded by its edges to hold one.
    """
    differences = np.array([(0, 1, 0) if n == 1 else (1, -2, 1) for n in image.shape], np.float32)
    differences /= np.sqrt((differences**2).sum(1, keepdims=True))
    pad = [(2, 2) if n < 5 else (0, 0) for n in image.shape]
    if max(pad) > (0, 0):
        image = np.pad(image, pad, mode="edge")
        weights = None if weights is None else np.pad(weights, pad, mode="edge")
    inner = [n - 4 for n in image.shape]
    stride = max(1, round((math.prod(inner) / most) ** (1 / max(sum(n > 1 for n in inner), 1))))
    out = np.empty((2, math.prod(-(-n // stride) for n in inner)))
    if weights is None:
        weights = np.ones((1, 1, 1), np.float32)
    count = _visit_windows(image, np.broadcast_to(weights, image.shape), stride, differences, out)
    return out[0, :count], out[1, :count]


@njit(**JIT)
def _visit_windows(a, weights, stride, differences, out):
    """Write v and n of the windows of 5^3 at every `stride`-th voxel whose weight is above 0 to `out`; returns their number.

    v is the window's variance and n that of its white noise, as the product of the `differences` (3, 3) of each axis tells
    at its centre.
    """
    Z, Y, X = a.shape
    count = 0
    for z in range(2, Z - 2, stride):
        for y in range(2, Y - 2, stride):
            for x in range(2, X - 2, stride):
                if weights[z, y, x] <= 0:
                    continue
                s = np.float32(0)
                q = np.float32(0)
                for k in range(z - 2, z + 3):
                    for j in range(y - 2, y + 3):
                        for i in range(x - 2, x + 3):
                            s += a[k, j, i]
                            q += a[k, j, i] * a[k, j, i]
                s /= np.float32(125)
                h = np.float32(0)
                for k in range(3):
                    for j in range(3):
                        w = differences[0, k] * differences[1, j]
                        for i in range(3):
                            h += w * differences[2, i] * a[z + k - 1, y + j - 1, x + i - 1]
                out[0, count] = max(q / np.float32(125) - s * s, np.float32(0))
                out[1, count] = h * h
                count += 1
    return count
