"""Shards: read by another library, whole or not there, and free where nothing is."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

from weft import receipts
from weft.grid import Grid
from weft.stores.ome_zarr import create_level, open_level, write_region
from weft.stores.shards import ShardWriter

ROOT = Path(__file__).resolve().parents[1]
LAYOUT = {"chunk": (8, 8, 8), "shard": (16, 32, 16)}
GRID = Grid((20, 37, 13), (2.0, 1.0, 1.0))  # ends inside of chunks, and of shards
WHOLE = tuple(slice(0, n) for n in GRID.shape)


def volume(dtype, seed=0):
    """Voxels with an empty chunk, an empty shard, and every bit in use."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        data = rng.normal(size=GRID.shape).astype(dtype)
    else:
        limits = np.iinfo(dtype)
        data = rng.integers(limits.min, limits.max, GRID.shape, dtype=dtype, endpoint=True)
    data[8:16, 8:16, :8] = 0
    data[16:, 32:] = 0
    return data


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "uint32", "uint64"])
def test_another_library_reads_what_is_written(tmp_path, dtype, codec):
    array = create_level(tmp_path / "0", GRID, 1, dtype, codec=codec, **LAYOUT)
    data = volume(dtype)
    write_region(array, 0, WHOLE, data, "0")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/0/"}}
    theirs = tensorstore.open(spec).result()
    np.testing.assert_array_equal(theirs[0].read().result(), data)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "0")[0], data)


def test_nothing_is_stored_of_empty_chunks_and_shards(tmp_path):
    array = create_level(tmp_path / "0", GRID, 1, "uint16", **LAYOUT)
    data = np.zeros(GRID.shape, "uint16")
    data[0, 0, 0] = 7
    write_region(array, 0, WHOLE, data, "0")
    (file,) = (path for path in (tmp_path / "0/c").rglob("*") if path.is_file())
    index = 2 * 4 * 2 * 16 + 4  # offset and size of each chunk of a shard, and the checksum
    numbers = np.frombuffer(file.read_bytes()[-index:-4], "<u8").reshape(-1, 2)
    assert (numbers[1:] == np.iinfo(np.uint64).max).all()
    assert numbers[0].tolist() == [0, file.stat().st_size - index]


def test_a_region_without_voxels_is_a_region_of_zeros(tmp_path):
    array = create_level(tmp_path / "0", GRID, 1, "uint16", **LAYOUT)
    write_region(array, 0, WHOLE, volume("uint16"), "0")
    none = write_region(array, 0, WHOLE, None, "0")
    assert not any(path.is_file() for path in (tmp_path / "0/c").rglob("*"))
    assert none == write_region(array, 0, WHOLE, np.zeros(GRID.shape, "uint16"), "0")


def test_an_array_of_another_layout_is_refused(tmp_path):
    plain = zarr.create_array(
        str(tmp_path / "plain"), shape=(1, 8, 8, 8), chunks=(1, 8, 8, 8), dtype="uint16"
    )
    with pytest.raises(ValueError, match="wanted shards of chunks packed by Blosc or Zstandard"):
        ShardWriter(plain)


FULL = """
import resource, sys
import numpy as np
from weft.stores.ome_zarr import open_level, write_region
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
data = np.random.default_rng(1).integers(0, 60000, (20, 37, 13)).astype("uint16")
write_region(open_level(sys.argv[1]), 0, tuple(slice(0, n) for n in data.shape), data, "0")
"""


def test_a_shard_that_does_not_fit_leaves_the_old_one(tmp_path):
    """The limit of a file's size stands for a full disk: both refuse a write half-way."""
    array = create_level(tmp_path / "0", GRID, 1, "uint16", **LAYOUT)
    data = volume("uint16")
    write_region(array, 0, WHOLE, data, "0")
    before = receipts.file_digests(tmp_path / "0")
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "0")], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode != 0
    assert os.strerror(errno.EFBIG) in run.stderr
    assert receipts.file_digests(tmp_path / "0") == before
    np.testing.assert_array_equal(open_level(tmp_path / "0", "r")[0], data)


KILLED = """
import itertools, sys
import numpy as np
from weft.stores.ome_zarr import open_level, write_region
array = open_level(sys.argv[1])
for n in itertools.count(1):
    noise = np.random.default_rng(n).integers(0, 60000, (16, 32, 13)).astype("uint16")
    noise[0, 0, 0], noise[-1, -1, -1] = n, n
    write_region(array, 0, (slice(0, 16), slice(0, 32), slice(0, 13)), noise, "0")
    print(n, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_shard(tmp_path):
    where = (0, slice(0, 16), slice(0, 32), slice(0, 13))
    create_level(tmp_path / "0", GRID, 1, "uint16", **LAYOUT)
    for wait in (0.0, 0.003, 0.006):
        job = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "0")], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        job.stdout.readline()  # the first one is written
        time.sleep(wait)
        job.send_signal(signal.SIGKILL)
        job.wait()
        found = open_level(tmp_path / "0", "r")[where]
        number = int(found[0, 0, 0])
        whole = np.random.default_rng(number).integers(0, 60000, found.shape).astype("uint16")
        whole[0, 0, 0], whole[-1, -1, -1] = number, number
        np.testing.assert_array_equal(found, whole)
        left = {path.name for path in (tmp_path / "0/c").rglob("*") if path.is_file()} - {"0"}
        assert all(receipts.is_unfinished(name) for name in left)
