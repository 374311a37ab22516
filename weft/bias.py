"""What varies slowly over a whole stitched image: found on a coarse level, taken off where voxels are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from weft import receipts
from weft.corrections import POLICIES, outcome
from weft.grid import Grid
from weft.image import Image, Level

_ARRAY = "log_gain"
# On each of N4's two levels of control points: with more levels it follows the content.
_ITERATIONS = (50, 50)
# Voxels dimmer than this part of the bright ones (99 %) are background, and none of N4's business.
_FOREGROUND = 0.1
# The image is halved into a checkerboard of this many fields along each axis.
_FIELDS = 4
# Halves that differ by more than this part of the field agree on nothing.
_DISAGREE = 0.5
# A gain outside these is none of a lamp.
_PLAUSIBLE = (0.1, 10.0)
_BIN = 0.05


@dataclass(frozen=True)
class Bias:
    """A slow gain of one channel of an image: raw = gain * signal.

    Parameters
    ----------
    log_gain
        float32, (z, y, x), on ``grid``; its mean over the foreground is 0.
    grid
        The coarse grid that it was found on, um.
    report
        What `fit_bias` measured.
    """

    log_gain: np.ndarray
    grid: Grid
    report: dict[str, Any] = field(default_factory=dict)

    def gain(self, grid: Grid, start: tuple[int, int, int], shape: tuple[int, int, int]) -> np.ndarray:
        """The gain, float32 (z, y, x), at ``shape`` voxels of ``grid`` from ``start`` on; linear between its own."""
        values = self.log_gain
        for axis in range(3):
            places = grid.origin[axis] + grid.spacing[axis] * (start[axis] + np.arange(shape[axis]))
            own = (places - self.grid.origin[axis]) / self.grid.spacing[axis]
            own = np.clip(own, 0, values.shape[axis] - 1)
            low = np.minimum(own.astype(int), max(values.shape[axis] - 2, 0))
            high = np.minimum(low + 1, values.shape[axis] - 1)
            part = (own - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
            values = np.take(values, low, axis) * (1 - part) + np.take(values, high, axis) * part
        return np.exp(values)


def fit_bias(image: Image, spacing: float | None = None, channel: int = 0, *, policy: str = "check") -> Bias:
    """The bias field of a whole image, as N4 finds it (Tustison et al., N4ITK, IEEE TMI 2010) on a coarse level.

    What CloudReg does after stitching, but nothing is rewritten: the coarse logarithm is kept, and `corrected`
    divides by it where voxels are read. N4 runs over two levels of control points; with more of them it follows the content.

    Parameters
    ----------
    image
        With a pyramid; the coarsest level whose voxels are no larger than ``spacing`` is used.
    spacing
        um; None takes the coarsest level. Some 50 voxels per axis are plenty.
    channel
        Index of the channel.
    policy
        ``"check"`` looks for the field in either half of a checkerboard, too, and gives gain 1 where both halves do not agree on one, where
        the intensities of a half are no more alike under the other's field, or where the gain is not plausible; ``"force"`` keeps it anyway.

    Returns
    -------
    Bias
        Its ``report`` holds ``size`` (RMS log gain), ``disagreement`` (the same of the halves' difference), ``entropy_before`` and
        ``entropy_after`` (of the log intensities of a half, under the field of the other one), ``accepted`` and ``reason``.

    Raises
    ------
    ValueError
        When the policy is unknown, the image holds labels, or holds nothing.
    """
    if policy not in POLICIES:
        raise ValueError(f"fit_bias knows the policies {', '.join(POLICIES)}; found {policy!r}")
    if image.labels:
        raise ValueError("a bias is found of intensities; found an image of labels")
    level = image.levels[-1] if spacing is None else image.level_at(spacing)
    voxels = level.read(channel).astype(np.float32)
    bright = float(np.quantile(voxels, 0.99))
    inside = voxels > max(_FOREGROUND * bright, 0)
    if bright <= 0 or not inside.any():
        raise ValueError("the bias of an image is found on what is bright in it; this one is empty")
    field = _n4(voxels, inside, level.grid)
    gain = np.exp(field[inside])
    report: dict[str, Any] = {
        "size": _rms(field[inside]),
        "least": float(gain.min()),
        "largest": float(gain.max()),
    }
    reason = _objection(voxels, inside, level.grid, report)
    report = {name: round(value, 6) for name, value in report.items()} | outcome(reason, policy)
    return Bias(field if report["accepted"] else np.zeros_like(field), level.grid, report)


def save_biases(store: str | Path, biases: Sequence[Bias]) -> dict[str, str]:
    """Write the bias of every channel of an image, all on one grid, into a folder: digests by file, for the receipt."""
    values = np.stack([bias.log_gain for bias in biases])
    array = zarr.create_array(str(Path(store) / _ARRAY), data=values, zarr_format=3)
    array.attrs.update({"quantity": "log gain", "grid": biases[0].grid.to_json()})
    return {_ARRAY: receipts.array_digest(values)}


def load_biases(store: str | Path) -> list[Bias]:
    """Read what `save_biases` wrote."""
    array = zarr.open_array(str(Path(store) / _ARRAY), mode="r")
    grid: Any = array.attrs["grid"]
    return [Bias(np.asarray(values, np.float32), Grid.from_json(grid)) for values in array[:]]  # type: ignore[union-attr]


def _objection(voxels: np.ndarray, inside: np.ndarray, grid: Grid, report: dict[str, Any]) -> str:
    """Why the field should not be used; empty when nothing speaks against it. Notes what was measured."""
    fields = [np.arange(n) * _FIELDS // n for n in voxels.shape]
    half = (fields[0][:, None, None] + fields[1][:, None] + fields[2]) % 2 == 0
    halves = inside & half, inside & ~half
    if not all(part.any() for part in halves):
        return "too little of the image is bright"
    found = [_n4(voxels, part, grid)[inside] for part in halves]
    apart = found[0] - found[1]
    report["disagreement"] = _rms(apart - apart.mean())
    logs = np.log(voxels[inside])
    first = half[inside]
    pairs = [(logs[~first], found[0][~first]), (logs[first], found[1][first])]
    report["entropy_before"] = float(np.mean([_entropy(values) for values, _ in pairs]))
    report["entropy_after"] = float(np.mean([_entropy(values - bias) for values, bias in pairs]))
    if not report["disagreement"] < _DISAGREE * report["size"]:
        return "two halves of the image do not agree on it"
    if not report["entropy_after"] < report["entropy_before"]:
        return "intensities that the fit did not see are no more alike with it"
    if report["least"] < _PLAUSIBLE[0] or report["largest"] > _PLAUSIBLE[1]:
        return "the gain leaves what is plausible"
    return ""


def _n4(voxels: np.ndarray, inside: np.ndarray, grid: Grid) -> np.ndarray:
    """Log gain, float32 (z, y, x), of mean 0 over ``inside``, from the voxels there."""
    import SimpleITK as sitk

    volume = sitk.GetImageFromArray(np.where(inside, voxels, voxels[inside].mean()))
    volume.SetSpacing(tuple(float(v) for v in grid.spacing[::-1]))
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask.CopyInformation(volume)
    correct = sitk.N4BiasFieldCorrectionImageFilter()
    correct.SetNumberOfThreads(1)  # the same to the byte whatever the machine
    correct.SetMaximumNumberOfIterations(_ITERATIONS)
    correct.Execute(volume, mask)
    found = sitk.GetArrayFromImage(correct.GetLogBiasFieldAsImage(volume))
    return (found - found[inside].mean(dtype=float)).astype(np.float32)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values.astype(float) ** 2)))


def _entropy(values: np.ndarray) -> float:
    """Of the histogram of log intensities, nats: what N4 lowers."""
    places = np.floor((values - values.min()) / _BIN).astype(int)
    share = np.bincount(places) / len(values)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def corrected(image: Image, bias: Bias | Sequence[Bias]) -> Image:
    """The image divided by the gain of ``bias``, lazily, at every level; float32, so that nothing is clipped.

    Parameters
    ----------
    image
        Its voxels are read as they are asked for.
    bias
        One for all channels, or one for each.
    """
    each = [bias] * len(image.channels) if isinstance(bias, Bias) else list(bias)
    if len(each) != len(image.channels):
        raise ValueError(f"a bias is wanted for each of {len(image.channels)} channels; found {len(each)}")
    levels = tuple(Level(_Divided(level.data, level.grid, each), level.grid) for level in image.levels)
    return replace(image, levels=levels)


class _Divided:
    """An array (c, z, y, x) whose slices are divided by a gain as they are read."""

    def __init__(self, data: Any, grid: Grid, bias: Sequence[Bias]) -> None:
        self._data, self._grid, self._bias = data, grid, bias
        self.shape, self.ndim, self.dtype = data.shape, 4, np.dtype(np.float32)

    def __getitem__(self, key: Any) -> np.ndarray:
        key = key if isinstance(key, tuple) else (key,)
        parts = [key[k] if k < len(key) else slice(None) for k in range(4)]
        if not all(isinstance(part, slice) for part in parts[1:]):
            raise TypeError("a corrected image is read by slices of z, y and x")
        ranges = [range(*part.indices(n)) for part, n in zip(parts[1:], self.shape[1:], strict=True)]
        if any(r.step != 1 for r in ranges):
            raise ValueError("a corrected image is read by slices of steps of 1")
        z, y, x = ranges
        where = (z.start, y.start, x.start), (len(z), len(y), len(x))
        voxels = np.asarray(self._data[(parts[0], *parts[1:])], np.float32)
        if not isinstance(parts[0], slice):
            return voxels / self._bias[parts[0]].gain(self._grid, *where)
        return voxels / np.stack([bias.gain(self._grid, *where) for bias in self._bias[parts[0]]])
