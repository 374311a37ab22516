"""Inversion: against inverses known in closed form, and by a round trip that another library judges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from weft.blocks import blocks_along_axes, cut, region
from weft.grid import Grid
from weft.transforms import round_trip as round_trip_module
from weft.transforms.interpolate import resample_field, sample_field
from weft.transforms.invert import find_inverse, invert_displacements
from weft.transforms.jacobian import determinant
from weft.transforms.round_trip import round_trip

FULL = Grid((48, 56, 52), (10.0, 10.0, 10.0), (100.0, -50.0, 0.0))


def points_of(grid: Grid) -> np.ndarray:
    return grid.to_physical(np.indices(grid.shape).reshape(3, -1).T)


def as_field(vectors: np.ndarray, grid: Grid) -> np.ndarray:
    return vectors.T.reshape(3, *grid.shape).astype(np.float32)


def smooth_field(full: Grid, grid: Grid, sigma: float, largest: float, seed: int = 0) -> np.ndarray:
    """A random field of at most ``largest`` voxels of ``full``, smooth over ``sigma`` voxels."""
    rng = np.random.default_rng(seed)
    u = np.stack([ndimage.gaussian_filter(rng.normal(size=full.shape), sigma) for _ in range(3)])
    u *= largest * full.spacing[0] / np.linalg.norm(u, axis=0).max()
    return resample_field(u.astype(np.float32), full, grid)


@pytest.mark.parametrize("factor", [0.5, 1.3, 2.5, 4.0])
def test_a_scaling_is_inverted_exactly_where_the_fixed_point_would_diverge(factor):
    grid = FULL.coarsen((4, 4, 4))
    centre = grid.to_physical((np.array(grid.shape) - 1) / 2)
    u = as_field((points_of(grid) - centre) * (factor - 1), grid)
    v, grid_v = invert_displacements(u, grid)
    w = points_of(grid_v)
    truth = (w - centre) / factor + centre
    inside = grid.contains(truth) & (
        np.abs(grid.to_index(truth) - np.clip(grid.to_index(truth), 0, np.array(grid.shape) - 1)).max(1) == 0
    )
    assert inside.any()
    found = w + v.reshape(3, -1).T
    assert np.abs(found - truth)[inside].max() < 0.01 * grid.spacing[0]


def test_a_turn_is_inverted():
    grid = FULL.coarsen((4, 4, 4))
    centre = grid.to_physical((np.array(grid.shape) - 1) / 2)
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    u = as_field((points_of(grid) - centre) @ (turn - np.eye(3)).T, grid)
    v, grid_v = invert_displacements(u, grid)
    w = points_of(grid_v)
    truth = (w - centre) @ turn + centre
    index = grid.to_index(truth)
    inside = ((index >= 0) & (index <= np.array(grid.shape) - 1)).all(1)
    assert np.abs(w + v.reshape(3, -1).T - truth)[inside].max() < 0.01 * grid.spacing[0]


@pytest.mark.parametrize(("stride", "sigma", "largest"), [(2, 8, 8.0), (4, 10, 8.0), (2, 10, 10.0)])
def test_the_round_trip_of_a_smooth_field_is_below_a_fifth_of_a_voxel(stride, sigma, largest):
    grid = FULL.coarsen((stride,) * 3)
    u = smooth_field(FULL, grid, sigma, largest)
    assert determinant(u, grid).min() > 0.1
    v, grid_v = invert_displacements(u, grid)
    found = round_trip(u, grid, v, grid_v, FULL)
    assert found["outside"] == 0
    assert found["voxels"] == FULL.size
    assert found["p95"] <= 0.2 * FULL.spacing[0]
    finer = round_trip(u, grid, *invert_displacements(u, grid, supersample=2), FULL)
    assert finer["p95"] < 0.6 * found["p95"]


def test_the_round_trip_figures_are_those_of_another_interpolator():
    grid = FULL.coarsen((4, 4, 4))
    u = smooth_field(FULL, grid, 8, 8.0, seed=3)
    v, grid_v = invert_displacements(u, grid)
    v[:, 2:5] += 7.0  # a worse inverse has to show
    found = round_trip(u, grid, v, grid_v, FULL)

    def sample(field, where, points):
        index = where.to_index(points).T
        return np.stack(
            [ndimage.map_coordinates(part.astype(float), index, order=1, mode="nearest") for part in field], 1
        )

    x = points_of(FULL)
    w = x + sample(u, grid, x)
    error = np.linalg.norm(w + sample(v, grid_v, w) - x, axis=1)
    assert found["max"] == pytest.approx(error.max(), rel=1e-5)
    assert found["p50"] == pytest.approx(np.percentile(error, 50), abs=0.02)
    assert found["p95"] == pytest.approx(np.percentile(error, 95), abs=0.02)


def test_points_that_leave_the_inverses_grid_are_counted():
    grid = FULL.coarsen((4, 4, 4))
    u = np.zeros((3, *grid.shape), np.float32)
    u[0] = 80.0
    v = -u
    found = round_trip(u, grid, v, grid, FULL)
    # Shifted by 8 voxels along z: the last 8 planes leave the grid, which ends with the volume.
    assert found["outside"] == 8 * FULL.shape[1] * FULL.shape[2]
    assert found["max"] == 0


def test_a_fold_neither_hangs_nor_spoils_the_rest():
    grid = FULL.coarsen((4, 4, 4))
    u = np.zeros((3, *grid.shape), np.float32)
    u[0, 6, 7, 6] = 130.0
    v, grid_v = invert_displacements(u, grid)
    assert np.isfinite(v).all()
    first = np.rint(grid_v.to_index(grid.origin)).astype(int)
    corner = v[:, first[0] : first[0] + 3, first[1] : first[1] + 3, first[2] : first[2] + 3]
    assert np.abs(corner).max() < 0.05


# ---------------------------------------------------------------------------------- block by block
def stretched_inverse(largest: float) -> tuple[np.ndarray, Grid, np.ndarray]:
    """An inverse of no displacement that is wrong by a length that grows along x; and the length at each voxel, um."""
    grid = FULL.coarsen((4, 4, 4)).pad((1, 1, 1))
    slope = largest / (FULL.extent[2] - FULL.spacing[2])
    v = np.zeros((3, *grid.shape), np.float32)
    v[2] = slope * (
        grid.to_physical(np.indices(grid.shape).reshape(3, -1).T)[:, 2].reshape(grid.shape) - FULL.origin[2]
    )
    return v, grid, slope * FULL.spacing[2] * np.arange(FULL.shape[2])


@pytest.mark.parametrize("largest", [0.3, 5.0, 150.0])
def test_the_round_trip_of_every_block(monkeypatch, largest):
    """Blocks meet several of the parts that are measured at once, and parts several blocks."""
    monkeypatch.setattr(round_trip_module, "TILE", (20, 24, 28))
    u_grid = FULL.coarsen((4, 4, 4))
    u = np.zeros((3, *u_grid.shape), np.float32)
    v, v_grid, lengths = stretched_inverse(largest)
    plan = {"grid": FULL.to_json(), "block": [24, 30, 20]}
    whole = round_trip(u, u_grid, v, v_grid, FULL)
    found = round_trip(u, u_grid, v, v_grid, FULL, blocks_along_axes(plan, FULL))
    blocks = found.pop("blocks")
    assert found == whole
    assert set(blocks) == set(cut(FULL.shape, plan["block"]))
    for name, row in blocks.items():
        _, _, along = region(name, FULL.shape, plan["block"])
        here, voxel = lengths[along], FULL.spacing[0]
        assert row["max"] == pytest.approx(here.max(), rel=1e-4), name
        for q in (50, 95):
            wanted = np.percentile(here, q, method="inverted_cdf")
            # Rounded up to the end of a bin of the roots, in voxel edges.
            upper = (np.sqrt(wanted / voxel) + 1 / 128) ** 2 * voxel
            assert wanted * (1 - 1e-4) <= row[f"p{q}"] <= upper * (1 + 1e-4), name
    # Only the blocks at the end are the worst ones.
    assert {name for name, row in blocks.items() if row["max"] > 0.99 * largest} == {
        f"{i}.{j}.2" for i in (0, 1) for j in (0, 1)
    }


def test_blocks_of_a_coarser_stage_hold_their_voxels():
    """A stage at three voxels, whose blocks do not end with the image's voxels of 4."""
    stage = FULL.coarsen((3, 3, 3))
    u_grid = FULL.coarsen((4, 4, 4))
    u = np.zeros((3, *u_grid.shape), np.float32)
    v, v_grid, lengths = stretched_inverse(5.0)
    plan = {"grid": stage.to_json(), "block": [16, 20, 10]}
    blocks = find_inverse(u, u_grid, FULL, voxel=30.0, blocks=blocks_along_axes(plan, FULL)).round_trip[
        "blocks"
    ]
    assert set(blocks) == {"0.0.0", "0.0.1"}
    assert all(row == {"p50": 0, "p95": 0, "max": 0} for row in blocks.values())
    blocks = round_trip(u, u_grid, v, v_grid, FULL, blocks_along_axes(plan, FULL))["blocks"]
    assert blocks["0.0.0"]["max"] == pytest.approx(
        lengths[29], rel=1e-4
    )  # 10 voxels of the stage: 30 of the image
    assert blocks["0.0.1"]["max"] == pytest.approx(lengths[51], rel=1e-4)


