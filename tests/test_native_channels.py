"""Several channels: each half of the block shows texture in another one."""

from __future__ import annotations

import numpy as np
import pytest
from test_native import NOTHING, Pair

from weft.registration.backends.native import register
from weft.registration.contract import Initial


@pytest.fixture(scope="module")
def halves():
    """A pair, and its channels: texture in the left or in the right half only, else a flat value."""
    pair = Pair(48, amplitude=6.0)
    _, _, x = np.meshgrid(*(np.arange(n) for n in pair.moving.shape), indexing="ij")
    left_moving = x < pair.moving.shape[2] // 2
    points = pair.fixed_grid.to_physical(np.indices(pair.fixed.shape).reshape(3, -1).T)
    u = np.moveaxis(pair.truth(pair.fixed_grid), 0, -1).reshape(-1, 3)
    moved = (points + u) @ pair.affine[:3, :3].T + pair.affine[:3, 3]
    left_fixed = (pair.moving_grid.to_index(moved)[:, 2] < pair.moving.shape[2] // 2 - 0.5).reshape(
        pair.fixed.shape
    )
    fixed = np.stack([np.where(side, pair.fixed, 1000) for side in (left_fixed, ~left_fixed)])
    moving = np.stack([np.where(side, pair.moving, 1000) for side in (left_moving, ~left_moving)])
    return pair, fixed.astype(np.uint16), moving.astype(np.uint16)


def error(pair, fixed, moving, **settings) -> float:
    found = register(
        fixed, pair.fixed_grid, moving, pair.moving_grid, Initial(pair.affine), NOTHING, settings, 0
    )
    assert found.minimal_jacobian > 0
    return float(pair.error(found).mean())


def test_each_half_is_moved_by_the_channel_that_shows_it(halves):
    pair, fixed, moving = halves
    both = error(pair, fixed, moving)
    alone = [error(pair, fixed[k], moving[k]) for k in (0, 1)]
    assert both < 0.3
    assert both < 0.6 * min(alone)
    # The order does not matter but for rounding, nor does a channel that shows nothing.
    assert error(pair, fixed[::-1], moving[::-1]) == pytest.approx(both, rel=0.02)
    flat = [np.concatenate([image, np.full_like(image[:1], 7)]) for image in (fixed, moving)]
    assert error(pair, *flat) == pytest.approx(both, rel=1e-6)


def test_weights_say_which_channel_counts(halves):
    """A foreign second channel: the less it counts, the less it harms."""
    pair, *_ = halves
    rng = np.random.default_rng(0)
    fixed = np.stack([pair.fixed, np.roll(pair.fixed, (2, -3, 2), (0, 1, 2))])
    moving = np.stack([pair.moving, pair.moving[::-1]]) + rng.normal(0, 5, (2, *pair.moving.shape))
    errors = [error(pair, fixed, moving, channel_weights=(1.0, weight)) for weight in (0.01, 3.0)]
    assert errors[0] < errors[1]


def test_one_channel_is_as_none(halves):
    pair, *_ = halves
    plain = pair.register(levels=(2, 1))
    one = pair.register(pair.fixed[None], pair.moving[None], levels=(2, 1))
    assert plain.displacement.tobytes() == one.displacement.tobytes()


def test_channels_that_do_not_go_together_are_refused(halves):
    pair, fixed, moving = halves
    for one, other, settings, word in [
        (fixed, moving[:1], {}, "as many channels as weights"),
        (fixed[0], moving, {}, "as many channels as weights"),
        (fixed, moving, {"channel_weights": (1.0,)}, "with 1 channel_weights"),
        (fixed, moving, {"channel_weights": (1.0, -1.0)}, "wanted numbers above 0"),
    ]:
        with pytest.raises(ValueError, match=word):
            error(pair, one, other, **settings)
