"""OME-Zarr stores: what is written is what is read, region by region, by several processes at once."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from weft import receipts
from weft.blocks import cut, region
from weft.grid import Grid
from weft.stores import open_image
from weft.stores.ome_zarr import (
    create_image,
    create_level,
    link_level,
    metadata_digest,
    open_level,
    shard_shape,
    shard_voxels,
    write_region,
)

ROOT = Path(__file__).resolve().parents[1]
LAYOUT = {"chunk": (8, 8, 8), "shard": (16, 16, 16)}
GRID = Grid((20, 33, 16), (5.0, 1.5, 1.5), (12.5, -3.0, 0.25))


def voxels(shape, dtype="uint16", seed=0):
    top = np.iinfo(dtype).max if np.dtype(dtype).kind in "ui" else 1000
    return np.random.default_rng(seed).integers(0, top, shape, dtype=dtype, endpoint=True)


def write_all(array, data, prefix="0"):
    """Every shard of a level, one by one; their digests."""
    digests = {}
    for name in cut(array.shape, (1, *shard_shape(array))):
        channel, *where = region(name, array.shape, (1, *shard_shape(array)))
        digests |= write_region(array, channel.start, tuple(where), data[channel.start][tuple(where)], prefix)
    return digests


# ---------------------------------------------------------------------------------- images
def test_an_image_comes_back_as_it_was_made(tmp_path):
    path = tmp_path / "image.ome.zarr"
    grids = [GRID, GRID.coarsen((1, 2, 2)), GRID.coarsen((1, 2, 2)).coarsen((2, 2, 2))]
    create_image(path, grids, "uint16", channels=("auto", "signal"), orientation="pil", **LAYOUT)
    data = [voxels((2, *grid.shape), seed=n) for n, grid in enumerate(grids)]
    for n in range(3):
        write_all(open_level(path / str(n)), data[n])
    image = open_image(path)
    assert [level.grid for level in image.levels] == grids  # half-voxel translations included
    assert image.channels == ("auto", "signal")
    assert image.orientation == "pil"
    assert image.dtype == np.uint16
    assert not image.labels
    for level, written in zip(image.levels, data, strict=True):
        np.testing.assert_array_equal(level.data[:], written)
    part = (slice(3, 9), slice(30, 33), slice(0, 4))
    np.testing.assert_array_equal(image.levels[0].read(1, part), data[0][1][part])


def test_metadata_are_those_of_ngff(tmp_path):
    path = tmp_path / "image.ome.zarr"
    create_image(path, [GRID, GRID.coarsen((1, 2, 2))], "uint8", orientation="asr", name="mine", **LAYOUT)
    ome = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (pyramid,) = ome["multiscales"]
    assert [axis["name"] for axis in pyramid["axes"]] == list("czyx")
    assert {axis["unit"] for axis in pyramid["axes"][1:]} == {"micrometer"}
    assert [axis["orientation"]["value"] for axis in pyramid["axes"][1:]] == [
        "posterior-to-anterior",
        "inferior-to-superior",
        "left-to-right",
    ]
    scale, translation = pyramid["datasets"][1]["coordinateTransformations"]
    assert scale == {"type": "scale", "scale": [1, 5, 3, 3]}
    # The first voxel of a level that is twice as coarse lies half a fine voxel further.
    assert translation == {"type": "translation", "translation": [0, 12.5, -3 + 0.75, 0.25 + 0.75]}
    array = json.loads((path / "0" / "zarr.json").read_text())
    assert array["dimension_names"] == list("czyx")
    assert array["codecs"][0]["name"] == "sharding_indexed"


@pytest.mark.parametrize(
    "code",
    ["".join(c) for axes in itertools.permutations(("rl", "ap", "si")) for c in itertools.product(*axes)],
)
def test_every_orientation_survives(tmp_path, code):
    create_image(tmp_path / "i.zarr", [Grid((2, 2, 2), (1, 1, 1))], "uint8", orientation=code, **LAYOUT)
    assert open_image(tmp_path / "i.zarr").orientation == code


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
def test_labels_keep_every_bit(tmp_path, dtype):
    path = tmp_path / "labels.ome.zarr"
    create_image(path, [GRID], dtype, labels=True, **LAYOUT)
    data = voxels((1, *GRID.shape), dtype)
    data[0, 0, 0, :2] = np.iinfo(dtype).max, np.iinfo(dtype).max - 1
    write_all(open_level(path / "0"), data)
    image = open_image(path)
    assert image.labels
    assert image.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(image.levels[0].read(), data[0])


def test_creating_twice_changes_nothing(tmp_path):
    path = tmp_path / "image.ome.zarr"
    create_image(path, [GRID], "uint16", **LAYOUT)
    write_all(open_level(path / "0"), voxels((1, *GRID.shape)))
    before = receipts.file_digests(path)
    create_image(path, [GRID], "uint16", **LAYOUT)
    create_level(path / "0", GRID, 1, "uint16", **LAYOUT)
    assert receipts.file_digests(path) == before


CREATE = """
import sys, time
from pathlib import Path
from weft.grid import Grid
from weft.stores.ome_zarr import create_image, open_level
go, path, me = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
Path(f"{go}.{me}").touch()
while not go.exists():
    time.sleep(0.001)
