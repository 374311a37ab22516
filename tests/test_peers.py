"""The backends greedy, demons and ants, on blocks whose displacements are known: one contract, one set of tests."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from weft.grid import Grid
from weft.registration.backend_settings import checked_settings, settings_type
from weft.registration.candidates import rotation_about
from weft.registration.contract import BUILTIN, Initial, backend_version, load_backend
from weft.registration.pull import physical_points
from weft.transforms.interpolate import resample_field

NEEDS = {"greedy": "picsl_greedy", "demons": "SimpleITK", "ants": "ants"}
SETTINGS = {
    "greedy": {"iterations": (60, 40, 20)},
    "demons": {"iterations": (60, 40, 30)},
    "ants": {"iterations": (60, 40, 10)},
}
MOVING_GRID = Grid((56, 60, 58), (10.0, 10.0, 10.0), (-100.0, -100.0, -100.0))
FIXED_GRID = Grid((36, 41, 38), (10.0, 10.0, 10.0), (100.0, 200.0, -50.0))
NOTHING = (None, None)
# Turned and moved along all three axes by different amounts: a swapped axis or a wrong sign cannot pass.
AFFINE = np.eye(4)
AFFINE[:3, :3] = rotation_about((1, 0, 2), 3)
AFFINE[:3, 3] = (-100.0, -195.0, 40.0)


@pytest.fixture(params=list(NEEDS))
def backend(request):
    pytest.importorskip(NEEDS[request.param], reason=f"backend {request.param} is not installed")
    return request.param


def texture():
    rng = np.random.default_rng(0)
    values = gaussian_filter(rng.random(MOVING_GRID.shape), 2.5)
    values += 2 * gaussian_filter(rng.random(MOVING_GRID.shape), 5)
    return ((values - values.min()) * 1000 / np.ptp(values)).astype(np.float32)


def shift(points):
    return np.stack([np.full(points.shape[1], um) for um in (12.0, -17.0, 8.0)])


def warp(points):
    """Smooth displacements, (3, n) um, of points, (3, n) um: 25 um (2.5 voxels) on average."""
    z, y, x = points
    return np.stack([25 * np.sin(y / 120), 20 * np.cos(x / 130), -15 * np.sin(z / 110 + 1)])


def fixed_of(truth):
    """The fixed image of which phi(x) = A(x + u(x)) is the truth."""
    points = physical_points(FIXED_GRID)
    seen = AFFINE[:3, :3] @ (points + truth(points)) + AFFINE[:3, 3:]
    values = map_coordinates(texture(), MOVING_GRID.to_index(seen.T).T, order=3, mode="nearest")
    return values.reshape(FIXED_GRID.shape)


def run(backend, fixed, moving=None, initial=None, masks=NOTHING, **settings):
    return load_backend(backend)(
        fixed,
        FIXED_GRID,
        texture() if moving is None else moving,
        MOVING_GRID,
        initial or Initial(AFFINE),
        masks,
        {**SETTINGS[backend], **settings},
        3,
    )


def mean_error(result, truth, counted=(slice(3, -3),) * 3):
    """Mean distance, um, from the true displacement, three samples away from the border."""
    wanted = truth(physical_points(result.grid)).reshape(result.displacement.shape)
    return float(np.linalg.norm(result.displacement - wanted, axis=0)[counted].mean())


@pytest.mark.parametrize("truth", [shift, warp])
def test_known_displacements_are_recovered_and_composed(backend, truth):
    fixed = fixed_of(truth)
    first = run(backend, fixed)
    assert first.grid == FIXED_GRID.coarsen((2, 2, 2))
    assert first.displacement.dtype == np.float32
    assert mean_error(first, truth) < 3.5  # of some 25 um; a voxel has 10
    assert first.metric_after > first.metric_before + 0.1
    assert first.minimal_jacobian > 0.3
    assert first.iterations == sum(SETTINGS[backend]["iterations"])
    # Started from half of the solution the total is the same, not the rest and not one and a half.
    second = run(backend, fixed, initial=Initial(AFFINE, 0.5 * first.displacement, first.grid))
    assert mean_error(second, truth) < 3.5


def test_a_single_plane_is_registered_in_its_plane(backend):
    plane = Grid((1, 80, 90), (50.0, 10.0, 12.0), (7.0, 200.0, -50.0))
    affine = np.eye(4)
    affine[1:3, 1:3] = rotation_about((1, 0, 0), 3)[1:, 1:]
    affine[1:3, 3] = (-6.0, 12.0)

    def bend(points):
        _, y, x = points
        return np.stack([np.zeros_like(y), 20 * np.cos(x / 130), -15 * np.sin(y / 110 + 1)])

    rng = np.random.default_rng(0)
    moving = gaussian_filter(rng.random(plane.shape), (0, 4, 4)) + 3 * gaussian_filter(
        rng.random(plane.shape), (0, 8, 8)
    )
    moving = 1000 * (moving - moving.min()) / np.ptp(moving)
    points = physical_points(plane)
    seen = affine[:3, :3] @ (points + bend(points)) + affine[:3, 3:]
    fixed = map_coordinates(moving, plane.to_index(seen.T).T, order=1, mode="nearest").reshape(plane.shape)
    masks = (np.ones(plane.shape, bool), np.ones(plane.shape, bool))
    masks[0][:, :4] = False
    for initial in (Initial(affine), Initial(affine, np.zeros((3, *plane.shape), np.float32), plane)):
        found = load_backend(backend)(fixed, plane, moving, plane, initial, masks, SETTINGS[backend], 0)
        assert found.displacement.shape == (3, 1, 40, 45)
        assert not found.displacement[0].any()
        counted = (slice(None), slice(6, -6), slice(6, -6))
        assert mean_error(found, bend, counted) < 4.0  # of 17 um; a pixel has 10 or 12
        assert found.metric_after > found.metric_before


def test_same_arguments_give_the_same_bytes(backend):
    fixed = fixed_of(warp)
    quick = {"iterations": (10, 5)}
    assert (
        run(backend, fixed, **quick).displacement.tobytes()
        == run(backend, fixed, **quick).displacement.tobytes()
    )


def test_masks_keep_rubbish_out(backend):
    fixed, moving = fixed_of(warp), texture()
    fixed_mask, moving_mask = np.ones(fixed.shape, bool), np.ones(moving.shape, bool)
    fixed_mask[:, :, :9] = False
    moving_mask[:, :, -12:] = False
    fixed[~fixed_mask] = np.random.default_rng(1).random(np.count_nonzero(~fixed_mask)) * 5000
    moving[~moving_mask] = 9000
    counted = (slice(3, -3), slice(3, -3), slice(7, 12))
    result = run(backend, fixed, moving, masks=(fixed_mask, moving_mask))
    assert mean_error(result, warp, counted) < 6.0
    fixed[~fixed_mask], moving[~moving_mask] = 0, -500
    other = run(backend, fixed, moving, masks=(fixed_mask, moving_mask))
    np.testing.assert_array_equal(other.displacement, result.displacement)


def test_nothing_to_compare_gives_the_start_unchanged(backend):
    far = np.eye(4)
    far[:3, 3] = 1e5
    field_grid = Grid((5, 5, 5), (100.0, 100.0, 100.0), FIXED_GRID.origin)
    initial = Initial(far, np.full((3, 5, 5, 5), 4.0, np.float32), field_grid)
    flat = np.full(FIXED_GRID.shape, 7.0)
    for fixed, start in ((fixed_of(warp), initial), (flat, Initial(AFFINE, initial.field, field_grid))):
        result = run(backend, fixed, initial=start)
        np.testing.assert_allclose(result.displacement, 4.0, rtol=1e-6)
        assert (result.iterations, result.metric_before, result.metric_after) == (0, 0.0, 0.0)


def test_bad_arguments_are_refused_in_one_sentence(backend):
    fixed = fixed_of(warp)
    for settings, message in (
        ({"iteration": 5}, "unknown setting 'iteration'"),
        ({"iterations": ()}, "iterations is"),
        ({"iterations": (0, 0)}, "wanted counts"),
    ):
        with pytest.raises(ValueError, match=message):
            run(backend, fixed, **settings)
    with pytest.raises(ValueError, match="fixed block is of shape"):
        run(backend, fixed[1:])
    with pytest.raises(ValueError, match="did you mean 'iterations'"):
        checked_settings(backend, {"iteratons": (3,)})


def test_the_version_names_the_package(backend):
    assert {"greedy": "picsl-greedy", "demons": "simpleitk", "ants": "antspyx"}[backend] in backend_version(
        backend
    )


@pytest.mark.parametrize("name", BUILTIN)
def test_every_backend_has_documented_settings(name):
    kind = settings_type(name)
    assert kind is not None
    assert all(f"    {field}\n" in kind.__doc__ for field in kind.__dataclass_fields__)


def test_other_settings_of_the_metric():
    pytest.importorskip("picsl_greedy")
    fixed = 1500 - fixed_of(warp)  # another contrast
    result = run("greedy", fixed, metric="mutual_information", smooth_update=4.0)
    assert result.metric_after > result.metric_before
    with pytest.raises(ValueError, match="greedy: metric is 'ssd'"):
        run("greedy", fixed, metric="ssd")


def test_greedy_does_not_flee_across_the_border():
    pytest.importorskip("picsl_greedy", reason="picsl-greedy is not installed")
    # Fine texture right up to the border of a block that both images cover, and no more.
    grid = Grid((40, 44, 48), (10.0, 10.0, 10.0))
    rng = np.random.default_rng(0)
    moving = 1000 + 2000 * gaussian_filter(rng.normal(size=grid.shape), 2)
    u = np.array([gaussian_filter(rng.normal(size=grid.shape), 9) for _ in range(3)])
    u *= 2 / np.abs(u).max()  # voxels
    fixed = map_coordinates(moving, np.indices(grid.shape) + u, order=1, mode="nearest")
    settings = SETTINGS["greedy"]
    found = load_backend("greedy")(fixed, grid, moving, grid, Initial.identity(), NOTHING, settings, 0)
    wanted = resample_field((10 * u).astype(np.float32), grid, found.grid)
    wrong = np.linalg.norm(found.displacement - wanted, axis=0)
    assert wrong.mean() < 2.5 < np.linalg.norm(wanted, axis=0).mean()  # um; with NaN outside it was 4.3


def test_greedy_is_silent(capfd):
    pytest.importorskip("picsl_greedy")
    run("greedy", fixed_of(warp), iterations=(3,))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "package"), [("greedy", "picsl-greedy"), ("ants", "antspyx")])
def test_a_package_that_is_absent_is_named(name, package):
    # In a process of its own, where the package cannot be found whether it is installed or not.
    code = f"""
import sys
sys.modules[{NEEDS[name]!r}] = None
import numpy as np
from weft.grid import Grid
from weft.registration.contract import Initial, load_backend
grid = Grid((4, 4, 4), (1.0, 1.0, 1.0))
block = np.zeros(grid.shape)
load_backend({name!r})(block, grid, block, grid, Initial.identity(), (None, None), {{}}, 0)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"ValueError: backend {name} needs the package {package}" in found.stderr
