"""One block of a stage: what is cut out of the images, every status it can end with, and what is used then."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from weft.grid import Grid
from weft.image import Image, Level
from weft.registration.backend_settings import checked_settings
from weft.registration.contract import Initial
from weft.registration.engine import Block, cut_block, register_block
from weft.transforms.model import Displacements
from weft.transforms.reduce import BlockField, reduce_blocks
from weft.warp import warp

GRID = Grid((32, 32, 32), (10.0, 10.0, 10.0), (5.0, 5.0, 5.0))
FIELD = GRID.coarsen((2, 2, 2))
SHIFT = np.array([6.0, -8.0, 5.0])
# Backends of a plug-in module, called as the config would name them: `judged:<function>`.
PLUGIN = """
import numpy as np
from weft.registration.contract import Result

def _result(fixed_grid, u, before=0.2, after=0.9):
    grid = fixed_grid.coarsen((2, 2, 2))
    field = np.zeros((3, *grid.shape), np.float32)
    field += np.asarray(u(grid), np.float32)
    return Result(field, grid, [], 3, before, after)

def _x(grid):
    return np.broadcast_to(np.arange(grid.shape[2]) * grid.spacing[2], grid.shape)

def fine(fixed, fixed_grid, moving, moving_grid, initial, masks, settings, seed):
    return _result(fixed_grid, lambda grid: settings["um"])

def nowhere(fixed, fixed_grid, *rest):
    return _result(fixed_grid, lambda grid: np.nan)

def no_number(fixed, fixed_grid, *rest):
    return _result(fixed_grid, lambda grid: 1.0, after=np.nan)

def worse(fixed, fixed_grid, *rest):
    return _result(fixed_grid, lambda grid: 1.0, before=0.5, after=0.4)

def content(fixed, fixed_grid, *rest):
    return _result(fixed_grid, lambda grid: 0.0, before=0.5, after=0.5)

def blind(fixed, fixed_grid, *rest):
    return _result(fixed_grid, lambda grid: 0.0, before=0.0, after=0.0)

def folding(fixed, fixed_grid, *rest):
    return _result(fixed_grid, lambda grid: np.stack([0 * _x(grid), 0 * _x(grid), -1.5 * np.minimum(_x(grid), 50)]))

def elsewhere(fixed, fixed_grid, *rest):
    grid = fixed_grid.coarsen((4, 4, 4))
    return Result(np.full((3, *grid.shape), 7.0), grid, [], 1, 0.2, 0.9)

def misshapen(fixed, fixed_grid, *rest):
    return Result(np.zeros((3, 2, 2, 2)), fixed_grid, [], 1, 0.2, 0.9)