grid = Grid((4, 16, 16), (5.0, 1.5, 1.5))
for n in range(10):
    create_image(path / str(n), [grid, grid.coarsen((1, 2, 2))], "uint16", channels=("a", "b"))
    open_level(path / str(n) / "0")[me] = me + 1
"""


def test_two_processes_create_one_store_at_once(tmp_path):
    go = tmp_path / "go"
    command = [sys.executable, "-c", CREATE, go, tmp_path]
    jobs = [subprocess.Popen([*command, str(me)], cwd=ROOT, stderr=subprocess.PIPE) for me in range(2)]
    while not all(Path(f"{go}.{me}").exists() for me in range(2)):
        assert all(job.poll() is None for job in jobs)
    go.touch()
    assert [job.communicate()[1].decode() for job in jobs] == ["", ""]
    grid = Grid((4, 16, 16), (5.0, 1.5, 1.5))
    create_image(tmp_path / "alone", [grid, grid.coarsen((1, 2, 2))], "uint16", channels=("a", "b"))
    for n in range(10):
        image = open_image(tmp_path / str(n))
        assert metadata_digest(tmp_path / str(n)) == metadata_digest(tmp_path / "alone")
        assert [np.unique(image.levels[0].read(channel)).tolist() for channel in range(2)] == [[1], [2]]


# ---------------------------------------------------------------------------------- regions
def test_shard_digests_are_those_of_the_stored_voxels(tmp_path):
    path = tmp_path / "s.zarr"
    array = create_level(path / "0", GRID, 2, "uint16", **LAYOUT)
    data = voxels((2, *GRID.shape))
    data[1, :16, :16] = 0  # a shard that no file is written for
    digests = write_all(array, data)
    assert len(digests) == 2 * 2 * 3 * 1
    for name, value in digests.items():
        assert receipts.array_digest(shard_voxels(path, name)) == value
    assert not (path / "0/c/1/0/0/0").exists()
    np.testing.assert_array_equal(shard_voxels(path, "0/0.1.2.0"), data[0, 16:20, 32:33, 0:16])


def test_a_region_of_several_shards_is_the_same_as_its_shards(tmp_path):
    data = voxels((1, *GRID.shape))
    one = create_level(tmp_path / "one", GRID, 1, "uint16", **LAYOUT)
    all_at_once = write_region(one, 0, (slice(0, 20), slice(0, 33), slice(0, 16)), data[0], "0")
    two = create_level(tmp_path / "two", GRID, 1, "uint16", **LAYOUT)
    assert write_all(two, data) == all_at_once
    assert receipts.file_digests(tmp_path / "one") == receipts.file_digests(tmp_path / "two")


@pytest.mark.parametrize(
    "where",
    [
        (slice(8, 20), slice(0, 16), slice(0, 16)),  # starts inside a shard
        (slice(0, 8), slice(0, 16), slice(0, 16)),  # ends inside one
        (slice(16, 32), slice(0, 16), slice(0, 16)),  # reaches beyond the array
    ],
)
def test_regions_that_are_not_whole_shards_are_refused(tmp_path, where):
    array = create_level(tmp_path / "0", GRID, 1, "uint16", **LAYOUT)
    data = np.ones([part.stop - part.start for part in where], "uint16")
    with pytest.raises(ValueError, match="a region starts on a shard border and ends on one"):
        write_region(array, 0, where, data, "0")
    assert not (tmp_path / "0" / "c").exists()


@pytest.mark.parametrize("data", [np.ones((16, 16, 16), "float32"), np.ones((16, 16, 8), "uint16")])
def test_voxels_of_another_type_or_shape_are_refused(tmp_path, data):
    array = create_level(tmp_path / "0", GRID, 1, "uint16", **LAYOUT)
    with pytest.raises(ValueError, match=r"wanted uint16 of \(16, 16, 16\)"):
        write_region(array, 0, (slice(0, 16),) * 3, data, "0")


def test_zeros_replace_what_lay_there(tmp_path):
    """A shard that must be empty is mended by writing it again."""
    array = create_level(tmp_path / "0", GRID, 1, "float32", **LAYOUT)
    where = (slice(0, 16),) * 3
    write_region(array, 0, where, np.ones((16, 16, 16), "float32"), "0")
    digests = write_region(array, 0, where, np.zeros((16, 16, 16), "float32"), "0")
    assert not (tmp_path / "0/c/0/0/0/0").exists()
    assert digests == {"0/0.0.0.0": receipts.array_digest(shard_voxels(tmp_path, "0/0.0.0.0"))}
    minus = -np.zeros((16, 16, 16), "float32")  # other bits, so another digest: they must be stored
    digests = write_region(array, 0, where, minus, "0")
    assert digests == {"0/0.0.0.0": receipts.array_digest(shard_voxels(tmp_path, "0/0.0.0.0"))}


# ---------------------------------------------------------------------------------- links
def test_a_linked_level_is_independent_of_its_source(tmp_path):
    source = tmp_path / "fused.zarr"
    array = create_level(source, GRID, 1, "uint16", **LAYOUT)
    data = voxels((1, *GRID.shape))
    write_all(array, data)
    keyed = receipts.KeyedStore(source, "1" * 64)
    (source / receipts.RECORDS / keyed.key).mkdir(parents=True)
    keyed.finish("0.0.0.0", {})
    before = receipts.file_digests(source)

    copy = tmp_path / "image.ome.zarr" / "0"
    link_level(source, copy)
    assert receipts.file_digests(copy) == before
    assert not (copy / receipts.RECORDS).exists()
    assert os.path.samefile(copy / "c/0/0/0/0", source / "c/0/0/0/0")  # linked, not copied

    where = (slice(0, 16),) * 3
    write_region(open_level(copy), 0, where, np.full((16, 16, 16), 7, "uint16"), "0")
    open_level(copy)[0, 17, 17, 1] = 9  # a part of a shard
    zarr.open_array(str(copy), mode="r+").attrs["touched"] = True
    assert receipts.file_digests(source) == before
    np.testing.assert_array_equal(open_level(source, "r")[:], data)
    assert (open_level(copy, "r")[0][where] == 7).all()

    link_level(source, copy)  # again, over what is there
    assert receipts.file_digests(copy) == before


def test_levels_are_copied_where_links_are_refused(tmp_path, monkeypatch):
    source = tmp_path / "fused.zarr"
    write_all(create_level(source, GRID, 1, "uint16", **LAYOUT), voxels((1, *GRID.shape)))

    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    link_level(source, tmp_path / "copy")
    assert receipts.file_digests(tmp_path / "copy") == receipts.file_digests(source)
    assert not os.path.samefile(tmp_path / "copy/zarr.json", source / "zarr.json")


def test_the_metadata_digest_sees_every_level_and_no_voxel(tmp_path):
    path = tmp_path / "image.ome.zarr"
    create_image(path, [GRID], "uint16", **LAYOUT)
    before = metadata_digest(path)
    write_all(open_level(path / "0"), voxels((1, *GRID.shape)))
    assert metadata_digest(path) == before
    create_image(tmp_path / "other.zarr", [GRID.pad(1)], "uint16", **LAYOUT)
    assert metadata_digest(tmp_path / "other.zarr") != before
