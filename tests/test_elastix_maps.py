"""Any list of elastix parameter maps, from files and from the config, and what a block leaves to be looked at."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter, map_coordinates

from weft.grid import Grid
from weft.registration import register
from weft.registration.backends.elastix import ElastixSettings
from weft.registration.backends.elastix import register as register_block
from weft.registration.candidates import rotation_about
from weft.registration.contract import Initial
from weft.registration.elastix_maps import read_parameter_file, steps_of
from weft.registration.pull import physical_points

GRID = Grid((30, 40, 42), (20.0, 10.0, 10.0), (100.0, 200.0, -50.0))
PLANE = Grid((1, 90, 100), (50.0, 10.0, 10.0))
FILE = """\
// A B-spline every 80 um of images in mm.
(Registration "MultiResolutionRegistration")
(Transform "BSplineTransform") // and its metric
(Metric "AdvancedMattesMutualInformation")
(FinalGridSpacingInPhysicalUnits 0.08)

(NumberOfResolutions 2)
(MaximumNumberOfIterations 60 120)
(Optimizer "AdaptiveStochasticGradientDescent")
(ImageSampler "RandomCoordinate")
(NewSamplesEveryIteration "true")
"""
QUICK = {"iterations": 100, "levels": 2}


def texture(grid):
    """Structure of several sizes, the same in all directions."""
    noise = np.random.default_rng(0).random(grid.shape)
    wide = sum(
        gaussian_filter(
            noise, [0 if n == 1 else s / v for n, v in zip(grid.shape, grid.spacing, strict=True)]
        )
        * s**1.5
        for s in (25, 50)
    )
    return ((wide - wide.min()) * 1000 / np.ptp(wide)).astype(np.float32)


def bend(points, grid):
    """Smooth displacements, (3, n) um, of points; within the plane where there is one."""
    _, y, x = points
    u = np.stack([20 * np.sin(y / 100), 18 * np.cos(x / 110), -15 * np.sin(y / 90 + 1)])
    return u * np.array([[n > 1] for n in grid.shape])


def pair(grid, turn):
    """Images with fixed(x) = moving(turn (x + bend(x))), turn a (4, 4) matrix."""
    moving = texture(grid)
    points = physical_points(grid)
    seen = turn[:3, :3] @ (points + bend(points, grid)) + turn[:3, 3:]
    fixed = map_coordinates(moving, grid.to_index(seen.T).T, order=1, mode="nearest").reshape(grid.shape)
    return fixed, moving


def error(result, grid, turn):
    """Mean distance, um, from the truth, where the identity is the affine, away from the border."""
    points = physical_points(result.grid)
    truth = turn[:3, :3] @ (points + bend(points, grid)) + turn[:3, 3:] - points
    apart = np.linalg.norm(result.displacement.reshape(3, -1) - truth, axis=0).reshape(result.grid.shape)
    return float(apart[tuple(slice(None) if n == 1 else slice(4, -4) for n in apart.shape)].mean())


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "bspline.txt"
    path.write_text(FILE)
    return path


def test_a_file_is_read(file):
    found = read_parameter_file(file)
    assert found["FinalGridSpacingInPhysicalUnits"] == ["0.08"]
    assert found["MaximumNumberOfIterations"] == ["60", "120"]
    assert found["Transform"] == ["BSplineTransform"]
    assert steps_of([found, {"Transform": ["EulerTransform"], "NumberOfResolutions": ["1"]}]) == 180 + 500
    # Its contents, wherever they come from, are what a result is named after.
    named = ElastixSettings.with_files(
        {"parameter_maps": ["rigid", file.name]}, lambda name: str(file.parent / name)
    )
    assert named == {"parameter_maps": ["rigid", found]}
    assert read_parameter_file(file)["Optimizer"] == ["AdaptiveStochasticGradientDescent"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('(Transform "BSplineTransform")', ""), "names no Transform"),
        (("(NumberOfResolutions 2)", "NumberOfResolutions 2"), "line 7 is 'NumberOfResolutions 2'"),
        (
            ('"MultiResolutionRegistration"', '"MultiMetricMultiResolutionRegistration"'),
            "single Metric, which crashes",
        ),
    ],
)
def test_a_bad_file_is_named(file, change, message):
    file.write_text(FILE.replace(*change))
    with pytest.raises(ValueError, match=message):
        read_parameter_file(file)


def test_rigid_affine_and_bspline_in_one_go(file):
    pytest.importorskip("itk", reason="itk-elastix is not installed")
    turn = rotation_of(7.0)
    images = pair(GRID, turn)

    def run(*maps):
        settings = {**QUICK, "parameter_maps": maps, "unit": 1000.0}
        return register_block(images[0], GRID, images[1], GRID, Initial.identity(), (None, None), settings, 3)

    # The least that a map has to say.
    affine = {
        "Transform": "AffineTransform",
        "AutomaticScalesEstimation": True,
        "MaximumNumberOfIterations": 60,
    }
    linear, both = run("rigid"), run("rigid", affine, str(file))
    # A turn alone leaves the bend, of 17 um in the mean.
    assert 8 < error(linear, GRID, turn) < 25
    assert error(both, GRID, turn) < 3.5  # voxels of 10 and 20 um
    assert both.iterations == 200 + 180 + 180
    assert both.metric_after > linear.metric_after > linear.metric_before


def rotation_of(degrees):
    """A rotation about the middle of GRID."""
    middle = (GRID.lower + GRID.upper) / 2
    turn = np.eye(4)
    turn[:3, :3] = rotation_about((1, 0.5, 0), degrees)
    turn[:3, 3] = middle - turn[:3, :3] @ middle
    return turn


def test_a_single_plane_stays_in_its_plane():
    pytest.importorskip("itk", reason="itk-elastix is not installed")
    fixed, moving = pair(PLANE, np.eye(4))
    settings = {**QUICK, "parameter_maps": ["affine", "bspline"]}
    found = register_block(fixed, PLANE, moving, PLANE, Initial.identity(), (None, None), settings, 0)
    assert found.displacement.shape == (3, 1, 45, 50)
    assert not found.displacement[0].any()
    assert error(found, PLANE, np.eye(4)) < 2.0


def test_a_block_leaves_its_log_and_its_volumes(tmp_path):
    pytest.importorskip("itk", reason="itk-elastix is not installed")
    fixed, moving = pair(GRID, np.eye(4))
    stage = {
        "name": "one",
        "level": 20.0,
        "block": 16,
        "overlap": 8,
        "only": ["1.0.1"],
        "backend": "elastix",
        "settings": QUICK,
    }

    def run(**more):
        options = {"fixed_grid": GRID, "moving_grid": GRID, "affine": np.eye(4), "inverse": False}
        return register(fixed, moving, stages=[stage | more], **options, logs=tmp_path if more else None)

    found, quiet = run(debug="volumes"), run()
    folder = tmp_path / "one" / "1.0.1"
    assert "Resolution: 1" in (folder / "elastix.log").read_text()
    assert "BSplineTransform" in (folder / "TransformParameters.0.txt").read_text()
    volumes = {
        name: sitk.ReadImage(str(folder / f"{name}.mha"))
        for name in ("fixed", "moving", "result", "displacement")
    }
    middle = {name: sitk.GetArrayFromImage(image)[3:-3, 3:-3, 3:-3] for name, image in volumes.items()}
    assert np.corrcoef(middle["fixed"].ravel(), middle["result"].ravel())[0, 1] > 0.98
    assert np.corrcoef(middle["fixed"].ravel(), middle["moving"].ravel())[0, 1] < 0.95
    # They lie in the fixed space, um: where no other block reaches, the displacement is the transform's.
    image = volumes["displacement"]
    place = [image.GetSize()[0] - 1, 10, image.GetSize()[2] - 3]
    point = np.array(image.TransformIndexToPhysicalPoint(place))[::-1]
    u = found.transform.apply([point])[0] - point
    assert np.linalg.norm(u) > 5
    np.testing.assert_allclose(u, image[place][::-1], atol=0.5)
    # To look at it changes nothing.
    np.testing.assert_array_equal(found.transform.steps[0].field, quiet.transform.steps[0].field)
    with pytest.raises(ValueError, match="stage 'one' asks for debug; wanted `logs`"):
        register(
            fixed,
            moving,
            fixed_grid=GRID,
            moving_grid=GRID,
            affine=np.eye(4),
            stages=[{**stage, "debug": "log"}],
        )


def test_a_block_on_which_elastix_fails_goes_down_the_ladder(tmp_path):
    pytest.importorskip("itk", reason="itk-elastix is not installed")
    fixed, moving = pair(GRID, np.eye(4))
    broken = {"parameter_maps": [{"Transform": "BSplineTransform", "Metric": "NoSuchMetric"}]}
    stage = {
        "name": "one",
        "level": 20.0,
        "block": "whole",
        "backend": "elastix",
        "settings": broken,
        "debug": "log",
    }
    found = register(
        fixed,
        moving,
        fixed_grid=GRID,
        moving_grid=GRID,
        affine=np.eye(4),
        stages=[stage],
        inverse=False,
        logs=tmp_path,
    )
    (row,) = found.blocks["one"]
    assert (row["status"], row["used"]) == ("error", "affine")
    assert "NoSuchMetric" in (tmp_path / "one" / "0.0.0" / "elastix.log").read_text()
