"""The steps of the native engine on one level (`refine`), by normal equations of single cells or of fields of 2^3 cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter

from weft.grid import Shape
from weft.registration.backends.native_field import (
    compose,
    gaussian_taps,
    rate,
    smooth,
    smooth_within,
    upsample,
    widths,
)
from weft.registration.backends.native_images import halve
from weft.registration.backends.native_levels import CELL, Level
from weft.registration.backends.native_prior import MOST_FALL, Uncertainty, narrowing, roughness
from weft.registration.backends.native_settings import NativeSettings
from weft.registration.backends.native_solver import solve_with_prior
from weft.registration.backends.native_tiles import spans_of_fields, widen
from weft.registration.backends.native_validation import (
    FIELD,
    FIELDS,
    SETTLED,
    SETTLED_GAIN,
    confirmed_share,
    confirmed_texture,
    sum_fields,
    take_share,
)
from weft.registration.threads import share_out
from weft.transforms.folds import find_folds, folds, minimal_jacobian

MOST_NOISE = 0.3  # more white noise than this widens no sums
UNCONFIRMED = 2e-3  # of the mean of rho^2: what a step gains, though little of the texture confirms it, where nothing finer is found
UNEXPLAINED = 0.22  # mean of 1 - rho^2, beside white noise, from which that is so
NARROWER = 0.7  # of the usual width: sums that then stand for those of the finest level
ELSEWHERE = 0.27  # at the finest level, a second step that is less than this part of the first is the last


class Scratch:
    """Memory that all levels use in turn: equations and a field."""

    def __init__(self, finest: Level) -> None:
        self._equations = np.empty(0, np.float32)
        self._vectors = np.empty(3 * math.prod(finest.field_grid.shape), np.float32)

    def equations(self, shape: Shape) -> np.ndarray:
        """(9, Z, Y, X) float32."""
        if self._equations.size < 9 * math.prod(shape):
            self._equations = np.empty(9 * math.prod(shape), np.float32)
        return self._equations[: 9 * math.prod(shape)].reshape(9, *shape)

    def vectors(self, shape: Shape) -> np.ndarray:
        """(3, Z, Y, X) float32."""
        return self._vectors[: 3 * math.prod(shape)].reshape(3, *shape)


@dataclass(frozen=True)
class _Sums:
    """How a level's equations are averaged: which there are, which the Gaussian reaches, and its taps.

    `in_fields`: they are those of fields of 2^3 cells, and steps are made for these and interpolated.
    """

    in_fields: bool
    spans: np.ndarray
    reached: np.ndarray
    taps: np.ndarray

    @property
    def edge(self) -> int:
        """Equations along the edge of a field."""
        return 1 if self.in_fields else FIELD


def refine(
    level: Level, u: np.ndarray, options: NativeSettings, scratch: Scratch
) -> tuple[np.ndarray, dict[str, Any], bool]:
    """Run one level from u.

    Returns
    -------
    u, record, resolved
        The new u, which may lie in the scratch; the level's record; and whether finer levels would find nothing more.
    """
    moved = scratch.vectors(level.field_grid.shape)
    # The more of the images is white noise, the stricter on windows that fit badly.
    robustness = options.at(options.robustness, level.number) / (1 + 20 * level.noise)
    stiffness = options.at(options.stiffness, level.number)
    tolerance = options.at(options.tolerance, level.number)
    finest = level.number == options.levels[-1]
    in_fields = finest
    sums: _Sums | None = None
    first: np.ndarray | None = None
    scores: list[float] = []
    weakest = 0.0
    settled = resolved = False
    iterations = limited = 0
    for _ in range(options.at(options.iterations, level.number)):
        equations = scratch.equations(equations_shape(level, in_fields))
        score, weight = level.pair.normal_equations(u, robustness, equations)
        if weight <= 0:
            break
        scores.append(score / weight)
        uncertainty = Uncertainty.measure(equations, level.pair.spans, u, 1 - scores[-1], level.noise)
        if sums is None:
            # On coarser levels u is still to be found: its bending so far does not tell how wide is best.
            wider = math.sqrt(1 + 3 * min(level.noise, MOST_NOISE))
            if finest:
                rough = roughness(equations, level.pair.spans, u)
                wider = uncertainty.widening() * narrowing(rough, 1 - scores[-1] - 2 * level.noise)
            if in_fields and uncertainty.bends_much:
                in_fields = False
                equations = scratch.equations(equations_shape(level, in_fields))
                level.pair.normal_equations(u, robustness, equations)
            sums = _sums(level, in_fields, options.at(options.sigma, level.number) * wider)
        elif settled and not resolved and level.number == options.levels[-1] + 1:
            resolved = _nothing_finer(scores, level.noise)
            if resolved:
                sums = _sums(level, in_fields, options.at(options.sigma, level.number) * wider * NARROWER)
        whole, half = sum_fields(equations, sums.spans, sums.edge)
        _smooth_each(equations, sums)
        alpha = max(uncertainty.prior_strength(stiffness), weakest)
        if iterations == 1 and not finest:
            # The first step may start from a u that does not bend at all.
            weakest = alpha / MOST_FALL
        own = options.damping + 6 * alpha
        share = confirmed_share(equations, sums.spans, sums.taps, whole, half, own, sums.edge)
        settled = confirmed_texture(share, equations, sums.spans, sums.edge) < SETTLED
        step = _step(sums, equations, u, alpha, options, moved)
        take_share(step, share, sums.edge * FIELDS)
        last = False
        if finest and iterations == 0:
            first = step.copy()
        elif first is not None:
            # What leads elsewhere than the first step is, at length, what the model does not know: one step stands for all of
            # it, as long as they would be together.
            shrinking, first = rate(step, first), None
            last = shrinking < ELSEWHERE
            if last:
                step *= np.float32(1 / (1 - shrinking))
        cuts = _compose_unfolded(u, step, moved, options.jacobian_floor)
        limited += cuts != 0
        if cuts is None:
            break
        u, moved = moved, u
        iterations += 1
        # The step was paid for when its equations were summed: it is taken, and then the level ends.
        if last or _ends(scores, settled, max(tolerance, UNCONFIRMED) if resolved else tolerance):
            break
    record = {
        "level": level.number,
        "iterations": iterations,
        "before": scores[0] if scores else 0.0,
        "after": scores[-1] if scores else 0.0,
        "limited": limited,
    }
    return u, record, resolved


def equations_shape(level: Level, in_fields: bool) -> Shape:
    """How many normal equations there are: one for each cell, or for each field of 2^3 cells."""
    z, y, x = level.field_grid.shape
    return (-(-z // 2), -(-y // 2), -(-x // 2)) if in_fields else (z, y, x)


def _nothing_finer(scores: Sequence[float], noise: float) -> bool:
    """Whether steps of a level that has settled gain as if there were much to find, where much stays unexplained.

    They fit what the images do not have in common, and so would those of finer levels.
    """
    gains = len(scores) > 2 and _gain(scores) > UNCONFIRMED
    return gains and 1 - scores[-1] - 2 * noise > UNEXPLAINED


def _ends(scores: Sequence[float], settled: bool, tolerance: float) -> bool:
    """Whether a level is over, by the scores that its steps began with."""
    return _gain(scores) < (max(tolerance, SETTLED_GAIN) if settled else tolerance)


def _gain(scores: Sequence[float]) -> float:
    """What the last step but one gained; without bound before there are two."""
    return scores[-1] - scores[-2] if len(scores) > 1 else math.inf


def _sums(level: Level, in_fields: bool, sigma: float) -> _Sums:
    """How equations are averaged by a Gaussian of `sigma` cells."""
    spans = spans_of_fields(level.pair.spans) if in_fields else level.pair.spans
    taps = _taps(sigma, level.grid.shape, in_fields)
    return _Sums(
        in_fields, spans, widen(spans, taps.shape[1] - 1, equations_shape(level, in_fields)[2]), taps
    )


def _step(
    sums: _Sums,
    equations: np.ndarray,
    u: np.ndarray,
    alpha: float,
    options: NativeSettings,
    scratch: np.ndarray,
) -> np.ndarray:
    """The step of `native_solver`, in place of equations; of fields in their own unit, two voxels of the level."""
    weights = (options.damping, alpha, options.tension, options.volume, options.step_limit)
    if sums.in_fields:
        u = np.stack([halve(component) for component in u])
        u *= np.float32(0.5)
        equations[6:] *= np.float32(0.5)
        scratch = np.empty_like(u)
        # Lengths are halved and the grid is twice as coarse: derivatives of first order are the same, those of second
        # order twice as large. All is divided by 4.
        weights = (
            options.damping,
            alpha / 16,
            4 * options.tension,
            options.volume / 4,
            options.step_limit / 2,
        )
    return solve_with_prior(equations, sums.reached, u, *weights, scratch)


def _taps(sigma: float, shape: Shape, in_fields: bool) -> np.ndarray:
    """The Gaussian over the equations; the solver expects sums over 2^3 voxels.

    Across a plane there is one, and a field, which has twice as many along each axis, brings the mean of its cells.
    """
    taps = gaussian_taps(widths(sigma / 2 if in_fields else sigma, shape))
    flat = np.asarray(shape) == 1
    taps[flat] *= 2
    if in_fields:
        taps[~flat] /= 2
    return taps


def _smooth_each(equations: np.ndarray, sums: _Sums) -> None:
    """Smooth each equation, in the block's threads."""

    def work(k: int) -> None:
        smooth_within(equations[k : k + 1], sums.taps, sums.spans, sums.reached)

    share_out(work, range(len(equations)))


def _compose_unfolded(u: np.ndarray, step: np.ndarray, out: np.ndarray, floor: float) -> int | None:
    """Compose u with a step, of cells or of fields, into `out`, and cut the step where the result would fold.

    Returns
    -------
    How often the step was cut; None when cutting did not help.
    """
    compose(u, step, out)
    if not folds(out, CELL, floor):
        return 0
    # A u that is worse than the floor already must not get worse still.
    limit = min(floor, minimal_jacobian(u, CELL))
    if step.shape != u.shape:
        step = upsample(step, u.shape[1:], 2.0)
    bad = np.zeros(u.shape[1:], np.bool_)
    for cuts in range(1, 4):
        bad |= find_folds(out, CELL, limit)
        # Zero within some samples of a fold (there u stays as it was, above the limit), smoothly up to 1.
        taps = gaussian_taps(0.5 * 2**cuts)
        near = maximum_filter(bad, size=2 * taps.shape[1] + 3).astype(np.float32)
        smooth(near[None], taps)
        step *= 1 - near
        compose(u, step, out)
        if not folds(out, CELL, limit):
            return cuts
    return None
