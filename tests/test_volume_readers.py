"""Readers of images that are whole: OME-Zarr, N5, NIfTI, NRRD and MetaImage."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK
import zarr
from reader_sources import voxels, write_n5, write_ome_zarr

from weft.grid import Grid
from weft.readers import open_source
from weft.readers.n5 import open_n5
from weft.readers.ome_zarr import open_ome_zarr
from weft.readers.volume_file import open_volume


# ---------------------------------------------------------------------------------------- OME-Zarr
def test_ome_zarr_composes_transformations_in_micrometres(tmp_path):
    levels = [voxels((4, 8, 8)), voxels((2, 4, 4))]
    whole = [
        {"type": "scale", "scale": [2.0, 1.0, 0.5]},
        {"type": "translation", "translation": [0.01, 0.0, -0.02]},
    ]
    path = write_ome_zarr(
        tmp_path / "a.zarr", levels, axes="zyx", unit="millimeter", scale=0.004,
        multiscale={"coordinateTransformations": whole},
    )  # fmt: skip
    group = zarr.open_group(str(path), mode="r+")
    ome = dict(group.attrs["ome"])
    shift = {"type": "translation", "translation": [0.002, 0.002, 0.002]}
    ome["multiscales"][0]["datasets"][1]["coordinateTransformations"].append(shift)
    group.attrs["ome"] = ome
    image = open_ome_zarr(path)
    np.testing.assert_allclose(image.levels[0].grid.spacing, (8, 4, 2))
    np.testing.assert_allclose(image.levels[0].grid.origin, (10, 0, -20))
    np.testing.assert_allclose(image.levels[1].grid.spacing, (16, 8, 4))
    np.testing.assert_allclose(image.levels[1].grid.origin, (14, 2, -19))
    np.testing.assert_array_equal(image.levels[1].read(), levels[1])
    image = open_ome_zarr(path, spacing=(4, 4, 4))
    np.testing.assert_allclose(image.levels[1].grid.spacing, (8, 8, 8))
    np.testing.assert_allclose(image.levels[1].grid.origin, (2, 2, 2))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["yx", "cyx", "zyx", "tyx", "tzyx", "tczyx", "czyx"])
def test_ome_zarr_reads_every_subset_of_axes(tmp_path, axes, version):
    sizes = {"t": 3, "c": 2, "z": 5, "y": 6, "x": 7}
    volume = voxels([sizes[axis] for axis in axes])
    path = write_ome_zarr(tmp_path / "a.zarr", [volume], axes=axes, version=version)
    if "t" in axes:
        with pytest.raises(ValueError, match="has 3 time points; say which"):
            open_ome_zarr(path)
        with pytest.raises(ValueError, match="time point 3 is not there"):
            open_ome_zarr(path, time=3)
    image = open_ome_zarr(path, time="1" if "t" in axes else None)
    expected = volume[1] if "t" in axes else volume
    rest = axes.replace("t", "")
    expected = expected.reshape([sizes[a] if a in rest else 1 for a in "czyx"])
    np.testing.assert_array_equal(np.asarray(image.levels[0].data[:]), expected)
    np.testing.assert_array_equal(
        image.levels[0].read(0, (slice(0, 1), slice(1, 4), slice(2, 6))), expected[0, :1, 1:4, 2:6]
    )


def test_ome_zarr_reads_orientation_channels_and_labels(tmp_path):
    volume = voxels((2, 4, 8, 8))
    names = {"omero": {"channels": [{"label": "a"}, {"label": "b"}]}}
    path = write_ome_zarr(tmp_path / "a.zarr", [volume], **names)
    assert open_ome_zarr(path).channels == ("a", "b")
    assert open_ome_zarr(path).orientation is None
    group = zarr.open_group(str(path), mode="r+")
    ome = dict(group.attrs["ome"])
    for axis, value in zip(
        ome["multiscales"][0]["axes"][1:],
        ("posterior-to-anterior", "superior-to-inferior", "left-to-right"),
        strict=True,
    ):
        axis["orientation"] = {"type": "anatomical", "value": value}
    group.attrs["ome"] = ome
    assert open_ome_zarr(path).orientation == "air"
    assert open_ome_zarr(path, orientation="sal").orientation == "sal"

    path = write_ome_zarr(
        tmp_path / "l.zarr", [volume[0].astype("u8") << 40], axes="zyx", **{"image-label": {}}
    )
    image = open_ome_zarr(path)
    assert image.labels
    assert image.dtype == np.uint64
    np.testing.assert_array_equal(image.levels[0].read(), volume[0].astype("u8") << 40)
    path = write_ome_zarr(tmp_path / "f.zarr", [volume[0].astype("f4")], axes="zyx", **{"image-label": {}})
    with pytest.raises(ValueError, match=r"f.zarr: labels are float32"):
        open_ome_zarr(path)


def test_ome_zarr_refuses_what_is_no_image(tmp_path):
    group = zarr.open_group(str(tmp_path / "p.zarr"), mode="w", zarr_format=2)
    with pytest.raises(ValueError, match="has no `multiscales` metadata"):
        open_ome_zarr(tmp_path / "p.zarr")
    group.attrs["plate"] = {"wells": []}
    with pytest.raises(ValueError, match="is a plate; wanted one image of it"):
        open_ome_zarr(tmp_path / "p.zarr")
    zero = write_ome_zarr(tmp_path / "z.zarr", [voxels((4, 8, 8))], axes="zyx", scale=0)
    with pytest.raises(ValueError, match=r"z.zarr/0: voxel size is"):
        open_ome_zarr(zero)
    gone = write_ome_zarr(tmp_path / "g.zarr", [voxels((4, 8, 8))], axes="zyx")
    (gone / "0" / "zarr.json").unlink()
    with pytest.raises(ValueError, match=r"g.zarr/0: cannot be read as a Zarr array"):
        open_ome_zarr(gone)
    odd = write_ome_zarr(tmp_path / "o.zarr", [voxels((4, 8, 8))], axes="zyx", unit="parsec")
    with pytest.raises(ValueError, match="unknown unit of length 'parsec'"):
        open_ome_zarr(odd)


# ---------------------------------------------------------------------------------------- N5
def test_n5_multiplies_the_voxel_size_by_the_downsampling_factors(tmp_path):
    levels = {0: voxels((20, 40, 36)), 1: voxels((10, 20, 18), 1)}
    for c in range(2):
        for n, level in levels.items():
            attributes = {"pixelResolution": [0.5, 1.0, 2.0], "downsamplingFactors": [2**n, 2**n, 2**n]}
            write_n5(tmp_path / "a.n5" / f"c{c}" / f"s{n}", level + np.uint16(c), attributes)
    image = open_source(tmp_path / "a.n5")
    assert image.channels == ("c0", "c1")
    full = Grid((20, 40, 36), (2, 1, 0.5))
    assert [level.grid for level in image.levels] == [full, full.coarsen((2, 2, 2))]
    np.testing.assert_array_equal(image.levels[1].read(1), levels[1] + 1)
    one = open_n5(tmp_path / "a.n5", dataset="c1/s1", spacing=(4, 2, 2))
    assert one.grid == Grid((20, 40, 36), (4, 2, 2)).coarsen((2, 2, 2))
    np.testing.assert_array_equal(one.levels[0].read(), levels[1] + 1)


def test_n5_refuses_what_it_cannot_know(tmp_path):
    write_n5(tmp_path / "a.n5" / "first", voxels((4, 5, 6)), {})
    with pytest.raises(ValueError, match="no voxel size is stated"):
        open_n5(tmp_path / "a.n5")
    write_n5(tmp_path / "a.n5" / "second", voxels((4, 5, 6)), {"pixelResolution": [0, 1, 1]})
    with pytest.raises(ValueError, match="found the data sets first, second; say which"):
        open_n5(tmp_path / "a.n5")
    with pytest.raises(ValueError, match="voxel size is"):
        open_n5(tmp_path / "a.n5", dataset="second")
    with pytest.raises(FileNotFoundError, match="third: no such source"):
        open_n5(tmp_path / "a.n5", dataset="third")


# ---------------------------------------------------------------------------------------- NIfTI, NRRD, MetaImage
# Where the axes of the file's matrix point -> code (z, y, x).
@pytest.mark.parametrize(
    ("columns", "code"), [("RAS", "sar"), ("LPS", "spl"), ("PIR", "rip"), ("SRA", "ars")]
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_volume_files_say_where_their_axes_point(tmp_path, columns, code, suffix):
    volume = voxels((5, 6, 7))
    directions = {
        "R": (1, 0, 0),
        "L": (-1, 0, 0),
        "A": (0, 1, 0),
        "P": (0, -1, 0),
        "S": (0, 0, 1),
        "I": (0, 0, -1),
    }
    matrix = np.array(
        [directions[letter] for letter in columns], float
    ).T  # RAS+, a column per array axis (x, y, z)
    path = tmp_path / f"a{suffix}"
    if suffix.startswith(".nii"):
        affine = np.eye(4)
        affine[:3, :3] = matrix * [0.01, 0.02, 0.03]
        nibabel.save(nibabel.Nifti1Image(volume.T, affine), path)
    else:
        image = SimpleITK.GetImageFromArray(volume)
        image.SetSpacing((10, 20, 30))
        image.SetDirection((matrix * [[-1], [-1], [1]]).ravel().tolist())
        SimpleITK.WriteImage(image, path)
    image = open_volume(path, **({} if suffix.startswith(".nii") else {"spacing_unit": "um"}))
    assert image.orientation == code
    assert image.grid.shape == (5, 6, 7)
    np.testing.assert_allclose(image.grid.spacing, (30, 20, 10), rtol=1e-6)
    np.testing.assert_array_equal(image.levels[0].read(), volume)


def test_nifti_slope_is_applied_as_nibabel_does(tmp_path):
    image = nibabel.Nifti1Image(voxels((4, 5, 6), dtype="i2"), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(image, tmp_path / name)
        wanted = np.asarray(nibabel.load(tmp_path / name).dataobj).T
        found = open_volume(tmp_path / name).levels[0]
        assert found.data.dtype == wanted.dtype
        np.testing.assert_array_equal(found.read(), wanted)
        with pytest.raises(ValueError, match="labels are float64, and one of them is"):
            open_volume(tmp_path / name, labels=True).levels[0].read()


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd"])
def test_labels_stored_as_whole_floats_become_integers(tmp_path, name):
    wanted = np.random.default_rng(1).integers(0, 2**24, (4, 5, 6)).astype(np.uint32)
    stored = SimpleITK.GetImageFromArray(wanted.astype(np.float32))
    SimpleITK.WriteImage(stored, str(tmp_path / name))
    found = open_volume(tmp_path / name, labels=True, spacing=(1.0, 1.0, 1.0))
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found.levels[0].read(), wanted)
    for wrong in (-1.0, 0.5, 2.0**32, np.nan):
        voxels = wanted.astype(np.float32)
        voxels[1, 2, 3] = wrong
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(tmp_path / name))
        with pytest.raises(ValueError, match=f"{name}: labels are float32, and one of them is"):
            open_volume(tmp_path / name, labels=True, spacing=(1.0, 1.0, 1.0)).levels[0].read()


def test_nrrd_needs_a_unit_and_knows_its_space(tmp_path):
    volume = voxels((5, 6, 7), dtype="i4")
    header = (
        "NRRD0005\ntype: int\ndimension: 3\nsizes: 7 6 5\nspacings: 10 20 30\nencoding: raw\nendian: big\n"
    )
    path = tmp_path / "a.nrrd"
    path.write_bytes(header.encode() + b"\n" + volume.astype(">i4").tobytes())
    with pytest.raises(ValueError, match=r"voxel size \[30.0, 20.0, 10.0\] has no unit; give `spacing_unit`"):
        open_volume(path)
    image = open_volume(path, spacing_unit="nm")
    np.testing.assert_allclose(image.grid.spacing, (0.03, 0.02, 0.01))
    assert image.orientation is None
    np.testing.assert_array_equal(image.levels[0].read(), volume)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))), volume)
    path.write_bytes(
        header.replace("encoding", 'units: "mm" "mm" "mm"\nencoding').encode()
        + b"\n"
        + volume.astype(">i4").tobytes()
    )
    np.testing.assert_allclose(open_volume(path).grid.spacing, (30e3, 20e3, 10e3))
    assert open_volume(path, spacing=(1, 2, 3), orientation="lip").grid.spacing == (1, 2, 3)


def test_volume_files_refuse_broken_input(tmp_path):
    volume = voxels((8, 40, 50))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume), tmp_path / "a.nrrd", False)
    nibabel.save(nibabel.Nifti1Image(volume.T, np.eye(4)), tmp_path / "a.nii")
    for name in ("a.nrrd", "a.nii"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(ValueError, match=f"{name}: truncated; found .* bytes, wanted"):
            open_volume(path, spacing_unit="um")
    nibabel.save(nibabel.Nifti1Image(volume.T, np.eye(4)), tmp_path / "b.nii.gz")
    path = tmp_path / "b.nii.gz"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"b.nii.gz: cannot be read as NIfTI"):
        open_volume(path).levels[0].read()
    nibabel.save(nibabel.Nifti1Image(voxels((4, 5, 6, 2)), np.eye(4)), path)
    with pytest.raises(ValueError, match=r"its shape is \(4, 5, 6, 2\); wanted three axes"):
        open_volume(path)
    (tmp_path / "c.nii").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"c.nii: cannot be read as NIfTI"):
        open_volume(tmp_path / "c.nii")
