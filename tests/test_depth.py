"""Illumination that changes with depth, on tiles made with a known one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from weft.illumination import fit_depth, fit_illumination, without_depth
from weft.image import Tile, TileSet

DARK, COUNT, SHAPE = 100.0, 16, (12, 48, 48)


def scan(change: float) -> tuple[TileSet, np.ndarray, np.ndarray]:
    """Tiles side by side, their content (n, z, y, x), and the gain of every plane, which tilts from one side to the other."""
    rng = np.random.default_rng(7)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    gain = np.exp(-0.4 * (y**2 + x**2) + change * z * x)
    fine = ndimage.gaussian_filter(rng.standard_normal((COUNT, *SHAPE)), (0, 1, 1, 1))
    content = rng.uniform(500, 2500, (COUNT, 1, 1, 1)) * np.exp(0.3 * fine / fine.std())
    raw = np.rint(rng.poisson(content * gain) + DARK).astype(np.uint16)

    def read(tile, channel, region):
        return raw[tile][region]

    tiles = tuple(Tile(f"T{n}", (0.0, 0.0, 100.0 * n)) for n in range(COUNT))
    return TileSet(tiles, SHAPE, (1.0, 1.0, 1.0), raw.dtype, ("0",), read), content, gain


def shading(tiles: TileSet, light, content: np.ndarray) -> float:
    """RMS over places and planes of the log ratio of signal and content, over all tiles."""
    ratio = [np.log(light.correct(tiles.read(n)) / content[n]) for n in range(COUNT)]
    left = ndimage.uniform_filter(np.mean(ratio, axis=0), (1, 9, 9))
    return float((left - left.mean()).std())


@pytest.mark.parametrize("change", [0.3, 0.0])
def test_slabs_get_the_gain_that_they_ask_for(change):
    tiles, content, _ = scan(change)
    whole = fit_illumination(tiles, 0, dark=DARK, method="log_irls")
    relief, reports = fit_depth(tiles, 0, whole, 3, method="log_irls")
    assert relief.shape == (3, *SHAPE[1:])
    flat = without_depth(tiles, [whole.dark], [relief])
    before, after = shading(tiles, whole, content), shading(flat, whole, content)
    part = (slice(2, 7), slice(5, 40), slice(8, 9))
    np.testing.assert_array_equal(flat.read(3, 0, part), flat.read(3)[part])
    if change:
        assert before > 0.08
        assert after < 0.4 * before
        assert all(report["accepted"] for report in reports)
    else:  # nothing to gain, and nothing lost
        assert after < before + 0.002