# ---------------------------------------------------------------------------------- in parts, and how fine
class Counted:
    """A field that counts the samples that are read of it."""

    def __init__(self, field):
        self.field, self.shape, self.read = field, field.shape, 0

    def __getitem__(self, region):
        part = np.asarray(self.field[region])
        self.read += part[0].size
        return part


def wave(grid: Grid, largest: float = 6.0) -> np.ndarray:
    """A field whose displacements are the same however long the grid is along x."""
    z, y, x = points_of(grid).T.reshape(3, *grid.shape) / 40
    return (largest * np.stack([np.sin(x + y), np.sin(y + z), np.cos(x - z)])).astype(np.float32)


def test_what_is_read_grows_with_the_volume_and_no_faster():
    """Every sample is read once for the extremes, and by the shards, with their halos, that it lies in."""
    shares = []
    for length in (128, 512):
        grid = Grid((32, 32, length), (4.0,) * 3)
        u = Counted(wave(grid))
        v = find_inverse(u, grid, grid, voxel=4.0, supersample=1).displacements
        shares.append(u.read / grid.size)
        assert np.isfinite(v.field).all()
    # Once for the extremes, once for the shards of the inverse and once for the parts of the fixed grid.
    assert max(shares) < 3 * 1.2
    assert shares[1] == pytest.approx(shares[0], rel=0.1)


