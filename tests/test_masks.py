"""Masks from images to backends: read at any voxel size, cut with a block, honoured by it."""

from __future__ import annotations

import numpy as np
import pytest
from test_native import displacement, points_of, texture

from weft.grid import Grid
from weft.image import Image, Level
from weft.registration import register
from weft.registration.engine import cut_block, register_block
from weft.sampling import read_mask

GRID = Grid((48, 48, 48), (4.0, 4.0, 4.0))
AMPLITUDE = 8.0


def image(values: np.ndarray, grid: Grid = GRID) -> Image:
    return Image((Level(values[None], grid),))


def test_a_mask_is_read_as_the_share_that_counts():
    values = np.zeros(GRID.shape, np.uint32)
    values[:, :, :24] = 70_000  # a label, not a weight
    seen = read_mask(image(values), GRID.coarsen((2, 2, 2)))
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen[4:-4, 4:-4, :10], 1)
    np.testing.assert_allclose(seen[..., 14:], 0)
    assert 0.5 < seen[0, 0, 11] < 1
    beyond = read_mask(image(np.ones(GRID.shape, bool)), GRID.pad(3))
    assert beyond[:3].max() == beyond[..., -3:].max() == 0
    np.testing.assert_array_equal(beyond[3:-3, 3:-3, 3:-3], 1)


def test_weights_are_cut_to_0_to_1():
    values = np.zeros(GRID.shape, np.float32)
    values[0, 0, :4] = (0.25, 7, -3, np.nan)
    np.testing.assert_array_equal(read_mask(image(values), GRID)[0, 0, :4], [0.25, 1, 0, 0])


def test_saturated_voxels_do_not_count():
    fixed, moving = (np.full(GRID.shape, 900, np.uint16) for _ in range(2))
    fixed[3, 4, 5] = 65535
    block = cut_block([(image(fixed), 0)], [(image(moving), 0)], GRID, GRID, np.eye(4), None, 2)
    assert block.masks[1] is None
    assert block.masks[0][3, 4, 5] == 0
    assert block.masks[0].sum() == GRID.size - 1
    mask = np.ones(GRID.shape, bool)
    mask[0] = False
    block = cut_block(
        [(image(fixed), 0)], [(image(moving), 0)], GRID, GRID, np.eye(4), None, 2, (image(mask), None)
    )
    assert block.masks[0].sum() == 47 * 48 * 48 - 1
    bright = image(fixed.astype(np.float32))  # a float has no largest value that it stops at
    assert cut_block([(bright, 0)], [(bright, 0)], GRID, GRID, np.eye(4), None, 2).masks == (None, None)


def test_a_mask_that_counts_nowhere_is_refused():
    fixed = texture(points_of(GRID))
    small = Grid(GRID.shape, (0.004,) * 3, (-1.0,) * 3)  # mm taken for um, and beside the image
    said = r"moving_mask counts nowhere in the moving image: it reaches -1.* the image -2 to 190 .*is its voxel size right\?"
    with pytest.raises(ValueError, match=said):
        register(image(fixed), image(fixed), moving_mask=image(np.ones(GRID.shape, np.uint8), small))


@pytest.mark.parametrize(
    ("grid", "share"),
    [
        (GRID, None),
        (GRID.pad(2), None),
        (
            GRID.coarsen((5, 5, 5)).crop((slice(0, 9),) * 3),
            None,
        ),  # but for a rest of three voxels: half of one of its own
        (GRID.crop((slice(0, 36), slice(12, 48), slice(None))), "56.2 %"),
        (Grid(GRID.shape, (2.0,) * 3, (-1.0,) * 3), "12.5 %"),
    ],
)
def test_a_mask_of_a_part_of_its_image_is_told(grid, share, capsys):
    mask = image(np.ones(grid.shape, np.uint8), grid)
    fixed = image(texture(points_of(GRID)))
    found = register(fixed, fixed, fixed_mask=mask, stages=[])
    said = capsys.readouterr().err
    notes = [note for note in found.affine.notes if "mask" in note]
    assert len(notes) == said.count("Warning: fixed_mask covers") == (share is not None)
    if share is not None:
        assert notes[0].startswith(f"fixed_mask covers {share} of the fixed image: it reaches ")
        assert notes[0].endswith("what lies beyond it does not count: is its voxel size right?")
    register(
        fixed, fixed, moving_mask=mask, stages=[], affine=np.eye(4)
    )  # where no affine is looked for, too
    assert capsys.readouterr().err.count("Warning: moving_mask covers") == (share is not None)


def test_a_block_outside_the_mask_is_empty():
    fixed = texture(points_of(GRID)).astype(np.uint16)
    mask = image(np.zeros(GRID.shape, np.uint8))
    for masks, status in (((mask, None), "empty"), ((None, mask), "no_overlap")):
        block = cut_block([(image(fixed), 0)], [(image(fixed), 0)], GRID, GRID, np.eye(4), None, 2, masks)
        u, record = register_block(
            block, backend="native", settings={}, background=(1.0, 1.0), min_content=0.02, seed=0
        )
        assert u is None
        assert record["status"] == status


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_what_is_masked_does_not_bend_the_rest(role):
    points = points_of(GRID)
    images = {"fixed": texture(points + displacement(points, AMPLITUDE)), "moving": texture(points)}
    images[role][:, :, 26:] = texture(points, seed=8)[:, :, 26:]  # foreign tissue
    mask = np.ones(GRID.shape, np.uint8)
    mask[:, :, 26:] = 0
    stages = [{"name": "one", "level": "x1", "block": "whole"}]

    def error(**masks) -> float:
        found = register(
            **images, fixed_grid=GRID, moving_grid=GRID, affine=np.eye(4), stages=stages, **masks
        )
        near = points[8:-8, 8:-8, 18:22].reshape(-1, 3)
        return np.linalg.norm(
            found.transform.apply(near) - near - displacement(near, AMPLITUDE), axis=1
        ).mean()

    masked = error(**{f"{role}_mask": mask})
    assert masked < 0.9 * error()
    assert masked < 0.8
    with pytest.raises(ValueError, match=rf"{role}_mask is an array of shape"):
        error(**{f"{role}_mask": mask[1:]})
