"""Blocks that are hard: periodic, half empty, with nothing in common."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from test_pair import GRID, pair, run, texture, truth


def changed(change):
    """Fixed and moving image after `change` of the texture, the fixed one moved by the truth."""
    points = GRID.to_physical(np.indices(GRID.shape).reshape(3, -1).T)
    moving = change(texture(GRID))
    fixed = map_coordinates(moving, GRID.to_index(points + truth(points)).T, order=3, mode="reflect")
    return fixed.reshape(GRID.shape).astype(np.float32), moving


def periodic(values):
    """Half of the volume repeats itself every 8 voxels."""
    z, y, x = np.indices(GRID.shape) * 2 * np.pi / 8
    repeated = 2000 + 400 * (np.sin(z) + np.sin(y) + np.sin(x))
    return np.where(np.indices(GRID.shape)[2] < 33, values, repeated).astype(np.float32)


def half_empty(values):
    """Nothing beyond a slanted plane, which leaves some blocks half empty."""
    _, y, x = np.indices(GRID.shape)
    return np.where(x + 0.5 * y < 60, values, 20.0).astype(np.float32)


def with_noise(images, part):
    """Another noise in a part of each image."""
    rng = np.random.default_rng(3)
    for image in images:
        image[part] = rng.normal(2000, 400, image[part].shape)
    return images


def mean_error(found, keep):
    """Mean distance, voxels, from the truth where `keep` holds, (z, y, x) bool, away from the border."""
    inner = np.zeros(GRID.shape, bool)
    inner[8:-8, 8:-8, 8:-8] = True
    points = GRID.to_physical(np.argwhere(inner & keep))
    away = found.transform.apply(points) - points - truth(points)
    return float(np.linalg.norm(away, axis=1).mean() / GRID.spacing[0])


@pytest.mark.parametrize("change", [periodic, half_empty])
def test_hard_blocks_do_no_harm(change):
    images = changed(change)
    values = run(images=images)
    assert values.transform.jacobian_determinant(GRID).min() > 0
    content = images[0] > 200
    assert mean_error(values, content) < 0.15
    # A period is 8 voxels: nothing is taken for its neighbour.
    assert max(row["disagreement_um"] for row in values.blocks["fine"]) < 20


def test_a_block_of_noise_does_no_harm():
    """Where the images have nothing in common the stage before, or the neighbours, keep the block in place."""
    part = (slice(0, 30), slice(0, 30), slice(0, 30))
    values = run(images=with_noise(pair(), part))
    assert values.transform.jacobian_determinant(GRID).min() > 0
    noise = np.zeros(GRID.shape, bool)
    noise[part] = True
    far = np.ones(GRID.shape, bool)
    far[:36, :36, :36] = False
    assert mean_error(values, far) < 0.15
    assert mean_error(values, noise) < 2.5