def test_shards_do_not_show_in_the_inverse(monkeypatch):
    grid = Grid((40, 40, 150), (4.0,) * 3)
    u = wave(grid)
    one, v_grid = invert_displacements(u, grid, tolerance=1e-4)
    monkeypatch.setattr("weft.transforms.formats.ngff.SHARD", 32)
    parts, _ = invert_displacements(u, grid, tolerance=1e-4)
    np.testing.assert_allclose(parts, one, atol=2e-3)
    monkeypatch.setattr("weft.transforms.round_trip.TILE", (16, 16, 16))
    small = round_trip(u, grid, one, v_grid, grid)
    monkeypatch.setattr("weft.transforms.round_trip.TILE", (128, 256, 256))
    whole = round_trip(u, grid, one, v_grid, grid)
    assert {**small, "max": 0} == {**whole, "max": 0}
    assert small["max"] == pytest.approx(whole["max"], rel=1e-6)


def test_the_grid_is_made_finer_only_where_the_round_trip_asks_for_it():
    grid = FULL.coarsen((4, 4, 4))
    calm = find_inverse(smooth_field(FULL, grid, 10, 2.0), grid, FULL, voxel=10.0)
    assert (calm.supersample, calm.unsolved) == (1, 0)
    assert calm.residual <= 0.01 * grid.spacing[0]
    bent = smooth_field(FULL, grid, 7, 8.0)
    coarse = find_inverse(bent, grid, FULL, voxel=10.0, supersample=1)
    assert coarse.round_trip["p95"] > 1.0
    chosen = find_inverse(bent, grid, FULL, voxel=10.0)
    assert chosen.supersample > 1
    assert chosen.round_trip["p95"] <= 1.0
    assert chosen.round_trip["max"] <= 5.0
    assert chosen.displacements.grid.spacing[0] == pytest.approx(grid.spacing[0] / chosen.supersample)
    assert find_inverse(bent, grid, FULL, voxel=100.0).supersample == 1


def test_what_was_not_solved_is_counted():
    grid = FULL.coarsen((4, 4, 4))
    u = smooth_field(FULL, grid, 8, 8.0)
    hurried = find_inverse(u, grid, FULL, voxel=10.0, iterations=1, tolerance=1e-3, supersample=1)
    assert hurried.unsolved > 100
    assert hurried.residual > 1e-3 * grid.spacing[0]


def test_far_outside_both_directions_undo_each_other():
    grid = FULL.coarsen((4, 4, 4))
    u = smooth_field(FULL, grid, 8, 8.0)
    v, v_grid = invert_displacements(u, grid, tolerance=1e-4, supersample=4)
    rng = np.random.default_rng(1)
    middle, half = (grid.lower + grid.upper) / 2, grid.extent / 2
    # Beyond faces, edges and corners, from next to the field's grid to a thousand times its size.
    ways = rng.choice([-1, 0, 1], size=(3000, 3))
    ways = ways[(ways != 0).any(1)]
    away = half * ways * (1 + 10 ** rng.uniform(-2, 3, (len(ways), 1)))
    points = middle + np.where(ways == 0, half * rng.uniform(-0.9, 0.9, ways.shape), away)
    there = points + sample_field(u, grid, points)
    error = np.linalg.norm(there + sample_field(v, v_grid, there) - points, axis=1)
    # Where the field ends its slope jumps, which the inverse's grid does not follow exactly.
    assert error.max() < 0.2 * FULL.spacing[0]
    assert np.percentile(error, 95) < 0.05 * FULL.spacing[0]


def test_the_same_field_gives_the_same_bytes():
    grid = FULL.coarsen((4, 4, 4))
    u = smooth_field(FULL, grid, 8, 8.0)
    assert invert_displacements(u, grid)[0].tobytes() == invert_displacements(u.copy(), grid)[0].tobytes()


def test_values_that_are_not_finite_are_refused():
    u = np.zeros((3, *FULL.shape), np.float32)
    u[1, 2, 3, 4] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        invert_displacements(u, FULL)
