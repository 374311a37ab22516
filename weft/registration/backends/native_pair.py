"""A pair of image levels that the native engine compares."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from weft.registration.backends.native_pass import sum_tiles
from weft.registration.backends.native_tiles import active_spans, tiles_of, widen
from weft.registration.threads import share_out

NO_MASK = np.zeros((0, 0, 0), np.float32)
NO_FIELD = np.zeros((0, 0, 0, 0), np.float32)
COMPARED_PLANES = 5  # planes of cells on which the similarity under two displacements is measured
COMPARED_TILES = 17  # at most so many parts of them; an odd number, to be in other rows from plane to plane


@dataclass
class Pair:
    """Two images of one level, and which of their cells are compared.

    Parameters
    ----------
    fixed, moving
        (Z, Y, X) and (Zm, Ym, Xm) float32, at least two voxels along each axis of `moving`.
    fixed_mask, moving_mask
        Weights of their voxels, float32, or `NO_MASK`.
    linear, shift
        (3, 3) and (3,) float64: fixed index -> moving index, i -> linear i + shift.
    floor_fixed, floor_moving
        Noise floors: variances added to the local ones.
    background
        Variance of white noise in the background of `fixed`.
    """

    fixed: np.ndarray
    moving: np.ndarray
    fixed_mask: np.ndarray
    moving_mask: np.ndarray
    linear: np.ndarray
    shift: np.ndarray
    floor_fixed: float
    floor_moving: float
    background: float = 0.0
    spans: np.ndarray = field(init=False)
    share: float = field(init=False)

    def __post_init__(self) -> None:
        spans, self.share = active_spans(self.fixed, self.fixed_mask, self.floor_fixed, self.background)
        self.visit(spans)

    def visit(self, spans: np.ndarray) -> None:
        """Compare the cells of `spans` (`native_tiles`) alone; at first those that hold structure."""
        self.spans = np.ascontiguousarray(spans)
        self._needed = widen(self.spans, 1, (self.fixed.shape[2] + 1) // 2)
        self._tiles = tiles_of(self.spans)

    def normal_equations(
        self, u: np.ndarray, robustness: float, equations: np.ndarray
    ) -> tuple[float, float]:
        """Sum the normal equations of every voxel into the cells of the displacement grid.

        Parameters
        ----------
        u
            (3, Zc, Yc, Xc) float32, voxels: a voxel i is compared with linear (i + u(i)) + shift.
        robustness
            kappa: a window counts by kappa / (kappa + 1 - rho^2).
        equations
            (9, Zc, Yc, Xc) float32: w J J' (zz, zy, zx, yy, yx, xx) and w e J (z, y, x), summed over the voxels
            of a cell, are written to the cells in `spans`; the others are left alone. With half as many cells along
            each axis, rounded up: summed over fields of 2^3 cells, 0 in those without any.

        Returns
        -------
        Sum of s rho^2 and sum of s, with s = varF / (varF + floor_fixed) where both images count. Cells outside
        `spans` count as not explained.
        """
        if equations.shape[1:] != u.shape[1:]:
            equations.fill(0)
        return self._sum(self._tiles, u, NO_FIELD, robustness, equations)

    def similarity(self, start: np.ndarray, u: np.ndarray, scratch: np.ndarray) -> tuple[float, float]:
        """Mean of rho^2 under two displacements, with the same weights, on parts of planes spread over the visited cells.

        Parameters
        ----------
        start, u
            (3, Zc, Yc, Xc) float32.
        scratch
            (9, Zc, Yc, Xc) float32, overwritten.
        """
        # As many cells before the first of these planes as between any two of them: all hold something.
        cells = np.cumsum((self.spans[..., 1] - self.spans[..., 0]).sum(1))
        share = (np.arange(COMPARED_PLANES) + 0.5) / COMPARED_PLANES
        planes = np.unique(np.searchsorted(cells, share * cells[-1])).tolist()
        thin = [
            (z, z + 1, *tile[2:])
            for z in planes
            for tile in self._tiles
            if tile[0] <= z < tile[1]
        ]  # fmt: skip
        if len(thin) > COMPARED_TILES:
            thin = [thin[len(thin) * k // COMPARED_TILES] for k in range(COMPARED_TILES)]
        tiles = np.array(thin, np.int64).reshape(-1, 6)
        found = []
        for a, b in ((start, u), (u, start)):
            score, weight = self._sum(tiles, a, b, 1.0, scratch)
            found.append(score / weight if weight > 0 else 0.0)
        return found[0], found[1]

    def _sum(self, tiles, u, other, robustness, equations) -> tuple[float, float]:
        """Work off `tiles` in the block's threads; their sums are added in the order of the tiles."""
        sums = np.zeros((len(tiles), 2))

        def work(k: int) -> None:
            sum_tiles(
                tiles[k : k + 1], self.spans, self._needed, self.fixed, self.moving, self.fixed_mask,
                self.moving_mask, self.linear, self.shift, u, other, self.floor_fixed, self.floor_moving,
                robustness, sums[k : k + 1], equations,
            )  # fmt: skip

        share_out(work, range(len(tiles)))
        score, weight = sums.sum(0)
        return (float(score), float(weight) / self.share) if weight > 0 else (0.0, 0.0)
