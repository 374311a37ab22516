"""Registration from Python, and blocks that fail: what becomes of them and of the whole."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

import weft
from weft.grid import Grid
from weft.image import Image, Level
from weft.registration import register
from weft.registration.plan import block_regions, plan_stage
from weft.registration.repair import no_attempt

GRID = Grid((64, 60, 66), (10.0, 10.0, 10.0), (5.0, 5.0, 5.0))
COARSE = {"name": "coarse", "level": 20.0, "block": "whole"}
FINE = {"name": "fine", "level": 10.0, "block": 32, "overlap": 12, "settings": {"levels": [1, 0]}}
SHIFTED = np.eye(4) + 1e5 * np.eye(4)[:, ::-1] * [0, 0, 0, 1]  # along z, beside the other image
# A backend that is wrong where the region it is given is one of these boxes (`exactly`) or holds one (`anew` too), and
# says nothing of it.
PLUGIN = """
import dataclasses
import os
import signal
import numpy as np
from weft.registration.backends.native import register as native

def register(fixed, fixed_grid, moving, moving_grid, initial, masks, settings, seed):
    settings = dict(settings)
    boxes, anew, shift = settings.pop("boxes"), settings.pop("anew"), settings.pop("shift")
    result = native(fixed, fixed_grid, moving, moving_grid, initial, masks, settings, seed)
    lower, upper = fixed_grid.lower - 0.1, fixed_grid.upper + 0.1
    held = [(lower <= low).all() and (upper >= high).all() for low, high in np.array(boxes)]
    same = [np.allclose([fixed_grid.lower, fixed_grid.upper], box) for box in boxes]
    if not any(held if anew else same):
        return result
    u = result.displacement + np.asarray(shift, np.float32)[:, None, None, None] * fixed_grid.spacing[0]
    return dataclasses.replace(result, displacement=u)

def crash(*arguments):
    raise RuntimeError("out of luck")

def divide(*arguments):
    return 1 / 0

def full(*arguments):
    raise OSError("No space left on device")

def die(fixed, fixed_grid, *rest):
    # Takes its process along where the block begins at the image's first voxel.
    if np.allclose(fixed_grid.lower, 0):
        os.kill(os.getpid(), signal.SIGKILL)
    return native(fixed, fixed_grid, *rest)
