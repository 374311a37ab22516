"""The prior of the native engine: what holds the *total* displacement smooth and its volumes plausible.

The engine looks for the u of least

    sum of the local fits' weighted squared residuals  +  alpha (|Laplacian u|^2 + tension |grad u|^2)  +  volume g^4 / 4,

with g = (J - 1 / J) / 2 of the Jacobian determinant J of x + u(x): log J to the third order, and without bound where J nears 0.
Its Gauss-Newton step v solves (H + damping I + alpha K + D'wD) v = r - alpha K u - D'wg, with H and r the
smoothed normal equations, K = L^2 + tension L, L the negative 7-point Laplacian on the displacement grid with free edges,
D the divergence and w = volume g^2. That a step changes log J by its divergence holds because steps are composed: u <- v + u o (id + v).
Where the images say much, H outweighs the rest; where they hold noise or nothing, K continues u from around.
As the prior acts on u and not on the step alone, steps come to rest: how far noise is fitted in the end is a matter of
alpha and hardly of the number of steps.

How strong: for normal noise of variance s^2 and normal curvatures of variance t^2 the most probable u has
alpha ~ s^2 / t^2 (an empirical prior, as Szeliski, 1990, for surfaces). Both are measured as the level goes
on: t^2 is the mean squared Laplacian of the u found so far, s^2 the share of the images' variance that is white noise and a part
of the share that is not explained, 1 - rho^2. Noise counts more than what is not explained otherwise, as it leaves nothing to match.
A u too smooth so far makes for a small t^2, which would keep it smooth; the square root weakens that loop.
A u that runs away where nothing matches (tissue that one image lacks) bends ever more, and would weaken what holds it: on coarser levels
alpha falls by `MOST_FALL` at most from a level's second step on.
At the finest level, where u is known but for detail, the same two say how widely the equations are best averaged: the smoother
the displacement, and the less the images tell of it, the wider.
The quartic term hardly acts on usual changes of volume: unlike a stronger alpha it bounds the few that are implausible
and leaves the rest free (after Yanovsky et al., 2007, who penalise log J; here its tails).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.ndimage import laplace

from weft.registration.backends.native_images import halve
from weft.registration.backends.native_jit import INLINED, JIT
from weft.registration.backends.native_tiles import spans_of_fields

MISFIT = 0.2  # how far variance that is not explained counts as noise
STRONGEST = 2e-2  # the most that alpha can be
MOST_FALL = 2.0
MOST_WIDENING = 1.6
MUCH = 1.3
SMOOTH = 1.67  # roughness up to which sums are as wide as usual
COMPLETE, INCOMPLETE = 0.2, 0.35  # of what is not explained: below the one none, from the other on all of it
LEAST = 0.5  # the narrowest that roughness makes them, of that
TEXTURED = 0.05  # trace of the normal equations, per voxel, at which a cell counts half for the curvature


@dataclass(frozen=True)
class Uncertainty:
    """What the images leave open and how much the displacement bends: it sets the prior's strength and the width of the sums.

    Parameters
    ----------
    variance
        s^2 = 8 noise^2 + MISFIT (1 - rho^2): of what the local fits leave.
    bending
        t^2: 8 times the mean squared Laplacian of u, per component, over the cells with texture (a cell has 8
        voxels); 0 where u does not bend.
    """

    variance: float
    bending: float

    @classmethod
    def measure(
        cls, equations: np.ndarray, spans: np.ndarray, u: np.ndarray, unexplained: float, noise: float
    ) -> Uncertainty:
        """Measure both.

        Parameters
        ----------
        equations
            (9, Z, Y, X) float32 of `native_pass.normal_equations`, of cells or of fields of 2^3 cells: without texture
            they do not count for t^2.
        spans
            (Z, Y, 2) int64: first and last + 1 cell of each row that they are known of; the others have none.
        u
            (3, Z, Y, X) float32, voxels.
        unexplained
            Mean of 1 - rho^2.
        noise
            Share of white noise in both images' local variance (`native_images.Statistics`).
        """
        bent, weight = _curvature(equations, spans, u)
        return cls(8 * noise**2 + MISFIT * unexplained, 8 * bent / (3 * weight) if weight > 0 else 0.0)

    def prior_strength(self, stiffness: float) -> float:
        """alpha = stiffness s / t, at most `STRONGEST`."""
        if self.bending <= 0:
            return STRONGEST
        return min(stiffness * math.sqrt(self.variance / self.bending), STRONGEST)

    @property
    def bends_much(self) -> bool:
        """Whether the equations are best averaged over less than the usual width (`widening`, unbounded, is .96 at `MUCH`)."""
        return self.bending > MUCH * self.variance

    def widening(self) -> float:
        """How many times wider the sums over the equations are best made: (s^2 / t^2)^(1/7), from 1 to `MOST_WIDENING`.

        Averaging over a width h costs a variance of s^2 / h^3 and, where u bends, a bias of h^4 t^2: together
        they are least at the seventh root (bandwidth of a local average in three dimensions: Fan and Gijbels, 1996).
        Narrower sums, where u bends much, would fit what is not explained besides noise.
        """
        if self.bending <= 0:
            return 1.0
        return min(max((self.variance / self.bending) ** (1 / 7), 1.0), MOST_WIDENING)


def roughness(equations: np.ndarray, spans: np.ndarray, u: np.ndarray) -> float:
    """How much of the bending of u is detail: 1 where u is smooth on the scale of a field, and the more the rougher.

    A smooth displacement bends 4 times as much from sample to sample where these lie twice as far apart. The mean squared
    Laplacian of u averaged over fields of 2^3 cells is compared with that over 4^3, a 16th of it.

    Parameters
    ----------
    equations
        (9, ceil(Z / 2), ceil(Y / 2), ceil(X / 2)) float32, of fields of 2^3 cells: without texture they do not count.
    spans
        (Z, Y, 2) int64: first and last + 1 cell of each row that they are known of.
    u
        (3, Z, Y, X) float32.
    """
    known = spans_of_fields(spans)
    x = np.arange(equations.shape[3])
    inside = (known[..., :1] <= x) & (x < known[..., 1:])
    # Fields that are not known hold anything.
    trace = np.zeros(equations.shape[1:], np.float32)
    for c in (0, 3, 5):
        np.add(trace, equations[c], out=trace, where=inside)
    texture = trace / (trace + np.float32(64 * TEXTURED))
    bent = []
    for weight in (texture, halve(texture)):
        u = np.stack([halve(component) for component in u])
        squares = sum(laplace(component, mode="nearest") ** 2 for component in u)
        # At an edge it is a first difference, which grows more slowly with the distance.
        core = tuple(slice(1, -1) if n > 1 else slice(None) for n in weight.shape)
        total = float(weight[core].sum())
        bent.append(float((weight * squares)[core].sum()) / total if total > 0 else 0.0)
    return 16 * bent[0] / bent[1] if bent[1] > 0 else 1.0


def narrowing(rough: float, unexplained: float) -> float:
    """How many times narrower the sums over the equations of a rough displacement are made: 1 down to `LEAST`.

    Where u has detail on the scale of single fields, sums as wide as usual would keep steps from adding to it. `SMOOTH` lies
    above all but one phantom of smooth displacements (1.25 to 1.68, with noise, missing tissue or inverted contrast), and below what
    two imaging rounds of cells (2.05) and a brain on its atlas (1.78) ask for. Where little is left to explain, no detail is missing,
    and a rough u is so by chance, or at the edges of a small block.

    Parameters
    ----------
    rough
        Of `roughness`.
    unexplained
        Mean of 1 - rho^2, without what white noise in both images makes of it.
    """
    missing = min(max((unexplained - COMPLETE) / (INCOMPLETE - COMPLETE), 0.0), 1.0)
    return max((SMOOTH / max(rough, SMOOTH)) ** (6 * missing), LEAST)


@njit(**INLINED)
def _bend(u, c, z, y, out):
    """out (X) = row (z, y) of L u[c]: each sample minus its neighbours; a missing one counts as equal."""
    _, Z, Y, X = u.shape
    p = u[c, z, y]
    a = u[c, max(z - 1, 0), y]
    b = u[c, min(z + 1, Z - 1), y]
    d = u[c, z, max(y - 1, 0)]
    e = u[c, z, min(y + 1, Y - 1)]
    four = np.float32(4)
    for x in range(X):
        out[x] = four * p[x] - a[x] - b[x] - d[x] - e[x]
    for x in range(X - 1):
        out[x] += p[x] - p[x + 1]
    for x in range(1, X):
        out[x] += p[x] - p[x - 1]


@njit(**JIT)
def _curvature(equations, spans, u):
    """Sum over the cells of weight |L u|^2, and of the weight: 0 to 1 by how much texture a cell has."""
    _, Z, Y, X = u.shape
    row = np.empty(X, np.float32)
    total = np.empty(X, np.float32)
    # Of fields: two cells of each axis have the same.
    halved = 0 if equations.shape[3] == X and equations.shape[2] == Y and equations.shape[1] == Z else 1
    half = np.float32(8 * TEXTURED * 8**halved)
    bent = 0.0
    weight = 0.0
    for z in range(Z):
        for y in range(Y):
            first, last = spans[z, y]
            if first >= last:
                continue
            total[:] = np.float32(0)
            for c in range(3):
                _bend(u, c, z, y, row)
                for x in range(X):
                    total[x] += row[x] * row[x]
            row_bent = np.float32(0)
            row_weight = np.float32(0)
            for x in range(first, last):
                i, j, k = z >> halved, y >> halved, x >> halved
                trace = equations[0, i, j, k] + equations[3, i, j, k] + equations[5, i, j, k]
                w = trace / (trace + half)
                row_bent += w * total[x]
                row_weight += w
            bent += float(row_bent)
            weight += float(row_weight)
    return bent, weight
