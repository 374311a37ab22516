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
The quartic term hardly acts on usual changes of volume: unlike a stronger alpha it bounds the few that are implausible
and leaves the rest free (after Yanovsky et al., 2007, who penalise log J; here its tails).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

JIT: dict[str, Any] = {
    "fastmath": True,
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "boundscheck": False,
}

FLATTEST = 0.05  # Jacobians below count as this one when volumes are held
STEEPEST = 4.0  # g^2 counts as at most this in the weight
MISFIT = 0.2  # how far variance that is not explained counts as noise
STRONGEST = 2e-2  # the most that alpha can be
TEXTURED = 0.05  # trace of the normal equations, per voxel, at which a cell counts half for the curvature
ROWS = ((0, 1, 2), (1, 3, 4), (2, 4, 5))  # of a symmetric matrix stored as zz, zy, zx, yy, yx, xx
SOLVER_STEPS = 3
SOLVED = 1e-4  # share of the residual's energy at which the solver is content


def prior_strength(
    equations: np.ndarray, u: np.ndarray, unexplained: float, noise: float, stiffness: float
) -> float:
    """alpha = stiffness sqrt(s^2 / 8 t^2), at most `STRONGEST`; s^2 = 8 noise^2 + MISFIT unexplained.

    Parameters
    ----------
    equations
        (9, Z, Y, X) float32 of `native_pass.normal_equations`: cells without texture do not count for t^2.
    u
        (3, Z, Y, X) float32, voxels.
    unexplained
        Mean of 1 - rho^2.
    noise
        Share of white noise in both images' local variance (`native_images.white_noise`).
    """
    bent, weight = _curvature(equations, u)
    if bent <= 0 or weight <= 0:
        return STRONGEST
    variance = 8 * noise**2 + MISFIT * unexplained
    return min(stiffness * float(np.sqrt(variance * 3 * weight / (8 * bent))), STRONGEST)


def solve_with_prior(
    equations: np.ndarray,
    u: np.ndarray,
    damping: float,
    alpha: float,
    tension: float,
    volume: float,
    v: np.ndarray,
) -> None:
    """The step v of the whole field: (H / 8 + damping I + alpha K + D'wD)^-1 (r / 8 - alpha K u - D'wg).

    D is the divergence and w = volume g^2, g = (J - 1 / J) / 2 of the Jacobian J of u.

    By a fixed number of steps of the conjugate-gradient method, preconditioned cell by cell: as the equations
    are summed anew after each step, an inexact one is enough.

    Parameters
    ----------
    equations
        (9, Z, Y, X) float32, smoothed: sums over the 8 voxels of a cell. The last three are overwritten.
    v
        (3, Z, Y, X) float32, overwritten.
    """
    inverse = np.empty((6, *u.shape[1:]), np.float32)
    scratch = np.empty((3, 3, *u.shape[1:]), np.float32)
    held = np.empty((2, *u.shape[1:]), np.float32)
    _hold_volumes(u, volume, held)
    _conjugate_gradients(equations, u, damping, alpha, tension, held, inverse, scratch, v)


@njit(**JIT)
def limit_length(v, longest):
    """Shorten the vectors of v, (3, Z, Y, X), to at most `longest`."""
    _, Z, Y, X = v.shape
    square = np.float32(longest * longest)
    for z in range(Z):
        for y in range(Y):
            for x in range(X):
                n = v[0, z, y, x] ** 2 + v[1, z, y, x] ** 2 + v[2, z, y, x] ** 2
                if n > square:
                    k = np.sqrt(square / n)
                    v[0, z, y, x] *= k
                    v[1, z, y, x] *= k
                    v[2, z, y, x] *= k


@njit(**JIT)
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
def _curvature(equations, u):
    """Sum over the cells of weight |L u|^2, and of the weight: 0 to 1 by how much texture a cell has."""
    _, Z, Y, X = u.shape
    row = np.empty(X, np.float32)
    total = np.empty(X, np.float32)
    half = np.float32(8 * TEXTURED)
    bent = 0.0
    weight = 0.0
    for z in range(Z):
        for y in range(Y):
            total[:] = np.float32(0)
            for c in range(3):
                _bend(u, c, z, y, row)
                for x in range(X):
                    total[x] += row[x] * row[x]
            row_bent = np.float32(0)
            row_weight = np.float32(0)
            for x in range(X):
                trace = equations[0, z, y, x] + equations[3, z, y, x] + equations[5, z, y, x]
                w = trace / (trace + half)
                row_bent += w * total[x]
                row_weight += w
            bent += float(row_bent)
            weight += float(row_weight)
    return bent, weight


