"""Rules warp_image, gather_warped and warp_labels: images and labels through a transform."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from weft import receipts
from weft.blocks import deal
from weft.grid import Grid
from weft.image import Image
from weft.logs import log
from weft.steps.level_builder import LevelBuilder
from weft.steps.levels import finish_image, image_facts, level_grids
from weft.steps.regions import check_complete, one_key, split_name
from weft.steps.sources import channel_of, open_received
from weft.stores.ome_zarr import open_level
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
    job = _open_job(source, target, transform, settings, settings["channels"], [pyramid, store, code], public)
    with receipts.job_lock(receipt):
        builder = job.builder(pyramid, store)
        mine = deal(builder.names(), batch, batches)
        made = job.warp(builder, mine, threads)
        log.info("made %d of %d regions", made, len(mine))
        receipts.write(
            receipt,
            {
                "key": job.keyed.key,
                "grid": job.grid.to_json(),
                "regions": mine,
                **job.about,
            },
        )


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
        about = {name: parts[0][name] for name in ("channels", "orientation", "labels")}
        grids = level_grids(Grid.from_json(parts[0]["grid"]), pyramid["smallest"])
        count, dtype = len(about["channels"]), open_level(keyed.path / "0", "r").dtype
        builder = LevelBuilder(keyed, grids, count, dtype, labels=about["labels"], store=store)
        check_complete(parts, builder.names(), receipt)
        made_by = {"code": code, "batches": receipts.relative_paths(receipt, batches)}
        _publish(builder, about, receipt, threads, made_by)


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
    first = open_received(source)[0].channels[:1]
    job = _open_job(source, target, transform, settings, list(first), [pyramid, store, code], public)
    with receipts.job_lock(receipt):
        builder = job.builder(pyramid, store)
        job.warp(builder, builder.names(), threads)
        _publish(builder, job.about, receipt, threads, {"code": code})


# ---------------------------------------------------------------------------------- shared
@dataclass(frozen=True)
class _Job:
    """What is warped onto what, through what; ``about`` is what the receipt says of the result."""

    image: Image
    grid: Grid
    sequence: Sequence
    keyed: receipts.KeyedStore
    about: dict[str, Any]

    def builder(self, pyramid: dict[str, Any], store: dict[str, Any]) -> LevelBuilder:
        """What writes the levels of the result."""
        grids = level_grids(self.grid, pyramid["smallest"])
        count, labels = len(self.about["channels"]), self.about["labels"]
        return LevelBuilder(self.keyed, grids, count, self.image.dtype, labels=labels, store=store)

    def warp(self, builder: LevelBuilder, names: list[str], threads: int) -> int:
        """Warp the regions that are not there yet, each with its own part of the field; give their number."""

        def make(name: str) -> tuple[np.ndarray | None, dict[str, Any]]:
            return self._warp_region(builder.levels[0], name)

        return builder.build(names, make, threads=threads, what="warp: regions")

    def _warp_region(self, array: zarr.Array, name: str) -> tuple[np.ndarray | None, dict[str, Any]]:
        labels = self.image.labels
        level = self.image.levels[0] if labels else self.image.level_at(min(self.grid.spacing))
        channel, where = split_name(name, array)
        part = self.grid.crop(where)
        # The field is read once, for both the box of moving voxels and the voxels.
        before, u, after = self.sequence.within(part).split()
        field, field_grid = (u.field, u.grid) if u else (None, None)
        box = moving_region(part, after, field, field_grid, level.grid, before=before)
        voxels, clipped = None, 0
        if box is not None:
            moving = level.read(self.image.channel(self.about["channels"][channel]), box)
            moving_grid = level.grid.crop(box)
            voxels, clipped = warp(
                moving,
                moving_grid,
                after,
                field,
                field_grid,
                part,
                order=0 if labels else 1,
                before=before,
            )
        return voxels, {"clipped": clipped}


def _open_job(
    source: str,
    target: str,
    transform: str,
    settings: dict[str, Any],
    channels: list[str] | None,
    made_with: list[Any],
    public: str,
) -> _Job:
    """Open image, grid and transform by their receipts; the key of the result holds all that makes it."""
    image, facts = open_received(source)
    channels = channels or list(image.channels)
    for name in channels:
        channel_of(image.channels, name, f"warp.channels: {source}")
    aim, path = receipts.read(target), receipts.read(transform)
    grid = Grid.from_json(aim["grid"])
    if settings["spacing"]:
        grid = grid.resample(settings["spacing"])
    place = [facts["grid"], grid.to_json(), aim["orientation"]]
    versions = receipts.environment("numba", "zarr")
    key = receipts.digest(
        [facts["data"], path["data"], path["sequence"], place, channels, made_with, versions]
    )
    about = {"channels": channels, "orientation": aim["orientation"], "labels": image.labels}
    return _Job(image, grid, open_transform(transform), receipts.KeyedStore(public, key), about)


def _publish(
    builder: LevelBuilder, about: dict[str, Any], receipt: str, threads: int, made_by: dict[str, Any]
) -> None:
    keyed, dtype = builder.keyed, builder.levels[0].dtype
    records = finish_image(builder, name=Path(receipt).stem, threads=threads, **about)
    keyed.publish(receipt)
    receipts.write_provenance(receipt, key=keyed.key, **made_by)
    receipts.write(receipt, image_facts(keyed, records, builder.grids, dtype=dtype, **about))
