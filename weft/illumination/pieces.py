"""A length cut into pieces of about one size, and what is linear between their middles."""

from __future__ import annotations

import itertools

import numpy as np


def pieces(size: int, count: int) -> list[tuple[int, int]]:
    """First element of each of ``count`` pieces, and the one behind it."""
    edges = np.linspace(0, size, count + 1).astype(int)
    return [(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def between(places: np.ndarray, parts: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pieces whose middles lie before and after each place, and the weight, float32, of the latter.

    Beyond the outermost middles it is as at these.
    """
    middles = np.array([(start + stop - 1) / 2 for start, stop in parts])
    index = np.interp(places, middles, np.arange(len(middles)))
    low = np.minimum(index.astype(int), max(len(middles) - 2, 0))
    return low, np.minimum(low + 1, len(middles) - 1), (index - low).astype(np.float32)
