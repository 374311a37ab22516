"""Rules warp_image, gather_warped and warp_labels: images and labels through a transform."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.blocks import deal
from weft.grid import Grid
from weft.image import Image
from weft.logs import log, progress
from weft.steps.levels import add_levels, image_facts, level_grids
from weft.steps.regions import check_complete, one_key, region_names, split_name
from weft.steps.sources import channel_of, open_received
from weft.stores.ome_zarr import create_level, open_level, write_region
from weft.transforms import open_transform
from weft.transforms.model import Sequence
from weft.warp import moving_region, warp


def warp_image(
    *,
    source: str,
    target: str,
    transform: str,
    settings: dict[str, Any],
    pyramid: dict[str, Any],
    store: dict[str, Any],
    batches: int,
    batch: int,
    public: str,
    code: str,
    receipt: str,
    threads: int,
) -> None:
    """Resample one batch of regions of an image onto the target's grid."""
    image, facts = open_received(source)
    grid = _target_grid(target, settings)
    channels = settings["channels"] or list(image.channels)
    for name in channels:
        channel_of(image.channels, name, f"warp.channels: {source}")
    keyed = receipts.KeyedStore(
        public, _key(facts, grid, target, transform, [channels, pyramid, store, code])
    )
    with receipts.job_lock(receipt):
        array = _create(keyed, grid, len(channels), image.dtype, store)
        mine = deal(region_names(array), batch, batches)
        made = _warp_regions(keyed, array, image, channels, open_transform(transform), grid, mine, threads)
        log.info("made %d of %d regions", made, len(mine))
        about = {"channels": channels, "orientation": receipts.read(target)["orientation"], "labels": False}
        receipts.write(receipt, {"key": keyed.key, "grid": grid.to_json(), "regions": mine, **about})


def gather_warped(
    *,
    batches: list[str],
    pyramid: dict[str, Any],
    store: dict[str, Any],
    public: str,
    code: str,
    receipt: str,
    threads: int,
) -> None:
    """Check that every region is there, add the pyramid, publish."""
    parts = [receipts.read(path) for path in batches]
    keyed = receipts.KeyedStore(public, one_key(parts, receipt))
    with receipts.job_lock(receipt):
        names = region_names(open_level(keyed.path / "0", "r"))
        check_complete(parts, names, receipt)
        about = {name: parts[0][name] for name in ("channels", "orientation", "labels")}
        made_by = {"code": code, "batches": receipts.relative_paths(receipt, batches)}
        grid = Grid.from_json(parts[0]["grid"])
        _publish(keyed, names, grid, about, pyramid, store, receipt, threads, made_by)


def warp_labels(
    *,
    source: str,
    target: str,
    transform: str,
    settings: dict[str, Any],
    pyramid: dict[str, Any],
    store: dict[str, Any],
    public: str,
    code: str,
    receipt: str,
    threads: int,
) -> None:
    """Resample labels onto the target's grid by the nearest voxel: type and values stay."""
    image, facts = open_received(source)
    grid = _target_grid(target, settings)
    keyed = receipts.KeyedStore(public, _key(facts, grid, target, transform, [pyramid, store, code]))
    with receipts.job_lock(receipt):
        array = _create(keyed, grid, 1, image.dtype, store)
        names = region_names(array)
        _warp_regions(
            keyed, array, image, list(image.channels[:1]), open_transform(transform), grid, names, threads
        )
        about = {
            "channels": list(image.channels[:1]),
            "orientation": receipts.read(target)["orientation"],
            "labels": True,
        }
        _publish(keyed, names, grid, about, pyramid, store, receipt, threads, {"code": code})


# ---------------------------------------------------------------------------------- shared
def _target_grid(target: str, settings: dict[str, Any]) -> Grid:
    grid = Grid.from_json(receipts.read(target)["grid"])
    return grid.resample(settings["spacing"]) if settings["spacing"] else grid


def _key(facts: dict[str, Any], grid: Grid, target: str, transform: str, settings: list[Any]) -> str:
    path = receipts.read(transform)
    place = [facts["grid"], grid.to_json(), receipts.read(target)["orientation"]]
    versions = receipts.environment("numba", "zarr")
    return receipts.digest([facts["data"], path["data"], path["sequence"], place, settings, versions])


def _create(keyed: receipts.KeyedStore, grid: Grid, channels: int, dtype: Any, store: dict[str, Any]) -> Any:
    create_level(keyed.path / "0", grid, channels, dtype, chunk=store["chunk"], shard=store["shard"])
    keyed.start()
    return open_level(keyed.path / "0")


def _warp_regions(
    keyed: receipts.KeyedStore,
    array: Any,
    image: Image,
    channels: list[str],
    sequence: Sequence,
    grid: Grid,
    names: list[str],
    threads: int,
) -> int:
    """Warp the regions that are not there yet; give their number."""
    level = image.level_at(min(grid.spacing)) if not image.labels else image.levels[0]
    before, displacements, after = sequence.split()
    field, field_grid = (displacements.field, displacements.grid) if displacements else (None, None)

    def one(name: str) -> None:
        channel, where = split_name(name, array)
        part = grid.crop(where)
        box = moving_region(part, after, field, field_grid, level.grid, before=before)
        clipped = 0
        if box is None:
            voxels = np.zeros(part.shape, array.dtype)
        else:
            moving = level.read(image.channel(channels[channel]), box)
            voxels, clipped = warp(
                moving,
                level.grid.crop(box),
                after,
                field,
                field_grid,
                part,
                order=0 if image.labels else 1,
                before=before,
            )
        keyed.finish(f"0-{name}", write_region(array, channel, where, voxels, "0"), clipped=clipped)

    todo = [name for name in names if not keyed.done(f"0-{name}")]
    with ThreadPoolExecutor(threads) as pool:
        for _ in progress(pool.map(one, todo), len(todo), "warp: regions"):
            pass
    return len(todo)


def _publish(
    keyed: receipts.KeyedStore,
    names: list[str],
    grid: Grid,
    about: dict[str, Any],
    pyramid: dict[str, Any],
    store: dict[str, Any],
    receipt: str,
    threads: int,
    made_by: dict[str, Any],
) -> None:
    grids = level_grids(grid, pyramid["smallest"])
    records = keyed.records(f"0-{name}" for name in names)
    records |= add_levels(keyed, grids, store=store, name=Path(receipt).stem, threads=threads, **about)
    dtype = open_level(keyed.path / "0", "r").dtype
    keyed.publish(receipt)
    receipts.write_provenance(receipt, key=keyed.key, **made_by)
    receipts.write(receipt, image_facts(keyed, records, grids, dtype=dtype, **about))
