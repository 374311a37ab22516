"""The course of the native engine's steps on a level: the rate at which they shrink, and steps that go on by it.

Equations smoothed by a Gaussian give detail of the displacement only in part; the rest follows from step to step, each a part
r of the one before. Then the steps still to come add up to r / (1 - r) of the step before: a step is extended by as much,
with r measured on this step and the last (Anderson, 1965, of depth one; Walker and Ni, 2011). Where r is small, the steps
before have found what these equations can find, and those that follow lead elsewhere.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from weft.registration.backends.native_jit import JIT
from weft.registration.backends.native_solver import combine

MOST = 0.5  # rate: slower ones are the same in few steps, and a course may bend


class Course:
    """The steps of one level so far, each (3, Z, Y, X) float32, by what the equations asked for and by what was taken."""

    def __init__(self) -> None:
        self._asked: np.ndarray | None = None
        self._taken: np.ndarray | None = None

    def rate(self, step: np.ndarray) -> float:
        """What part of the step before a step is: 0 where they do not agree, 1 where it is longer, or the first."""
        if self._asked is None:
            return 1.0
        own, both, before = _products(step, self._asked)
        return min(max((both - own) / (before - both), 0.0), 1.0) if before > both else 1.0

    def follow(self, step: np.ndarray, longest: float) -> None:
        """Extend a step, in place, by what the course so far promises; no vector gets longer than `longest`."""
        asked = step.copy()
        if self._asked is not None:
            rate = min(self.rate(step), MOST)
            further = np.float32(rate / (1 - rate))
            combine(1 + further, -further, further, step, self._asked, self._taken, np.float32(longest))
        self._asked, self._taken = asked, step.copy()


@njit(**JIT)
def _products(a, b):
    """a.a, a.b and b.b of two fields of vectors; always summed in the same order, unlike those of a library with threads."""
    own = both = before = 0.0
    for c in range(a.shape[0]):
        for z in range(a.shape[1]):
            for y in range(a.shape[2]):
                p = a[c, z, y]
                q = b[c, z, y]
                row_own = row_both = row_before = np.float32(0)
                for x in range(a.shape[3]):
                    row_own += p[x] * p[x]
                    row_both += p[x] * q[x]
                    row_before += q[x] * q[x]
                own += float(row_own)
                both += float(row_both)
                before += float(row_before)
    return own, both, before