"""


@pytest.fixture(autouse=True)
def _plugin(tmp_path, monkeypatch):
    (tmp_path / "injected.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))


def texture(grid):
    noise = np.random.default_rng(0).normal(size=grid.shape)
    fine, wide = gaussian_filter(noise, 1.5), gaussian_filter(noise, 4)
    return (2000 + 400 * fine / fine.std() + 400 * wide / wide.std()).clip(100).astype(np.float32)


def truth(points):
    """Displacements, (n, 3) um, of points, (n, 3) um: up to 25 um."""
    z, y, x = points.T / 90
    return np.stack([18 * np.sin(y + x), 15 * np.cos(z - x), -16 * np.sin(z + 0.5 * y)], axis=1)


def pair(grid=GRID):
    points = grid.to_physical(np.indices(grid.shape).reshape(3, -1).T)
    moving = texture(grid)
    fixed = map_coordinates(moving, grid.to_index(points + truth(points)).T, order=3, mode="reflect")
    return fixed.reshape(grid.shape), moving


def run(grid=GRID, stages=(COARSE, FINE), images=None, **options):
    fixed, moving = images or pair(grid)
    return register(
        fixed, moving, fixed_grid=grid, moving_grid=grid, affine=np.eye(4), stages=stages, **options
    )


def error(found, grid=GRID):
    """Mean distance, voxels, from the truth, 8 voxels away from the border."""
    inner = grid.crop((slice(8, -8),) * 3)
    points = inner.to_physical(np.indices(inner.shape).reshape(3, -1).T)
    return float(
        np.linalg.norm(found.transform.apply(points) - points - truth(points), axis=1).mean()
        / grid.spacing[0]
    )


def injected(plan_grid, names, shift, stage, anew=False):
    """A stage whose backend is wrong in these blocks: at the first try, or whenever it sees the whole of one."""
    plan = plan_stage(plan_grid, stage)
    grids = [Grid.from_json(plan["grid"]).crop(block_regions(plan, name)[1]) for name in names]
    boxes = [[grid.lower.tolist(), grid.upper.tolist()] for grid in grids]
    settings = {**stage["settings"], "boxes": boxes, "anew": anew, "shift": shift}
    return {**stage, "backend": "injected:register", "settings": settings}


@pytest.fixture(scope="module")
def found():
    return run()


# ---------------------------------------------------------------------------------- from Python
def test_a_pair_is_registered_both_ways(found):
    assert error(found) < 0.15
    assert [row["status"] for row in found.blocks["fine"]] == ["ok"] * 8
    assert found.blocks["fine"][0].keys() >= {"block", "used", "metric_after", "disagreement_um", "seed"}
    points = np.random.default_rng(1).uniform(150, 450, (100, 3))
    back = found.transform.inverse.apply(found.transform.apply(points))
    np.testing.assert_allclose(back, points, atol=1.0)
    assert found.transform.inverse.inverse is found.transform
    assert found.round_trip["p95"] < 1.0
    trips = found.round_trip["blocks"]
    assert set(trips) == {row["block"] for row in found.blocks["fine"]}
    assert max(row["max"] for row in trips.values()) == pytest.approx(found.round_trip["max"])


def field(found):
    return found.transform.split()[1].field.tobytes()


def test_threads_and_processes_and_images_give_the_same_bytes(found):
    assert field(run(workers=3)) == field(found)
    fixed, moving = (Image((Level(values[None], GRID),)) for values in pair())
    image = register(fixed, moving, affine=np.eye(4), stages=[COARSE, FINE], workers=2, processes=True)
    assert field(image) == field(found)


def test_worker_processes_start_without_what_few_of_them_need():
    """Each such package is tens of megabytes in every worker."""
    heavy = ("SimpleITK", "dask", "pandas", "matplotlib")
    code = f"import sys; import weft.registration.preload; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


OF_A_SCRIPT = """
import os
import sys
sys.path.insert(0, {root!r})

def seen():
    from weft.registration.backends.native_field import compose
    return len(compose.overloads), os.environ.get("PYTHONPATH")

if __name__ == "__main__":
    from concurrent.futures import ProcessPoolExecutor
    from weft.registration.fork_server import begin_worker, worker_context
    path = os.environ.get("PYTHONPATH")
    with ProcessPoolExecutor(1, worker_context("native"), begin_worker, (path,)) as pool:
        print(pool.submit(seen).result())
