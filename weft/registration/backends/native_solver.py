"""The solver of the native engine's steps: conjugate gradients whose steps share one sweep over the volume.

With A the matrix of the equations, M the inverse of its blocks on the diagonal, z_0 = M r and z_k = (M A)^k z_0, three
steps of the conjugate-gradient method from zero give the combination of z_0, z_1 and z_2 that is nearest to the
solution in the norm of A. Its coefficients follow from the moments r . z_0 and z_j . A z_k alone (Hestenes and
Stiefel, 1952, whose method does the same with a sum over all cells between any two passes): nothing must be known of
the whole volume before the sweep has ended. So a sweep goes on plane by plane, each power two planes behind the one
before, and what lies between the powers stays in the cache: about 50 numbers per cell are read and written, where
step after step would take 250.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from weft.registration.backends.native_jit import INLINED, JIT, U
from weft.registration.backends.native_vectors import whole

FLATTEST = 0.05  # Jacobians below count as this one when volumes are held
STEEPEST = 4.0  # g^2 counts as at most this in the weight
SOLVER_STEPS = 3
SOLVED = 1e-4  # share of the residual's energy at which the solver is content
CHUNK = 256  # cells of a row worked off at once
LEFT = 16  # floats before the first cell of a row of a ring
# Rows of the scratch: a constant pitch lets the compiler vectorise.
PITCH = CHUNK + 16
H = 0  # zz, zy, zx, yy, yx, xx of the equations, per voxel
P = 6 * PITCH  # the vector multiplied
Q = 9 * PITCH  # the product
OWN = 12 * PITCH  # what the prior adds to the diagonal
SLOPES = 0  # nine first derivatives of u; and the two results
W, WG = 9 * PITCH, 10 * PITCH
SCRATCH = 13 * PITCH


def solve_with_prior(
    equations: np.ndarray,
    reached: np.ndarray,
    u: np.ndarray,
    damping: float,
    alpha: float,
    tension: float,
    volume: float,
    longest: float,
    scratch: np.ndarray,
) -> np.ndarray:
    """The step v of the whole field: (H / 8 + damping I + alpha K + D'wD)^-1 (r / 8 - alpha K u - D'wg).

    D is the divergence and w = volume g^2, g = (J - 1 / J) / 2 of the Jacobian J of u; K is that of `native_prior`.

    By a fixed number of steps of the conjugate-gradient method, preconditioned cell by cell: as the equations
    are summed anew after each step, an inexact one is enough.

    Parameters
    ----------
    equations
        (9, Z, Y, X) float32, smoothed: sums over the 8 voxels of a cell. Overwritten.
    reached
        (Z, Y, 2) int64: first and last + 1 cell of each row outside of which they are zero, whatever lies there.
    u
        (3, Z, Y, X) float32, voxels.
    longest
        Vectors of v are shortened to at most this, voxels.
    scratch
        (3, Z, Y, X) float32, overwritten.

    Returns
    -------
    v, (3, Z, Y, X) float32, in place of the last three equations.
    """
    moments = np.zeros(2 * SOLVER_STEPS)
    _sweep(equations, reached, u, damping, alpha, tension, volume, scratch, moments)
    a, b, c = _coefficients(moments)
    v = equations[6:]
    _combine(a, b, c, v, scratch, equations[:3], np.float32(longest))
    return v


def _coefficients(moments: np.ndarray) -> np.ndarray:
    """The conjugate-gradient method on polynomials: coefficients of z_0, z_1, z_2 in its result.

    Vectors are given by their coefficients for z_0, z_1 ..; `moments` are z_i . M^-1 z_j for i + j = 0, 1 .., and so
    z_i . A z_j is that of i + j + 1.
    """
    size = SOLVER_STEPS
    solution, residual, direction = np.zeros((3, size))
    residual[0] = direction[0] = 1.0
    table = np.array([[moments[i + j] for j in range(size)] for i in range(size)])
    shifted = np.array([[moments[i + j + 1] for j in range(size)] for i in range(size)])
    energy = first = moments[0]
    for step in range(size):
        product = direction @ shifted @ direction
        if energy <= SOLVED * first or energy <= 0 or product <= 0:
            break
        length = energy / product
        solution += length * direction
        if step + 1 == size:
            break
        residual[1:] -= length * direction[:-1]
        before, energy = energy, residual @ table @ residual
        direction = residual + energy / before * direction
    return solution.astype(np.float32)


@njit(**JIT)
def _sweep(equations, reached, u, damping, alpha, tension, volume, second, moments):
    """z_0 -> equations[6:], z_1 -> second, z_2 -> equations[:3], and the moments."""
    _, Z, Y, X = u.shape
    alpha = np.float32(alpha)
    tension = np.float32(tension)
    damping = np.float32(damping)
    volume = np.float32(volume)
    # The diagonal of L is 6 and that of L^2 6^2 + 6.
    own = damping + alpha * (np.float32(42) + np.float32(6) * tension)
    first = equations[6:]
    third = equations[:3]
    B = np.zeros(SCRATCH, np.float32)
    # Rings of planes; u and its Laplacian and volumes come last. Rows have room for a cell more at either end, and are
    # filled up so that loops end with whole vectors.
    pitch = whole(X) + LEFT + 2
    weights = np.zeros((7, Y, pitch), np.float32)
    vectors = np.zeros((4, 3, 3, Y, pitch), np.float32)
    bent = np.zeros((4, 3, 3, Y, pitch), np.float32)
    held = np.zeros((4, 3, Y, pitch), np.float32)
    for t in range(-2, Z + 6):
        z = t + 2
        if z < Z:
            for y in range(Y):
                for c in range(3):
                    _copy(u[c, z, y], vectors[3, z % 3, c, y])
        z -= 1
        if 0 <= z < Z:
            for y in range(Y):
                for c in range(3):
                    _bend(vectors[3], c, z, y, Z, X, bent[3, z % 3, c, y])
                _hold_volumes(vectors[3], z, y, Z, X, volume, weights[z % 7, y], held[3, z % 3, y], B)
        z -= 1
        if 0 <= z < Z:
            for y in range(Y):
                for x in range(0, X, CHUNK):
                    n = min(CHUNK, X - x)
                    first_cell, last_cell = reached[z, y]
                    _load(equations, first_cell, last_cell, weights[z % 7, y], own, z, y, x, n, B)
                    for c in range(3):
                        _copy_within(equations[6 + c, z, y], first_cell, last_cell, x, n, U(P + c * PITCH), B)
                    _hold(bent[3], held[3], z, y, x, n, Z, alpha, tension, B)
                    moments[0] += _first_residual(n, B)
                    for c in range(3):
                        _copy_from(U(P + c * PITCH), B, n, first[c, z, y, x:])
                        _copy_from(U(P + c * PITCH), B, whole(n), vectors[0, z % 3, c, y, LEFT + x :])
                for c in range(3):
                    _repeat_ends(vectors[0, z % 3, c, y], X)
        for k in range(SOLVER_STEPS):
            p = vectors[k]
            z = t - 1 - 2 * k
            if 0 <= z < Z:
                for y in range(Y):
                    for c in range(3):
                        _bend(p, c, z, y, Z, X, bent[k, z % 3, c, y])
                    _weigh_divergence(p, z, y, Z, X, weights[z % 7, y], held[k, z % 3, y])
            z -= 1
            if 0 <= z < Z:
                for y in range(Y):
                    for x in range(0, X, CHUNK):
                        n = min(CHUNK, X - x)
                        first_cell, last_cell = reached[z, y]
                        _load(equations, first_cell, last_cell, weights[z % 7, y], own, z, y, x, n, B)
                        for c in range(3):
                            _copy_to(p[z % 3, c, y, LEFT:], x, whole(n), U(P + c * PITCH), B)
                        if k + 1 == SOLVER_STEPS:
                            # Nothing looks at the matrix here any more.
                            for c in range(3):
                                _copy_from(U(P + c * PITCH), B, n, third[c, z, y, x:])
                        _hold(bent[k], held[k], z, y, x, n, Z, alpha, tension, B)
                        moments[2 * k + 1] += _multiply(damping, n, B)
                        if k + 1 < SOLVER_STEPS:
                            moments[2 * k + 2] += _precondition(n, B)
                            for c in range(3):
                                if k == 0:
                                    _copy_from(U(P + c * PITCH), B, n, second[c, z, y, x:])
                                _copy_from(
                                    U(P + c * PITCH), B, whole(n), vectors[k + 1, z % 3, c, y, LEFT + x :]
                                )
                    if k + 1 < SOLVER_STEPS:
                        for c in range(3):
                            _repeat_ends(vectors[k + 1, z % 3, c, y], X)


@njit(**INLINED)
def _copy(p, out):
    """A row -> a row of a ring."""
    o = out[LEFT:]
    for x in range(p.shape[0]):
        o[x] = p[x]
    _repeat_ends(out, p.shape[0])


@njit(**INLINED)
def _repeat_ends(row, X):
    """Go on beyond the ends of a row as L takes it."""
    row[LEFT - 1] = row[LEFT]
    row[LEFT + X] = row[LEFT + X - 1]


@njit(**INLINED)
def _copy_to(p, x0, n, o, B):
    """n cells of a row from x0 on -> scratch."""
    p = p[x0:]
    for i in range(n):
        B[o + U(i)] = p[i]


@njit(**INLINED)
def _copy_from(o, B, n, out):
    """n cells in the scratch -> a row."""
    for i in range(n):
        out[i] = B[o + U(i)]


@njit(**INLINED)
def _bend(p, c, z, y, Z, X, out):
    """out = row (z, y) of L p[c]: each sample minus its neighbours; a missing one counts as equal."""
    Y = p.shape[2]
    here = z % 3
    m = p[here, c, y, LEFT:]
    left = p[here, c, y, LEFT - 1 :]
    right = p[here, c, y, LEFT + 1 :]
    a = p[max(z - 1, 0) % 3, c, y, LEFT:]
    b = p[min(z + 1, Z - 1) % 3, c, y, LEFT:]
    d = p[here, c, max(y - 1, 0), LEFT:]
    e = p[here, c, min(y + 1, Y - 1), LEFT:]
    o = out[LEFT:]
    six = np.float32(6)
    for x in range(whole(X)):
        o[x] = six * m[x] - left[x] - right[x] - a[x] - b[x] - d[x] - e[x]
    _repeat_ends(out, X)


@njit(**INLINED)
def _hold_volumes(u, z, y, Z, X, strength, w, wg, B):
    """w = strength g^2 and wg = w g in row (z, y), with g = (J - 1 / J) / 2 from central differences of u."""
    Y = u.shape[2]
    here = z % 3
    k = np.float32(0.25)
    half = np.float32(0.5)
    one = np.float32(1)
    for x0 in range(0, X, CHUNK):
        n = whole(min(CHUNK, X - x0))
        for c in range(3):
            a = u[max(z - 1, 0) % 3, c, y, LEFT + x0 :]
            b = u[min(z + 1, Z - 1) % 3, c, y, LEFT + x0 :]
            d = u[here, c, max(y - 1, 0), LEFT + x0 :]
            e = u[here, c, min(y + 1, Y - 1), LEFT + x0 :]
            left = u[here, c, y, LEFT - 1 + x0 :]
            right = u[here, c, y, LEFT + 1 + x0 :]
            o = U(SLOPES + 3 * c * PITCH)
            for i in range(n):
                x = o + U(i)
                B[x] = k * (b[i] - a[i])
                B[x + U(PITCH)] = k * (e[i] - d[i])
                B[x + U(2 * PITCH)] = k * (right[i] - left[i])
        for i in range(n):
            x = U(SLOPES) + U(i)
            a0 = one + B[x]
            b1 = one + B[x + U(4 * PITCH)]
            c2 = one + B[x + U(8 * PITCH)]
            a1 = B[x + U(PITCH)]
            a2 = B[x + U(2 * PITCH)]
            b0 = B[x + U(3 * PITCH)]
            b2 = B[x + U(5 * PITCH)]
            c0 = B[x + U(6 * PITCH)]
            c1 = B[x + U(7 * PITCH)]
            J = a0 * (b1 * c2 - b2 * c1) - a1 * (b0 * c2 - b2 * c0) + a2 * (b0 * c1 - b1 * c0)
            J = max(J, np.float32(FLATTEST))
            g = half * (J - one / J)
            s = strength * min(g * g, np.float32(STEEPEST))
            B[U(W) + U(i)] = s
            B[U(WG) + U(i)] = s * g
        o = w[LEFT + x0 :]
        q = wg[LEFT + x0 :]
        for i in range(n):
            o[i] = B[U(W) + U(i)]
            q[i] = B[U(WG) + U(i)]
    _negate_ends(wg, X)


@njit(**INLINED)
def _negate_ends(row, X):
    """Go on beyond the ends of a row as D' takes it."""
    row[LEFT - 1] = -row[LEFT]
    row[LEFT + X] = -row[LEFT + X - 1]


