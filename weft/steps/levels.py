"""Pyramid levels and metadata of an image: the end of every step that makes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from weft import receipts
from weft.coverage import Coverage
from weft.grid import Grid
from weft.pyramid import plan_levels
from weft.steps.level_builder import LevelBuilder
from weft.stores.ome_zarr import create_image, metadata_digest


def level_grids(grid: Grid, smallest: int) -> list[Grid]:
    """Grids of all levels of an image whose finest one is ``grid``."""
    grids = [grid]
    for factors in plan_levels(grid.shape, grid.spacing, smallest=smallest):
        grids.append(grids[-1].coarsen(factors))
    return grids


def finish_image(
    builder: LevelBuilder,
    *,
    orientation: str | None,
    channels: Sequence[str],
    labels: bool,
    name: str,
    threads: int,
    coverage: Coverage | None = None,
) -> dict[str, dict[str, Any]]:
    """Make what is missing of the coarser levels of a store, then its metadata; give the records of all levels."""
    builder.complete(threads)
    create_image(
        builder.keyed.path,
        builder.grids,
        builder.levels[0].dtype,
        channels=channels,
        orientation=orientation,
        labels=labels,
        name=name,
        arrays=False,
        coverage=coverage,
    )
    return {label: record for n in range(len(builder.grids)) for label, record in builder.records(n).items()}


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
