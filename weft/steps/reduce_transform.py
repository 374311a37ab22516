"""Rule reduce_transform: the blocks of a stage to one displacement field."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weft import receipts
from weft.grid import Grid
from weft.image import Region
from weft.logs import log
from weft.registration.combine import combine_blocks
from weft.registration.contract import backend_version
from weft.registration.ledger import FAILED, MACHINE_DEPENDENT, NOT_TRIED, write_costs, write_ledger
from weft.registration.plan import field_grid
from weft.registration.repair import Attempt
from weft.registration.stage import StageJob
from weft.steps.block_results import KeptBlocks, load_block, read_cost
from weft.steps.quality import write_quality
from weft.steps.stage_job import open_stage_job
from weft.transforms import open_transform
from weft.transforms.formats.ngff import FieldWriter
from weft.transforms.model import Displacements


def reduce_transform(
    *,
    plan: str,
    fixed: str,
    moving: str,
    fixed_more: list[str],
    moving_more: list[str],
    batches: list[str],
    start: str,
    fixed_mask: str | list[str],
    moving_mask: str | list[str],
    settings: dict[str, Any],
    stage: dict[str, Any],
    channels: dict[str, Any],
    gates: dict[str, Any],
    rerun_status: list[str],
    cache: str,
    code: str,
    receipt: str,
    ledger: str,
    costs: str,
    quality: str,
    log_file: str,
) -> None:
    """Blend the blocks of a stage on the field's grid; write the block table.

    Blocks that failed, or disagree with their neighbours, are registered again here, in other ways; these tries are
    kept and found by name as the first ones are.
    """
    planned = receipts.read(plan)
    keys: dict[str, str] = {}
    for path in batches:
        keys.update(receipts.read(path)["blocks"])
    missing = sorted(set(planned["ids"]) - set(keys))
    if missing:
        raise ValueError(
            f"{receipt}: block {missing[0]} (and {len(missing) - 1} more) was dealt to no batch; rerun register_blocks"
        )
    records = {name: load_block(cache, keys[name])[1] for name in planned["ids"]}
    facts = receipts.read(start)
    target = field_grid(planned, settings["field_factor"])
    made_of = [[name, record["status"], record.get("data")] for name, record in sorted(records.items())]
    sources = [fixed, moving, *fixed_more, *moving_more]
    images = [[receipts.read(path)["data"] for path in sources], channels]
    masks = [receipts.read(path)["data"] for path in (fixed_mask, moving_mask) if isinstance(path, str)]
    key = receipts.digest(
        [
            made_of,
            facts["data"],
            {name: value for name, value in planned.items() if name != "memory_mb"},
            settings,
            [stage, backend_version(stage["backend"]), images, masks],
            code,
            receipts.environment("numba", "scipy", "zarr"),
        ]
    )
    store = receipts.KeyedStore(Path(receipt).with_name("transform.ome.zarr"), key)
    _, displacements, affine = open_transform(start).split()

    with receipts.job_lock(receipt):
        redo = blocks_to_redo(store, rerun_status)
        if redo or not store.done("all"):
            store.restart()
            out = FieldWriter(store.path, target)
            again = _Attempts(
                lambda: open_stage_job(
                    plan,
                    fixed,
                    moving,
                    start,
                    channels,
                    stage,
                    (fixed_mask, moving_mask),
                    (fixed_more, moving_more),
                    log_file,
                ),
                cache,
                code,
                redo,
            )
            first = {**keys, **again.first_tries()}
            records |= {name: load_block(cache, first[name])[1] for name in redo}
            combined = combine_blocks(
                planned,
                lambda name: load_block(cache, first[name])[0],
                records,
                displacements,
                settings,
                again,
                out,
            )
            store.finish("all", out.digests, **combined.facts, blocks=combined.blocks, tries=again.keys)
        made = store.records(["all"])
        facts_of_field = made["all"]
        rows = facts_of_field["blocks"]
        write_ledger(ledger, rows)
        tries = facts_of_field["tries"]
        write_costs(
            costs,
            [
                {"block": name, **read_cost(cache, [keys[name], *tries.get(name, [])])}
                for name in planned["ids"]
            ],
        )
        judged = [row for row in rows if row["status"] not in NOT_TRIED]
        failed = [row for row in judged if row["status"] in FAILED and row["used"] != "deformable"]
        numbers = {
            "blocks": len(rows),
            "blocks_failed_fraction": len(failed) / max(len(judged), 1),
            "blocks_repaired": sum(row["used"] == "deformable" and row["status"] != "ok" for row in judged),
            "folded_fraction": facts_of_field["folded"],
            "unfolded_samples": facts_of_field["unfolded"],
            "jacobian_min": facts_of_field["jacobian"][0],
            "jacobian_p1": facts_of_field["jacobian"][1],
            "jacobian_p99": facts_of_field["jacobian"][2],
        }
        if facts_of_field["seam_ratio"] is not None:
            numbers["seam_ratio"] = facts_of_field["seam_ratio"]
        reproducible = not any(row["status"] in MACHINE_DEPENDENT for row in rows)
        subject = f"{Path(receipt).parents[2].name}/{Path(receipt).parent.name}"
        write_quality(quality, "reduce_transform", subject, numbers, gates, reproducible=reproducible)
        store.publish(receipt)
        names = receipts.relative_paths(receipt, batches)
        receipts.write_provenance(
            receipt,
            key=store.key,
            settings=settings,
            code=code,
            batches=names,
            keys=sorted({key for found in tries.values() for key in found}),
        )
        log.info("%d blocks, folded %.2g", len(records), facts_of_field["folded"])
        receipts.write(
            receipt,
            {
                "input_space": facts["input_space"],
                "output_space": facts["output_space"],
                "units": "micrometer",
                "direction": "pull-back",
                "sequence": [
                    {"type": "displacements", "store": store.public.name, "path": "0"},
                    {"type": "affine", "matrix": affine.tolist()},
                ],
                "store": store.public.name,
                "grid": target.to_json(),
                "level_um": Grid.from_json(planned["grid"]).finest,
                "residual_um": facts_of_field["residual_um"],
                "reproducible": reproducible,
                "data": receipts.digest([store.data_digest(made), target.to_json(), affine.tolist()]),
            },
        )


def blocks_to_redo(store: receipts.KeyedStore, rerun_status: list[str]) -> list[str]:
    """The blocks that came out with one of these statuses when the field was made before."""
    if not rerun_status or not store.done("all"):
        return []
    rows = store.records(["all"])["all"]["blocks"]
    return [row["block"] for row in rows if row["status"] in rerun_status]


class _Attempts:
    """Registers regions again (`weft.registration.repair.Attempts`), and remembers under what the results are kept.

    Parameters
    ----------
    open_job
        Opens the images: called when a block failed, and not before.
    cache, code
        As `KeptBlocks`.
    anew
        Names of the blocks whose results are made anew.
    """

    def __init__(self, open_job: Callable[[], StageJob], cache: str, code: str, anew: list[str]) -> None:
        self._open_job, self._cache, self._code, self._anew = open_job, cache, code, anew
        self.keys: dict[str, list[str]] = {}

    @functools.cached_property
    def _kept(self) -> KeptBlocks:
        return KeptBlocks(self._cache, self._open_job(), self._code, anew=frozenset(self._anew))

    def __call__(self, name: str, region: Region, start: Displacements | None) -> Attempt:
        key, _ = self._kept.register(name, self._kept.job.cut_region(region, start))
        self.keys.setdefault(name.split("/")[0], []).append(key)
        return Attempt(*load_block(self._cache, key))

    def first_tries(self) -> dict[str, str]:
        """Register the blocks anew as they are planned: the new keys by name."""
        made = {name: self._kept.register(name, self._kept.job.cut(name))[0] for name in self._anew}
        self.keys |= {name: [key] for name, key in made.items()}
        return made
