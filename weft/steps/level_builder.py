"""Coarser levels of a store, made while the voxels they are made of are in memory."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from weft import receipts
from weft.blocks import index_of
from weft.grid import Grid
from weft.logs import progress
from weft.pyramid import downsample
from weft.steps.regions import region_names, split_name
from weft.stores.ome_zarr import create_level, open_level, shard_shape, write_region

# What makes a region of level 0: its voxels (None: all zero), and facts for its record.
Make = Callable[[str], tuple[np.ndarray | None, dict[str, Any]]]


@dataclass
class _Waiting:
    """A coarser region of which some parts are still to come."""

    level: int
    name: str
    voxels: np.ndarray
    parts: int = 0
    empty: bool = True


class LevelBuilder:
    """Writes the regions (shards) of a store's level 0 and, as their parts become complete, those above them.

    A region is binned into the one above it as soon as it is written, and forgotten. Regions come in z-order, so
    that at any time hardly more than one region of each level waits for the rest of its parts: the memory does not
    grow with the volume, and no level is read again. A run that was killed goes on from the regions that are there.

    Parameters
    ----------
    keyed
        The store. Region ``c.i.j.k`` of level n has the record ``n-c.i.j.k``.
    grids
        Of all levels, finest first.
    channels, dtype, labels
        Number of channels; type of a voxel; labels take the most frequent value of a bin, other images its mean.
    store
        Layout of the arrays, as `weft.stores.ome_zarr.create_level` takes it.
    """

    def __init__(
        self,
        keyed: receipts.KeyedStore,
        grids: Sequence[Grid],
        channels: int,
        dtype: Any,
        *,
        labels: bool,
        store: dict[str, Any],
    ) -> None:
        keyed.start()
        self.keyed = keyed
        self.grids = list(grids)
        self.levels: list[zarr.Array] = []
        for n, grid in enumerate(grids):
            create_level(keyed.path / str(n), grid, channels, dtype, **store)
            self.levels.append(open_level(keyed.path / str(n)))
        self._factors: list[tuple[int, ...]] = [
            tuple(round(c / f) for c, f in zip(b.spacing, a.spacing, strict=True))
            for a, b in itertools.pairwise(grids)
        ]
        self._mode = "mode" if labels else "mean"
        self._lock = threading.Lock()
        self._waiting: dict[tuple[int, str], _Waiting] = {}
        self._todo: list[set[str]] = []

    def names(self, level: int = 0) -> list[str]:
        """Regions of a level, in z-order."""
        return region_names(self.levels[level])

    def records(self, level: int) -> dict[str, dict[str, Any]]:
        """The records of a level that is complete, by their labels."""
        return self.keyed.records(f"{level}-{name}" for name in self.names(level))

    def build(self, mine: Collection[str], make: Make, *, threads: int, what: str) -> int:
        """Make the regions ``mine`` of level 0, and those above that lie wholly over them; leave what is there.

        Parameters
        ----------
        mine
            Names of regions of level 0.
        make
            Gives the voxels of one of them. Not called for those that are there.
        threads
            Regions made at once.
        what
            Says in the log what is done.

        Returns
        -------
        int
            How many regions of level 0 were made.
        """
        covered = set(mine)
        self._todo = [{name for name in covered if not self.keyed.done(f"0-{name}")}]
        for n in range(1, len(self.levels)):
            covered = {name for name in self.names(n) if covered.issuperset(self._parts(n, name))}
            self._todo.append({name for name in covered if not self.keyed.done(f"{n}-{name}")})
        made = [name for name in mine if name in self._todo[0]]
        jobs = [(0, name) for name in made]
        for n in range(1, len(self.levels)):  # regions all of whose parts are there already
            here = (name for name in self.names(n) if name in self._todo[n])
            jobs += [(n, name) for name in here if self._todo[n - 1].isdisjoint(self._parts(n, name))]

        def one(job: tuple[int, str]) -> None:
            level, name = job
            if level:
                self._finish(self._open(level, name))
            else:
                voxels, facts = make(name)
                self._write(0, name, voxels, **facts)

        with ThreadPoolExecutor(threads) as pool:
            for _ in progress(pool.map(one, jobs), len(jobs), what):
                pass
        return len(made)

    def complete(self, threads: int) -> None:
        """Make what is missing above a level 0 that is there."""

        def make(name: str) -> tuple[np.ndarray | None, dict[str, Any]]:
            raise AssertionError(f"region {name} of level 0 is not there")

        self.keyed.records(f"0-{name}" for name in self.names())  # or says which is missing
        self.build(self.names(), make, threads=threads, what="levels: regions")

    # ------------------------------------------------------------------ one region
    def _write(self, level: int, name: str, voxels: np.ndarray | None, **facts: Any) -> None:
        """Write and record a region; then bin it into those above, and write what is complete by that."""
        array = self.levels[level]
        channel, where = split_name(name, array)
        if voxels is not None:
            voxels = np.ascontiguousarray(voxels)  # once for all that walk through it
        digests = write_region(array, channel, where, voxels, str(level))
        self.keyed.finish(f"{level}-{name}", digests, **facts)
        if level + 1 == len(self.levels):
            return
        for above in self._above(level, name):
            if above not in self._todo[level + 1]:
                continue
            with self._lock:
                waiting = self._waiting.get((level + 1, above))
                if waiting is None:
                    waiting = self._waiting[level + 1, above] = self._open(level + 1, above)
            if voxels is not None:
                self._bin(waiting, where, voxels)
            with self._lock:
                waiting.parts -= 1
                complete = waiting.parts == 0
                if complete:
                    del self._waiting[level + 1, above]
            if complete:
                self._finish(waiting)

    def _open(self, level: int, name: str) -> _Waiting:
        """A region of a coarser level with those of its parts that are there already."""
        parts, fine = self._parts(level, name), self.levels[level - 1]
        channel, own = split_name(name, self.levels[level])
        shape = tuple(part.stop - part.start for part in own)
        waiting = _Waiting(level, name, np.zeros(shape, fine.dtype))
        waiting.parts = sum(part in self._todo[level - 1] for part in parts)
        for part in parts:
            if part not in self._todo[level - 1]:
                _, where = split_name(part, fine)
                self._bin(waiting, where, np.asarray(fine[(channel, *where)]))
        return waiting

    def _bin(self, waiting: _Waiting, where: tuple[slice, ...], voxels: np.ndarray) -> None:
        """Bin a part, which lies at ``where`` in the level below, into a region."""
        waiting.empty = False
        if not self._aligned(waiting.level):
            return  # its bins reach into the next part: see `_finish`
        _, own = split_name(waiting.name, self.levels[waiting.level])
        factors = self._factors[waiting.level - 1]
        binned = downsample(voxels, factors, mode=self._mode)
        start = [w.start // f - o.start for w, f, o in zip(where, factors, own, strict=True)]
        waiting.voxels[tuple(slice(s, s + n) for s, n in zip(start, binned.shape, strict=True))] = binned

    def _finish(self, waiting: _Waiting) -> None:
        """Write a region all of whose parts have come."""
        if not self._aligned(waiting.level) and not waiting.empty:
            fine = self.levels[waiting.level - 1]
            channel, _ = split_name(waiting.name, self.levels[waiting.level])
            where: Any = (channel, *self._below(waiting.level, waiting.name))
            voxels = np.asarray(fine[where])
            waiting.voxels = downsample(voxels, self._factors[waiting.level - 1], mode=self._mode)
        self._write(waiting.level, waiting.name, None if waiting.empty else waiting.voxels)

    # ------------------------------------------------------------------ which lies over which
    def _aligned(self, level: int) -> bool:
        """Whether no bin of a level reaches over a border between shards of the level below."""
        fine = self.levels[level - 1]
        sizes = zip(shard_shape(fine), fine.shape[1:], self._factors[level - 1], strict=True)
        return all(s >= n or s % f == 0 for s, n, f in sizes)

    def _below(self, level: int, name: str) -> tuple[slice, ...]:
        """The part of the level below that a region is made of."""
        _, own = split_name(name, self.levels[level])
        limits = self.levels[level - 1].shape[1:]
        return tuple(
            slice(o.start * f, min(o.stop * f, n))
            for o, f, n in zip(own, self._factors[level - 1], limits, strict=True)
        )

    def _parts(self, level: int, name: str) -> list[str]:
        """Regions of the level below that a region is made of."""
        step = shard_shape(self.levels[level - 1])
        return _names(index_of(name)[0], self._below(level, name), step)

    def _above(self, level: int, name: str) -> list[str]:
        """Regions of the next coarser level that a region takes part in."""
        _, own = split_name(name, self.levels[level])
        over = [slice(o.start // f, -(-o.stop // f)) for o, f in zip(own, self._factors[level], strict=True)]
        return _names(index_of(name)[0], over, shard_shape(self.levels[level + 1]))


def _names(channel: int, box: Sequence[slice], step: Sequence[int]) -> list[str]:
    """Names of the shards that a box touches."""
    ranges = [range(part.start // s, -(-part.stop // s)) for part, s in zip(box, step, strict=True)]
    return [".".join(map(str, (channel, *index))) for index in itertools.product(*ranges)]
