"""Cross-validated steps of the native engine: what is there is confirmed, chance is not."""

import numpy as np
import pytest
from scipy import ndimage

from weft.grid import Grid
from weft.registration.backends.native import register
from weft.registration.backends.native_field import gaussian_taps, smooth
from weft.registration.backends.native_validation import (
    BLOCK,
    FIELD,
    FIELDS,
    confirmed_share,
    confirmed_texture,
    sum_fields,
    take_share,
)
from weft.registration.contract import Initial

SHAPE = (24, 24, 64)


def share_of(residuals, spans=None):
    """The shares for equations whose H is the unit matrix in every cell."""
    equations = np.zeros((9, *SHAPE), np.float32)
    equations[[0, 3, 5]] = 8
    equations[6:] = residuals
    if spans is None:
        spans = np.broadcast_to(np.array([0, SHAPE[2]]), (*SHAPE[:2], 2)).copy()
    whole, half = sum_fields(equations, spans, FIELD)
    taps = gaussian_taps(1.5)
    smooth(equations, taps)
    return confirmed_share(equations, spans, taps, whole, half, 0.01, FIELD)


def test_where_chance_was_followed_no_step_is_taken():
    """Left: a shift still to be found. Right: what is left of noise after u has followed it in the mean of few cells."""
    noise = np.random.default_rng(1).normal(0, 2.0, (3, *SHAPE)).astype(np.float32)
    followed = noise.copy()
    smooth(followed, gaussian_taps(1.0))
    residuals = noise - followed
    residuals[..., :32] = noise[..., :32] + 1.5
    share = share_of(residuals)
    assert share.shape == tuple(n // BLOCK for n in SHAPE)
    assert share[..., :5].min() == 1
    assert share[..., -3:].max() == 0


def test_chance_alone_confirms_nothing_and_contradicts_nothing():
    """Halves of noise that nothing has followed agree by chance only: that is the lowest share at which steps are full."""
    noise = np.random.default_rng(0).normal(0, 2.0, (3, *SHAPE))
    assert share_of(noise).min() > 0.6


def test_only_cells_with_equations_are_read():
    spans = np.zeros((*SHAPE[:2], 2), np.int64)
    spans[4:20, 4:20] = 8, 24
    residuals = np.full((3, *SHAPE), np.nan)
    residuals[:, 4:20, 4:20, 8:24] = 1.0
    equations = np.full((9, *SHAPE), np.nan, np.float32)
    equations[6:] = residuals
    whole, half = sum_fields(equations, spans, FIELD)
    assert half.sum() == pytest.approx(whole.sum())
    assert np.unique(whole).tolist() == [0, 8]
    assert np.unique(half).tolist() == [0, 16]


def test_shares_are_linear_between_blocks():
    blocks = tuple(n // BLOCK for n in SHAPE)
    z, y, x = np.meshgrid(*((np.arange(n) + 0.5) * BLOCK for n in blocks), indexing="ij")
    share = ((z + 2 * y + 3 * x) / 300).astype(np.float32)
    step = np.ones((3, *SHAPE), np.float32)
    take_share(step, share, BLOCK)
    coarse = np.ones((3, *(n // FIELD for n in SHAPE)), np.float32)
    take_share(coarse, share, FIELDS)
    np.testing.assert_allclose(
        coarse[:, 2:-2, 2:-2, 2:-2], step[:, 4:-4:2, 4:-4:2, 4:-4:2] + 1 / 100, atol=1e-5
    )
    z, y, x = np.meshgrid(*(np.clip(np.arange(n) + 0.5, 2, n - 2) for n in SHAPE), indexing="ij")
    np.testing.assert_allclose(step, np.broadcast_to((z + 2 * y + 3 * x) / 300, step.shape), atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 8, 13), (1, 9, 12)])
def test_odd_and_flat_grids_are_judged_as_whole_ones(shape):
    """A shift that every cell tells of is confirmed up to the last, single cell of a row."""
    equations = np.zeros((9, *shape), np.float32)
    equations[[0, 3, 5]] = 8
    equations[6:] = 0.5
    spans = np.broadcast_to(np.array([0, shape[2]]), (*shape[:2], 2)).copy()
    whole, half = sum_fields(equations, spans, FIELD)
    np.testing.assert_allclose(whole.sum((1, 2, 3)), 0.5 * np.prod(shape))
    taps = gaussian_taps([1.5 if n > 1 else 0.0 for n in shape])
    smooth(equations, taps)
    assert confirmed_share(equations, spans, taps, whole, half, 0.01, FIELD).min() == 1


def test_equations_of_fields_are_judged_as_those_of_cells_that_are_alike():
    """Eight cells alike say what their field does: the shares agree but for how a Gaussian is sampled."""
    rng = np.random.default_rng(2)
    coarse = rng.normal(0, 2.0, (3, *(n // 2 for n in SHAPE))).astype(np.float32)
    followed = coarse.copy()
    smooth(followed, gaussian_taps(0.7))
    coarse += np.float32(0.3) - followed
    of_cells = share_of(coarse.repeat(2, 1).repeat(2, 2).repeat(2, 3))
    equations = np.zeros((9, *coarse.shape[1:]), np.float32)
    equations[[0, 3, 5]] = 8 * 8
    equations[6:] = 8 * coarse
    spans = np.broadcast_to(np.array([0, coarse.shape[3]]), (*coarse.shape[1:3], 2)).copy()
    whole, half = sum_fields(equations, spans, 1)
    taps = gaussian_taps(1.5 / 2) / 2
    smooth(equations, taps)
    share = confirmed_share(equations, spans, taps, whole, half, 0.01, 1)
    assert 0.4 < share.mean() < 0.6
    assert abs(share - of_cells).mean() < 0.02


@pytest.mark.parametrize("edge", [FIELD, 1])
def test_texture_is_what_shares_are_averaged_over(edge):
    """Of three quarters of texture a third rests; a quarter has none, and what lies beyond the spans is anything."""
    shape = tuple(n * edge // FIELD for n in SHAPE)
    equations = np.full((9, *shape), np.nan, np.float32)
    width = 3 * shape[2] // 4
    equations[:6, ..., : width + 4] = 0
    equations[0, ..., :width] = 80
    spans = np.broadcast_to(np.array([0, width + 4]), (*shape[:2], 2)).copy()
    share = np.ones(tuple(n // BLOCK for n in SHAPE), np.float32)
    share[..., : share.shape[2] // 4] = 0
    assert confirmed_texture(share, equations, spans, edge) == pytest.approx(2 / 3, abs=1e-3)
    spans[..., 1] = 0
    assert confirmed_texture(share, equations, spans, edge) == 1


def texture(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Blurred noise of standard deviation 1 in 56^3 voxels."""
    found = ndimage.gaussian_filter(rng.normal(size=(56,) * 3), sigma)
    return found / found.std()


@pytest.mark.parametrize(("unrelated", "finest", "error"), [(0.0, 0, 0.05), (0.6, 1, 0.85)])
def test_the_finest_level_is_left_out_where_the_images_differ_in_texture(unrelated, finest, error):
    """Displacements of 2.6 voxels in the mean; of the latter images a quarter of the variance is each one's own."""
    rng = np.random.default_rng(0)
    moving = texture(rng, 1.5)
    u = np.stack([2 * texture(rng, 10.0) for _ in range(3)])
    fixed = ndimage.map_coordinates(moving, np.indices(moving.shape) + u, order=1, mode="nearest")
    images = [1000 + 100 * (v + unrelated * texture(rng, 1.5)).astype(np.float32) for v in (fixed, moving)]
    grid = Grid(moving.shape, (1.0,) * 3)
    found = register(images[0], grid, images[1], grid, Initial(np.eye(4)), (None, None), {})
    assert found.metrics[-1]["level"] == finest
    wanted = u.reshape(3, 28, 2, 28, 2, 28, 2).mean((2, 4, 6))
    inner = (slice(2, -2),) * 3
    assert np.sqrt(((found.displacement - wanted) ** 2).sum(0))[inner].mean() < error
