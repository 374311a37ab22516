"""What the tiles of a stitched image cover; elsewhere its voxels are 0 because nobody looked there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.grid import Grid, Shape, Triple

_ROUNDING = 1e-6  # voxels


@dataclass(frozen=True)
class Coverage:
    """The places of the tiles that an image was fused from.

    Parameters
    ----------
    shape, spacing
        Of a tile: voxels (z, y, x) and um.
    positions
        Of the first voxel's centre of each tile, (n, 3) um, in the image's space.
    linear
        Linear part of each tile's pose, (n, 3, 3); None for translations.
    """

    shape: Shape
    spacing: Triple
    positions: np.ndarray
    linear: np.ndarray | None = None

    def on(self, grid: Grid) -> np.ndarray:
        """Where the voxels of a grid see nothing but what tiles cover.

        A voxel that is antialiased sees its neighbours too: they must be covered as well. Beyond the box of all
        tiles an image goes on as it ends, as `weft.sampling.read_at` has it.

        Returns
        -------
        (z, y, x) bool.
        """
        lower, upper = self._box()
        axes = [
            np.clip(grid.origin[k] + grid.spacing[k] * np.arange(-1, grid.shape[k] + 1), lower[k], upper[k])
            for k in range(3)
        ]
        covered = np.zeros([len(axis) for axis in axes], bool)
        for tile in range(len(self.positions)):
            self._paint(tile, axes, covered)
        for axis in range(3):
            inner = np.moveaxis(covered, axis, 0)
            covered = np.moveaxis(inner[:-2] & inner[1:-1] & inner[2:], 0, axis)
        return np.ascontiguousarray(covered)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as an image's metadata hold them."""
        plain = {"shape": list(self.shape), "spacing": list(self.spacing)}
        linear = None if self.linear is None else np.asarray(self.linear).tolist()
        return {**plain, "positions": np.asarray(self.positions).tolist(), "linear": linear}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Coverage:
        """The inverse of `to_json`.

        Raises
        ------
        ValueError
            When a field is missing or does not have the form of its kind.
        """
        try:
            shape = tuple(int(n) for n in value["shape"])
            spacing = tuple(float(s) for s in value["spacing"])
            positions = np.array(value["positions"], float).reshape(-1, 3)
            linear = value.get("linear")
            linear = None if linear is None else np.array(linear, float).reshape(len(positions), 3, 3)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"tiles: found {error}; wanted shape, spacing (three numbers each), positions (n, 3), linear (n, 3, 3) or null"
            ) from None
        if len(shape) != 3 or len(spacing) != 3 or not len(positions):
            raise ValueError(
                f"tiles: found shape {shape}, spacing {spacing} and {len(positions)} positions; wanted three numbers, "
                "three numbers and a tile at least"
            )
        return Coverage(shape, spacing, positions, linear)

    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest corner of all tiles."""
        corners = self._corners()
        if self.linear is None:
            return corners.min(0) + self.positions.min(0), corners.max(0) + self.positions.max(0)
        places = self.positions[:, None] + np.einsum("nij,cj->nci", self.linear, corners)
        return places.min((0, 1)), places.max((0, 1))

    def _corners(self) -> np.ndarray:
        """The outer corners of a tile's voxels, (8, 3) um, from the centre of its first voxel."""
        far = np.asarray(self.shape) - 0.5
        return np.array(list(itertools.product(*((-0.5, n) for n in far)))) * self.spacing

    def _paint(self, tile: int, axes: list[np.ndarray], covered: np.ndarray) -> None:
        """Mark what a tile covers of the lattice of points along three axes, each in rising order."""
        half = 0.5 + _ROUNDING
        corners = self._corners()
        if self.linear is not None:
            corners = corners @ self.linear[tile].T
        corners = corners + self.positions[tile]
        slack = _ROUNDING * np.asarray(self.spacing)
        low, high = corners.min(0) - slack, corners.max(0) + slack
        part = tuple(
            slice(int(np.searchsorted(axis, a)), int(np.searchsorted(axis, b, "right")))
            for axis, a, b in zip(axes, low, high, strict=True)
        )
        if self.linear is None or any(p.stop <= p.start for p in part):
            covered[part] = True
            return
        back = np.linalg.inv(self.linear[tile]) / np.asarray(self.spacing)[:, None]
        z, y, x = (axis[p] - o for axis, p, o in zip(axes, part, self.positions[tile], strict=True))
        inside = np.ones([len(z), len(y), len(x)], bool)
        for row, size in zip(back, self.shape, strict=True):
            index = (row[0] * z)[:, None, None] + (row[1] * y)[:, None] + row[2] * x
            inside &= (index >= -half) & (index <= size - 1 + half)
        covered[part] |= inside
