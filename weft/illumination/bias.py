"""What varies slowly over a whole stitched image: found on a coarse level, taken off where voxels are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from weft.grid import Grid
from weft.image import Image, Level

_ITERATIONS = (50, 50, 50, 50)
# Voxels dimmer than this part of the bright ones (99 %) are background, and none of N4's business.
_FOREGROUND = 0.1


@dataclass(frozen=True)
class Bias:
    """A slow gain of an image: raw = gain * signal.

    Parameters
    ----------
    log_gain
        float32, (z, y, x), on ``grid``; its mean over the foreground is 0.
    grid
        The coarse grid that it was found on, um.
    """

    log_gain: np.ndarray
    grid: Grid

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

    def save(self, path: str | Path) -> None:
        """Write it as a Zarr array with its grid."""
        array = zarr.create_array(str(path), data=self.log_gain, zarr_format=3, overwrite=True)
        array.attrs.update({"quantity": "log gain", "grid": self.grid.to_json()})

    @classmethod
    def load(cls, path: str | Path) -> Bias:
        """Read what `save` wrote."""
        array = zarr.open_array(str(path), mode="r")
        grid: Any = array.attrs["grid"]
        return cls(np.asarray(array[:], np.float32), Grid.from_json(grid))


def fit_bias(image: Image, spacing: float, channel: int = 0) -> Bias:
    """The bias field of a whole image, as N4 finds it (Tustison et al., N4ITK, IEEE TMI 2010) on a coarse level.

    What CloudReg does after stitching, but nothing is rewritten: the coarse logarithm is kept, and `corrected`
    divides by it where voxels are read.

    Parameters
    ----------
    image
        With a pyramid; the coarsest level whose voxels are no larger than ``spacing`` is used.
    spacing
        um; some 100 voxels per axis are plenty.
    channel
        Index of the channel.

    Raises
    ------
    ValueError
        When the image holds nothing.
    """
    import SimpleITK as sitk

    level = image.level_at(spacing)
    voxels = level.read(channel).astype(np.float32)
    bright = float(np.quantile(voxels, 0.99))
    inside = voxels > max(_FOREGROUND * bright, 0)
    if bright <= 0 or not inside.any():
        raise ValueError("the bias of an image is found on what is bright in it; this one is empty")
    volume = sitk.GetImageFromArray(np.where(inside, voxels, bright))
    volume.SetSpacing(tuple(float(v) for v in level.grid.spacing[::-1]))
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask.CopyInformation(volume)
    correct = sitk.N4BiasFieldCorrectionImageFilter()
    correct.SetNumberOfThreads(1)  # the same to the byte whatever the machine
    correct.SetMaximumNumberOfIterations(_ITERATIONS)
    correct.Execute(volume, mask)
    field = sitk.GetArrayFromImage(correct.GetLogBiasFieldAsImage(volume))
    return Bias((field - field[inside].mean(dtype=float)).astype(np.float32), level.grid)


def corrected(image: Image, bias: Bias) -> Image:
    """The image divided by the gain of ``bias``, lazily, at every level; float32, so that nothing is clipped."""
    levels = tuple(Level(_Divided(level.data, level.grid, bias), level.grid) for level in image.levels)
    return replace(image, levels=levels)


class _Divided:
    """An array (c, z, y, x) whose slices are divided by a gain as they are read."""

    def __init__(self, data: Any, grid: Grid, bias: Bias) -> None:
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
        gain = self._bias.gain(self._grid, (z.start, y.start, x.start), (len(z), len(y), len(x)))
        return np.asarray(self._data[(parts[0], *parts[1:])], np.float32) / gain
