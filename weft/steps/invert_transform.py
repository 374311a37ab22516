"""Rule invert_transform: a registration's transform and its inverse, as they are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.blocks import blocks_along_axes
from weft.grid import Grid
from weft.steps.quality import write_quality
from weft.stores.ome_zarr import link_level
from weft.transforms import open_transform
from weft.transforms.formats.ngff import FieldWriter
from weft.transforms.invert import find_inverse


def invert_transform(
    *,
    fixed: str,
    stage: str,
    plan: str | list[str],
    settings: dict[str, Any],
    gates: dict[str, Any],
    code: str,
    transform: str,
    inverse: str,
    quality: str,
) -> None:
    """Publish the last stage's transform and its inverse; measure the round trip on every fixed voxel, also block by block.

    ``plan`` is that of the last stage, empty for an affine alone.
    """
    facts = receipts.read(stage)
    sequence = open_transform(stage)
    _, displacements, affine = sequence.split()
    back = np.linalg.inv(affine).tolist()
    fixed_grid = Grid.from_json(receipts.read(fixed)["grid"])
    name = Path(transform).parent.name
    common = {"units": "micrometer", "direction": "pull-back"}
    forward = {**common, "input_space": facts["input_space"], "output_space": facts["output_space"]}
    backward = {**common, "input_space": facts["output_space"], "output_space": facts["input_space"]}
    if displacements is None:
        receipts.write(transform, {**forward, "sequence": facts["sequence"], "data": facts["data"]})
        receipts.write(
            inverse,
            {**backward, "sequence": [{"type": "affine", "matrix": back}], "data": receipts.digest(back)},
        )
        exact = ("round_trip_p95_voxel", "round_trip_max_voxel", "round_trip_outside_fraction")
        values: dict[str, Any] = dict.fromkeys((*exact, "inverse_unsolved_fraction"), 0.0)
        write_quality(quality, "invert_transform", name, values, gates, blocks={})
        return

    planned = receipts.read(plan) if isinstance(plan, str) else None
    blocks = blocks_along_axes(planned, fixed_grid)
    cores = None if planned is None else [planned["grid"], planned["block"]]
    key = receipts.digest(
        [facts["data"], fixed_grid.to_json(), cores, settings, code, receipts.environment("numba", "zarr")]
    )
    store = receipts.KeyedStore(Path(inverse).with_name("inverse.ome.zarr"), key)
    source = receipts.KeyedStore.published(Path(stage).parent / facts["store"])
    copy = receipts.KeyedStore(Path(transform).with_name("transform.ome.zarr"), source.key)
    with receipts.job_lock(inverse):
        copy.start()
        if not copy.done("all"):
            link_level(source.path, copy.path)
            record = source.records(["all"])["all"]
            copy.finish("all", record["shards"])
        if not store.done("all"):
            store.start()
            writers: list[FieldWriter] = []

            def create(grid: Grid) -> FieldWriter:
                writers.append(FieldWriter(store.path, grid))
                return writers[-1]

            found = find_inverse(
                displacements.field,
                displacements.grid,
                fixed_grid,
                voxel=facts["level_um"],
                **settings,
                blocks=blocks,
                create=create,
            )
            store.finish(
                "all",
                writers[-1].digests,
                grid=found.displacements.grid.to_json(),
                supersample=found.supersample,
                unsolved=found.unsolved,
                residual_um=found.residual,
                round_trip=found.round_trip,
            )
        made = store.records(["all"])
        trip, grid = made["all"]["round_trip"], Grid.from_json(made["all"]["grid"])
        largest = trip["max"] / facts["level_um"]
        worst = max(trip["blocks"], key=lambda block: (trip["blocks"][block]["max"], block))
        values = {
            "round_trip_p50_um": trip["p50"],
            "round_trip_p95_um": trip["p95"],
            "round_trip_max_um": trip["max"],
            "round_trip_p95_voxel": trip["p95"] / facts["level_um"],
            "round_trip_max_voxel": largest if len(trip["blocks"]) < 2 else {f"block {worst}": largest},
            "round_trip_outside_fraction": trip["outside"] / trip["voxels"],
            "inverse_residual_um": made["all"]["residual_um"],
            "inverse_supersample": made["all"]["supersample"],
            "inverse_unsolved_fraction": made["all"]["unsolved"] / grid.size,
        }
        rows = {
            block: {f"round_trip_{measure}_um": length for measure, length in row.items()}
            for block, row in trip["blocks"].items()
        }
        write_quality(quality, "invert_transform", name, values, gates, blocks=rows)
        copy.publish(transform)
        store.publish(inverse)
        receipts.write_provenance(transform, key=copy.key, code=code)
        receipts.write_provenance(inverse, key=store.key, settings=settings, code=code)
        receipts.write(
            transform,
            {
                **forward,
                "sequence": facts["sequence"],
                "store": copy.public.name,
                "grid": facts["grid"],
                "reproducible": facts["reproducible"],
                "data": facts["data"],
            },
        )
        receipts.write(
            inverse,
            {
                **backward,
                "sequence": [
                    {"type": "affine", "matrix": back},
                    {"type": "displacements", "store": store.public.name, "path": "0"},
                ],
                "store": store.public.name,
                "grid": made["all"]["grid"],
                "data": receipts.digest([store.data_digest(made), made["all"]["grid"], back]),
            },
        )
