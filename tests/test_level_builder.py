"""Levels made with level 0 in memory: the same as from the whole volume, however it is cut, killed or dealt."""

import itertools

import numpy as np
import pytest

from weft import receipts
from weft.blocks import deal
from weft.grid import Grid
from weft.pyramid import downsample
from weft.steps.level_builder import LevelBuilder
from weft.steps.levels import level_grids
from weft.steps.regions import split_name
from weft.stores.ome_zarr import open_level

LAYOUTS = {
    "even": {"chunk": (4, 4, 4), "shard": (8, 8, 8)},
    "flat": {"chunk": (1, 8, 8), "shard": (1, 16, 16)},  # bins of two planes reach over borders of shards
    "odd": {"chunk": (3, 5, 4), "shard": (3, 15, 8)},
}
GRID = Grid((11, 37, 21), (3.0, 1.0, 1.0))


def volume(labels=False):
    """Two channels with an empty half."""
    rng = np.random.default_rng(11)
    shape = (2, *GRID.shape)
    if labels:
        names = np.array([0, 5, 2**63 + 1, 2**63 + 2], np.uint64)
        data = names[rng.integers(0, 4, shape)]
    else:
        data = rng.integers(0, 60_000, shape).astype(np.uint16)
    data[1, :, 16:] = 0
    return data


class Job:
    """One build of `volume` into a folder; counts what is made."""

    def __init__(self, folder, layout, labels=False):
        self.data = volume(labels)
        self.keyed = receipts.KeyedStore(folder / "image.zarr", "1" * 64)
        grids = level_grids(GRID, 4)
        self.builder = LevelBuilder(
            self.keyed, grids, 2, self.data.dtype, labels=labels, store=LAYOUTS[layout]
        )
        self.made = []
        self.most_waiting = 0

    def make(self, name):
        channel, where = split_name(name, self.builder.levels[0])
        self.made.append(name)
        self.most_waiting = max(self.most_waiting, len(self.builder._waiting))
        voxels = self.data[(channel, *where)]
        return (voxels if voxels.any() else None), {"counted": 1}

    def build(self, mine=None, make=None, threads=1):
        names = self.builder.names() if mine is None else mine
        return self.builder.build(names, make or self.make, threads=threads, what="test")

    def files(self):
        return receipts.file_digests(self.keyed.path)


def expected(labels=False):
    """Every level of both channels, each binned from the whole level before."""
    levels = [list(volume(labels))]
    grids = level_grids(GRID, 4)
    for fine, coarse in itertools.pairwise(grids):
        factors = [round(b / a) for a, b in zip(fine.spacing, coarse.spacing, strict=True)]
        levels.append([downsample(v, factors, mode="mode" if labels else "mean") for v in levels[-1]])
    return [np.stack(level) for level in levels]


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_levels_are_those_of_the_whole_volume(tmp_path, layout, labels):
    job = Job(tmp_path, layout, labels)
    names = job.builder.names()
    assert job.build() == len(names) == len(job.made)
    for n, level in enumerate(expected(labels)):
        array = open_level(job.keyed.path / str(n), "r")
        assert array.dtype == level.dtype
        np.testing.assert_array_equal(array[:], level)
        records = job.builder.records(n)
        assert len(records) == len(job.builder.names(n))
    assert all(record["counted"] == 1 for record in job.builder.records(0).values())
    assert len(expected()) == 5


def test_bytes_do_not_depend_on_threads_batches_or_order(tmp_path):
    alone = Job(tmp_path / "alone", "even")
    alone.build()
    for batches, threads in ((1, 3), (5, 2)):
        folder = tmp_path / f"{batches}-{threads}"
        for batch in reversed(range(batches)):
            part = Job(folder, "even")
            part.build(deal(part.builder.names(), batch, batches), threads=threads)
        last = Job(folder, "even")
        last.builder.complete(threads)
        assert last.made == []
        assert last.files() == alone.files()


def test_a_level_is_not_read_again(tmp_path):
    job = Job(tmp_path, "even")

    class Closed:
        def __init__(self, array):
            self.array = array

        def __getattr__(self, name):
            return getattr(self.array, name)

        def __getitem__(self, key):
            raise AssertionError("a level was read")

    job.builder.levels = [Closed(array) for array in job.builder.levels]
    job.build(threads=2)
    assert len(open_level(job.keyed.path / "1", "r")[:]) == 2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("after", [1, 17])
def test_a_build_that_was_cut_short_goes_on(tmp_path, layout, after):
    whole = Job(tmp_path / "whole", layout)
    whole.build()
    first = Job(tmp_path / "cut", layout)
    after = min(after, len(first.builder.names()) - 1)

    def fail(name):
        if len(first.made) == after:
            raise OSError("no space left")
        return first.make(name)

    with pytest.raises(OSError, match="no space"):
        first.build(make=fail)
    # A coarser region that was written without its record counts as missing.
    for record in list((first.keyed.path / receipts.RECORDS).rglob("2-*.json"))[:1]:
        record.unlink()
    second = Job(tmp_path / "cut", layout)
    assert second.build(threads=2) == len(second.builder.names()) - after
    assert not set(first.made) & set(second.made)
    assert second.files() == whole.files()
    assert Job(tmp_path / "cut", layout).build() == 0


def test_what_waits_does_not_grow_with_the_volume(tmp_path):
    most = []
    for n in (2, 4, 6):
        keyed = receipts.KeyedStore(tmp_path / str(n), "1" * 64)
        grids = level_grids(Grid((8 * n, 8 * n, 8 * n), (1.0, 1.0, 1.0)), 4)
        builder = LevelBuilder(keyed, grids, 1, np.uint8, labels=False, store=LAYOUTS["even"])
        waiting = []

        def make(name, builder=builder, waiting=waiting):
            waiting.append(sum(one.voxels.nbytes for one in builder._waiting.values()))
            return np.ones((8, 8, 8), np.uint8), {}

        builder.build(builder.names(), make, threads=1, what="test")
        most.append(max(waiting) / (len(grids) - 1))
    assert max(most) <= 8**3  # one shard for each level


def test_a_missing_region_of_level_0_is_named(tmp_path):
    job = Job(tmp_path, "even")
    job.build(job.builder.names()[1:])
    with pytest.raises(ValueError, match=r"region 0-0\.0\.0\.0 was not made"):
        job.builder.complete(1)