@njit(**INLINED)
def _weigh_divergence(p, z, y, Z, X, w, out):
    """out = row (z, y) of w D p; beyond the ends of the row it goes on odd, as D' takes it."""
    Y = p.shape[2]
    here = z % 3
    k = np.float32(0.25)
    a = p[max(z - 1, 0) % 3, 0, y, LEFT:]
    b = p[min(z + 1, Z - 1) % 3, 0, y, LEFT:]
    d = p[here, 1, max(y - 1, 0), LEFT:]
    e = p[here, 1, min(y + 1, Y - 1), LEFT:]
    left = p[here, 2, y, LEFT - 1 :]
    right = p[here, 2, y, LEFT + 1 :]
    v = w[LEFT:]
    o = out[LEFT:]
    for x in range(whole(X)):
        o[x] = k * v[x] * (b[x] - a[x] + e[x] - d[x] + right[x] - left[x])
    _negate_ends(out, X)


@njit(**INLINED)
def _copy_within(p, first, last, x0, n, o, B):
    """n cells of a row from x0 on -> scratch; zero outside first .. last - 1."""
    a = min(max(first - x0, 0), n)
    b = min(max(last - x0, a), n)
    for i in range(a):
        B[o + U(i)] = np.float32(0)
    p = p[x0 + a :]
    q = o + U(a)
    for i in range(b - a):
        B[q + U(i)] = p[i]
    q = o + U(b)
    for i in range(n - b):
        B[q + U(i)] = np.float32(0)


