"""The rate at which steps shrink, and steps that go on by it."""

import numpy as np
import pytest

from weft.registration.backends.native_course import MOST, Course

SHAPE = (3, 5, 6, 7)


def _vectors(seed):
    return np.random.default_rng(seed).normal(0, 0.1, SHAPE).astype(np.float32)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.45])
def test_steps_that_shrink_at_one_rate_are_extended_to_their_limit(rate):
    """Of d, d r, d r^2 .. all but the first are d r / (1 - r) together: the second step goes all the way."""
    course, first = Course(), _vectors(0)
    step = first.copy()
    assert course.rate(step) == 1
    course.follow(step, longest=9.0)
    np.testing.assert_array_equal(step, first)
    second = np.float32(rate) * first
    assert course.rate(second) == pytest.approx(rate, rel=1e-4)
    course.follow(second, longest=9.0)
    np.testing.assert_allclose(second, rate / (1 - rate) * first, rtol=1e-4, atol=1e-7)
    # What is left of a linear problem: nothing.
    third = np.zeros(SHAPE, np.float32)
    course.follow(third, longest=9.0)
    np.testing.assert_allclose(third, 0, atol=1e-6)


@pytest.mark.parametrize("rate", [0.9, 1.0, 1.2])
def test_slow_steps_are_extended_by_no_more_than_the_bound(rate):
    course, first = Course(), _vectors(0)
    course.follow(first.copy(), longest=9.0)
    step = np.float32(rate) * first
    course.follow(step, longest=9.0)
    further = MOST / (1 - MOST)
    np.testing.assert_allclose(step, (rate + further * rate) * first, rtol=1e-4, atol=1e-7)


def test_a_step_that_turns_elsewhere_is_taken_as_it_is():
    course, first = Course(), _vectors(0)
    course.follow(first.copy(), longest=9.0)
    back = -np.float32(0.5) * first
    assert course.rate(back) == 0
    taken = back.copy()
    course.follow(taken, longest=9.0)
    np.testing.assert_array_equal(taken, back)


def test_no_extended_vector_is_longer_than_the_limit():
    course, first = Course(), _vectors(0)
    course.follow(first.copy(), longest=9.0)
    step = np.float32(0.8) * first
    course.follow(step, longest=0.1)
    lengths = np.sqrt((step**2).sum(0))
    assert lengths.max() == pytest.approx(0.1, rel=1e-5)
    # Only lengths are cut, not directions.
    wanted = np.float32(1.6) * first
    scale = lengths / np.sqrt((wanted**2).sum(0))
    np.testing.assert_allclose(step, scale * wanted, rtol=1e-4, atol=1e-7)
