"""Rule resample_image: a copy of an image with cubic voxels, for what asks for such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.steps.level_builder import LevelBuilder
from weft.steps.levels import finish_image, image_facts, level_grids
from weft.steps.regions import split_name
from weft.steps.sources import open_received
from weft.warp import moving_region, warp


def resample_image(
    *,
    image: str,
    edge: float,
    pyramid: dict[str, Any],
    store: dict[str, Any],
    code: str,
    receipt: str,
    threads: int,
) -> None:
    """Interpolate the coarsest level whose voxels are no larger than ``edge`` um on a grid of such cubes.

    Linearly, or, of labels, by the nearest voxel of the finest level. The copy covers the image from face to face, and
    knows what its tiles cover.
    """
    source, facts = open_received(image)
    level = source.levels[0] if source.labels else source.level_at(edge)
    grids = level_grids(source.grid.resample(edge), pyramid["smallest"])
    about: dict[str, Any] = {name: facts[name] for name in ("channels", "orientation", "labels")}
    coverage = None if source.coverage is None else source.coverage.to_json()
    versions = receipts.environment("numba", "zarr")
    key = receipts.digest(
        [facts["data"], facts["grid"], coverage, about, edge, pyramid, store, code, versions]
    )
    keyed = receipts.KeyedStore(Path(receipt).with_name("isotropic.ome.zarr"), key)
    with receipts.job_lock(receipt):
        builder = LevelBuilder(
            keyed, grids, len(source.channels), source.dtype, labels=source.labels, store=store
        )

        def make(name: str) -> tuple[np.ndarray | None, dict[str, Any]]:
            channel, where = split_name(name, builder.levels[0])
            part = grids[0].crop(where)
            box = moving_region(part, np.eye(4), None, None, level.grid)
            if box is None:
                return None, {}
            voxels, _ = warp(
                level.read(channel, box),
                level.grid.crop(box),
                np.eye(4),
                None,
                None,
                part,
                order=0 if source.labels else 1,
            )
            return voxels, {}

        builder.build(builder.names(), make, threads=threads, what="resample_image: regions")
        name = Path(image).parent.name
        records = finish_image(builder, name=name, threads=threads, coverage=source.coverage, **about)
        keyed.publish(receipt)
        receipts.write_provenance(receipt, key=keyed.key, code=code)
        receipts.write(receipt, image_facts(keyed, records, grids, dtype=source.dtype, **about))
