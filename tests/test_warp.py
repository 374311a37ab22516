"""Warping: against SimpleITK, against arithmetic, and in parts against the whole."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from weft.grid import Grid
from weft.transforms.formats.itk import write_itk
from weft.transforms.interpolate import resample_field
from weft.transforms.invert import invert_displacements
from weft.transforms.model import Affine, Displacements, Sequence
from weft.warp import moving_region, warp, warp_sequence

FIXED = Grid((40, 44, 48), (2.0, 2.0, 2.0), (10.0, 0.0, -6.0))
MOVING = Grid((30, 52, 46), (3.0, 1.5, 2.0), (0.0, 5.0, -3.0))
FIELD = FIXED.coarsen((4, 4, 4))


def affine() -> np.ndarray:
    c, s = np.cos(0.15), np.sin(0.15)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[1.05, 0.03, 0], [0, c, -s], [0, s, c]])
    matrix[:3, 3] = (-8.0, 6.0, 2.0)
    return matrix


def field(seed: int = 0, largest: float = 9.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    u = np.stack([ndimage.gaussian_filter(rng.normal(size=FIELD.shape), 1.5) for _ in range(3)])
    return (u * largest / np.abs(u).max()).astype(np.float32)


def image(dtype=np.uint16) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=MOVING.shape), 1)
    return (30000 + 20000 * noise / np.abs(noise).max()).astype(dtype)


def itk_image(array: np.ndarray, grid: Grid) -> sitk.Image:
    out = sitk.GetImageFromArray(array)
    out.SetSpacing(grid.spacing[::-1])
    out.SetOrigin(grid.origin[::-1])
    return out


def by_itk(tmp_path, moving: np.ndarray, order: int) -> np.ndarray:
    """The same pull-back by SimpleITK, with the field dense on the fixed grid so that ITK interpolates none."""
    dense = Displacements(resample_field(field(), FIELD, FIXED), FIXED)
    write_itk(tmp_path / "t.h5", Sequence((dense, Affine(affine()))))
    method = sitk.sitkLinear if order else sitk.sitkNearestNeighbor
    reference = itk_image(np.zeros(FIXED.shape, moving.dtype), FIXED)
    transform = sitk.ReadTransform(str(tmp_path / "t.h5"))
    return sitk.GetArrayFromImage(sitk.Resample(itk_image(moving, MOVING), reference, transform, method, 0.0))


def inside(grid_points: np.ndarray, margin: float) -> np.ndarray:
    index = MOVING.to_index(grid_points)
    return ((index >= margin) & (index <= np.array(MOVING.shape) - 1 - margin)).all(1).reshape(FIXED.shape)


def mapped() -> np.ndarray:
    points = FIXED.to_physical(np.indices(FIXED.shape).reshape(3, -1).T)
    return Sequence((Displacements(field(), FIELD), Affine(affine()))).apply(points)


def test_images_agree_with_simpleitk_to_one_grey_level(tmp_path):
    ours, clipped = warp(image(), MOVING, affine(), field(), FIELD, FIXED)
    theirs = by_itk(tmp_path, image(), 1)
    within = inside(mapped(), 0.0)
    assert within.mean() > 0.4
    assert np.abs(ours.astype(int) - theirs)[within].max() <= 1
    # The border rule is ITK's too: up to half a voxel out is in, beyond is not.
    rim = inside(mapped(), -0.49) & ~within
    assert rim.any()
    assert np.abs(ours.astype(int) - theirs)[rim].max() <= 1
    assert (ours[~inside(mapped(), -0.51)] == 0).all()
    assert clipped == 0


def test_labels_agree_with_simpleitk_but_on_ties(tmp_path):
    labels = np.random.default_rng(2).integers(1, 2**32 - 1, MOVING.shape, dtype=np.uint32)
    ours, _ = warp(labels, MOVING, affine(), field(), FIELD, FIXED, order=0)
    theirs = by_itk(tmp_path, labels, 0)
    index = MOVING.to_index(mapped())
    tie = (np.abs(index - np.floor(index) - 0.5) < 1e-4).any(1).reshape(FIXED.shape)
    np.testing.assert_array_equal(ours[~tie], theirs[~tie])
    assert tie.mean() < 0.01


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (np.uint64, (2**63, 2**64 - 1, 2**53 + 1)),
        (np.int64, (-(2**62) - 1, 2**53 + 1, -1)),
        (np.uint32, (2**32 - 1, 2**24 + 1, 7)),
    ],
)
def test_large_labels_keep_their_values(dtype, values):
    labels = np.array(values, dtype)[np.random.default_rng(3).integers(0, 3, MOVING.shape)]
    out, _ = warp(labels, MOVING, affine(), field(), FIELD, FIXED, order=0)
    assert out.dtype == dtype
    assert set(np.unique(out).tolist()) == {*values, 0}


def test_identity_and_whole_voxel_shifts_are_exact():
    moving = image()
    out, _ = warp(moving, MOVING, np.eye(4), None, None, MOVING)
    np.testing.assert_array_equal(out, moving)
    shift = np.zeros((3, 1, 1, 1), np.float32)
    shift[:, 0, 0, 0] = np.array(MOVING.spacing) * (1, -2, 3)
    one = Grid((1, 1, 1), (1.0, 1.0, 1.0))
    out, _ = warp(moving, MOVING, np.eye(4), shift, one, MOVING, fill=9)
    np.testing.assert_array_equal(out[:-1, 2:, :-3], moving[1:, :-2, 3:])
    assert (out[-1] == 9).all()
    assert (out[:, :2] == 9).all()
    assert (out[:, :, -3:] == 9).all()


@pytest.mark.parametrize("order", [0, 1])
def test_half_a_voxel_beyond_the_border_takes_its_value(order):
    line = Grid((1, 1, 4), (1.0, 1.0, 1.0))
    fine = Grid((1, 1, 12), (1.0, 1.0, 0.25), (0.0, 0.0, 2.25))
    out, _ = warp(
        np.array([[[1, 2, 3, 4]]], np.uint8), line, np.eye(4), None, None, fine, order=order, fill=77
    )
    assert out[0, 0, 3:6].tolist() == [4, 4, 4]  # 3, 3.25, 3.5
    assert (out[0, 0, 6:] == 77).all()
    mirrored = np.diag([1, 1, -1.0, 1])
    out, _ = warp(
        np.array([[[1, 2, 3, 4]]], np.uint8),
        line,
        mirrored,
        None,
        None,
        Grid((1, 1, 4), (1, 1, 0.25)),
        order=order,
        fill=77,
    )
    assert out[0, 0].tolist() == [1, 1, 1, 77]


def test_every_type_is_taken_and_rounding_is_counted():
    ramp = Grid((1, 1, 3), (1.0, 1.0, 1.0))
    half = Grid((1, 1, 5), (1.0, 1.0, 0.5))
    for dtype in (np.uint8, np.int16, np.float32, np.float64):
        out, clipped = warp(np.array([[[0, 1, 4]]], dtype), ramp, np.eye(4), None, None, half)
        assert out.dtype == dtype
        expected = [0, 0.5, 1, 2.5, 4] if np.dtype(dtype).kind == "f" else [0, 1, 1, 3, 4]
        assert out[0, 0].tolist() == expected
        assert clipped == 0
    out, _ = warp(np.array([[[-3, -2, 0]]], np.int16), ramp, np.eye(4), None, None, half)
    assert out[0, 0].tolist() == [-3, -2, -2, -1, 0]
    wide = np.array([[[-5.0, 300.0, 20.0]]], np.float32)
    out, clipped = warp(wide, ramp, np.eye(4), None, None, ramp, dtype=np.uint8)
    assert out[0, 0].tolist() == [0, 255, 20]
    assert clipped == 2
    mask, _ = warp(np.array([[[False, True, True]]]), ramp, np.eye(4), None, None, half, order=0)
    assert mask.dtype == bool
    assert mask[0, 0].tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("order", [0, 1])
def test_regions_with_their_part_of_the_moving_image_equal_the_whole(order):
    moving, read = image(), 0
    whole, _ = warp(moving, MOVING, affine(), field(), FIELD, FIXED, order=order, fill=3)
    pieces = np.empty_like(whole)
    for z in range(0, 40, 13):
        for y in range(0, 44, 15):
            part = (slice(z, min(z + 13, 40)), slice(y, min(y + 15, 44)), slice(0, 48))
            out_grid = FIXED.crop(part)
            box = moving_region(out_grid, affine(), field(), FIELD, MOVING)
            if box is None:
                pieces[part] = 3
                continue
            read += moving[box].size
            pieces[part], _ = warp(
                moving[box], MOVING.crop(box), affine(), field(), FIELD, out_grid, order=order, fill=3
            )
    np.testing.assert_array_equal(pieces, whole)
    assert read < 0.9 * 12 * moving.size


def test_the_moving_region_is_tight_and_never_too_small():
    part = (slice(10, 20), slice(12, 20), slice(5, 30))
    grid = FIXED.crop(part)
    points = grid.to_physical(np.indices(grid.shape).reshape(3, -1).T)
    index = MOVING.to_index(Sequence((Displacements(field(), FIELD), Affine(affine()))).apply(points))
    box = moving_region(grid, affine(), field(), FIELD, MOVING, margin=0)
    first, last = np.array([s.start for s in box]), np.array([s.stop - 1 for s in box])
    wanted_first = np.clip(np.floor(index.min(0)), 0, None)
    wanted_last = np.clip(np.ceil(index.max(0)), None, np.array(MOVING.shape) - 1)
    assert (first <= wanted_first).all()
    assert (last >= wanted_last).all()
    assert (wanted_first - first <= 1).all()
    assert (last - wanted_last <= 1).all()
    far = Grid(grid.shape, grid.spacing, (1e5, 0, 0))
    assert moving_region(far, affine(), field(), FIELD, MOVING) is None


def test_the_inverse_brings_an_image_back():
    moving = ndimage.gaussian_filter(image(np.float32), 2)
    transform = Sequence((Displacements(field(), FIELD), Affine(affine())))
    v, grid_v = invert_displacements(field(), FIELD)
    inverse = Sequence((Affine(affine()).inverse, Displacements(v, grid_v)))
    on_fixed, _ = warp_sequence(moving, MOVING, transform, FIXED, fill=np.nan)
    back, _ = warp_sequence(on_fixed, FIXED, inverse, MOVING, fill=np.nan)
    seen = np.isfinite(back)
    assert seen.mean() > 0.4
    assert np.abs(back - moving)[seen].mean() < 0.1 * moving.std()  # two interpolations blur
    # The kernel that samples the field at turned positions, against the points' own arithmetic.
    points = MOVING.to_physical(np.indices(MOVING.shape).reshape(3, -1).T)
    index = FIXED.to_index(inverse.apply(points))
    linear = np.arange(FIXED.size, dtype=np.float64).reshape(FIXED.shape)
    found, _ = warp_sequence(linear, FIXED, inverse, MOVING, fill=-1)
    inner = ((index >= 0) & (index <= np.array(FIXED.shape) - 1)).all(1)
    truth = index @ np.array([44 * 48, 48, 1.0])
    np.testing.assert_allclose(found.ravel()[inner], truth[inner], atol=0.1)


def test_the_moving_region_of_an_inverse_holds_all_that_it_needs():
    v, grid_v = invert_displacements(field(), FIELD)
    back = np.linalg.inv(affine())
    values = np.random.default_rng(5).integers(1, 1000, FIXED.shape).astype(np.uint32)
    whole, _ = warp(values, FIXED, np.eye(4), v, grid_v, MOVING, order=0, before=back)
    part = (slice(10, 20), slice(10, 30), slice(0, 46))
    box = moving_region(MOVING.crop(part), np.eye(4), v, grid_v, FIXED, before=back)
    piece, _ = warp(
        values[box], FIXED.crop(box), np.eye(4), v, grid_v, MOVING.crop(part), order=0, before=back
    )
    np.testing.assert_array_equal(piece, whole[part])


def test_bad_arguments_are_refused():
    moving = image()
    with pytest.raises(ValueError, match="does not lie on its grid"):
        warp(moving[1:], MOVING, np.eye(4), None, None, FIXED)
    with pytest.raises(ValueError, match="an array of complex128; wanted real numbers"):
        warp(moving.astype(complex), MOVING, np.eye(4), None, None, FIXED)
    with pytest.raises(ValueError, match="order is 3"):
        warp(moving, MOVING, np.eye(4), None, None, FIXED, order=3)
    with pytest.raises(ValueError, match="labels keep their type"):
        warp(moving, MOVING, np.eye(4), None, None, FIXED, order=0, dtype=np.float32)
    with pytest.raises(ValueError, match="does not lie on its grid"):
        warp(moving, MOVING, np.eye(4), field()[:, 1:], FIELD, FIXED)
    for wrong in (-1, 0.5, 70000, np.nan):
        with pytest.raises(ValueError, match="does not fit into uint16"):
            warp(moving, MOVING, np.eye(4), None, None, FIXED, fill=wrong)
    two = Sequence((Displacements(field(), FIELD), Displacements(field(), FIELD)))
    with pytest.raises(ValueError, match="more than one displacement field"):
        warp_sequence(moving, MOVING, two, FIXED)


class Counted:
    """A field that counts the samples that are read of it."""

    def __init__(self, field):
        self.field, self.shape, self.read = field, field.shape, 0

    def __getitem__(self, region):
        part = np.asarray(self.field[region])
        self.read += part[0].size
        return part


@pytest.mark.parametrize("before", [None, np.diag([1.1, 0.9, 1.0, 1.0])])
def test_a_part_of_the_output_reads_its_part_of_the_field(before):
    moving = image()
    counted = Counted(field())
    part = FIXED.crop((slice(8, 16), slice(24, 32), slice(0, 8)))
    box = moving_region(part, affine(), counted, FIELD, MOVING, before=before)
    assert box == moving_region(part, affine(), field(), FIELD, MOVING, before=before)
    found, _ = warp(moving, MOVING, affine(), counted, FIELD, part, before=before)
    wanted, _ = warp(moving, MOVING, affine(), field(), FIELD, part, before=before)
    np.testing.assert_array_equal(found, wanted)
    assert counted.read <= 2 * 6**3  # of 10 x 11 x 12 samples, a quarter of those of the voxels
    u = Displacements(counted, FIELD)
    again, _ = warp_sequence(moving, MOVING, Sequence((u, Affine(affine()))).within(part), part)
    whole, _ = warp_sequence(moving, MOVING, Sequence((u, Affine(affine()))), part)
    np.testing.assert_array_equal(again, whole)
