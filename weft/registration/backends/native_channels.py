"""Several channels of a pair that the native engine compares together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weft.registration.backends.native_pair import Pair
from weft.registration.backends.native_tiles import hull


@dataclass
class Channels:
    """The pairs of all channels of one level, to be used as one `Pair`.

    Their normal equations are added: each place is moved by the channels that show something there.

    Parameters
    ----------
    pairs
        One per channel, of the same shapes.
    weights
        How much each counts.
    """

    pairs: Sequence[Pair]
    weights: Sequence[float]

    @property
    def spans(self) -> np.ndarray:
        """The cells that some channel is compared in; see `Pair.visit`."""
        return hull([pair.spans for pair in self.pairs])

    def normal_equations(
        self, u: np.ndarray, robustness: float, equations: np.ndarray
    ) -> tuple[float, float]:
        """The weighted sum of the normal equations of all channels; see `Pair.normal_equations`."""
        sums = np.zeros(2)
        equations.fill(0.0)
        part = np.empty_like(equations)
        for pair, weight in zip(self.pairs, self.weights, strict=True):
            part.fill(0.0)
            sums += weight * np.array(pair.normal_equations(u, robustness, part))
            part *= np.float32(weight)
            equations += part
        return float(sums[0]), float(sums[1])

    def similarity(self, start: np.ndarray, u: np.ndarray, scratch: np.ndarray) -> tuple[float, float]:
        """The weighted mean of the channels' similarities under two displacements; see `Pair.similarity`."""
        found = [pair.similarity(start, u, scratch) for pair in self.pairs]
        before, after = np.average(found, axis=0, weights=self.weights)
        return float(before), float(after)
