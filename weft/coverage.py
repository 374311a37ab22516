"""What the tiles of a stitched image cover; elsewhere its voxels are 0 because nobody looked there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.grid import Grid, Shape, Triple

ATTRIBUTE = "weft"  # of an image's Zarr group: it holds, as ``tiles``, what OME-NGFF has no place for
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
        low, high = self._boxes()
        lower, upper = low.min(0), high.max(0)
        axes = [
            np.clip(grid.origin[k] + grid.spacing[k] * np.arange(-1, grid.shape[k] + 1), lower[k], upper[k])
            for k in range(3)
        ]
        slack = _ROUNDING * np.asarray(self.spacing)
        first = np.column_stack([np.searchsorted(axes[k], low[:, k] - slack[k]) for k in range(3)])
        last = np.column_stack([np.searchsorted(axes[k], high[:, k] + slack[k], "right") for k in range(3)])
        covered = np.zeros([len(axis) for axis in axes], bool)
        for tile in np.flatnonzero((first < last).all(axis=1)):
            part = tuple(slice(a, b) for a, b in zip(first[tile], last[tile], strict=True))
            covered[part] |= self._inside(int(tile), [axis[p] for axis, p in zip(axes, part, strict=True)])
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

    def _boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest corner of each tile's box, (n, 3) um."""
        far = np.asarray(self.shape) - 0.5
        corners = np.array(list(itertools.product(*((-0.5, n) for n in far)))) * self.spacing
        if self.linear is None:
            return self.positions + corners.min(0), self.positions + corners.max(0)
        places = self.positions[:, None] + np.einsum("nij,cj->nci", self.linear, corners)
        return places.min(1), places.max(1)

    def _inside(self, tile: int, axes: list[np.ndarray]) -> np.ndarray | bool:
        """Which points of a lattice in a tile's box lie in the tile itself."""
        if self.linear is None:
            return True
        half = 0.5 + _ROUNDING
        back = np.linalg.inv(self.linear[tile]) / np.asarray(self.spacing)[:, None]
        z, y, x = (axis - o for axis, o in zip(axes, self.positions[tile], strict=True))
        inside = np.ones([len(z), len(y), len(x)], bool)
        for row, size in zip(back, self.shape, strict=True):
            index = (row[0] * z)[:, None, None] + (row[1] * y)[:, None] + row[2] * x
            inside &= (index >= -half) & (index <= size - 1 + half)
        return inside
