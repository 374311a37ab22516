"""What a round trip through a displacement field and its inverse leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from weft.blocks import cut, index_of, region, within_blocks
from weft.grid import Grid
from weft.image import Region
from weft.transforms.histogram import Histogram
from weft.transforms.interpolate import (
    Field,
    axis_steps,
    check_field,
    crop_field,
    interpolate_row,
    vector_at,
)

TILE = (128, 256, 256)  # voxels of the fixed grid that are measured at once
BIN, BINS = 1e-3, 1 << 15  # of the lengths of the whole, voxel edges
# Of the roots of the lengths of a block: fine where lengths are short, and few, as there may be many blocks.
BLOCK_BIN, BLOCK_BINS = 1 / 128, 512


def round_trip(
    u: Field,
    grid: Grid,
    v: Field,
    grid_v: Grid,
    fixed_grid: Grid,
    blocks: Sequence[np.ndarray] | None = None,
) -> dict[str, Any]:
    """How far x -> x + u(x) -> back through v ends from x, over every voxel of a grid.

    Parameters
    ----------
    u, grid
        The displacement field, (3, z, y, x) float32 um, and its grid.
    v, grid_v
        Its inverse, and the inverse's grid.
    fixed_grid
        The voxels to try, in the fixed space; a part at a time.
    blocks
        Index of the block along each axis for every voxel of ``fixed_grid`` (`weft.blocks.blocks_along_axes`), to have it
        of each block as well, from the same lengths. Memory: 4 kB for each block that has been met and is not complete.

    Returns
    -------
    ``p50``, ``p95`` (rounded up to a thousandth of a voxel), ``max`` (exact), um; ``voxels``, and
    ``outside``: how many landed outside the inverse's grid (they count in the others as well). With ``blocks``, also
    ``blocks``: by name, ``p50`` and ``p95`` (rounded up by at most 0.003 of a voxel at 0.03, 0.016 at 1;
    beyond 16 voxels the largest), ``max``, um.

    Raises
    ------
    ValueError
        When a field does not lie on its grid.
    """
    check_field(v, grid_v)
    voxel = min(fixed_grid.spacing)
    lengths = Histogram(0.0, BIN * voxel, BINS)
    found_of = _Blocks(blocks, voxel)
    outside = 0
    for name in cut(fixed_grid.shape, TILE):
        z, y, x = region(name, fixed_grid.shape, TILE)
        part = fixed_grid.crop((z, y, x))
        first, last = part.corners()[[0, -1]]
        there, there_grid = crop_field(u, grid, first, last)
        # Where the part's points land: they are moved by no more than the samples around them.
        moved = there.reshape(3, -1)
        back, back_grid = crop_field(v, grid_v, first + moved.min(1), last + moved.max(1))
        to_back = np.linalg.inv(back_grid.matrix())
        found = np.empty(part.shape, np.float32)
        outside += _round_trip(
            there,
            back,
            tuple(axis_steps(there_grid, part, axis) for axis in range(3)),
            np.array(part.origin),
            np.array(part.spacing),
            np.diag(to_back)[:3].copy(),
            to_back[:3, 3].copy(),
            grid_v.lower,
            grid_v.upper,
            found,
        )
        lengths.add(found)
        found_of.add((z, y, x), found)
    return {
        "p50": lengths.percentile(50),
        "p95": lengths.percentile(95),
        "max": lengths.largest,
        "outside": int(outside),
        "voxels": fixed_grid.size,
        **({} if blocks is None else {"blocks": found_of.rows}),
    }


class _Blocks:
    """The lengths of each block, until all of its voxels have been met."""

    def __init__(self, blocks: Sequence[np.ndarray] | None, voxel: float) -> None:
        self.blocks, self.voxel = blocks, voxel
        self.sizes = [] if blocks is None else [np.bincount(index) for index in blocks]
        self.roots: dict[str, Histogram] = {}
        self.rows: dict[str, dict[str, float]] = {}

    def add(self, part: Region, lengths: np.ndarray) -> None:
        """Take the lengths of a part of the grid, (z, y, x) um."""
        if self.blocks is None:
            return
        for name, within in within_blocks(self.blocks, part):
            roots = self.roots.setdefault(name, Histogram(0.0, BLOCK_BIN * self.voxel**0.5, BLOCK_BINS))
            roots.add(np.sqrt(lengths[within]))
            z, y, x = (n[i] for n, i in zip(self.sizes, index_of(name), strict=True))
            if roots.size == z * y * x:
                self.rows[name] = {
                    "p50": roots.percentile(50) ** 2,
                    "p95": roots.percentile(95) ** 2,
                    "max": roots.largest**2,
                }
                del self.roots[name]


@numba.njit(cache=True, nogil=True)
def _round_trip(u, v, steps, origin, spacing, scale, offset, lower, upper, lengths):
    """Fill lengths, um; the number of voxels that land outside the box from lower to upper."""
    (z_lower, z_weight), (y_lower, y_weight), (x_lower, x_weight) = steps
    nodes = u.shape[3]
    row = np.empty(
        (3, nodes + 1), np.float32
    )  # the last node twice, so that every node has an upper neighbour
    outside = 0
    for z in range(z_lower.size):
        for y in range(y_lower.size):
            interpolate_row(u, z_lower[z], z_weight[z], y_lower[y], y_weight[y], row)
            row[:, nodes] = row[:, nodes - 1]
            pz, py = origin[0] + spacing[0] * z, origin[1] + spacing[1] * y
            for x in range(x_lower.size):
                k, f = x_lower[x], x_weight[x]
                dz = row[0, k] + (row[0, k + 1] - row[0, k]) * f
                dy = row[1, k] + (row[1, k + 1] - row[1, k]) * f
                dx = row[2, k] + (row[2, k + 1] - row[2, k]) * f
                wz, wy, wx = pz + dz, py + dy, origin[2] + spacing[2] * x + dx
                inside = (
                    lower[0] <= wz <= upper[0] and lower[1] <= wy <= upper[1] and lower[2] <= wx <= upper[2]
                )
                outside += not inside
                back = vector_at(
                    v, wz * scale[0] + offset[0], wy * scale[1] + offset[1], wx * scale[2] + offset[2]
                )
                lengths[z, y, x] = np.sqrt((dz + back[0]) ** 2 + (dy + back[1]) ** 2 + (dx + back[2]) ** 2)
    return outside
