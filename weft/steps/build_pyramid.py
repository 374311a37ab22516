"""Rule build_pyramid: an OME-Zarr image of the fused voxels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft import receipts
from weft.coverage import Coverage
from weft.grid import Grid
from weft.steps.level_builder import LevelBuilder
from weft.steps.levels import finish_image, image_facts, level_grids
from weft.steps.regions import region_names
from weft.steps.tile_tables import read_fused, read_linear, read_poses
from weft.stores.ome_zarr import link_level, open_level


def build_pyramid(
    *,
    fused: str,
    tiles: str,
    poses: str,
    settings: dict[str, Any],
    store: dict[str, Any],
    image: dict[str, Any],
    code: str,
    receipt: str,
    threads: int,
) -> None:
    """Make all levels of an image; those that fusion left are linked and not copied.

    Its metadata say what the tiles cover: elsewhere it is 0, which is neither tissue nor background.
    """
    facts = receipts.read(fused)
    folder = Path(fused).parent
    grids = level_grids(Grid.from_json(facts["grid"]), settings["smallest"])
    about: dict[str, Any] = {
        "channels": facts["channels"],
        "orientation": image["orientation"] or facts["orientation"],
        "labels": False,
    }
    coverage = _coverage(tiles, poses)
    key = receipts.digest(
        [
            facts["data"],
            facts["metadata"],
            facts["grid"],
            about,
            coverage.to_json(),
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
        for n in range(min(facts["levels"], len(grids))):
            labels = [f"{n}-{name}" for name in region_names(open_level(source.path / str(n), "r"))]
            if not all(keyed.done(label) for label in labels):
                link_level(source.path / str(n), keyed.path / str(n))
                for label, record in source.records(labels).items():
                    keyed.finish(label, record["shards"])
        builder = LevelBuilder(
            keyed, grids, len(about["channels"]), facts["dtype"], labels=False, store=store
        )
        records = finish_image(builder, name=image["image"], threads=threads, coverage=coverage, **about)
        keyed.publish(receipt)
        receipts.write_provenance(receipt, key=keyed.key, settings=settings, code=code)
        receipts.write(receipt, image_facts(keyed, records, grids, dtype=facts["dtype"], **about))


def _coverage(tiles: str, poses: str) -> Coverage:
    """The places of the tiles that were fused."""
    index, kept, linear = receipts.read(tiles), read_fused(poses), read_linear(poses)
    shape, spacing = tuple(index["shape"]), tuple(index["spacing"])
    return Coverage(shape, spacing, read_poses(poses)[kept], None if linear is None else linear[kept])
