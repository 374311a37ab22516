"""The elastix backend and the process it runs in, on blocks whose displacements are known."""

import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from weft.grid import Grid
from weft.registration import own_process
from weft.registration.backends.elastix import backend_version, engine_mb, register
from weft.registration.candidates import rotation_about
from weft.registration.contract import Initial
from weft.registration.elastix_affine import refine_with_elastix
from weft.registration.itk_elastix import elastix_version, run_elastix
from weft.registration.plan import plan_stage
from weft.registration.pull import physical_points

pytest.importorskip("itk", reason="itk-elastix is not installed")

MOVING_GRID = Grid((56, 60, 58), (10.0, 10.0, 10.0), (-100.0, -100.0, -100.0))
FIXED_GRID = Grid((36, 40, 38), (10.0, 10.0, 10.0), (100.0, 200.0, -50.0))
SETTINGS = {"iterations": 120, "levels": 3, "control_spacing": 10.0}


def texture():
    """The moving image: structure of several sizes."""
    rng = np.random.default_rng(0)
    values = gaussian_filter(rng.random(MOVING_GRID.shape), 2.5)
    values += 2 * gaussian_filter(rng.random(MOVING_GRID.shape), 5)
    return ((values - values.min()) * 1000 / np.ptp(values)).astype(np.float32)


def true_displacement(points):
    """Smooth displacements, (3, n) um, of points, (3, n) um: 25 um (2.5 voxels) on average."""
    z, y, x = points
    return np.stack([25 * np.sin(y / 120), 20 * np.cos(x / 130), -15 * np.sin(z / 110 + 1)])


AFFINE = np.eye(4)
AFFINE[:3, :3] = rotation_about((1, 0, 2), 3)
AFFINE[:3, 3] = (-100.0, -195.0, 40.0)


@pytest.fixture(scope="module")
def pair():
    """Moving image, and the fixed image made of it: fixed(x) = moving(A(x + u(x)))."""
    moving = texture()
    points = physical_points(FIXED_GRID)
    seen = AFFINE[:3, :3] @ (points + true_displacement(points)) + AFFINE[:3, 3:]
    values = map_coordinates(moving, MOVING_GRID.to_index(seen.T).T, order=3, mode="nearest")
    return (1500 - values).reshape(FIXED_GRID.shape), moving  # other contrast: mutual information must cope


def mean_error(result):
    """Mean distance, um, from the true displacement, three samples away from the border."""
    truth = true_displacement(physical_points(result.grid)).reshape(result.displacement.shape)
    inner = (slice(3, -3),) * 3
    return float(np.linalg.norm(result.displacement - truth, axis=0)[inner].mean())


def test_known_displacements_are_recovered_and_composed(pair):
    fixed, moving = pair
    first = register(fixed, FIXED_GRID, moving, MOVING_GRID, Initial(AFFINE), (None, None), SETTINGS, 3)
    assert first.grid == FIXED_GRID.coarsen((2, 2, 2))
    assert first.displacement.dtype == np.float32
    assert mean_error(first) < 2.0  # of 25 um; a voxel has 10
    assert first.metric_after > first.metric_before + 0.1
    assert first.minimal_jacobian > 0.5
    # Started from half of the solution the total is the same, not the rest and not one and a half.
    half = Initial(AFFINE, 0.5 * first.displacement, first.grid)
    second = register(fixed, FIXED_GRID, moving, MOVING_GRID, half, (None, None), SETTINGS, 3)
    assert mean_error(second) < 2.0


def test_a_job_asks_for_the_memory_of_the_process_that_holds_elastix(pair):
    fixed, moving = pair
    register(fixed, FIXED_GRID, moving, MOVING_GRID, Initial(AFFINE), (None, None), {"iterations": 1}, 3)
    server = psutil.Process(own_process._servers["weft.registration.itk_elastix"].process.pid)
    taken = sum(process.memory_full_info().pss for process in (server, *server.children(recursive=True)))
    assert 0.6 * engine_mb < taken / 1e6 < engine_mb
    plans = [plan_stage(FIXED_GRID, {"name": "s", "level": 10.0, "backend": name, "overlap": 4, "block": 32})
             for name in ("elastix", "native")]  # fmt: skip
    assert plans[0]["process_mb"] - plans[1]["process_mb"] == engine_mb