@njit(**INLINED)
def _load(equations, first, last, w, own, z, y, x0, n, B):
    """The matrix of the cells x0 .. x0 + n - 1 of row (z, y) -> scratch."""
    eighth = np.float32(0.125)
    a = min(max(first - x0, 0), n)
    b = min(max(last - x0, a), n)
    if b - a < n:
        for i in range(6 * PITCH):
            B[U(H) + U(i)] = np.float32(0)
    for k in range(0, 6, 3):
        h0 = equations[k, z, y, x0 + a :]
        h1 = equations[k + 1, z, y, x0 + a :]
        h2 = equations[k + 2, z, y, x0 + a :]
        o = U(H + k * PITCH + a)
        for i in range(b - a):
            x = o + U(i)
            B[x] = eighth * h0[i]
            B[x + U(PITCH)] = eighth * h1[i]
            B[x + U(2 * PITCH)] = eighth * h2[i]
    v = w[LEFT + x0 :]
    for i in range(whole(n)):
        B[U(OWN) + U(i)] = own + eighth * v[i]


@njit(**INLINED)
def _hold(bent, held, z, y, x0, n, Z, alpha, tension, B):
    """Q = alpha K p + D'd of row (z, y), from L p in `bent` and d in `held`; d goes on odd beyond an edge."""
    Y = bent.shape[2]
    here = z % 3
    below = max(z - 1, 0) % 3
    above = min(z + 1, Z - 1) % 3
    x0 += LEFT
    n = whole(n)
    k = np.float32(0.25)
    middle = np.float32(6) + tension
    for c in range(3):
        left = bent[here, c, y, x0 - 1 :]
        m = bent[here, c, y, x0:]
        right = bent[here, c, y, x0 + 1 :]
        a = bent[below, c, y, x0:]
        b = bent[above, c, y, x0:]
        d = bent[here, c, max(y - 1, 0), x0:]
        e = bent[here, c, min(y + 1, Y - 1), x0:]
        o = U(Q + c * PITCH)
        for i in range(n):
            B[o + U(i)] = alpha * (middle * m[i] - left[i] - right[i] - a[i] - b[i] - d[i] - e[i])
    a = held[below, y, x0:]
    b = held[above, y, x0:]
    d = held[here, max(y - 1, 0), x0:]
    e = held[here, min(y + 1, Y - 1), x0:]
    left = held[here, y, x0 - 1 :]
    right = held[here, y, x0 + 1 :]
    lower_z = k if z > 0 else -k
    upper_z = k if z < Z - 1 else -k
    lower_y = k if y > 0 else -k
    upper_y = k if y < Y - 1 else -k
    for i in range(n):
        x = U(Q) + U(i)
        B[x] += lower_z * a[i] - upper_z * b[i]
        B[x + U(PITCH)] += lower_y * d[i] - upper_y * e[i]
        B[x + U(2 * PITCH)] += k * (left[i] - right[i])


