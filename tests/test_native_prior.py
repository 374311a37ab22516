"""What the native engine measures on a displacement: how rough it is, and what follows for the width of its sums."""

from __future__ import annotations

import numpy as np
import pytest

from weft.registration.backends.native_prior import narrowing, roughness

CELLS = (32, 40, 48)


def waves(length: float) -> np.ndarray:
    """A displacement (3, *CELLS) of waves of so many cells along each axis."""
    z, y, x = np.meshgrid(*(2 * np.pi * np.arange(n) / length for n in CELLS), indexing="ij")
    return np.stack([np.sin(z + 0.3), np.sin(y + 1.1), np.sin(x + 2.0)]).astype(np.float32)


def equations() -> tuple[np.ndarray, np.ndarray]:
    """Texture everywhere but in the first rows of cells, which nothing is known of."""
    spans = np.zeros((*CELLS[:2], 2), np.int64)
    spans[:, 8:] = 0, CELLS[2]
    fields = np.full((9, *(n // 2 for n in CELLS)), np.nan, np.float32)
    fields[:, :, 4:] = 50.0
    return fields, spans


@pytest.mark.parametrize("length", [32.0, 16.0, 10.0])
def test_roughness_is_that_of_averaged_waves(length):
    """The Laplacian of a wave of length l, of samples h apart, is (2 - 2 cos(2 pi h / l)) of it; means of 2 weaken it by a cosine."""
    fields, spans = equations()
    k = 2 * np.pi / length
    wanted = 16 * ((2 - 2 * np.cos(2 * k)) / ((2 - 2 * np.cos(4 * k)) * np.cos(k))) ** 2
    # Free edges bend less, and waves do not end with the volume.
    assert roughness(fields, spans, waves(length)) == pytest.approx(wanted, rel=0.12)


def test_detail_makes_a_displacement_rough():
    fields, spans = equations()
    detail = np.random.default_rng(4).normal(0, 1, (3, *CELLS)).astype(np.float32)
    smooth = 20 * waves(40.0)
    assert roughness(fields, spans, smooth) < 1.3
    assert roughness(fields, spans, detail) > 20
    assert roughness(fields, spans, smooth + detail) > 2
    # Where nothing is known, it does not count.
    elsewhere = smooth.copy()
    elsewhere[:, :, :4] += detail[:, :, :4]
    assert roughness(fields, spans, elsewhere) == pytest.approx(roughness(fields, spans, smooth), rel=0.02)
    assert roughness(fields, spans, np.zeros_like(smooth)) == 1.0


def test_only_what_is_rough_and_not_explained_narrows_sums():
    assert narrowing(1.5, 0.5) == narrowing(5.0, 0.1) == 1.0
    assert 0.5 < narrowing(1.8, 0.5) < narrowing(1.8, 0.25) < 1.0
    assert narrowing(50.0, 0.5) == 0.5