"""


def test_workers_share_kernels_that_the_fork_server_loaded_wherever_the_library_lies(tmp_path):
    """In a script that finds the library by `sys.path` alone, too; and what the script starts sees the path of old."""
    script = tmp_path / "script.py"
    script.write_text(OF_A_SCRIPT.format(root=str(Path(weft.__file__).parents[1])))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    found = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "(1, None)"


@pytest.mark.parametrize("where", ["processes", "cluster"])
def test_a_block_that_brings_its_process_down_costs_no_other(found, where):
    stages = [COARSE, {**FINE, "backend": "injected:die"}]
    if where == "processes":
        wrong = run(stages=stages, workers=2, processes=True)
    else:
        distributed = pytest.importorskip("distributed")
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            wrong = run(stages=stages, client=client)
    rows = {row["block"]: row for row in wrong.blocks["fine"]}
    row = rows.pop("0.0.0")
    assert (row["status"], row["tries"]) == ("error", 1)
    assert row["used"] in ("affine", "neighbours")
    assert "ended without an answer" in row["message"]
    assert {(row["status"], row["used"]) for row in rows.values()} == {("ok", "deformable")}
    assert error(wrong) < 2 * error(found)


def test_a_dask_client_gives_the_same_bytes(found):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert field(run(client=client)) == field(found)


def test_the_affine_is_found_or_given():
    grid = Grid((48, 52, 56), (10.0, 10.0, 10.0))
    blob = np.exp(-((np.indices(grid.shape) - 26) ** 2 / 260).sum(0)).astype("f4")
    moving = 100 + 2000 * blob * (texture(grid) / 2000)
    fixed = np.roll(moving, 3, axis=2)
    found = register(fixed, moving, fixed_grid=grid, moving_grid=grid, affine={"model": "rigid"}, stages=[])
    assert found.affine is not None
    np.testing.assert_allclose(found.transform.apply([[260, 260, 260]]), [[260, 260, 230]], atol=3)
    np.testing.assert_allclose(found.transform.inverse.apply(found.transform.apply([[1, 2, 3]])), [[1, 2, 3]])
    matrix = np.eye(4)
    matrix[0, 3] = 7
    given = register(fixed, moving, fixed_grid=grid, moving_grid=grid, affine=matrix, stages=[])
    np.testing.assert_allclose(given.transform.apply([[1, 2, 3]]), [[8, 2, 3]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fixed_grid": None},
            "the fixed image is an array of shape .*, and fixed_grid is None; wanted a weft.grid.Grid",
        ),
        ({"fixed_grid": (10, 10, 10)}, r"and fixed_grid is \(10, 10, 10\); wanted a weft.grid.Grid"),
        (
            {"moving_grid": GRID.pad(1)},
            "the moving image is an array of shape .*, and moving_grid is of shape",
        ),
        (
            {"stages": [{**FINE, "blok": 3}]},
            r"register: there is no setting 'stages\[0\].blok'; did you mean 'block'",
        ),
        (
            {"stages": [{**FINE, "level": 1e6}]},
            r"level 1e\+06 leaves \[1, 1, 1\] voxels .* wanted a voxel size in um",
        ),
        (
            {"stages": [{**FINE, "backend": "nowhere:register"}]},
            "backend 'nowhere:register' .* cannot be loaded",
        ),
        ({"affine": np.diag([0.001, 0.001, 0.001, 1])}, "1000 times as much; wanted at most 32 times"),
        ({"workers": 0}, "workers is 0; wanted 1 or more"),
        ({"client": "scheduler:8786"}, "client is 'scheduler:8786'; wanted a dask.distributed.Client"),
        ({"stages": [{**FINE, "settings": {"levls": [1]}}]}, "did you mean 'levels'"),
        ({"stages": [{**FINE, "only": ["7.0.0"]}]}, r"only names the block '7\.0\.0', but the blocks are 0"),
        ({"reduce": {"method": "median"}}, "method"),
        (
            {"stages": [{**COARSE, "backend": "demons"}], "more": [pair()]},
            "stage 'coarse': backend 'demons' compares one channel, and more adds 1; wanted native",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(options, message):
    values = np.zeros(GRID.shape, np.float32)
    arguments = {"fixed_grid": GRID, "moving_grid": GRID, "affine": np.eye(4), "stages": [FINE], **options}
    with pytest.raises(ValueError, match=message) as refusal:
        register(values, values, **arguments)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "said", "status"),
    [
        (
            {"affine": SHIFTED},
            "the affine sends the middle of the fixed image to .*: is it that of the other direction",
            "outside_moving",
        ),
        (
            {"fixed_mask": np.zeros(GRID.shape, bool)},
            "fixed_mask counts nowhere in the fixed image",
            "empty",
        ),
    ],
)
def test_what_finds_nothing_is_warned_of_and_each_block_says_why(options, said, status, capsys):
    fixed, moving = pair()
    arguments = {"fixed_grid": GRID, "moving_grid": GRID, "affine": np.eye(4), "stages": [FINE], **options}
    found = register(fixed, moving, inverse=False, **arguments)
    assert re.search(f"Warning: {said}", capsys.readouterr().err)
    assert {row["status"] for row in found.blocks["fine"]} == {status}


def test_an_image_of_a_few_voxels_is_registered_as_far_as_it_goes():
    """By the default stages, of which the first would leave two voxels."""
    grid = Grid((7, 8, 6), (5.0,) * 3)
    image = texture(grid).astype(np.uint16)
    found = register(image, image, fixed_grid=grid, moving_grid=grid, affine=np.eye(4), inverse=False)
    assert all(row["status"] for rows in found.blocks.values() for row in rows)


def test_a_level_of_another_shape_than_its_grid_is_refused():
    for shape in (GRID.shape, (1, 2, 3, 4)):
        with pytest.raises(ValueError, match=r"level is an array of shape .*; wanted \(channels, z, y, x\)"):
            Level(np.zeros(shape), GRID)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(GRID.shape, complex), "the moving image is an array of complex128; wanted real numbers"),
        (np.zeros(GRID.shape[1:], np.uint8), r"wanted \(z, y, x\), of a single plane \(1, y, x\)"),
        (np.full(GRID.shape, np.nan), "holds no finite number"),
    ],
)
@pytest.mark.parametrize("affine", [np.eye(4), None], ids=["given", "searched"])
def test_arrays_that_cannot_be_registered_are_refused(values, message, affine):
    with pytest.raises(ValueError, match=message):
        register(pair()[0], values, fixed_grid=GRID, moving_grid=GRID, affine=affine, stages=[FINE])


def test_what_is_not_finite_does_not_count():
    """Two bars of 10 x 24 x 24 voxels are lost; what lies around them still says what the displacement is."""
    fixed, moving = pair()
    for image, value in ((fixed, np.nan), (moving, np.inf)):
        image[20:30, 20:44, 20:44] = value
    spoilt = run(images=(fixed, moving))
    assert [row["status"] for row in spoilt.blocks["fine"]] == ["ok"] * 8
    assert error(spoilt) < 0.15


@pytest.mark.parametrize("stages", [(COARSE,), (COARSE, FINE)], ids=["whole", "blocks"])
def test_values_may_lie_below_zero(stages):
    """As in computed tomography: what is taken off all values alike changes nothing but their roots."""
    fixed, moving = ((image - 3000).astype(np.int16) for image in pair())
    assert fixed.mean() < 0
    below = run(images=(fixed, moving), stages=stages)
    assert {row["status"] for rows in below.blocks.values() for row in rows} == {"ok"}
    assert error(below) < 1.5 * error(run(stages=stages))


def test_an_affine_is_found_of_images_with_what_is_not_finite_and_of_masks():
    grid = Grid((48, 52, 56), (10.0, 10.0, 10.0))
    blob = np.exp(-((np.indices(grid.shape) - 26) ** 2 / 260).sum(0)).astype("f4")
    moving = 100 + 2000 * blob * (texture(grid) / 2000)
    fixed = np.roll(moving, 3, axis=2)
    spoilt = fixed.copy()
    spoilt[:6] = np.nan
    for here, there in ((spoilt, moving), (fixed > 700, moving > 700)):
        found = register(here, there, fixed_grid=grid, moving_grid=grid, affine={"model": "rigid"}, stages=[])
        np.testing.assert_allclose(found.transform.apply([[260, 260, 260]]), [[260, 260, 230]], atol=6)


def test_a_part_of_the_blocks(found):
    part = run(stages=[COARSE, {**FINE, "only": ["0.0.0", "1.1.0"]}])
    rows = {row["block"]: row for row in part.blocks["fine"]}
    assert {name for name, row in rows.items() if row["status"] == "ok"} == {"0.0.0", "1.1.0"}
    assert {(r["status"], r["used"]) for n, r in rows.items() if n not in ("0.0.0", "1.1.0")} == {
        ("skipped", "parent")
    }
    coarse = run(stages=[COARSE])
    away, there = np.array([[500.0, 100, 500]]), np.array([[100.0, 100, 100]])  # in 1.0.1 and in 0.0.0
    # The field of the stage before is interpolated onto the samples of this one's.
    np.testing.assert_allclose(part.transform.apply(away), coarse.transform.apply(away), atol=1.0)
    np.testing.assert_allclose(part.transform.apply(there), found.transform.apply(there), atol=0.2)


# ---------------------------------------------------------------------------------- blocks that are wrong
@pytest.mark.parametrize("shift", [(15, -12, 9), (2, 0, 0), (-1.2, 1.2, 1.2)])
@pytest.mark.parametrize("name", ["0.1.0", "1.1.1"])
def test_one_wrong_block_of_eight_is_caught(found, name, shift):
    wrong = run(stages=[COARSE, injected(GRID, [name], shift, FINE)])
    rows = {row["block"]: row for row in wrong.blocks["fine"]}
    assert [n for n, row in rows.items() if row["status"] != "ok"] == [name]
    assert rows[name]["status"] in ("disagrees", "diverged")
    assert rows[name]["used"] == "deformable"  # its second try
    assert wrong.transform.jacobian_determinant(GRID).min() > 0
    assert error(wrong) < 1.02 * error(found) + 0.001  # voxels; the error is 0.03


@pytest.mark.parametrize("shift", [(15, -12, 9), (2, 0, 0)])
def test_a_block_that_is_wrong_whenever_it_is_seen_whole_is_cut_otherwise(found, shift):
    wrong = run(stages=[COARSE, injected(GRID, ["0.1.0"], shift, FINE, anew=True)])
    rows = {row["block"]: row for row in wrong.blocks["fine"]}
    assert [n for n, row in rows.items() if row["status"] != "ok"] == ["0.1.0"]
    assert (rows["0.1.0"]["used"], rows["0.1.0"]["tries"]) == (
        "deformable",
        11,
    )  # twice more, and in eight parts
    assert wrong.transform.jacobian_determinant(GRID).min() > 0
    assert error(wrong) < 1.02 * error(found) + 0.001


def test_a_block_that_is_always_wrong_is_filled_by_its_neighbours(found, monkeypatch):
    monkeypatch.setattr("weft.registration.stage.StageJob.attempt", no_attempt)
    wrong = run(stages=[COARSE, injected(GRID, ["0.1.0"], (2, 0, 0), FINE)])
    rows = {row["block"]: row for row in wrong.blocks["fine"]}
    assert (rows["0.1.0"]["status"], rows["0.1.0"]["used"]) == ("disagrees", "neighbours")
    assert wrong.transform.jacobian_determinant(GRID).min() > 0
    # Only what no neighbour's halo reaches is worse.
    assert error(wrong) < 0.5 * error(run(stages=[COARSE])) + 0.5 * error(found)


def test_wrong_blocks_among_64_are_caught():
    grid = Grid((96, 96, 96), (10.0, 10.0, 10.0), (5.0, 5.0, 5.0))
    images = pair(grid)
    stage = {**FINE, "block": 24, "overlap": 8}
    names = ["0.1.0", "1.2.1", "1.2.2", "3.0.2", "2.1.3", "3.3.3"]  # a tenth: corners, faces, two neighbours
    right = run(grid, [COARSE, stage], images)
    wrong = run(grid, [COARSE, injected(grid, names, (1.4, -1.4, 0.3), stage)], images)
    assert [row["block"] for row in right.blocks["fine"] if row["status"] != "ok"] == []
    caught = [row["block"] for row in wrong.blocks["fine"] if row["status"] == "disagrees"]
    assert sorted(caught) == sorted(names)
    assert wrong.transform.jacobian_determinant(grid).min() > 0
    assert error(wrong, grid) < 1.02 * error(right, grid) + 0.001


def test_agreement_can_be_left_out():
    wrong = run(stages=[COARSE, injected(GRID, ["0.1.0"], (2, 0, 0), FINE)], reduce={"agreement": None})
    rows = {row["block"]: row for row in wrong.blocks["fine"]}
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert rows["0.1.0"]["disagreement_um"] > 15
    assert max(row["disagreement_um"] for name, row in rows.items() if name != "0.1.0") < 5


def test_a_block_that_fails_takes_an_affine_of_its_own():
    grid = Grid((40, 44, 42), (10.0, 10.0, 10.0))
    moving = texture(grid)
    points = grid.to_physical(np.indices(grid.shape).reshape(3, -1).T)
    linear = np.array([[1.02, 0.02, 0], [-0.03, 0.99, 0.01], [0, 0.02, 1.03]])
    goal = (points - 200) @ linear.T + 200 + np.array([6.0, -9.0, 8.0])
    fixed = map_coordinates(moving, grid.to_index(goal).T, order=3, mode="reflect").reshape(grid.shape)
    stage = {"name": "only", "level": 10.0, "block": "whole", "backend": "injected:crash"}
    found = run(grid, [stage], (fixed, moving))
    (row,) = found.blocks["only"]
    assert (row["status"], row["used"], row["message"]) == ("error", "affine", "out of luck")
    assert row["metric_after"] > row["metric_before"]
    inner = (np.abs(points - 200) < 140).all(1)
    distance = np.linalg.norm(found.transform.apply(points[inner]) - goal[inner], axis=1)
    assert distance.mean() < 2.0  # um; the start is 13 um off


def test_what_the_machine_lacks_ends_the_run_and_is_no_fault_of_the_block():
    def stages(backend):
        return [COARSE, {**FINE, "backend": f"injected:{backend}"}]

    with pytest.raises(OSError, match="No space left"):
        run(stages=stages("full"))
    assert {row["status"] for row in run(stages=stages("divide")).blocks["fine"]} == {"error"}


def test_a_block_without_content_has_no_affine_of_its_own():
    grid = Grid((32, 32, 32), (10.0, 10.0, 10.0))
    rng = np.random.default_rng(0)
    images = [rng.normal(1000, 10, grid.shape).astype("f4") for _ in range(2)]  # two noises
    stage = {"name": "only", "level": 10.0, "block": "whole", "backend": "injected:crash"}
    (row,) = run(grid, [stage], images).blocks["only"]
    assert row["status"] == "error"
    assert row["used"] == "parent"


# ---------------------------------------------------------------------------------- stages
def test_every_stage_finds_only_what_is_left():
    """Whole, then blocks, then smaller blocks: what was found enters the coordinates, the moving image is read as it is."""
    stages = [COARSE, {**FINE, "name": "middle"}, {**FINE, "block": 22, "overlap": "auto"}]
    found = run(stages=stages)
    assert error(found) < 0.1
    # Of most blocks: a single one may lie where the stage before ended early.
    moved = [np.median([row["largest_displacement_um"] for row in found.blocks[s["name"]]]) for s in stages]
    assert moved[1] < 0.4 * moved[0]
    assert moved[2] < moved[1]
    fixed, moving = pair()
    # Through the last stage's field alone, one interpolation of the moving image gives the fixed one.
    inner = GRID.crop((slice(8, -8),) * 3)
    points = inner.to_physical(np.indices(inner.shape).reshape(3, -1).T)
    seen = map_coordinates(moving, GRID.to_index(found.transform.apply(points)).T, order=3)
    rest = seen - fixed[8:-8, 8:-8, 8:-8].ravel()
    assert np.std(rest) < 0.05 * fixed.std()


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        ({"backend": "demons"}, {}),
        ({"settings": {"levels": [1, 0]}}, {"backend": "demons", "settings": {"iterations": [5]}}),
        ({"block": 16, "overlap": 4}, {"block": "whole"}),
        ({"block": 16, "overlap": 4, "only": ["0.0.0"]}, {}),
    ],
)
def test_stages_of_any_kind_follow_each_other(found, coarse, fine):
    mixed = run(stages=[{**COARSE, **coarse}, {**FINE, **fine}])
    start = run(stages=[{**COARSE, **coarse}])
    assert error(mixed) < error(start)
    assert mixed.transform.jacobian_determinant(GRID).min() > 0
    assert {row["status"] for row in mixed.blocks["fine"]} <= {"ok", "unchanged"}
