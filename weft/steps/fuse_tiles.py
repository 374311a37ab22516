"""Rules fuse_tiles and gather_fused: placed tiles to one volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.blocks import deal
from weft.fusion import TileCache, fuse_region, output_grid
from weft.grid import Grid
from weft.logs import log
from weft.steps.illumination import load_illumination, prepared_tiles, read_factors
from weft.steps.level_builder import LevelBuilder
from weft.steps.levels import level_grids
from weft.steps.quality import write_quality
from weft.steps.regions import check_complete, one_key, split_name
from weft.steps.sources import open_tiles
from weft.steps.tile_tables import read_fused, read_linear, read_poses
from weft.stores.ome_zarr import metadata_digest, open_level


def fuse_tiles(
    *,
    tiles: str,
    illumination: str,
    poses: str,
    factors: str | list[str],
    path: str,
    source: dict[str, Any],
    settings: dict[str, Any],
    stripes: dict[str, Any],
    store: dict[str, Any],
    batches: int,
    batch: int,
    code: str,
    receipt: str,
    threads: int,
) -> None:
    """Fuse one batch of regions into the image's level 0; a region that is there under this key is left alone.

    ``factors`` is the receipt of the tiles' brightness, and empty where none was asked for.
    """
    index = receipts.read(tiles)
    raw = open_tiles(path, source)
    kept = read_fused(poses)
    raw = raw.part(kept)
    positions, linear = read_poses(poses)[kept], read_linear(poses)
    linear = None if linear is None else linear[kept]
    lights = load_illumination(illumination)
    brightness = read_factors(factors, len(raw.channels), len(index["tiles"]))[:, kept]
    grid = output_grid(positions, raw.shape, raw.spacing, linear)
    facts = [
        [index["tiles"][n]["data"] for n in kept],
        receipts.read(illumination)["data"],
        [receipts.array_digest(positions), None if linear is None else receipts.array_digest(linear)],
        brightness.tolist(),
        grid.to_json(),
        [settings, stripes, store, code, receipts.environment("numba", "zarr")],
    ]
    keyed = receipts.KeyedStore(Path(receipt).parents[2] / "fused.zarr", receipts.digest(facts))
    with receipts.job_lock(receipt):
        builder = _builder(keyed, grid, len(raw.channels), settings["dtype"], store)
        mine = deal(builder.names(), batch, batches)
        shown = prepared_tiles(raw, illumination, lights, stripes)
        cache = TileCache(shown)

        def fuse(name: str) -> tuple[np.ndarray | None, dict[str, Any]]:
            channel, where = split_name(name, builder.levels[0])
            voxels, counts = fuse_region(
                shown, channel, positions, lights[channel], grid, where, linear=linear, factors=brightness[channel],
                blend=settings["blend"], dtype=settings["dtype"], offset=settings["offset"], cache=cache,
            )  # fmt: skip
            return voxels, {"counts": counts}

        made = builder.build(mine, fuse, threads=threads, what="fuse_tiles: regions")
        log.info("made %d of %d regions", made, len(mine))
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


def gather_fused(
    *,
    batches: list[str],
    store: dict[str, Any],
    gates: dict[str, Any],
    code: str,
    receipt: str,
    quality: str,
) -> None:
    """Check that every region is there under one key, make the coarser ones that lie over two batches, publish."""
    parts = [receipts.read(path) for path in batches]
    keyed = receipts.KeyedStore(Path(receipt).with_name("fused.zarr"), one_key(parts, receipt))
    with receipts.job_lock(receipt):
        first, dtype = parts[0], str(open_level(keyed.path / "0", "r").dtype)
        grid = Grid.from_json(first["grid"])
        builder = _builder(keyed, grid, len(first["channels"]), dtype, store)
        check_complete(parts, builder.names(), receipt)
        builder.complete(threads=1)
        records = builder.records(0)
        counts: dict[str, int] = {}
        for record in records.values():
            for name, count in record["counts"].items():
                counts[name] = counts.get(name, 0) + count
        voxels = max(counts["voxels"], 1)
        # Noise around zero is clipped wherever there is no signal; what is lost at the top is signal.
        values = {
            "clipped_fraction": counts["clipped_high"] / voxels,
            "clipped_low_fraction": counts["clipped_low"] / voxels,
        }
        write_quality(quality, "fuse_tiles", first["image"], values, gates)
        keyed.publish(receipt)
        receipts.write_provenance(
            receipt, key=keyed.key, code=code, batches=receipts.relative_paths(receipt, batches)
        )
        facts = {name: first[name] for name in ("grid", "channels", "orientation")}
        for n in range(1, len(builder.levels)):
            records |= builder.records(n)
        receipts.write(
            receipt,
            {
                "store": keyed.public.name,
                "shape": [len(first["channels"]), *grid.shape],
                "dtype": dtype,
                "levels": len(builder.levels),
                "data": keyed.data_digest(records),
                "metadata": metadata_digest(keyed.public),
                **facts,
            },
        )


def _builder(
    keyed: receipts.KeyedStore, grid: Grid, channels: int, dtype: str, store: dict[str, Any]
) -> LevelBuilder:
    """What writes the fused levels: down to the one that fits a shard, whatever the pyramid's settings are."""
    grids = level_grids(grid, min(store["shard"]))
    return LevelBuilder(keyed, grids, channels, dtype, labels=False, store=store)
