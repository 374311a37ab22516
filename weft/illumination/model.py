"""What is known of a microscope's illumination: raw = gain * signal + dark."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Illumination:
    """Gain and dark of one channel; the same for every plane of every tile.

    Parameters
    ----------
    gain
        float32, (y, x), mean 1: what the signal was multiplied by.
    dark
        float32, (y, x), counts: what the camera adds.
    report
        Plain values: method, planes used, residual shading before and after, accepted or not and why.
    """

    gain: np.ndarray
    dark: np.ndarray
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.gain.shape != self.dark.shape or self.gain.ndim != 2:
            raise ValueError(
                f"gain and dark must be planes (y, x) of one shape; found {self.gain.shape} and {self.dark.shape}"
            )
        if not (np.isfinite(self.gain).all() and self.gain.min() > 0 and np.isfinite(self.dark).all()):
            raise ValueError("the gain must be finite and positive everywhere, and the dark finite")

    @classmethod
    def identity(cls, shape: tuple[int, int], dark: float | np.ndarray = 0.0, **report: Any) -> Illumination:
        """Gain 1 everywhere, for tiles of ``shape`` (y, x)."""
        plane = np.broadcast_to(np.asarray(dark, np.float32), shape).copy()
        return cls(np.ones(shape, np.float32), plane, report)

    def correct(self, voxels: np.ndarray, region: tuple[slice, slice] | None = None) -> np.ndarray:
        """The signal, float32 (z, y, x), of raw voxels (z, y, x) read from ``region`` (y, x) of a tile."""
        crop = region or (slice(None), slice(None))
        return (voxels.astype(np.float32) - self.dark[crop]) / self.gain[crop]