def test_same_seed_same_bytes_and_other_seed_other_bytes(pair):
    fixed, moving = pair
    quick = {**SETTINGS, "iterations": 20, "levels": 2}

    def run(seed):
        found = register(fixed, FIXED_GRID, moving, MOVING_GRID, Initial(AFFINE), (None, None), quick, seed)
        return found.displacement.tobytes()

    first = run(7)
    assert run(8) != first
    assert run(7) == first  # whatever the process that runs it has done before


def test_masks_keep_rubbish_out(pair):
    fixed, moving = pair
    fixed, moving = fixed.copy(), moving.copy()
    fixed_mask, moving_mask = np.ones(fixed.shape, bool), np.ones(moving.shape, bool)
    fixed_mask[:, :, :9] = False
    moving_mask[:, :, -12:] = False
    fixed[~fixed_mask] = np.random.default_rng(1).random(np.count_nonzero(~fixed_mask)) * 5000
    moving[~moving_mask] = 9000
    masks = (fixed_mask, moving_mask)
    result = register(fixed, FIXED_GRID, moving, MOVING_GRID, Initial(AFFINE), masks, SETTINGS, 3)
    truth = true_displacement(physical_points(result.grid)).reshape(result.displacement.shape)
    counted = (slice(3, -3), slice(3, -3), slice(6, 13))  # what both masks leave
    assert np.linalg.norm(result.displacement - truth, axis=0)[counted].mean() < 2.0


@pytest.mark.parametrize(("half", "shift"), [(slice(0, 18), 2.0), (slice(18, 36), -2.0)])
def test_masks_reach_elastix(half, shift):
    # Two halves that moved in opposite directions: the mask decides which of them is registered.
    moving = texture()[10:46, 10:50, 10:48]
    fixed = np.concatenate([np.roll(moving, -2, 2)[:18], np.roll(moving, 2, 2)[18:]])
    mask = np.zeros(fixed.shape, bool)
    mask[half, 4:-4, 4:-4] = True
    parameters = {
        "Registration": ["MultiResolutionRegistration"],
        "Metric": ["AdvancedMattesMutualInformation"],
        "Transform": ["TranslationTransform"],
        "AutomaticTransformInitialization": ["false"],
        "Optimizer": ["AdaptiveStochasticGradientDescent"],
        "MaximumNumberOfIterations": ["100"],
        "NumberOfResolutions": ["1"],
        "ImageSampler": ["RandomCoordinate"],
        "NumberOfSpatialSamples": ["2048"],
        "NewSamplesEveryIteration": ["true"],
        "ErodeMask": ["false"],
    }
    (found,), _ = run_elastix(fixed, moving, (mask, None), [parameters])
    np.testing.assert_allclose([float(v) for v in found["TransformParameters"]], (shift, 0, 0), atol=0.2)


def test_nothing_to_compare_gives_the_start_unchanged(pair):
    fixed, moving = pair
    far = np.eye(4)
    far[:3, 3] = 1e5
    field = np.full((3, 5, 5, 5), 4.0, np.float32)
    field_grid = Grid((5, 5, 5), (100.0, 100.0, 100.0), FIXED_GRID.origin)
    initial = Initial(far, field, field_grid)
    result = register(fixed, FIXED_GRID, moving, MOVING_GRID, initial, (None, None), SETTINGS, 3)
    np.testing.assert_allclose(result.displacement, 4.0, rtol=1e-6)
    assert (result.iterations, result.metric_before, result.metric_after) == (0, 0.0, 0.0)


def server():
    """The process that has loaded elastix, from which those that register are forked."""
    return psutil.Process(own_process._servers["weft.registration.itk_elastix"].process.pid)


def busy(process):
    """The process of those forked from this one that computes most, once it has computed for a while."""
    while True:
        times = {child: child.cpu_times().user for child in process.children()}
        child = max(times, key=times.__getitem__, default=None)
        if child is not None and times[child] > 2.0 and child.status() == psutil.STATUS_RUNNING:
            return child
        time.sleep(0.02)


