"""The native engine on planes, slabs and volumes whose voxel edges differ, against known displacements."""

from __future__ import annotations

import numpy as np
import pytest
from test_native import displacement, points_of, texture

from weft.grid import Grid
from weft.registration.backends.native import register
from weft.registration.contract import Initial

AMPLITUDE = 4.0  # um
NOTHING = (None, None)


def optical_section(grid: Grid, u: float, seed: int) -> np.ndarray:
    """Texture moved by the displacement of amplitude `u`, averaged over each voxel at 1 um; (z, y, x)."""
    factors = tuple(int(s) for s in grid.spacing)
    shape = tuple(n * f for n, f in zip(grid.shape, factors, strict=True))
    points = points_of(Grid(shape, (1.0, 1.0, 1.0)))
    fine = texture((points + displacement(points, u)) * 2.5, seed)
    split = [n for pair in zip(grid.shape, factors, strict=True) for n in pair]
    return fine.reshape(split).mean((1, 3, 5))


def noisy_error(factors: tuple[int, int, int], seed: int) -> tuple[float, float]:
    """Mean error, um, and smallest Jacobian of a cube of 96 um sampled by so many um along each axis."""
    grid = Grid((96, 96, 96), (1.0, 1.0, 1.0)).coarsen(factors)
    grid = Grid(grid.shape, grid.spacing, tuple((f - 1) / 2 for f in factors))
    noise = np.random.default_rng(seed).normal(0, 50, (2, *grid.shape))
    fixed, moving = (optical_section(grid, u, seed) + n for u, n in zip((AMPLITUDE, 0), noise, strict=True))
    found = register(fixed, grid, moving, grid, Initial.identity(), NOTHING, {}, 0)
    truth = np.moveaxis(displacement(points_of(found.grid), AMPLITUDE), -1, 0)
    return float(np.linalg.norm(found.displacement - truth, axis=0).mean()), found.minimal_jacobian


@pytest.mark.parametrize(("factors", "worst"), [((4, 1, 1), 2.5), ((1, 2, 2), 2.0)])
def test_unequal_voxel_edges(factors, worst):
    """A quarter of the voxels, and an error that grows less than the longest edge."""
    isotropic, _ = noisy_error((1, 1, 1), seed=1)
    unequal, jacobian = noisy_error(factors, seed=1)
    assert isotropic < 0.2
    assert unequal < worst * isotropic
    assert jacobian > 0.5


@pytest.mark.parametrize("across", [0, 1, 2])
@pytest.mark.parametrize("thickness", [1.0, 50.0])
def test_a_plane_is_registered_within_itself(across, thickness):
    shape, spacing = [90, 90, 90], [1.0, 1.0, 1.0]
    shape[across], spacing[across] = 1, thickness
    grid = Grid(tuple(shape), tuple(spacing), (3.0, -5.0, 40.0))
    points = points_of(grid)
    u = displacement(points, 3.0)
    u[..., across] = 0
    fixed, moving = texture((points + u) * 4), texture(points * 4)
    apart = np.eye(4)  # where the other plane lies does not matter
    apart[across, 3] = 777.0
    found = register(fixed, grid, moving, grid, Initial(apart), NOTHING, {}, 0)
    again = points_of(found.grid)
    again[..., across] = grid.origin[across]
    truth = np.moveaxis(displacement(again, 3.0), -1, 0)
    truth[across] = 0
    start = np.linalg.norm(truth, axis=0).mean()
    error = np.linalg.norm(found.displacement - truth, axis=0)
    assert start > 1.5
    assert error.mean() < 0.12
    assert not found.displacement[across].any()
    assert found.displacement.shape[1 + across] == 1
    assert found.minimal_jacobian > 0.5
    assert [m["level"] for m in found.metrics] == [3, 2, 1, 0]


def test_a_plane_averages_over_as_many_samples_as_a_volume():
    """Noise of a third of the contrast: with a volume's narrower Gaussian it would be fitted."""
    grid = Grid((1, 160, 160), (1.0, 1.0, 1.0))
    points = points_of(grid)
    u = displacement(points, 3.0)
    u[..., 0] = 0
    rng = np.random.default_rng(5)
    fixed = texture((points + u) * 4) + rng.normal(0, 200, grid.shape)
    moving = texture(points * 4) + rng.normal(0, 200, grid.shape)
    found = register(fixed, grid, moving, grid, Initial.identity(), NOTHING, {}, 0)
    again = points_of(found.grid)
    again[..., 0] = 0
    truth = np.moveaxis(displacement(again, 3.0), -1, 0)
    truth[0] = 0
    assert np.linalg.norm(found.displacement - truth, axis=0).mean() < 0.35


@pytest.mark.parametrize(
    "shape", [(3, 64, 64), (64, 2, 64), (1, 1, 200), (5, 5, 5), (1, 1, 1), (2, 3, 40), (7, 1, 33)]
)
def test_thin_blocks_give_a_result_or_their_start(shape):
    grid = Grid(shape, (1.0, 1.0, 1.0))
    moving = texture(points_of(grid) * 4)
    fixed = texture((points_of(grid) + 0.8) * 4)
    found = register(fixed, grid, moving, grid, Initial.identity(), NOTHING, {}, 0)
    assert found.displacement.shape == (3, *grid.coarsen((2, 2, 2)).shape)
    assert np.isfinite(found.displacement).all()
    assert found.minimal_jacobian > 0
    if sorted(shape)[1] >= 12:
        assert found.metric_after > found.metric_before