@njit(**JIT)
def _hold_volumes(u, strength, held):
    """held (2, Z, Y, X) = w = strength g^2 and w g, with g = (J - 1 / J) / 2 from central differences of u."""
    _, Z, Y, X = u.shape
    strength = np.float32(strength)
    k = np.float32(0.25)
    half = np.float32(0.5)
    one = np.float32(1)
    rows = np.empty((9, X), np.float32)
    for z in range(Z):
        for y in range(Y):
            for c in range(3):
                a = u[c, max(z - 1, 0), y]
                b = u[c, min(z + 1, Z - 1), y]
                d = u[c, z, max(y - 1, 0)]
                e = u[c, z, min(y + 1, Y - 1)]
                p = u[c, z, y]
                o = rows[3 * c]
                for x in range(X):
                    o[x] = k * (b[x] - a[x])
                o = rows[3 * c + 1]
                for x in range(X):
                    o[x] = k * (e[x] - d[x])
                o = rows[3 * c + 2]
                for x in range(1, X - 1):
                    o[x] = k * (p[x + 1] - p[x - 1])
                o[0] = k * (p[min(1, X - 1)] - p[0])
                o[X - 1] = k * (p[X - 1] - p[max(X - 2, 0)])
            w = held[0, z, y]
            wg = held[1, z, y]
            for x in range(X):
                a0 = one + rows[0, x]
                b1 = one + rows[4, x]
                c2 = one + rows[8, x]
                J = a0 * (b1 * c2 - rows[5, x] * rows[7, x])
                J -= rows[1, x] * (rows[3, x] * c2 - rows[5, x] * rows[6, x])
                J += rows[2, x] * (rows[3, x] * rows[7, x] - b1 * rows[6, x])
                J = max(J, np.float32(FLATTEST))
                g = half * (J - one / J)
                t = strength * min(g * g, np.float32(STEEPEST))
                w[x] = t
                wg[x] = t * g


@njit(forceinline=True, **JIT)
def _add_divergence_adjoint(d, c, z, y, sign, out):
    """out (X) += sign times component c of D'd in row (z, y); d (Z, Y, X) goes on odd beyond an edge."""
    Z, Y, X = d.shape
    k = np.float32(0.25) * sign
    if c == 2:
        if X == 1:
            return
        p = d[z, y]
        for x in range(1, X - 1):
            out[x] += k * (p[x - 1] - p[x + 1])
        out[0] -= k * (p[0] + p[1])
        out[X - 1] += k * (p[X - 2] + p[X - 1])
        return
    n = Z if c == 0 else Y
    i = z if c == 0 else y
    if n == 1:
        return
    lower = k if i > 0 else -k
    upper = k if i < n - 1 else -k
    a = d[max(z - 1, 0), y] if c == 0 else d[z, max(y - 1, 0)]
    b = d[min(z + 1, Z - 1), y] if c == 0 else d[z, min(y + 1, Y - 1)]
    for x in range(X):
        out[x] += lower * a[x] - upper * b[x]


@njit(**JIT)
def _conjugate_gradients(equations, u, damping, alpha, tension, held, inverse, scratch, v):
    """`solve_with_prior`; the residual lies in the last three equations, `held` is that of `_hold_volumes`."""
    _, Z, Y, X = u.shape
    r = equations[6:]
    p = scratch[0]
    q = scratch[1]
    bent = scratch[2]
    lam = np.float32(damping)
    alpha = np.float32(alpha)
    tension = np.float32(tension)
    eighth = np.float32(0.125)
    # The diagonal of L is 6 and that of L^2 6^2 + 6.
    _invert_cells(equations, lam + alpha * (np.float32(42) + np.float32(6) * tension), held[0], inverse)
    row = np.empty(X, np.float32)
    for c in range(3):
        for z in range(Z):
            for y in range(Y):
                _bend(u, c, z, y, bent[c, z, y])
    for c in range(3):
        for z in range(Z):
            for y in range(Y):
                _bend(bent, c, z, y, row)
                o = r[c, z, y]
                b = bent[c, z, y]
                for x in range(X):
                    o[x] = eighth * o[x] - alpha * (row[x] + tension * b[x])
                _add_divergence_adjoint(held[1], c, z, y, np.float32(-1), o)
    v[:] = np.float32(0)
    p[:] = np.float32(0)
    q[:] = np.float32(0)
    energy = _advance(v, r, p, q, inverse, np.float32(0))
    first = energy
    p[:] = q
    for _ in range(SOLVER_STEPS):
        if energy <= SOLVED * first or energy <= 0:
            break
        product = _apply(equations, p, lam, alpha, tension, held, bent, q)
        if product <= 0:
            break
        before = energy
        energy = _advance(v, r, p, q, inverse, np.float32(energy / product))
        beta = np.float32(energy / before)
        for c in range(3):
            for z in range(Z):
                for y in range(Y):
                    o = p[c, z, y]
                    t = q[c, z, y]
                    for x in range(X):
                        o[x] = t[x] + beta * o[x]


