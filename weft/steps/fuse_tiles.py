"""Rules fuse_tiles and gather_fused: placed tiles to one volume."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from weft import receipts
from weft.blocks import deal
from weft.fusion import TileCache, fuse_region, output_grid
from weft.logs import log, progress
from weft.steps.illumination import load_illumination
from weft.steps.quality import write_quality
from weft.steps.regions import check_complete, one_key, region_names, split_name
from weft.steps.sources import open_tiles
from weft.steps.tile_tables import read_poses
from weft.stores.ome_zarr import create_level, metadata_digest, open_level, write_region


def fuse_tiles(
    *,
    tiles: str,
    illumination: str,
    poses: str,
    path: str,
    source: dict[str, Any],
    settings: dict[str, Any],
    store: dict[str, Any],
    batches: int,
    batch: int,
    code: str,
    receipt: str,
    threads: int,
) -> None:
    """Fuse one batch of regions into the image's level 0; a region that is there under this key is left alone."""
    index = receipts.read(tiles)
    raw = open_tiles(path, source)
    positions = read_poses(poses)
    lights = [load_illumination(illumination, channel) for channel in range(len(raw.channels))]
    grid = output_grid(positions, raw.shape, raw.spacing)
    facts = [
        [tile["data"] for tile in index["tiles"]],
        receipts.read(illumination)["data"],
        [receipts.array_digest(positions), grid.to_json()],
        [settings, store, code, receipts.environment("numba", "zarr")],
    ]
    keyed = receipts.KeyedStore(Path(receipt).parents[2] / "fused.zarr", receipts.digest(facts))
    with receipts.job_lock(receipt):
        create_level(keyed.path, grid, len(raw.channels), settings["dtype"], **store)
        keyed.start()
        array = open_level(keyed.path)
        names = region_names(array)
        mine = deal(names, batch, batches)
        cache = TileCache(raw)
        todo = [name for name in mine if not keyed.done(name)]

        def one(name: str) -> None:
            channel, where = split_name(name, array)
            voxels, counts = fuse_region(
                raw, channel, positions, lights[channel], grid, where,
                blend=settings["blend"], dtype=settings["dtype"], offset=settings["offset"], cache=cache,
            )  # fmt: skip
            keyed.finish(name, write_region(array, channel, where, voxels, ""), counts=counts)

        with ThreadPoolExecutor(threads) as pool:
            for _ in progress(pool.map(one, todo), len(todo), "fuse_tiles: regions"):
                pass
        log.info("made %d of %d regions", len(todo), len(mine))
        receipts.write(
            receipt,
            {
                "image": index["image"],
                "key": keyed.key,
                "grid": grid.to_json(),
                "channels": list(raw.channels),
                "orientation": raw.orientation,
                "regions": mine,
            },
        )


def gather_fused(*, batches: list[str], gates: dict[str, Any], code: str, receipt: str, quality: str) -> None:
    """Check that every region is there under one key, publish the voxels, and count what was clipped."""
    parts = [receipts.read(path) for path in batches]
    keyed = receipts.KeyedStore(Path(receipt).with_name("fused.zarr"), one_key(parts, receipt))
    with receipts.job_lock(receipt):
        array = open_level(keyed.path, "r")
        check_complete(parts, region_names(array), receipt)
        records = keyed.records(region_names(array))
        counts: dict[str, int] = {}
        for record in records.values():
            for name, count in record["counts"].items():
                counts[name] = counts.get(name, 0) + count
        image = parts[0]["image"]
        voxels = max(counts["voxels"], 1)
        # Noise around zero is clipped wherever there is no signal; what is lost at the top is signal.
        values = {
            "clipped_fraction": counts["clipped_high"] / voxels,
            "clipped_low_fraction": counts["clipped_low"] / voxels,
        }
        write_quality(quality, "fuse_tiles", image, values, gates)
        keyed.publish(receipt)
        receipts.write_provenance(
            receipt, key=keyed.key, code=code, batches=receipts.relative_paths(receipt, batches)
        )
        facts = {name: parts[0][name] for name in ("grid", "channels", "orientation")}
        receipts.write(
            receipt,
            {
                "store": keyed.public.name,
                "shape": list(array.shape),
                "dtype": str(array.dtype),
                "data": keyed.data_digest(records),
                "metadata": metadata_digest(keyed.public),
                **facts,
            },
        )
