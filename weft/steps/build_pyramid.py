"""Rule build_pyramid: an OME-Zarr image of the fused voxels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft import receipts
from weft.grid import Grid
from weft.steps.levels import add_levels, image_facts, level_grids
from weft.steps.regions import region_names
from weft.stores.ome_zarr import link_level, open_level


def build_pyramid(
    *,
    fused: str,
    settings: dict[str, Any],
    store: dict[str, Any],
    image: dict[str, Any],
    code: str,
    receipt: str,
    threads: int,
) -> None:
    """Make all levels of an image; level 0 is the fused array itself, linked and not copied."""
    facts = receipts.read(fused)
    folder = Path(fused).parent
    grids = level_grids(Grid.from_json(facts["grid"]), settings["smallest"])
    about: dict[str, Any] = {
        "channels": facts["channels"],
        "orientation": image["orientation"] or facts["orientation"],
        "labels": False,
    }
    key = receipts.digest(
        [
            facts["data"],
            facts["metadata"],
            facts["grid"],
            about,
            settings,
            store,
            code,
            receipts.environment("numba", "zarr"),
        ]
    )
    keyed = receipts.KeyedStore(folder / "image.ome.zarr", key)
    with receipts.job_lock(receipt):
        keyed.start()
        source = receipts.KeyedStore.published(folder / facts["store"])
        array = open_level(source.path, "r")
        names = region_names(array)
        if not all(keyed.done(f"0-{name}") for name in names):
            link_level(source.path, keyed.path / "0")
            for name, record in source.records(names).items():
                keyed.finish(f"0-{name}", {f"0{shard}": value for shard, value in record["shards"].items()})
        records = keyed.records(f"0-{name}" for name in names)
        records |= add_levels(keyed, grids, store=store, name=image["image"], threads=threads, **about)
        keyed.publish(receipt)
        receipts.write_provenance(receipt, key=keyed.key, settings=settings, code=code)
        receipts.write(receipt, image_facts(keyed, records, grids, dtype=facts["dtype"], **about))
