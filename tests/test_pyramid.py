"""Pyramid: which levels, and the binning kernels against plain NumPy."""

import numpy as np
import pytest

from weft.grid import Grid
from weft.pyramid import downsample, plan_levels


def bins(array, factors):
    """Every bin of a volume as (output index, voxels), by slicing."""
    shape = [-(-n // f) for n, f in zip(array.shape, factors, strict=True)]
    for index in np.ndindex(*shape):
        yield (
            index,
            array[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factors, strict=True))].ravel(),
        )


def test_anisotropic_volume_becomes_isotropic_first():
    levels = plan_levels((200, 1600, 1600), (5.0, 1.0, 1.0))
    assert levels[:2] == [(1, 2, 2), (1, 2, 2)]
    assert levels[2] == (2, 2, 2)
    grid = Grid((200, 1600, 1600), (5.0, 1.0, 1.0))
    for factors in levels:
        grid = grid.coarsen(factors)
    assert max(grid.shape) <= 64
    assert max(grid.spacing) / min(grid.spacing) < 2**0.5


def test_levels_end_and_flat_axes_stay():
    assert plan_levels((40, 64, 10), (1.0, 1.0, 1.0)) == []
    assert plan_levels((1, 256, 256), (9.0, 1.0, 1.0)) == [(1, 2, 2), (1, 2, 2)]
    with pytest.raises(ValueError, match="smallest"):
        plan_levels((1, 2, 3), (1.0, 1.0, 1.0), smallest=0)


@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 2, 2), (1, 1, 3), (3, 2, 5)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32"])
def test_mean_rounds_half_up_and_averages_incomplete_bins(factors, dtype):
    rng = np.random.default_rng(3)
    low = -500 if dtype == "int16" else 0
    array = rng.integers(low, 250, (7, 9, 11)).astype(dtype)
    out = downsample(array, factors)
    assert out.dtype == array.dtype
    for index, voxels in bins(array, factors):
        mean = voxels.astype(np.float64).mean()
        want = np.float32(mean) if dtype == "float32" else np.floor(mean + 0.5)
        assert out[index] == want


def test_mean_holds_full_range():
    full = np.full((4, 4, 4), 65535, np.uint16)
    assert (downsample(full, (2, 2, 2)) == 65535).all()


def test_mode_keeps_64_bit_labels_and_prefers_the_smallest():
    rng = np.random.default_rng(4)
    names = np.array([0, 7, 2**63 + 1, 2**63 + 2], np.uint64)  # two that float64 cannot tell apart
    array = names[rng.integers(0, 4, (5, 6, 7))]
    out = downsample(array, (2, 2, 2), mode="mode")
    assert out.dtype == np.uint64
    for index, voxels in bins(array, (2, 2, 2)):
        values, counts = np.unique(voxels, return_counts=True)
        assert out[index] == values[np.argmax(counts)]


def test_refusals():
    volume = np.zeros((2, 2, 2), np.uint64)
    with pytest.raises(ValueError, match="mode='mode'"):
        downsample(volume, (2, 2, 2))
    with pytest.raises(ValueError, match="positive"):
        downsample(volume, (0, 2, 2), mode="mode")
    with pytest.raises(ValueError, match="median"):
        downsample(volume, (2, 2, 2), mode="median")
    with pytest.raises(ValueError, match="axes"):
        downsample(volume[0], (2, 2, 2), mode="mode")


def test_bool_masks():
    mask = np.zeros((2, 2, 4), bool)
    mask[:, :, :2] = True
    assert downsample(mask, (2, 2, 2), mode="mode").tolist() == [[[True, False]]]
