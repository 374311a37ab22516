"""Rule correct_tiles: a corrected copy of every tile, for those who ask for one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.grid import Grid
from weft.logs import progress
from weft.steps.illumination import load_illumination, prepared_tiles
from weft.steps.regions import region_names, split_name
from weft.steps.sources import open_tiles, tile_places
from weft.stores.ome_zarr import create_level, open_level, write_region


def correct_tiles(
    *,
    tiles: str,
    illumination: str,
    path: str,
    source: dict[str, Any],
    stripes: dict[str, Any],
    store: dict[str, Any],
    code: str,
    receipt: str,
    threads: int,
) -> None:
    """Write (raw - dark) / gain of every tile, without stripes where that is asked for, as one array (c, z, y, x) each; rounded, clipped and counted."""
    index = receipts.read(tiles)
    raw = open_tiles(path, source)
    lights = load_illumination(illumination)
    data = [tile["data"] for tile in index["tiles"]]
    facts = [data, tile_places(index), receipts.read(illumination)["data"], stripes]
    key = receipts.digest([facts, store, code, receipts.environment("zarr")])
    keyed = receipts.KeyedStore(Path(receipt).with_name("corrected.zarr"), key)
    shown = prepared_tiles(raw, illumination, lights, stripes)
    top = np.iinfo(raw.dtype).max if raw.dtype.kind == "u" else None
    records: dict[str, dict[str, Any]] = {}
    with receipts.job_lock(receipt):
        keyed.start()
        for n, tile in progress(enumerate(raw.tiles), len(raw.tiles), "correct_tiles: tiles"):
            grid = Grid(raw.shape, raw.spacing, tile.position)
            place = keyed.path / tile.name
            array = create_level(place, grid, len(raw.channels), raw.dtype, **store)
            labels = {f"{tile.name}-{region}": region for region in region_names(array)}

            def one(label: str, n=n, array=array, labels=labels, tile=tile) -> None:
                channel, where = split_name(labels[label], array)
                signal = lights[channel].correct(shown.read(n, channel, where), where[1:])
                clipped = 0
                if top is not None:
                    clipped = int(((signal < -0.5) | (signal > top + 0.5)).sum())
                    signal = np.clip(np.floor(signal + 0.5), 0, top)
                voxels = signal.astype(raw.dtype)
                keyed.finish(label, write_region(array, channel, where, voxels, tile.name), clipped=clipped)

            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(one, [label for label in labels if not keyed.done(label)]))
            open_level(place).attrs["grid"] = grid.to_json()
            records |= keyed.records(labels)
        keyed.publish(receipt)
        receipts.write_provenance(receipt, key=keyed.key, code=code)
        receipts.write(
            receipt,
            {
                "store": keyed.public.name,
                "tiles": [tile.name for tile in raw.tiles],
                "clipped": sum(record["clipped"] for record in records.values()),
                "data": keyed.data_digest(records),
            },
        )