@njit(**JIT)
def _invert_cells(equations, lam, w, inverse):
    """(H / 8 + (lam + w / 8) I)^-1 of every cell: zz, zy, zx, yy, yx, xx."""
    _, Z, Y, X = inverse.shape
    one = np.float32(1)
    eighth = np.float32(0.125)
    for z in range(Z):
        for y in range(Y):
            for x in range(X):
                own = lam + eighth * w[z, y, x]
                a = eighth * equations[0, z, y, x] + own
                b = eighth * equations[1, z, y, x]
                c = eighth * equations[2, z, y, x]
                d = eighth * equations[3, z, y, x] + own
                e = eighth * equations[4, z, y, x]
                f = eighth * equations[5, z, y, x] + own
                A = d * f - e * e
                B = c * e - b * f
                C = b * e - c * d
                k = one / (a * A + b * B + c * C)
                inverse[0, z, y, x] = A * k
                inverse[1, z, y, x] = B * k
                inverse[2, z, y, x] = C * k
                inverse[3, z, y, x] = (a * f - c * c) * k
                inverse[4, z, y, x] = (b * c - a * e) * k
                inverse[5, z, y, x] = (a * d - b * b) * k


@njit(**JIT)
def _apply(equations, p, lam, alpha, tension, held, bent, q):
    """q = (H / 8 + lam I + alpha K + D'wD) p; returns p . q. The second array of `held` is overwritten."""
    _, Z, Y, X = p.shape
    eighth = np.float32(0.125)
    for c in range(3):
        for z in range(Z):
            for y in range(Y):
                _bend(p, c, z, y, bent[c, z, y])
    _weigh_divergence(p, held)
    product = 0.0
    for z in range(Z):
        for y in range(Y):
            for c in range(3):
                h0 = equations[ROWS[c][0], z, y]
                h1 = equations[ROWS[c][1], z, y]
                h2 = equations[ROWS[c][2], z, y]
                o = q[c, z, y]
                b = bent[c, z, y]
                m = p[c, z, y]
                p0 = p[0, z, y]
                p1 = p[1, z, y]
                p2 = p[2, z, y]
                _bend(bent, c, z, y, o)
                for x in range(X):
                    o[x] = lam * m[x] + alpha * (o[x] + tension * b[x])
                for x in range(X):
                    o[x] += eighth * (h0[x] * p0[x] + h1[x] * p1[x] + h2[x] * p2[x])
                _add_divergence_adjoint(held[1], c, z, y, np.float32(1), o)
                total = np.float32(0)
                for x in range(X):
                    total += m[x] * o[x]
                product += float(total)
    return product


@njit(**JIT)
def _weigh_divergence(p, held):
    """held[1] = w D p, with the w of held[0]."""
    _, Z, Y, X = p.shape
    k = np.float32(0.25)
    for z in range(Z):
        for y in range(Y):
            w = held[0, z, y]
            o = held[1, z, y]
            a = p[0, max(z - 1, 0), y]
            b = p[0, min(z + 1, Z - 1), y]
            d = p[1, z, max(y - 1, 0)]
            e = p[1, z, min(y + 1, Y - 1)]
            m = p[2, z, y]
            for x in range(X):
                o[x] = b[x] - a[x] + e[x] - d[x]
            for x in range(1, X - 1):
                o[x] += m[x + 1] - m[x - 1]
            if X > 1:
                o[0] += m[1] - m[0]
                o[X - 1] += m[X - 1] - m[X - 2]
            for x in range(X):
                o[x] *= k * w[x]


@njit(**JIT)
def _advance(v, r, p, q, inverse, length):
    """v += length p; r -= length q; q = inverse r; returns r . q."""
    _, Z, Y, X = p.shape
    product = 0.0
    for z in range(Z):
        for y in range(Y):
            total = np.float32(0)
            for c in range(3):
                o = v[c, z, y]
                s = p[c, z, y]
                for x in range(X):
                    o[x] += length * s[x]
                o = r[c, z, y]
                s = q[c, z, y]
                for x in range(X):
                    o[x] -= length * s[x]
            for c in range(3):
                o = q[c, z, y]
                i0 = inverse[ROWS[c][0], z, y]
                i1 = inverse[ROWS[c][1], z, y]
                i2 = inverse[ROWS[c][2], z, y]
                r0 = r[0, z, y]
                r1 = r[1, z, y]
                r2 = r[2, z, y]
                m = r[c, z, y]
                for x in range(X):
                    o[x] = i0[x] * r0[x] + i1[x] * r1[x] + i2[x] * r2[x]
                for x in range(X):
                    total += m[x] * o[x]
            product += float(total)
    return product
