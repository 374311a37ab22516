"""Pyramid levels and metadata on top of a finished level 0: the end of every step that makes an image."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from weft import receipts
from weft.grid import Grid
from weft.logs import progress
from weft.pyramid import downsample, plan_levels
from weft.steps.regions import region_names, split_name
from weft.stores.ome_zarr import create_image, create_level, metadata_digest, open_level, write_region


def level_grids(grid: Grid, smallest: int) -> list[Grid]:
    """Grids of all levels of an image whose finest one is ``grid``."""
    grids = [grid]
    for factors in plan_levels(grid.shape, grid.spacing, smallest=smallest):
        grids.append(grids[-1].coarsen(factors))
    return grids


def add_levels(
    keyed: receipts.KeyedStore,
    grids: Sequence[Grid],
    *,
    channels: Sequence[str],
    orientation: str | None,
    labels: bool,
    store: dict[str, Any],
    name: str,
    threads: int,
) -> dict[str, dict[str, Any]]:
    """Make levels 1, 2, ... of a keyed store from its level 0, then its metadata; give their records.

    Means for intensities, the most frequent value for labels. A region that is there is left alone.
    """
    records: dict[str, dict[str, Any]] = {}
    fine = open_level(keyed.path / "0", "r")
    for n in range(1, len(grids)):
        factors = tuple(round(b / a) for a, b in zip(grids[n - 1].spacing, grids[n].spacing, strict=True))
        create_level(
            keyed.path / str(n),
            grids[n],
            len(channels),
            fine.dtype,
            **store,
        )
        coarse = open_level(keyed.path / str(n))
        regions = {f"{n}-{region}": region for region in region_names(coarse)}

        def one(label: str, n=n, fine=fine, coarse=coarse, factors=factors, regions=regions) -> None:
            channel, where = split_name(regions[label], coarse)
            source = tuple(
                slice(part.start * f, min(part.stop * f, size))
                for part, f, size in zip(where, factors, fine.shape[1:], strict=True)
            )
            voxels = downsample(
                np.asarray(fine[(channel, *source)]), factors, mode="mode" if labels else "mean"
            )
            keyed.finish(label, write_region(coarse, channel, where, voxels, str(n)))

        todo = [label for label in regions if not keyed.done(label)]
        with ThreadPoolExecutor(threads) as pool:
            for _ in progress(pool.map(one, todo), len(todo), f"level {n}: regions"):
                pass
        records.update(keyed.records(regions))
        fine = open_level(keyed.path / str(n), "r")
    create_image(
        keyed.path,
        grids,
        fine.dtype,
        channels=channels,
        orientation=orientation,
        labels=labels,
        name=name,
        arrays=False,
    )
    return records


def image_facts(
    keyed: receipts.KeyedStore,
    records: dict[str, dict[str, Any]],
    grids: Sequence[Grid],
    *,
    dtype: Any,
    channels: Sequence[str],
    orientation: str | None,
    labels: bool,
) -> dict[str, Any]:
    """What the receipt of a published image says."""
    return {
        "store": keyed.public.name,
        "shape": [len(channels), *grids[0].shape],
        "dtype": str(np.dtype(dtype)),
        "grid": grids[0].to_json(),
        "levels": len(grids),
        "channels": list(channels),
        "orientation": orientation,
        "labels": labels,
        "data": keyed.data_digest(records),
        "metadata": metadata_digest(keyed.public),
    }