"""


@pytest.fixture(autouse=True)
def _plugin(tmp_path, monkeypatch):
    (tmp_path / "judged.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))


def texture(grid=GRID, seed=0):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=grid.shape), 2)
    return (2000 + 500 * noise / noise.std()).clip(100).astype(np.uint16)


def shifted(volume, shift=SHIFT):
    """The moving volume of which the truth is phi(x) = x + shift."""
    back = np.eye(4)
    back[:3, 3] = -shift
    return warp(volume, GRID, back, None, None, GRID, order=1)[0]


def register(block, backend="native", min_content=0.02, background=(50.0, 50.0), **settings):
    return register_block(
        block, backend=backend, settings=settings, background=background, min_content=min_content, seed=9
    )


def made(fixed, moving, initial=None):
    return Block(fixed, GRID, moving, None if moving is None else GRID, initial or Initial.identity())


# ---------------------------------------------------------------------------------- what is cut out
def image(values, grid=GRID):
    return Image((Level(values[None], grid),))


def test_a_block_is_cut_from_both_images():
    fixed, moving = texture(), texture(seed=1)
    affine = np.eye(4)
    affine[:3, 3] = (40.0, 0.0, -20.0)
    part = (slice(8, 16), slice(0, 8), slice(8, 16))
    block = cut_block(
        [(image(fixed), 0)], [(image(moving), 0)], GRID.crop(part), GRID, affine, None, margin=2
    )
    np.testing.assert_array_equal(block.fixed, fixed[part])
    box = (slice(10, 22), slice(0, 10), slice(4, 16))  # moved by 4, 0, -2 voxels, two more on either side
    assert block.moving_grid is not None
    assert (block.moving_grid.contains(GRID.crop(box).corners())).all()
    first = np.rint(GRID.to_index(np.asarray(block.moving_grid.origin))).astype(int)
    there = tuple(slice(a, a + n) for a, n in zip(first, block.moving_grid.shape, strict=True))
    np.testing.assert_array_equal(block.moving, moving[there])
    assert max(block.moving_grid.shape) <= 14
    np.testing.assert_array_equal(block.initial.affine, affine)
    assert block.initial.field is None


class Copied:
    """An array (c, z, y, x) of which every reading makes a copy, as of one on disk."""

    def __init__(self, values):
        self.values, self.dtype = values, values.dtype

    def __getitem__(self, key):
        return self.values[key].copy()


def test_images_that_can_be_read_again_are_not_held_while_a_block_is_registered():
    fixed, moving = (
        Image((Level(Copied(values[None].astype("f4")), GRID),)) for values in (texture(), shifted(texture()))
    )

    def peak_of(**change):
        tracemalloc.start()
        try:
            block = cut_block([(fixed, 0)], [(moving, 0)], GRID, GRID, np.eye(4), None, 4)
            register(replace(block, **change) if change else block)
            return tracemalloc.get_traced_memory()[1], block
        finally:
            tracemalloc.stop()

    peak_of()  # kernels are loaded
    more, held = peak_of(again=None)
    less, block = peak_of()
    assert less < more - 0.8 * (held.fixed.nbytes + held.moving.nbytes)
    np.testing.assert_array_equal(block.whole().fixed, held.fixed)
    np.testing.assert_array_equal(block.whole().moving, held.moving)


def test_the_field_of_a_block_is_the_whole_field_there():
    u = (
        gaussian_filter(np.random.default_rng(2).normal(size=(3, *FIELD.shape)), (0, 2, 2, 2)).astype("f4")
        * 100
    )
    part = (slice(8, 24), slice(0, 16), slice(16, 32))
    block = cut_block(
        [(image(texture()), 0)],
        [(image(texture()), 0)],
        GRID.crop(part),
        GRID,
        np.eye(4),
        (u, FIELD),
        margin=4,
    )
    assert block.initial.field.size < u.size
    random = np.random.default_rng(3).uniform(GRID.crop(part).lower, GRID.crop(part).upper, (200, 3))
    cropped = Displacements(block.initial.field, block.initial.field_grid)
    np.testing.assert_allclose(cropped.apply(random), Displacements(u, FIELD).apply(random), atol=1e-4)


def test_a_block_that_leaves_the_moving_image_has_none():
    affine = np.eye(4)
    affine[:3, 3] = 5000.0
    block = cut_block([(image(texture()), 0)], [(image(texture()), 0)], GRID, GRID, affine, None, margin=4)
    assert block.moving is None
    u, record = register(block)
    assert u is None
    assert record["status"] == "outside_moving"


# ---------------------------------------------------------------------------------- what becomes of it
def test_a_block_that_registers_gives_its_total_displacement():
    fixed = texture()
    u, record = register(made(fixed, shifted(fixed)), levels=(1, 0), iterations=(8,))
    assert record["status"] == "ok"
    assert record["used"] == "deformable"
    assert u.shape == (3, *FIELD.shape)
    assert u.dtype == np.float32
    inner = u[:, 4:-4, 4:-4, 4:-4].reshape(3, -1).T
    assert np.sqrt(((inner - SHIFT) ** 2).sum(1)).mean() < 1.0  # um, a tenth of a voxel
    assert record["metric_after"] > record["metric_before"]
    assert record["largest_displacement_um"] == pytest.approx(np.linalg.norm(SHIFT), rel=0.3)
    assert 0 < record["smallest_jacobian"] <= 1.1
    assert record["iterations"] > 0
    assert record["seed"] == 9


def test_the_start_is_part_of_the_total():
    fixed = texture()
    start = np.zeros((3, *FIELD.shape), np.float32) + (0.6 * SHIFT[:, None, None, None]).astype("f4")
    u, record = register(
        made(fixed, shifted(fixed), Initial(np.eye(4), start, FIELD)), levels=(1, 0), iterations=(8,)
    )
    assert record["status"] == "ok"
    # At its farthest: what the block adds to the start, not the total.
    assert record["largest_displacement_um"] < 0.9 * np.linalg.norm(SHIFT)
    assert np.abs(u[:, 4:-4, 4:-4, 4:-4].reshape(3, -1).mean(1) - SHIFT).max() < 1


def test_the_same_block_gives_the_same_bytes():
    fixed = texture()
    results = [register(made(fixed, shifted(fixed)), levels=(1,), iterations=(3,)) for _ in range(2)]
    assert results[0][0].tobytes() == results[1][0].tobytes()
    assert results[0][1] == results[1][1]


DARK = np.full(GRID.shape, 10, np.uint16)
FLAT = np.full(GRID.shape, 800, np.uint16)


@pytest.mark.parametrize(
    ("status", "fixed", "moving", "backend"),
    [
        ("empty", DARK, texture(), "native"),
        ("outside_moving", texture(), None, "native"),
        ("no_overlap", texture(), DARK, "native"),
        ("low_information", FLAT, FLAT, "native"),
        ("unchanged", texture(), texture(), "judged:content"),
        ("low_information", texture(), texture(), "judged:blind"),
        ("diverged", texture(), texture(), "judged:nowhere"),
        ("diverged", texture(), texture(), "judged:no_number"),
        ("folded", texture(), texture(), "judged:folding"),
        ("metric_worse", texture(), texture(), "judged:worse"),
    ],
)
@pytest.mark.parametrize("start", [None, 30.0])
def test_a_block_that_fails_says_why_and_leaves_the_stage_before(status, fixed, moving, backend, start):
    initial = None
    base = np.zeros((3, *FIELD.shape), np.float32) + np.float32(start or 0)
    if start is not None:
        initial = Initial(np.eye(4), base, FIELD)
    u, record = register(made(fixed, moving, initial), backend)
    assert u is None
    assert record["status"] == status
    assert record["used"] == "parent"
    assert all(np.isfinite(value) for value in record.values() if isinstance(value, float))
    # What the reduction makes of it is the stage before, not zero.
    whole = (slice(0, FIELD.shape[0]), slice(0, FIELD.shape[1]), slice(0, FIELD.shape[2]))
    reduced = reduce_blocks([BlockField(FIELD, u, whole)], FIELD, Displacements(base, FIELD))
    np.testing.assert_array_equal(reduced, base)


def test_a_restart_from_a_good_field_is_no_failure():
    """The start is a candidate, and keeps its detail on the way through the coarser levels."""
    fixed = texture()
    moving = shifted(fixed)
    wave = 8 * np.sin(np.arange(FIELD.shape[2]) * 2 * np.pi / 6)  # too fine for the coarsest grid
    fine = np.broadcast_to(SHIFT[:, None, None, None], (3, *FIELD.shape)).astype("f4").copy()
    points = GRID.to_physical(np.indices(GRID.shape).reshape(3, -1).T)
    fine[0] += wave
    goal = Displacements(fine, FIELD).apply(points)
    waved = map_coordinates(moving, GRID.to_index(goal).T, order=3, mode="reflect").reshape(GRID.shape)
    u, record = register(made(waved, moving, Initial(np.eye(4), fine, FIELD)), levels=(2, 1, 0))
    assert record["status"] in ("ok", "unchanged")
    inner = (slice(None), *(slice(4, -4),) * 3)
    assert np.abs((fine if u is None else u) - fine)[inner].mean() < 1.0  # um; the wave's mean is 5


def test_a_block_that_runs_away_is_not_used():
    block = made(texture(), texture())
    u, record = register(block, "judged:fine", um=150.0)  # 260 um in all; half the block is 160
    assert u is None
    assert record["status"] == "diverged"
    assert record["largest_displacement_um"] == pytest.approx(150 * 3**0.5, rel=1e-6)
    u, record = register(block, "judged:fine", um=90.0)
    assert record["status"] == "ok"
    np.testing.assert_array_equal(u, np.full((3, *FIELD.shape), 90, "f4"))
    # Beside a start the same field is as far as what the block added to it.
    start = np.full((3, *FIELD.shape), 140, "f4")
    u, record = register(
        made(texture(), texture(), Initial(np.eye(4), start, FIELD)), "judged:fine", um=150.0
    )
    assert record["status"] == "ok"
    assert record["largest_displacement_um"] == pytest.approx(10 * 3**0.5, rel=1e-5)


def test_a_result_on_another_grid_is_brought_onto_the_fields():
    u, record = register(made(texture(), texture()), "judged:elsewhere")
    assert record["status"] == "ok"
    assert u.shape == (3, *FIELD.shape)
    assert u.dtype == np.float32
    np.testing.assert_allclose(u, 7, rtol=1e-6)


def test_content_is_counted_against_the_share_asked_for():
    fixed = DARK.copy()
    fixed[:8] = texture()[:8]  # a quarter
    block = made(fixed, texture())
    assert register(block, "judged:fine", min_content=0.26, um=1.0)[1]["status"] == "empty"
    assert register(block, "judged:fine", min_content=0.24, um=1.0)[1]["status"] == "ok"


# ---------------------------------------------------------------------------------- bad backends
@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("judged:misshapen", r"a backend gave a displacement of shape \(3, 2, 2, 2\); wanted"),
        ("judged:missing", r"backend 'judged:missing' .*cannot be loaded"),
        ("absent_module:register", r"backend 'absent_module:register' .*cannot be loaded"),
        ("nativ", r"backend 'nativ' is unknown; known are native"),
        ("judged:np", r"is no function"),
    ],
)
def test_bad_backends_are_named(backend, message):
    with pytest.raises(ValueError, match=message) as caught:
        register(made(texture(), texture()), backend)
    assert "\n" not in str(caught.value)


def test_unknown_settings_of_a_backend_are_refused():
    with pytest.raises(ValueError, match="backend native has no setting sigmma"):
        register(made(texture(), texture()), sigmma=(1.0,))
    with pytest.raises(
        ValueError, match=r"setting sigma of backend native is 'wide'; wanted a value like its default, \(1.5"
    ):
        checked_settings("native", {"volume": 0.1, "sigma": "wide"})
