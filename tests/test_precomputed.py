"""Precomputed volumes: written as cloud-volume and weft's own reader read them, and as the text of the format says."""

from __future__ import annotations

import json

import dask.array as da
import numpy as np
import pytest
import zarr
from cloudvolume import CloudVolume

from weft.grid import Grid
from weft.image import Image, Level
from weft.readers.precomputed import open_precomputed
from weft.stores.precomputed import write_precomputed


def pyramid(dtype, channels=1, origin=(0.0, 0.0, 0.0), shape=(70, 100, 130)):
    """An image of two levels; the second holds every other voxel, for its values do not matter here."""
    numbers = np.random.default_rng(1).integers(0, 50, (channels, *shape))
    if np.dtype(dtype).kind == "u":
        numbers = numbers.astype(dtype) * np.array(np.iinfo(dtype).max // 50, dtype)
    fine = numbers.astype(dtype)
    grid = Grid(shape, (2.0, 0.5, 0.5), origin)
    coarse = np.ascontiguousarray(fine[:, :, ::2, ::2])
    levels = (
        Level(zarr.array(fine, chunks=(1, 32, 64, 64)), grid),
        Level(da.from_array(coarse, chunks=(1, 16, 50, 65)), grid.coarsen((1, 2, 2))),
    )
    return Image(levels, tuple(str(n) for n in range(channels))), (fine, coarse)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "f4", "i2"])
@pytest.mark.parametrize("compress", [False, True])
def test_written_levels_read_back_bit_equal(tmp_path, dtype, compress):
    image, levels = pyramid(dtype, channels=2 if dtype == "u2" else 1)
    seen = []
    segmentation = dtype in ("u4", "u8")
    write_precomputed(
        image, tmp_path / "pc", segmentation=segmentation, chunk=(32, 32, 64), compress=compress,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert [done for done, _ in seen] == list(range(1, seen[0][1] + 1))
    back = open_precomputed(tmp_path / "pc")
    assert back.labels == segmentation
    assert back.dtype == np.dtype(dtype)
    for mip, wanted in enumerate(levels):
        volume = CloudVolume(f"file://{tmp_path}/pc", mip=mip, progress=False)
        np.testing.assert_array_equal(np.asarray(volume[:]).T, wanted)
        assert volume.resolution.tolist() == [500 * 2**mip, 500 * 2**mip, 2000]
        assert back.levels[mip].grid == image.levels[mip].grid
        np.testing.assert_array_equal(np.asarray(back.levels[mip].data), wanted)
    suffixes = {file.suffix for file in (tmp_path / "pc" / "500_500_2000").iterdir()}
    assert suffixes == {".gz"} if compress else ".gz" not in suffixes


def test_raw_chunks_are_plain_fortran_ordered_voxels(tmp_path):
    image, (fine, _) = pyramid("u2", channels=2)
    write_precomputed(image, tmp_path / "pc", segmentation=False, chunk=(32, 64, 64))
    info = json.loads((tmp_path / "pc" / "info").read_text())
    assert info["type"] == "image"
    assert info["scales"][0]["size"] == [130, 100, 70]
    raw = (tmp_path / "pc" / "500_500_2000" / "128-130_64-100_64-70").read_bytes()
    np.testing.assert_array_equal(
        np.frombuffer(raw, "<u2").reshape(2, 6, 36, 2), fine[:, 64:70, 64:100, 128:130]
    )


def test_the_same_image_gives_the_same_bytes_and_a_repeat_mends(tmp_path):
    image, (fine, _) = pyramid("u8")
    for name in "ab":
        write_precomputed(image, tmp_path / name, segmentation=True)
    files = sorted(f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*") if f.is_file())
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    (tmp_path / "a" / files[0]).unlink()
    (tmp_path / "a" / files[1]).write_bytes(b"half")
    write_precomputed(image, tmp_path / "a", segmentation=True)
    np.testing.assert_array_equal(open_precomputed(tmp_path / "a").levels[0].read(), fine[0])
    with pytest.raises(ValueError, match="a: holds another precomputed volume"):
        write_precomputed(image, tmp_path / "a", segmentation=False)


def test_origins_become_offsets(tmp_path):
    image, levels = pyramid("u2", origin=(20.0, -8.0, 13.0))
    write_precomputed(image, tmp_path / "pc", segmentation=False)
    scales = json.loads((tmp_path / "pc" / "info").read_text())["scales"]
    assert [scale["voxel_offset"] for scale in scales] == [[26, -16, 10], [13, -8, 10]]
    back = open_precomputed(tmp_path / "pc")
    for mip in range(2):
        assert back.levels[mip].grid == image.levels[mip].grid
        region = (slice(3, 9), slice(40, 50), slice(60, 65))
        np.testing.assert_array_equal(back.levels[mip].read(0, region), levels[mip][(0, *region)])


def test_types_that_the_format_lacks(tmp_path):
    image, _ = pyramid("f8")
    write_precomputed(image, tmp_path / "f", segmentation=False)
    assert open_precomputed(tmp_path / "f").dtype == np.float32
    for dtype, segmentation, message in [
        ("f4", True, "a segmentation is float32; wanted uint8"),
        ("i4", True, "a segmentation is int32; wanted uint8"),
        ("i8", False, "an image is int64"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_precomputed(pyramid(dtype)[0], tmp_path / "x", segmentation=segmentation)
    assert not (tmp_path / "x").exists()


def test_readers_refuse_what_is_not_there_or_not_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"lies at gs://; wanted a local folder"):
        open_precomputed("precomputed://gs://bucket/volume")
    with pytest.raises(FileNotFoundError, match="has no file `info`"):
        open_precomputed(tmp_path)
    image, _ = pyramid("u2")
    write_precomputed(image, tmp_path / "pc", segmentation=False, chunk=(32, 32, 32))
    lost = tmp_path / "pc" / "500_500_2000" / "32-64_32-64_32-64"
    lost.unlink()
    region = (slice(30, 40), slice(40, 50), slice(40, 50))
    with pytest.raises(ValueError, match=r"cannot be read as a precomputed volume .*32-64_32-64_32-64"):
        open_precomputed(tmp_path / "pc").levels[0].read(0, region)
    filled = (
        open_precomputed(f"precomputed://file://{tmp_path}/pc", fill_missing=True).levels[0].read(0, region)
    )
    assert filled[:2].any()
    assert not filled[2:].any()
    info = tmp_path / "pc" / "info"
    info.write_text(info.read_text().replace("2000", "0"))
    with pytest.raises(ValueError, match=r"pc: (voxel size|cannot be read)"):
        open_precomputed(tmp_path / "pc")
