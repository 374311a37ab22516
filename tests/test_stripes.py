"""Stripes along the light sheet, laid on tissue that is known without them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from weft.illumination import Illumination, find_stripes, without_stripes
from weft.image import Tile, TileSet

SHAPE, DARK = (2, 200, 320), 100
WAY = {"axis": "x", "width": 20, "length": 80}


def tissue(seed: int) -> np.ndarray:
    """Tissue with a border, a fine texture and bright cells, float (z, y, x)."""
    rng = np.random.default_rng(seed)
    fine = ndimage.gaussian_filter(rng.standard_normal(SHAPE), (0, 2, 2))
    inside = np.hypot(*(np.indices(SHAPE)[1:] - np.array([110, 150])[:, None, None, None])) < 100
    cells = np.zeros(SHAPE)
    cells[tuple(rng.integers(0, n, 60) for n in SHAPE)] = 3e5
    return np.where(inside, 800 * np.exp(0.1 * fine / fine.std()), 10) + ndimage.gaussian_filter(
        cells, (0, 3, 3)
    )


def shadows(seed: int) -> np.ndarray:
    """Log brightness of shadows, (z, y, x): each begins somewhere along x and lasts to the end."""
    rng = np.random.default_rng(seed)
    _, y, x = np.indices(SHAPE, float)
    found = np.zeros(SHAPE)
    for _ in range(6):
        row, start, width = rng.uniform(30, 180), rng.uniform(-200, 150), rng.uniform(1.5, 3)
        depth = rng.uniform(0.3, 0.7)
        found -= depth * np.exp(-(((y - row) / width) ** 2) / 2) / (1 + np.exp(-(x - start) / 10))
    return found


def tile_set(raw: np.ndarray) -> TileSet:
    def read(tile, channel, region):
        return raw[region]

    return TileSet((Tile("T", (0.0, 0.0, 0.0)),), raw.shape, (1.0, 1.0, 1.0), raw.dtype, ("0",), read)


def light(shape) -> list[Illumination]:
    return [Illumination.identity(shape[1:], DARK)]


def error(voxels: np.ndarray, content: np.ndarray) -> float:
    """RMS log ratio inside of the tissue."""
    inside = ndimage.minimum_filter(content, (1, 5, 5)) > 300
    ratio = np.log(np.maximum(voxels, 1) / content)[inside]
    return float(np.sqrt(np.mean((ratio - np.median(ratio)) ** 2)))


@pytest.mark.parametrize("seed", [101, 202, 303])
def test_stripes_go_and_tissue_stays(seed):
    content, shade = tissue(seed), np.exp(shadows(seed))
    rng = np.random.default_rng(seed)
    striped, clean = (
        np.rint(rng.poisson(content * s) + DARK).astype(np.uint16) for s in (shade, np.ones(SHAPE))
    )
    before = error(striped.astype(float) - DARK, content)
    after = error(without_stripes(tile_set(striped), light(SHAPE), **WAY).read(0) - DARK, content)
    assert after < 0.65 * before  # of which 0.034 is photon noise
    # Cells, borders and texture are no stripes.
    harm = error(without_stripes(tile_set(clean), light(SHAPE), **WAY).read(0) - DARK, content)
    assert harm < error(clean.astype(float) - DARK, content) + 0.02


def test_any_part_of_a_tile_is_corrected_alike_and_either_axis():
    content, shade = tissue(0), np.exp(shadows(0))
    raw = np.rint(content * shade + DARK).astype(np.uint16)
    whole = without_stripes(tile_set(raw), light(SHAPE), **WAY)
    assert whole.dtype == np.float32 == whole.read(0).dtype
    part = (slice(1, 2), slice(33, 90), slice(70, 301))
    np.testing.assert_array_equal(whole.read(0, 0, part), whole.read(0)[part])
    turned = np.ascontiguousarray(raw.transpose(0, 2, 1))
    other = without_stripes(tile_set(turned), light(turned.shape), **{**WAY, "axis": "y"})
    np.testing.assert_array_equal(other.read(0).transpose(0, 2, 1), whole.read(0))
    with pytest.raises(ValueError, match="stripes run along y or x; found 'z'"):
        without_stripes(tile_set(raw), light(SHAPE), **{**WAY, "axis": "z"})


def test_an_empty_plane_has_no_stripes():
    assert not find_stripes(np.zeros(SHAPE[1:]), **WAY).any()
    assert not find_stripes(np.full(SHAPE[1:], 7.0), **WAY).any()
