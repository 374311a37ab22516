"""Several channels from the tables and from Python: each half of the volume shows texture in another one."""

import numpy as np
import pytest
import yaml
from scipy.ndimage import gaussian_filter, map_coordinates
from workflow_jobs import plan_jobs, run_script

from weft import receipts
from weft.grid import Grid
from weft.image import Image, Level
from weft.registration import register
from weft.registration.needs import block_memory
from weft.steps.stage_job import open_channels
from weft.stores.ome_zarr import create_image, open_level, write_region
from weft.transforms import open_transform

GRID = Grid((36, 36, 60), (10.0, 10.0, 10.0))
STAGES = [{"name": "fine", "level": "x1", "block": 30, "overlap": 8, "settings": {"levels": [2, 1, 0]}}]
SHIFTED = 1.6  # voxels, amplitude of the truth


def truth(points):
    """Displacements, (n, 3) voxels, of points, (n, 3) voxels."""
    z, y, x = points.T / 14
    return SHIFTED * np.stack([np.sin(y), np.cos(x), np.sin(z + x)], axis=1)


def halves():
    """Two channels of both images, uint16: texture left in the first and right in the second, else a flat value."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=GRID.shape), 1.6)
    texture = 2000 + 500 * noise / noise.std()
    points = np.indices(GRID.shape).reshape(3, -1).T.astype(float)
    moved = points + truth(points)
    moving, fixed = [], []
    for left in (True, False):
        edge = gaussian_filter(np.where((np.arange(60) < 30) == left, np.ones(GRID.shape), 0), 1)
        values = 1000 + edge * (texture - 1000)
        moving.append(values)
        fixed.append(map_coordinates(values, moved.T, order=3, mode="nearest").reshape(GRID.shape))
    return [np.rint(np.stack(image)).clip(0).astype(np.uint16) for image in (fixed, moving)]


def error(transform, part) -> float:
    """Mean distance from the truth, voxels, in a part along x."""
    points = np.random.default_rng(1).uniform((7, 7, part[0]), (29, 29, part[1]), (500, 3))
    found = GRID.to_index(transform.apply(GRID.to_physical(points)))
    return float(np.linalg.norm(found - points - truth(points), axis=1).mean())


LEFT, RIGHT = (6, 24), (36, 54)


def run(fixed, moving, **options):
    return register(fixed, moving, affine=np.eye(4), stages=STAGES, inverse=False, **options)


def image(values, names=("a", "b")):
    return Image((Level(values, GRID),), channels=names[: len(values)])


def test_each_half_is_moved_by_the_channel_that_shows_it():
    fixed, moving = halves()
    both = run(
        fixed[0], moving[0], fixed_grid=GRID, moving_grid=GRID, more=[(fixed[1], moving[1])], workers=2
    )
    one = run(fixed[0], moving[0], fixed_grid=GRID, moving_grid=GRID)
    assert max(error(both.transform, part) for part in (LEFT, RIGHT)) < 0.35
    assert error(one.transform, RIGHT) > 1.0
    assert {row["status"] for row in both.blocks["fine"]} == {"ok"}
    # The same from images with named channels.
    images = image(fixed), image(moving)
    named = run(*images, more=[((images[0], "b"), (images[1], "b"))])
    assert named.transform.split()[1].field.tobytes() == both.transform.split()[1].field.tobytes()


def test_weights_say_how_much_a_channel_counts():
    """A second channel that contradicts the first one everywhere."""
    fixed, moving = halves()
    fixed, moving = fixed.max(axis=0), moving.max(axis=0)
    foreign = np.roll(fixed, (3, -3), (0, 1)), fixed
    errors = [
        error(
            run(
                fixed, moving, fixed_grid=GRID, moving_grid=GRID, more=[foreign], channel_weights=weights
            ).transform,
            LEFT,
        )
        for weights in ((1.0, 0.01), (0.01, 1.0))
    ]
    assert errors[0] < 0.4 < 2.0 < errors[1]
    with pytest.raises(
        ValueError, match="channel_weights holds 1 numbers for 2 channels; wanted one for each"
    ):
        run(fixed, moving, fixed_grid=GRID, moving_grid=GRID, more=[foreign], channel_weights=[1.0])


def test_more_channels_take_more_memory():
    one, two = (block_memory((64, 64, 64), 8, "native", {}, channels) for channels in (1, 2))
    assert 1.3 * one < two < 2 * one


# ---------------------------------------------------------------------------------- through the tables
IMAGES = "image\tsource\nboth\tdata/both.ome.zarr\none\tdata/one.ome.zarr\nother\tdata/other.ome.zarr\n"
CONFIG = {
    "images": "images.tsv",
    "registrations": "registrations.tsv",
    "affine": {"start": {"matrix": np.eye(4).tolist(), "refine": False}, "policy": "warn"},
    "stages": STAGES,
    "export_transforms": False,
}
STEPS = ("import_image", "register_affine", "plan_blocks", "register_blocks", "reduce_transform")


def write_image(path, values, names):
    create_image(path, [GRID], "uint16", channels=names)
    for channel, voxels in enumerate(values):
        write_region(open_level(path / "0"), channel, (slice(0, 36), slice(0, 36), slice(0, 60)), voxels, "0")


def test_channels_of_one_store_meet_several_images(tmp_path):
    """The fixed image has both channels, the moving ones are two images."""
    fixed, moving = halves()
    write_image(tmp_path / "data/both.ome.zarr", fixed, ("a", "b"))
    write_image(tmp_path / "data/one.ome.zarr", moving[:1], ("left",))
    write_image(tmp_path / "data/other.ome.zarr", moving[1:], ("right",))
    (tmp_path / "images.tsv").write_text(IMAGES)
    heading = "registration\tfixed\tmoving\tfixed_more\tmoving_more\tchannel_weights\n"
    (tmp_path / "registrations.tsv").write_text(f"{heading}pair\tboth\tone\tb\tother/\t1,0.8\n")
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(CONFIG))
    jobs = [job for job in plan_jobs(tmp_path) if job.rule.name in STEPS]
    for job in jobs:
        run_script(tmp_path, job)
    transform = open_transform(tmp_path / "results/registrations/pair/stages/fine/transform.json")
    assert max(error(transform, part) for part in (LEFT, RIGHT)) < 0.35
    known = receipts.read(tmp_path / "results/registrations/pair/stages/fine/plan.json")
    assert [len(value) for value in known["background"]] == [2, 2]
    # Python gives the same bytes.
    more = [((image(fixed), "b"), image(moving[1:]))]
    found = run(image(fixed), image(moving[:1]), more=more, channel_weights=(1, 0.8))
    assert found.transform.split()[1].field.tobytes() == transform.split()[1].load().field.tobytes()


def test_an_image_that_lies_elsewhere_is_refused(tmp_path):
    receipt = {"channels": ["0"], "orientation": None, "labels": False}
    for name, grid in (("here", GRID), ("there", Grid(GRID.shape, GRID.spacing, (5e4, 0.0, 0.0)))):
        create_image(tmp_path / f"{name}.ome.zarr", [grid], "uint16")
        receipts.write(tmp_path / f"{name}.json", {**receipt, "store": f"{name}.ome.zarr"})
    here, there = (str(tmp_path / f"{name}.json") for name in ("here", "there"))
    channels = {"fixed": None, "moving": None, "fixed_more": [None], "moving_more": [None]}
    with pytest.raises(ValueError, match=r"fixed_more: .*there.json lies elsewhere than .*here.json"):
        open_channels(here, here, channels, ([there], [here]))
