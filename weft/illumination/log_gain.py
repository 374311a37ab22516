"""The logarithm of a gain, as estimators hand it on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import ndimage

from weft.illumination import basis


class LogGain(Protocol):
    """A function of the camera plane; a constant added to it means nothing."""

    def at(self, y: np.ndarray, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Its value at places on the camera of ``shape``, pixels (broadcast against each other)."""


@dataclass(frozen=True)
class Smooth:
    """A sum of the 27 smooth functions of `basis`."""

    coefficients: np.ndarray

    def at(self, y: np.ndarray, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """See `LogGain`."""
        return basis.evaluate(y, x, shape) @ self.coefficients


@dataclass(frozen=True)
class OnBlocks:
    """Values (h, w) at the centres of blocks, linear between them and constant beyond."""

    values: np.ndarray
    y: np.ndarray
    x: np.ndarray

    def at(self, y: np.ndarray, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """See `LogGain`."""
        rows = np.interp(y, self.y, np.arange(len(self.y)))
        columns = np.interp(x, self.x, np.arange(len(self.x)))
        places = np.stack(np.broadcast_arrays(rows, columns))
        return ndimage.map_coordinates(self.values, places, order=1, mode="nearest")


def gain_plane(log_gain: LogGain, shape: tuple[int, int]) -> np.ndarray:
    """The gain, float32 (y, x) of mean 1."""
    columns = np.arange(shape[1])
    plane = np.stack([log_gain.at(np.array(y), columns, shape) for y in range(shape[0])])
    gain = np.exp(plane - plane.mean())
    return (gain / gain.mean()).astype(np.float32)
