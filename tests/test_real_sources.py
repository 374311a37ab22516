"""Readers on real files: bit-equal to the libraries that own the formats."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK
import tensorstore
import tifffile
import zarr

from weft.readers import open_source
from weft.readers.precomputed import open_precomputed


def test_real_n5_is_what_tensorstore_reads(data_root):
    path = data_root / "easifish_lowres/resources/fix.n5"
    image = open_source(path)
    store = tensorstore.open(
        {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/lowres/"}}
    ).result()
    np.testing.assert_allclose(image.grid.spacing, (1.68, 1.84, 1.84))
    assert image.grid.shape == (149, 241, 456)
    region = (slice(60, 80), slice(100, 200), slice(120, 270))
    np.testing.assert_array_equal(image.levels[0].read(0, region), store[region[::-1]].read().result().T)
    # Not by any library: the first block as the format's text has it, gzip of big-endian numbers behind a header.
    import gzip

    raw = (path / "lowres/0/0/0").read_bytes()
    block = np.frombuffer(gzip.decompress(raw[16:]), ">u2").reshape(70, 128, 128)
    np.testing.assert_array_equal(
        image.levels[0].read(0, (slice(0, 70), slice(0, 128), slice(0, 128))), block
    )


def test_real_tiff_stacks_are_what_tifffile_reads(data_root):
    folder = data_root / "cellfinder_block/tests/data/signal"
    image = open_source(folder, spacing=(5, 2, 2))
    files = sorted(folder.glob("*.tif"))
    np.testing.assert_array_equal(
        image.levels[0].read(0, (slice(7, 10), slice(0, 1116), slice(0, 627))), tifffile.imread(files[7:10])
    )
    folder = data_root / "brainreg_mouse/tests/data/input/brain"
    image = open_source(folder, spacing=(50, 40, 40), orientation="air")
    assert image.grid.shape == (270, 193, 271)
    np.testing.assert_array_equal(
        image.levels[0].read(0, (slice(100, 102), slice(0, 193), slice(0, 271))),
        tifffile.imread(sorted(folder.glob("*.tif"))[100:102]),
    )


def test_real_volumes_are_what_simpleitk_and_nibabel_read(data_root):
    folder = data_root / "allen_ccf_cloudreg/cloudreg/registration/atlases"
    image = open_source(folder / "annotation_100.nrrd", spacing_unit="um", orientation="lip", labels=True)
    wanted = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "annotation_100.nrrd")))
    assert (image.dtype, image.grid.spacing, image.orientation) == (np.uint32, (100, 100, 100), "lip")
    np.testing.assert_array_equal(image.levels[0].read(), wanted)
    path = data_root / "jlf_brains/data/JLF/ilist1.nii.gz"
    nifti = nibabel.load(path)
    image = open_source(path)
    assert image.orientation == "".join(nibabel.aff2axcodes(nifti.affine))[::-1].lower() == "rsp"
    assert image.grid.spacing == (1000, 1000, 1000)
    np.testing.assert_array_equal(image.levels[0].read(), np.asarray(nifti.dataobj).T)


def test_real_ome_zarr_is_what_zarr_reads(data_root):
    path = next((data_root / "ez_zarr/tests/example_data_zarr3").glob("*.zarr"))
    image = open_source(path)
    assert image.channels == ("LaminB1", "Dapi")
    np.testing.assert_array_equal(
        np.asarray(image.levels[0].data[:]), zarr.open_array(str(path / "2"), mode="r")[:]
    )
    path = data_root / "ez_zarr/tests/example_data_5d/tubhiswt4D_sub.zarr"
    for place, index in ((path, (2,)), (path / "labels/embryo", (2, None))):
        image = open_source(place, time=2)
        assert image.labels == (len(index) == 2)
        assert len(image.levels) == 3
        np.testing.assert_array_equal(
            np.asarray(image.levels[1].data), zarr.open_array(str(place / "1"), mode="r")[:][index]
        )
    # Paths of this plate's levels are integers, not strings.
    path = data_root / "ez_zarr/tests/example_data/plate_ones_mip.zarr"
    assert open_source(path / "B/03/0").levels[0].read(1, (slice(0, 1), slice(0, 5), slice(0, 5))).shape == (
        1,
        5,
        5,
    )
    with pytest.raises(ValueError, match="is a plate"):
        open_source(path)


def test_real_precomputed_is_what_cloudvolume_reads(data_root):
    from cloudvolume import CloudVolume

    path = data_root / "cloudvolume_seg/test/test_seg_unsharded"
    image = open_precomputed(path)
    assert image.labels
    assert [level.grid.spacing for level in image.levels] == [
        (0.04, 0.008, 0.008),
        (0.04, 0.016, 0.016),
        (0.04, 0.032, 0.032),
    ]
    assert image.levels[2].grid == image.levels[0].grid.coarsen((1, 4, 4))
    volume = CloudVolume(f"file://{path}", mip=2, progress=False)
    region = (slice(120, 135), slice(10, 200), slice(50, 70))
    wanted = np.asarray(volume[region[::-1]])[..., 0].T
    assert len(np.unique(wanted)) > 10
    np.testing.assert_array_equal(image.levels[2].read(0, region), wanted)
