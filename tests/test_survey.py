"""What blocks are told of the whole images: background, and the scale and noise by which a block of noise stays as it is."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from weft.grid import Grid
from weft.image import Image, Level
from weft.registration import register
from weft.registration.backends.native import intensity_statistics
from weft.registration.plan import plan_stage
from weft.registration.survey import overview, survey_images

GRID = Grid((40, 40, 120), (10.0, 10.0, 10.0))
STAGE = {"name": "fine", "level": 10.0, "block": 40, "overlap": 8, "backend": "native", "settings": {}}
MOVED = np.array([0.0, 1.5, -1.0])  # voxels: the truth of the tissue


def half_empty(noise, seed=0):
    """Fixed and moving image: tissue in the first two fifths, above an offset of 100; `noise` of their own everywhere."""
    rng = np.random.default_rng(seed)
    texture = gaussian_filter(rng.normal(size=GRID.shape), 2)
    tissue = gaussian_filter(np.where(np.arange(120) < 52, np.ones(GRID.shape), 0), 2)
    moving = 100 + tissue * (700 + 300 * texture / texture.std())
    fixed = shift(moving, -MOVED, order=3, mode="nearest")
    images = (image + noise * rng.normal(size=GRID.shape) for image in (fixed, moving))
    return [image.clip(0).astype(np.uint16) for image in images]


def run(images, **stage):
    return register(
        *images,
        fixed_grid=GRID,
        moving_grid=GRID,
        affine=np.eye(4),
        stages=[{**STAGE, **stage}],
        inverse=False,
    )


# 8: below what counts as content. 20, 60: above it, below and above the noise floor of the tissue.
@pytest.mark.parametrize("noise", [8, 20, 60])
def test_a_block_of_noise_stays_as_it_is(noise):
    found = run(half_empty(noise))
    rows = found.blocks["fine"]
    assert [row["status"] for row in rows[:2]] == ["ok", "ok"]
    assert rows[2]["status"] in ("empty", "unchanged", "low_information")
    assert rows[2]["used"] == "parent"
    points = GRID.to_physical(np.random.default_rng(1).uniform((8, 8, 8), (32, 32, 40), (200, 3)))
    error = found.transform.apply(points) - points - 10 * MOVED
    assert np.linalg.norm(error, axis=1).mean() < 1.5  # um: .15 voxel
    far = GRID.to_physical([[20, 20, 105], [10, 30, 115]])
    assert np.abs(found.transform.apply(far) - far).max() < 1e-3


def test_the_blocks_of_a_stage_share_one_scale():
    images = [Image((Level(image[None], GRID),)) for image in half_empty(5)]
    plan = plan_stage(GRID, STAGE)
    known = survey_images(plan, STAGE, *([overview(image, 0)] for image in images))
    assert all(50 < value < 300 for value in known["background"])
    for role, image in zip(("fixed", "moving"), images, strict=True):
        told = known["intensity"][role]
        tissue = intensity_statistics(image.levels[0].read()[:, :, :52], "root", 3)
        assert told["unit"] == pytest.approx(tissue["unit"], rel=0.5)
        variances = [np.multiply(v["local_variance"][:2], v["std"] ** 2) for v in (told, tissue)]
        np.testing.assert_allclose(*variances, rtol=0.3)  # of coarser levels the tissue's edge makes the most


def test_a_single_block_and_a_given_scale_are_not_measured():
    images = [[overview(Image((Level(image[None], GRID),)), 0)] for image in half_empty(5)]
    whole = {**STAGE, "block": "whole"}
    assert survey_images(plan_stage(GRID, whole), whole, *images)["intensity"] is None
    given = {**STAGE, "settings": {"intensity": {"fixed": {}, "moving": {}}}}
    assert survey_images(plan_stage(GRID, given), given, *images)["intensity"] is None
    assert (
        survey_images(plan_stage(GRID, STAGE), {**STAGE, "backend": "demons"}, *images)["intensity"] is None
    )