@njit(**INLINED)
def _first_residual(n, B):
    """P = M (P / 8 - Q); returns the product of both."""
    eighth = np.float32(0.125)
    for c in range(3):
        o = U(c * PITCH)
        for i in range(n):
            x = o + U(i)
            B[U(Q) + x] = eighth * B[U(P) + x] - B[U(Q) + x]
    return _precondition(n, B)


@njit(**INLINED)
def _multiply(damping, n, B):
    """Q += (H / 8 + damping I) P; returns P . Q."""
    total = np.float32(0)
    for i in range(n):
        x = U(i)
        a = B[U(H) + x]
        b = B[U(H + PITCH) + x]
        c = B[U(H + 2 * PITCH) + x]
        d = B[U(H + 3 * PITCH) + x]
        e = B[U(H + 4 * PITCH) + x]
        f = B[U(H + 5 * PITCH) + x]
        p0 = B[U(P) + x]
        p1 = B[U(P + PITCH) + x]
        p2 = B[U(P + 2 * PITCH) + x]
        q0 = B[U(Q) + x] + damping * p0 + a * p0 + b * p1 + c * p2
        q1 = B[U(Q + PITCH) + x] + damping * p1 + b * p0 + d * p1 + e * p2
        q2 = B[U(Q + 2 * PITCH) + x] + damping * p2 + c * p0 + e * p1 + f * p2
        B[U(Q) + x] = q0
        B[U(Q + PITCH) + x] = q1
        B[U(Q + 2 * PITCH) + x] = q2
        total += p0 * q0 + p1 * q1 + p2 * q2
    return float(total)


@njit(**INLINED)
def _precondition(n, B):
    """P = (H / 8 + OWN I)^-1 Q, cell by cell; returns P . Q."""
    one = np.float32(1)
    total = np.float32(0)
    for i in range(n):
        x = U(i)
        own = B[U(OWN) + x]
        a = B[U(H) + x] + own
        b = B[U(H + PITCH) + x]
        c = B[U(H + 2 * PITCH) + x]
        d = B[U(H + 3 * PITCH) + x] + own
        e = B[U(H + 4 * PITCH) + x]
        f = B[U(H + 5 * PITCH) + x] + own
        q0 = B[U(Q) + x]
        q1 = B[U(Q + PITCH) + x]
        q2 = B[U(Q + 2 * PITCH) + x]
        A00 = d * f - e * e
        A01 = c * e - b * f
        A02 = b * e - c * d
        A11 = a * f - c * c
        A12 = b * c - a * e
        A22 = a * d - b * b
        k = one / (a * A00 + b * A01 + c * A02)
        p0 = k * (A00 * q0 + A01 * q1 + A02 * q2)
        p1 = k * (A01 * q0 + A11 * q1 + A12 * q2)
        p2 = k * (A02 * q0 + A12 * q1 + A22 * q2)
        B[U(P) + x] = p0
        B[U(P + PITCH) + x] = p1
        B[U(P + 2 * PITCH) + x] = p2
        total += p0 * q0 + p1 * q1 + p2 * q2
    return float(total)


@njit(**JIT)
def _combine(a, b, c, first, second, third, longest):
    """first = a first + b second + c third, vectors (3, Z, Y, X) of at most the length `longest`."""
    _, Z, Y, X = first.shape
    B = np.zeros(3 * PITCH, np.float32)
    square = longest * longest
    tiny = np.float32(1e-30)
    for z in range(Z):
        for y in range(Y):
            for x0 in range(0, X, CHUNK):
                n = min(CHUNK, X - x0)
                for k in range(3):
                    p = first[k, z, y, x0:]
                    q = second[k, z, y, x0:]
                    r = third[k, z, y, x0:]
                    o = U(k * PITCH)
                    for i in range(n):
                        B[o + U(i)] = a * p[i] + b * q[i] + c * r[i]
                for i in range(n):
                    x = U(i)
                    v0 = B[x]
                    v1 = B[x + U(PITCH)]
                    v2 = B[x + U(2 * PITCH)]
                    k = min(np.sqrt(square / max(v0 * v0 + v1 * v1 + v2 * v2, tiny)), np.float32(1))
                    B[x] = k * v0
                    B[x + U(PITCH)] = k * v1
                    B[x + U(2 * PITCH)] = k * v2
                for k in range(3):
                    p = first[k, z, y, x0:]
                    o = U(k * PITCH)
                    for i in range(n):
                        p[i] = B[o + U(i)]
