"""The native engine against displacements known by construction.

The texture is a formula, evaluated at the warped coordinates for the fixed image and on the grid for the
moving one: no image is interpolated on the way to the truth.
"""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest

from weft.grid import Grid
from weft.registration.backends.native import (
    NativeSettings,
    backend_version,
    intensity_statistics,
    predicted_memory,
    register,
)
from weft.registration.backends.native_field import compose, gaussian_taps, rate, smooth, upsample
from weft.registration.backends.native_solver import solve_with_prior
from weft.registration.contract import Initial, load_backend
from weft.registration.contract import backend_version as version_of
from weft.transforms.folds import minimal_jacobian
from weft.transforms.interpolate import resample_field

NOTHING = (None, None)
SPACING = (4.0, 4.2, 3.9)


def texture(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """Blobs of 4 to 12 voxels: a saturated sum of plane waves at points, (..., 3) um -> float32 counts."""
    rng = np.random.default_rng(seed)
    waves = rng.standard_normal((40, 3))
    waves *= (2 * np.pi / (4 * rng.uniform(8, 24, 40)) / np.linalg.norm(waves, axis=1))[:, None]
    phases = rng.uniform(0, 2 * np.pi, 40)
    total = np.zeros(points.shape[:-1], np.float32)
    points = points.astype(np.float32)
    for wave, phase in zip(waves.astype(np.float32), phases.astype(np.float32), strict=True):
        total += np.cos(points @ wave + phase)
    return 1000 + 600 * np.tanh(total / 4)


def points_of(grid: Grid) -> np.ndarray:
    """Voxel centres, (z, y, x, 3) um."""
    axes = [o + s * np.arange(n) for o, s, n in zip(grid.origin, grid.spacing, grid.shape, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def displacement(points: np.ndarray, amplitude: float) -> np.ndarray:
    """A smooth invertible u, (..., 3) um, at points in um."""
    z, y, x = np.moveaxis(points, -1, 0) / 150
    return amplitude * np.stack([np.sin(x + 2 * y), np.cos(1.3 * z - y), np.sin(1.7 * z + 0.8 * x)], -1)


class Pair:
    """Two textured blocks and the u between them, `voxels` wide and moved by some 3 voxels."""

    def __init__(self, voxels: int = 64, amplitude: float = 9.0):
        self.fixed_grid = Grid((voxels, voxels - 2, voxels + 3), SPACING, (30.0, -20.0, 7.0))
        angle = np.deg2rad(4)
        affine = np.eye(4)
        affine[:3, :3] = [
            [1.02, 0.01, 0],
            [0, np.cos(angle), -np.sin(angle)],
            [0, np.sin(angle), np.cos(angle)],
        ]
        affine[:3, 3] = [12, -9, 15]
        self.affine = affine
        self.amplitude = amplitude
        points = points_of(self.fixed_grid)
        moved = (points + displacement(points, amplitude)) @ affine[:3, :3].T + affine[:3, 3]
        lower = moved.reshape(-1, 3).min(0) - 8
        shape = tuple(int(n) for n in np.ceil((moved.reshape(-1, 3).max(0) + 8 - lower) / SPACING))
        self.moving_grid = Grid(shape, SPACING, tuple(lower))
        self.fixed = texture(moved).astype(np.uint16)
        self.moving = texture(points_of(self.moving_grid)).astype(np.uint16)

    def register(self, fixed=None, moving=None, masks=NOTHING, field=None, field_grid=None, **settings):
        return register(
            self.fixed if fixed is None else fixed,
            self.fixed_grid,
            self.moving if moving is None else moving,
            self.moving_grid,
            Initial(self.affine, field, field_grid),
            masks,
            {"levels": (2, 1, 0), **settings},
            0,
        )

    def truth(self, grid: Grid) -> np.ndarray:
        return np.moveaxis(displacement(points_of(grid), self.amplitude), -1, 0)

    def error(self, result) -> np.ndarray:
        """Distance between result and truth, voxels, (z, y, x)."""
        return np.linalg.norm(result.displacement - self.truth(result.grid), axis=0) / SPACING[0]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


@pytest.fixture(scope="module")
def found(pair):
    return pair.register()


def test_finds_the_displacement(pair, found):
    start = np.linalg.norm(pair.truth(found.grid), axis=0) / SPACING[0]
    error = pair.error(found)
    assert start.mean() > 2.5
    assert error.mean() < 0.15
    assert np.percentile(error, 95) < 0.4
    assert found.displacement.dtype == np.float32
    assert found.grid == pair.fixed_grid.coarsen((2, 2, 2))
    assert found.displacement.shape == (3, *found.grid.shape)
    assert found.metric_after > 0.9 > found.metric_before + 0.3
    assert [m["level"] for m in found.metrics] == [2, 1, 0]
    assert found.iterations == sum(m["iterations"] for m in found.metrics) > 3
    assert found.minimal_jacobian == pytest.approx(
        minimal_jacobian(found.displacement, found.grid.spacing), abs=1e-4
    )
    assert found.minimal_jacobian > 0.5


def test_same_bytes_each_time(pair, found):
    again = pair.register()
    digests = {hashlib.sha256(r.displacement.tobytes()).hexdigest() for r in (found, again)}
    assert len(digests) == 1
    assert again.metrics == found.metrics


def test_inverted_contrast(pair):
    assert pair.error(pair.register(moving=(3000 - pair.moving).astype(np.uint16))).mean() < 0.2


def test_other_dtypes_and_memory_order(pair, found):
    result = pair.register(
        fixed=np.asfortranarray(pair.fixed.astype(">u2")), moving=pair.moving.astype(float)
    )
    assert np.abs(result.displacement - found.displacement).max() < 0.05


def test_skipped_finest_level_is_upsampled_to_the_same_grid(pair, found):
    result = pair.register(levels=(2, 1))
    assert result.grid == found.grid
    assert pair.error(result).mean() < 0.3
    assert [m["level"] for m in result.metrics] == [2, 1]


def test_start_field_is_honoured():
    pair = Pair(48, amplitude=25.0)  # six voxels and more: out of reach for level 0 alone
    grid = pair.fixed_grid.pad(8).resample(20.0)
    truth = pair.truth(grid).astype(np.float32)
    alone = pair.error(pair.register(levels=(0,)))
    led = pair.error(pair.register(levels=(0,), field=truth, field_grid=grid))
    assert led.mean() < 0.2 < 1.5 < alone.mean()
    still = pair.register(levels=(0,), iterations=(0,), field=truth, field_grid=grid)
    assert np.array_equal(still.displacement, resample_field(truth, grid, still.grid))


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_masked_voxels_do_not_count(pair, which):
    image, grid = getattr(pair, which), getattr(pair, f"{which}_grid")
    half = image.shape[2] // 2
    mask = np.zeros(image.shape, bool)
    mask[:, :, : half - 6] = True  # no window of a voxel inside sees a voxel that differs
    masks = (mask, None) if which == "fixed" else (None, mask)
    statistics = {"fixed": intensity_statistics(pair.fixed), "moving": intensity_statistics(pair.moving)}
    settings = {"levels": (0,), "intensity": statistics}
    masked, plain = [], []
    for seed in (8, 9):
        foreign = image.copy()
        foreign[:, :, half:] = texture(points_of(grid)[:, :, half:], seed)
        masked.append(pair.register(**{which: foreign}, masks=masks, **settings).displacement)
        plain.append(pair.register(**{which: foreign}, **settings).displacement)
    assert np.array_equal(*masked)
    assert np.abs(plain[0] - plain[1]).mean() > 0.5
    result = pair.register(masks=masks)
    assert pair.error(result)[:, :, : half // 2 - 6].mean() < 0.3


def test_full_masks_change_nothing(pair, found):
    masks = (np.ones(pair.fixed.shape, bool), np.ones(pair.moving.shape, bool))
    assert np.array_equal(pair.register(masks=masks).displacement, found.displacement)


def test_weights_between_none_and_all(pair):
    """Foreign texture in half the block: the smaller its weight, the less it bends the rest."""
    foreign = pair.fixed.copy()
    half = foreign.shape[2] // 2
    foreign[:, :, half:] = texture(points_of(pair.fixed_grid)[:, :, half:], 8)
    errors = []
    for weight in (0.0, 0.02, 1.0):
        weights = np.ones(foreign.shape, np.float32)
        weights[:, :, half:] = weight
        errors.append(
            pair.error(pair.register(fixed=foreign, masks=(weights, None)))[..., : half // 2].mean()
        )
    # What is left of a weight of .02 is so little that the fit does not tell it from none.
    assert errors[0] < 1.01 * errors[1] < 0.9 * errors[2]
    for bad in (1.5, -0.1, np.nan):
        with pytest.raises(ValueError, match="fixed mask holds weights"):
            pair.register(masks=(np.full(foreign.shape, bad), None))


def test_more_steps_do_not_make_it_worse():
    """Steps that the other half of the cells does not confirm are not taken, however long a level goes on."""
    pair = Pair(48, amplitude=6.0)
    rng = np.random.default_rng(4)
    fixed, moving = (image + rng.normal(0, 300, image.shape) for image in (pair.fixed, pair.moving))

    def error(**settings):
        return pair.error(pair.register(fixed, moving, **settings)).mean()

    usual = error()
    assert error(iterations=(36,)) < 1.02 * usual
    assert error(iterations=(36,), tolerance=0.0) < 1.1 * usual


def test_more_steps_do_not_follow_missing_tissue():
    """Where a ball of the moving tissue is missing nothing matches; steps there end with those of the rest (1.29 times else)."""
    pair = Pair(48, amplitude=6.0)
    rng = np.random.default_rng(0)
    centre = 48 * (0.35 + 0.3 * rng.random(3))
    index = np.moveaxis(np.indices(pair.moving.shape), 0, -1)
    missing = np.linalg.norm(index - centre, axis=-1) < 14
    moving = np.where(missing, pair.moving.min(), pair.moving) + rng.normal(0, 100, missing.shape)

    def error(**settings):
        return pair.error(pair.register(moving=moving, **settings)).mean()

    assert error(iterations=(48,), tolerance=0.0) < 1.05 * error()


def test_solver_agrees_with_the_dense_equations():
    """The solver against the dense equations of the same problem."""
    rng = np.random.default_rng(2)
    shape = (4, 5, 6)
    count = int(np.prod(shape))
    jacobians = rng.normal(size=(3, 2, *shape))
    equations = np.zeros((9, *shape), np.float32)
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    for k, (i, j) in enumerate(pairs):
        equations[k] = (jacobians[i] * jacobians[j]).sum(0)
    equations[6:] = rng.normal(size=(3, *shape))
    u = rng.normal(size=(3, *shape)).astype(np.float32)

    difference = np.zeros((0, count))
    index = np.arange(count).reshape(shape)
    for axis in range(3):
        lower, upper = (np.delete(index, end, axis).ravel() for end in (-1, 0))
        rows = np.zeros((len(lower), count))
        rows[np.arange(len(lower)), lower], rows[np.arange(len(lower)), upper] = -1, 1
        difference = np.vstack([difference, rows])
    bend = difference.T @ difference
    alpha, tension, volume, damping = 0.02, 2.0, 0.3, 0.5
    prior = np.kron(np.eye(3), alpha * (bend @ bend + tension * bend))
    # Central differences per voxel (a cell is two), with an edge's own sample for a missing one.
    neighbours = np.pad(index, 1, mode="edge")
    slopes = np.zeros((3, count, count))
    for axis in range(3):
        for shift, sign in ((2, 0.25), (0, -0.25)):
            start = [shift if a == axis else 1 for a in range(3)]
            part = neighbours[tuple(slice(i, i + n) for i, n in zip(start, shape, strict=True))]
            np.add.at(slopes[axis], (index.ravel(), part.ravel()), sign)
    gradient = np.einsum("aij,cj->iac", slopes, u.reshape(3, -1)) + np.eye(3)
    jacobian = np.maximum(np.linalg.det(gradient), 0.05)
    g = (jacobian - 1 / jacobian) / 2
    w = volume * np.minimum(g * g, 4.0)
    divergence = np.hstack(list(slopes))
    matrix = prior + damping * np.eye(3 * count) + divergence.T @ (w[:, None] * divergence)
    for k, (i, j) in enumerate(pairs):
        for a, b in {(i, j), (j, i)}:
            matrix[a * count + index.ravel(), b * count + index.ravel()] += equations[k].ravel() / 8
    wanted = np.linalg.solve(matrix, equations[6:].ravel() / 8 - prior @ u.ravel() - divergence.T @ (w * g))
    everywhere = np.tile(np.array([0, shape[2]]), (*shape[:2], 1))
    step = solve_with_prior(
        equations, everywhere, u, damping, alpha, tension, volume, 100.0, np.empty_like(u)
    )
    assert np.linalg.norm(step.ravel() - wanted) < 0.1 * np.linalg.norm(wanted)


@pytest.mark.parametrize("empty", ["fixed", "moving", "masked", "apart"])
def test_nothing_to_compare_returns_the_start(pair, empty):
    grid = Grid((4, 4, 4), (90.0,) * 3, (0.0, -60.0, 0.0))
    field = np.random.default_rng(1).normal(0, 3, (3, 4, 4, 4)).astype(np.float32)
    fixed, moving, masks, moving_grid = pair.fixed, pair.moving, NOTHING, pair.moving_grid
    if empty == "fixed":
        fixed = np.full_like(fixed, 100)
    elif empty == "moving":
        moving = np.zeros_like(moving)
    elif empty == "masked":
        masks = (np.zeros(fixed.shape, bool), None)
    else:
        moving_grid = Grid(moving_grid.shape, moving_grid.spacing, (1e5, 0.0, 0.0))
    result = register(
        fixed, pair.fixed_grid, moving, moving_grid, Initial(np.eye(4), field, grid), masks, {}, 0
    )
    assert np.array_equal(result.displacement, resample_field(field, grid, result.grid))
    assert result.metric_before == result.metric_after == result.iterations == 0
    assert result.metrics == []


@pytest.mark.parametrize("voxels", [16, 17, 25])
def test_small_blocks(voxels):
    pair = Pair(voxels, amplitude=2.0)
    result = pair.register(levels=(3, 2, 1, 0))
    assert max(m["level"] for m in result.metrics) == (1 if voxels == 25 else 0)
    assert result.grid == pair.fixed_grid.coarsen((2, 2, 2))
    assert pair.error(result).mean() < 0.3


def test_never_folds():
    rng = np.random.default_rng(3)
    grid = Grid((40, 40, 40), (2.0,) * 3)
    fixed, moving = (smooth_noise(rng, grid.shape) for _ in range(2))
    settings = {
        "damping": 1e-6, "stiffness": 1e-9, "robustness": 1e6, "sigma": (0.5,), "tolerance": 0.0,
        "iterations": (20,), "step_limit": 2.0, "levels": (1, 0),
    }  # fmt: skip
    result = register(fixed, grid, moving, grid, Initial.identity(), NOTHING, settings, 0)
    assert sum(m["limited"] for m in result.metrics) > 0
    assert np.abs(result.displacement).max() > 2
    assert minimal_jacobian(result.displacement, result.grid.spacing) > 0.02


def smooth_noise(rng, shape):
    a = rng.standard_normal((1, *shape)).astype(np.float32)
    smooth(a, gaussian_taps(1.5))
    return a[0]


def test_global_statistics_keep_an_empty_block_still(pair):
    rng = np.random.default_rng(0)
    noise = [rng.poisson(100, shape).astype(np.uint16) for shape in (pair.fixed.shape, pair.moving.shape)]
    whole = {
        "fixed": intensity_statistics([noise[0], pair.fixed], "root", 2),
        "moving": intensity_statistics([noise[1], pair.moving], "root", 2),
    }
    moved = [
        np.abs(pair.register(*noise, intensity=intensity).displacement).mean() for intensity in (None, whole)
    ]
    assert moved[1] <= moved[0] < 0.05
    # A block full of texture is registered as well with them.
    assert pair.error(pair.register(intensity=whole)).mean() < 0.15


@pytest.mark.parametrize("contrast", ["linear", "root", "log"])
def test_statistics_of_the_whole_are_those_of_its_parts(pair, contrast):
    whole = intensity_statistics(pair.fixed, contrast, 3)
    assert whole["std"] > 0
    assert len(whole["local_variance"]) == 4
    doubled = intensity_statistics([pair.fixed, pair.fixed], contrast, 3)
    assert doubled["mean"] == pytest.approx(whole["mean"])
    # Of each part half as many windows are looked at.
    assert doubled["local_variance"] == pytest.approx(whole["local_variance"], rel=0.1)


def test_minimal_jacobian_of_known_maps():
    grid = Grid((6, 7, 8), (2.0, 3.0, 4.0))
    z, y, x = np.moveaxis(points_of(grid), -1, 0)
    assert minimal_jacobian(np.ones((3, *grid.shape), np.float32), grid.spacing) == pytest.approx(1)
    shear = np.stack([0.5 * y, 0 * y, -0.25 * z])
    assert minimal_jacobian(shear, grid.spacing) == pytest.approx(1, abs=1e-5)
    scaled = np.stack([-0.5 * z, 0.2 * y, 0.1 * x])
    assert minimal_jacobian(scaled, grid.spacing) == pytest.approx(0.5 * 1.2 * 1.1, rel=1e-5)
    # One sample pushed past its neighbour in x folds a cell, and only central differences miss it.
    folded = np.zeros((3, *grid.shape), np.float32)
    folded[2, 3, 3, 4] = 5.0
    assert minimal_jacobian(folded, grid.spacing) == pytest.approx(1 - 5 / 4, rel=1e-5)
    assert minimal_jacobian(np.zeros((3, 1, 4, 1), np.float32), grid.spacing) == 1


def test_composition_and_upsampling_of_a_linear_map():
    grid = Grid((10, 12, 14), (2.0,) * 3, (0.5,) * 3)  # the displacement grid of a level of unit voxels
    points = np.moveaxis(points_of(grid), -1, 0)
    u = np.ascontiguousarray(0.1 * points + 1, np.float32)
    v = np.full_like(u, -0.8)
    out = np.empty_like(u)
    compose(u, v, out)
    inner = np.s_[:, 1:-1, 1:-1, 1:-1]
    assert np.allclose(out[inner], (0.1 * (points - 0.8) + 1 - 0.8)[inner], atol=1e-5)
    fine = np.moveaxis(points_of(Grid((19, 24, 27), (1.0,) * 3)), -1, 0)
    up = upsample(u, (19, 24, 27), 2.0)
    assert np.allclose(up[inner], (0.2 * fine + 2)[inner], atol=1e-5)


@pytest.mark.parametrize("shrinking", [0.0, 0.2, 0.54, 1.0, 1.5])
def test_rate_of_steps_that_shrink_in_the_same_direction(shrinking):
    first = np.random.default_rng(0).normal(0, 0.1, (3, 5, 6, 7)).astype(np.float32)
    assert rate(np.float32(shrinking) * first, first) == pytest.approx(min(shrinking, 1), abs=1e-4)


def test_rate_of_steps_that_turn():
    rng = np.random.default_rng(0)
    first, other = rng.normal(0, 0.1, (2, 3, 20, 20, 21)).astype(np.float32)
    assert rate(-first, first) == 0
    # Half of the first, and half as much of what has nothing to do with it: (r - r^2 - s^2) / (1 - r).
    assert rate(0.5 * first + 0.5 * other, first) == pytest.approx(0, abs=0.03)
    assert rate(0.5 * first + 0.25 * other, first) == pytest.approx(0.375, abs=0.03)


def test_predicted_memory_is_never_less_than_what_is_held(pair):
    fixed_shape, moving_shape = pair.fixed.shape, pair.moving.shape
    pair.register()  # what is compiled or loaded once does not count
    tracemalloc.start()
    try:
        images = [pair.fixed.copy(), pair.moving.copy()]
        masks = tuple(np.ones(shape, np.float32) for shape in (fixed_shape, moving_shape))
        start_grid = pair.fixed_grid.coarsen((2, 2, 2))
        start = Initial(pair.affine, np.zeros((3, *start_grid.shape), np.float32), start_grid)
        register(images.pop(0), pair.fixed_grid, images.pop(0), pair.moving_grid, start, masks, {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    predicted = predicted_memory(fixed_shape, moving_shape, {})
    assert predicted / 1.3 < peak < predicted


def test_bad_settings_are_refused(pair):
    for bad, word in [
        ({"sigmas": 2}, "no setting sigmas"),
        ({"levels": (0, 1)}, "levels"),
        ({"levels": ()}, "levels"),
        ({"damping": 0}, "damping"),
        ({"stiffness": 0}, "stiffness"),
        ({"tension": -1}, "tension"),
        ({"presmoothing": 9}, "presmoothing"),
        ({"contrast": "cube"}, "contrast"),
        ({"jacobian_floor": 1.5}, "jacobian_floor"),
        ({"intensity": {"fixed": {}}}, "intensity"),
        ({"intensity": {"fixed": {}, "moving": {}}}, "local_variance"),
    ]:
        with pytest.raises(ValueError, match=word):
            pair.register(**bad)
    other = {key: intensity_statistics(pair.fixed, "log") for key in ("fixed", "moving")}
    with pytest.raises(ValueError, match="'log'; wanted 'root'"):
        pair.register(intensity=other)
    assert NativeSettings.from_mapping({"sigma": 2, "iterations": [3, 4]}).iterations == (3, 4)


def test_bad_blocks_are_refused(pair):
    with pytest.raises(ValueError, match="its grid says"):
        pair.register(fixed=pair.fixed[1:])
    with pytest.raises(ValueError, match="moving mask is of shape"):
        pair.register(masks=(None, np.ones((2, 2, 2), bool)))
    holed = pair.moving.astype(np.float32)
    holed[1, 1, 1] = np.nan
    with pytest.raises(ValueError, match="moving block holds values that are not finite"):
        pair.register(moving=holed)


def test_long_rows():
    grid = Grid((12, 12, 9000), (1.0,) * 3)
    moving = texture(points_of(grid) * 4)
    shifted = texture((points_of(grid) + np.array([0.0, 0.0, 1.5])) * 4)
    result = register(shifted, grid, moving, grid, Initial.identity(), NOTHING, {"levels": (0,)}, 0)
    assert np.abs(result.displacement[2] - 1.5)[..., 8:-8].mean() < 0.2


def test_backends_by_name(tmp_path, monkeypatch):
    assert load_backend("native") is register
    assert version_of("native") == backend_version()
    (tmp_path / "own_engine.py").write_text("def register(*arguments):\n    return arguments\nnumber = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_backend("own_engine:register")(1, 2) == (1, 2)
    assert len(version_of("own_engine:register")) == 16
    for name, word in [
        ("greedo", "is unknown; known are native, elastix"),
        ("own_engine:missing", "cannot be loaded"),
        ("no_such_module:register", "cannot be loaded"),
        ("own_engine:number", "is no function"),
    ]:
        with pytest.raises(ValueError, match=word):
            load_backend(name)


def test_bad_starts_are_refused():
    with pytest.raises(ValueError, match=r"finite \(4, 4\)"):
        Initial(np.eye(3))
    with pytest.raises(ValueError, match="singular"):
        Initial(np.diag([1.0, 0.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="together or not at all"):
        Initial(np.eye(4), np.zeros((3, 2, 2, 2), np.float32))
    with pytest.raises(ValueError, match="its grid's"):
        Initial(np.eye(4), np.zeros((3, 2, 2, 2), np.float32), Grid((3, 2, 2), (1.0,) * 3))