def test_a_crash_ends_one_block_only(pair):
    fixed, moving = pair
    quick = {**SETTINGS, "iterations": 5, "levels": 1}
    arguments = (fixed, FIXED_GRID, moving, MOVING_GRID, Initial(AFFINE), (None, None))
    first = register(*arguments, quick, 1)  # elastix is loaded
    before = server()
    loaded = before.cpu_times().user
    outcome = []

    def endless():
        try:
            register(*arguments, {**SETTINGS, "iterations": 10**6}, 1)
        except RuntimeError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=endless)
    thread.start()
    dying = busy(before)
    beside = register(*arguments, quick, 1)  # a second block, while the first still runs
    os.kill(dying.pid, signal.SIGSEGV)
    thread.join(60)
    assert outcome == ["elastix was ended by signal SIGSEGV on this block"]
    after = register(*arguments, quick, 1)
    assert beside.displacement.tobytes() == after.displacement.tobytes() == first.displacement.tobytes()
    # Loaded once: the crash has cost the others nothing.
    assert server() == before
    assert server().cpu_times().user - loaded < 0.5 * loaded


def test_time_can_be_limited(pair):
    fixed, moving = pair
    slow = {**SETTINGS, "iterations": 10**6, "timeout": 1.0}
    with pytest.raises(TimeoutError, match="elastix did not finish within 1 s"):
        register(fixed, FIXED_GRID, moving, MOVING_GRID, Initial(AFFINE), (None, None), slow, 3)
    time.sleep(0.5)
    assert all(child.cpu_percent(0.2) < 50 for child in server().children())  # none goes on with it


def test_elastix_says_why_it_failed(pair):
    fixed, moving = pair
    quick = {**SETTINGS, "iterations": 5, "levels": 1}
    arguments = (fixed, FIXED_GRID, moving, MOVING_GRID, Initial(AFFINE), (None, None), quick, 1)
    first = register(*arguments)
    with pytest.raises(RuntimeError, match=r"elastix failed on this block: .*NoSuchMetric"):
        run_elastix(
            fixed,
            fixed,
            (None, None),
            [{"Registration": ["MultiResolutionRegistration"], "Metric": ["NoSuchMetric"]}],
        )
    assert register(*arguments).displacement.tobytes() == first.displacement.tobytes()


def test_bad_settings_are_refused_in_one_sentence(pair):
    fixed, moving = pair
    arguments = (fixed, FIXED_GRID, moving, MOVING_GRID, Initial(AFFINE), (None, None))
    with pytest.raises(ValueError, match="unknown setting 'iteration'"):
        register(*arguments, {"iteration": 5}, 1)
    with pytest.raises(ValueError, match="metric is 'mse'"):
        register(*arguments, {"metric": "mse"}, 1)
    with pytest.raises(ValueError, match="fixed block is of shape"):
        register(fixed[1:], *arguments[1:], {}, 1)


def test_version_names_elastix():
    assert elastix_version() in backend_version()


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
def test_an_affine_is_refined(pair, kind):
    _, moving = pair
    linear = rotation_about((1, 2, -1), 4) * (1.0 if kind == "rigid" else 1.03)
    if kind == "affine":
        linear = linear @ np.diag([1.02, 0.98, 1.0])
    middle = 0.5 * (FIXED_GRID.lower + FIXED_GRID.upper)
    truth = np.eye(4)
    truth[:3, :3] = linear
    truth[:3, 3] = np.array([180.0, 200.0, 190.0]) - linear @ middle
    points = truth[:3, :3] @ physical_points(FIXED_GRID) + truth[:3, 3:]
    fixed = map_coordinates(moving, MOVING_GRID.to_index(points.T).T, order=3, mode="nearest")
    start = np.eye(4)
    start[:3, 3] = np.array([190.0, 190.0, 205.0]) - middle
    found = refine_with_elastix(
        fixed.reshape(FIXED_GRID.shape), FIXED_GRID, moving, MOVING_GRID, start, 10.0, kind, 1, iterations=150
    )
    difference = (found - truth)[:3]
    distance = np.linalg.norm(FIXED_GRID.corners() @ difference[:, :3].T + difference[:, 3], axis=1)
    assert distance.mean() < 7.0  # um; a voxel has 10, the start is 30 um off
