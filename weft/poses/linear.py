"""Poses that are more than translations: a rigid, similarity or affine linear part for each tile."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.linalg import expm
from scipy.sparse.linalg import splu

from weft.grid import Shape, Triple
from weft.links.model import Link
from weft.poses.model import Poses, PoseSettings

_ROUNDS = 8


def fit_linear(
    poses: Poses, links: Sequence[Link], shape: Shape, spacing: Triple, settings: PoseSettings
) -> Poses:
    """Give each tile a linear part from the blocks that its links matched.

    A point of tile t at the offset r from its first voxel lies at ``position + linear @ r``. Block matches of
    the links that the solve for translations believed are equations between two such points; they are
    solved for all tiles at once by Gauss-Newton steps on the linear parts' logarithms (so that a rotation
    stays one), under Geman-McClure weights. A weak prior, of ``settings.linear_sigma`` per element, holds
    linear parts near the identity: it decides what no overlap shows, such as the scale that all tiles share
    (as the regularisation of render-ws and BigFeta does).

    Parameters
    ----------
    poses
        Translations.
    links
        With their block matches, in the order in which ``poses`` speaks of them.
    shape, spacing
        Of a tile: voxels (z, y, x), and um.
    settings
        Which model, and expected errors; ``"translation"`` fits places alone.

    Returns
    -------
    Poses
        With ``linear``; positions moved accordingly.
    """
    tiles = len(poses.positions)
    extent = (np.asarray(shape) - 1) * np.asarray(spacing, float)
    basis = _basis(settings.model, np.asarray(shape) > 1)
    ends, first, second = matched_points(poses, links, settings)
    if not len(ends):
        return dataclasses.replace(poses, linear=np.tile(np.eye(3), (tiles, 1, 1)))
    first, second = first - extent / 2, second - extent / 2  # offsets from the tiles' middles
    unit = float(np.min(spacing))
    scale = (3 * settings.link_sigma * unit) ** 2
    logs = np.zeros((tiles, len(basis)))
    middles = poses.positions + extent / 2
    start = middles.copy()
    for _ in range(_ROUNDS):
        linear = np.array([expm(np.tensordot(log, basis, 1)) for log in logs])
        a = np.einsum("mij,mj->mi", linear[ends[:, 0]], first)
        b = np.einsum("mij,mj->mi", linear[ends[:, 1]], second)
        gap = middles[ends[:, 0]] + a - middles[ends[:, 1]] - b
        weights = (scale / ((gap**2).sum(1) + scale)) ** 2 / (settings.link_sigma * unit) ** 2
        steps = _solve(ends, (a, b), gap, weights, basis, logs, middles - start, settings.linear_sigma)
        logs += steps[:, : len(basis)]
        middles += steps[:, len(basis) :]
    linear = np.array([expm(np.tensordot(log, basis, 1)) for log in logs])
    positions = middles - np.einsum("nij,j->ni", linear, extent / 2)
    return dataclasses.replace(poses, positions=np.round(positions, 6), linear=np.round(linear, 9))


def _basis(model: str, moves: np.ndarray) -> np.ndarray:
    """Generators of the linear part, (p, 3, 3), along the axes of more than one voxel."""
    axes = np.flatnonzero(moves)
    found = []
    for i in axes:
        for j in axes:
            one = np.zeros((3, 3))
            one[i, j] = 1
            if model == "affine":
                found.append(one)
            elif i < j and model in ("rigid", "similarity"):
                found.append(one - one.T)
    if model == "similarity":
        found.append(np.diag(moves.astype(float)))
    return np.array(found).reshape(-1, 3, 3)


def matched_points(
    poses: Poses, links: Sequence[Link], settings: PoseSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tiles i and j, and the matched points in both, um from their first voxels, of the believed links."""
    ends, first, second = [], [], []
    for link, weight, rival in zip(links, poses.weight, poses.rival, strict=True):
        if weight > settings.used and not rival and link.status == "ok":
            for match in link.matches:
                ends.append((link.i, link.j))
                first.append(match[:3])
                second.append(match[:3] - match[3:6])
    return np.array(ends, int).reshape(-1, 2), np.array(first).reshape(-1, 3), np.array(second).reshape(-1, 3)


def _solve(ends, points, gap, weights, basis, logs, moved, sigma) -> np.ndarray:
    """One Gauss-Newton step, (tiles, p + 3): logarithms, then places of the tiles' middles."""
    count, tiles = len(basis), len(logs)
    width = count + 3
    rows, columns, values = [], [], []
    for side, sign in ((0, 1.0), (1, -1.0)):
        turned = sign * np.einsum("pij,mj->mip", basis, points[side])  # (matches, 3, p)
        shifted = np.broadcast_to(sign * np.eye(3), (len(ends), 3, 3))
        block = np.concatenate([turned, shifted], axis=2)
        row = np.arange(3 * len(ends)).reshape(-1, 3, 1)
        column = (width * ends[:, side])[:, None, None] + np.arange(width)
        rows.append(np.broadcast_to(row, block.shape).ravel())
        columns.append(np.broadcast_to(column, block.shape).ravel())
        values.append(block.ravel())
    matrix = sparse.csr_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(3 * len(ends), width * tiles),
    )
    weighted = matrix.T @ sparse.diags(np.repeat(weights, 3))
    prior = np.tile(np.r_[np.full(count, sigma**-2.0), np.full(3, 1e-9)], tiles)
    so_far = np.concatenate([logs, moved], axis=1).ravel()
    right = -(weighted @ gap.ravel()) - prior * so_far
    return splu(sparse.csc_matrix(weighted @ matrix + sparse.diags(prior))).solve(right).reshape(tiles, width)
