"""Rigid motions: the best fit to a displacement field, and the mean of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weft.grid import Grid


@dataclass(frozen=True)
class Rigid:
    """A rotation and a shift: x -> R (x - c) + d.

    Parameters
    ----------
    rotation
        R: (3, 3) float64, determinant 1.
    centre, moved
        c and d: (3,) um. The centre is where the motion was measured, `moved` where it goes.
    """

    rotation: np.ndarray
    centre: np.ndarray
    moved: np.ndarray

    def field(self, grid: Grid) -> np.ndarray:
        """The motion as a displacement field, (3, z, y, x) float32 um, on a grid."""
        out = np.empty((3, *grid.shape), np.float32)
        turn = self.rotation - np.eye(3)
        z, y, x = (
            o + s * np.arange(n) - c
            for o, s, n, c in zip(grid.origin, grid.spacing, grid.shape, self.centre, strict=True)
        )
        for i in range(3):
            rows = turn[i, 0] * z[:, None, None] + turn[i, 1] * y[None, :, None]
            out[i] = rows + turn[i, 2] * x + (self.moved[i] - self.centre[i])
        return out


def fit_rigid(u: np.ndarray, grid: Grid) -> Rigid:
    """The rigid motion nearest to x -> x + u(x), least squares over the samples (Kabsch 1976).

    Parameters
    ----------
    u
        (3, z, y, x) um, components z, y, x.
    grid
        Where its samples lie. With a single sample per axis nothing can be told of turns around it: the
        smallest rotation that fits is taken.
    """
    points = grid.to_physical(np.indices(grid.shape).reshape(3, -1).T)
    moved = points + np.asarray(u, np.float64).reshape(3, -1).T
    centre, centre_moved = points.mean(axis=0), moved.mean(axis=0)
    # Plain einsum: no BLAS, whose threads could change the order of the sums.
    covariance = np.einsum("ni,nj->ij", moved - centre_moved, points - centre)
    # A hair of the identity decides what the samples leave open.
    covariance += 1e-9 * (1 + np.trace(np.abs(covariance))) * np.eye(3)
    left, _, right = np.linalg.svd(covariance)
    turn = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    return Rigid(left @ turn @ right, centre, centre_moved)


def mean_rigid(motions: Sequence[Rigid], weights: np.ndarray) -> Rigid:
    """The mean of rigid motions.

    The rotation is the mean of the quaternions q by the eigenvector method [1]_: the eigenvector of
    sum(w q q^T) with the largest eigenvalue. q and -q, the same rotation, count the same, and no start
    biases it. The shift then takes the weighted mean of the centres to the weighted mean of where they go.

    Parameters
    ----------
    motions
        At least one.
    weights
        (n,), not negative.

    References
    ----------
    .. [1] F. L. Markley, Y. Cheng, J. L. Crassidis, Y. Oshman: Averaging quaternions. Journal of Guidance,
       Control, and Dynamics 30 (2007) 1193-1197.
    """
    weights = np.asarray(weights, np.float64) / np.sum(weights)
    quaternions = np.stack([_quaternion(motion.rotation) for motion in motions])
    sums = np.einsum("n,ni,nj->ij", weights, quaternions, quaternions)
    rotation = _matrix(np.linalg.eigh(sums)[1][:, -1])
    centre = np.einsum("n,ni->i", weights, np.stack([motion.centre for motion in motions]))
    moved = np.einsum("n,ni->i", weights, np.stack([motion.moved for motion in motions]))
    return Rigid(rotation, centre, moved)


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """(w, a, b, c) of a rotation, from the largest of the four squares (Shepperd 1978)."""
    r = rotation
    trace = np.trace(r)
    squares = np.array([trace, r[0, 0], r[1, 1], r[2, 2]])
    largest = int(np.argmax(squares))
    if largest == 0:
        q = np.array([1 + trace, r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    else:
        i = largest - 1
        j, k = (i + 1) % 3, (i + 2) % 3
        q = np.empty(4)
        q[0] = r[k, j] - r[j, k]
        q[1 + i] = 1 + r[i, i] - r[j, j] - r[k, k]
        q[1 + j] = r[j, i] + r[i, j]
        q[1 + k] = r[k, i] + r[i, k]
    return q / np.linalg.norm(q)


def _matrix(q: np.ndarray) -> np.ndarray:
    """The rotation of a quaternion."""
    w, v = q[0], q[1:]
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross
