"""The blocks of a stage become one displacement field."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from weft.grid import Grid
from weft.image import box
from weft.receipts import write_array
from weft.registration.agreement import Load, judge_agreement
from weft.registration.ledger import FAILED
from weft.registration.needs import expected_residual
from weft.registration.plan import block_field_grid, field_core, field_grid
from weft.registration.repair import Attempts, no_attempt, repair_block
from weft.transforms.formats.ngff import shard_regions
from weft.transforms.interpolate import Field
from weft.transforms.model import Displacements
from weft.transforms.reduce import BlendedField, BlockField
from weft.transforms.survey import FieldSurvey, with_rim
from weft.transforms.unfold import WritableField, folds_within, unfold_parts


@dataclass(frozen=True)
class Combined:
    """A stage's displacement field and what was found about it.

    Parameters
    ----------
    displacements
        The total u, where it was written to.
    blocks
        The rows of the block table, in the order of the plan.
    facts
        ``unfolded`` (samples that were smoothed), ``still_folded`` (samples), ``residual_um``, what the next stage has to
        expect, and where they were asked for ``folded``, ``jacobian`` and ``seam_ratio`` of `FieldSurvey`.
    """

    displacements: Displacements
    blocks: list[dict[str, Any]]
    facts: dict[str, Any]


def combine_blocks(
    plan: Mapping[str, Any],
    load: Load,
    records: Mapping[str, Mapping[str, Any]],
    before: Displacements | None,
    settings: Mapping[str, Any],
    attempt: Attempts | None = None,
    out: WritableField | None = None,
    measured: bool = True,
) -> Combined:
    """Reject blocks that disagree with their neighbours, repair what failed, reduce all fields to one, and unfold it.

    A block that failed or was rejected is repaired (`weft.registration.repair`): registered again in other ways, or
    filled by what its neighbours found. One that failed by itself and has an affine of its own keeps that
    before it is filled.

    The field is blended and written shard by shard. Memory: a shard, a block, and some kilobytes for each block's row
    and its comparison with its neighbours. Fields of repaired blocks wait in temporary files.

    Parameters
    ----------
    plan
        As `plan_stage` makes it.
    load
        Gives the total displacement of a block, (3, z, y, x) float32 um, on the grid of the block with its halo
        coarsened by 2; None where the stage before is used. Asked for again and again: best a file of which only
        what is needed is read.
    records
        What became of each block: its row of the block table.
    before
        Displacements of the stage before.
    settings
        As `weft.config.registration.Reduce`.
    attempt
        Registers a region again: `weft.registration.stage.StageJob.attempt`; None for no second try.
    out
        Where the field is written to, shard by shard (`weft.transforms.formats.ngff.shard_regions`); None for an
        array in memory.
    measured
        Whether the field's change of volume and its seams are asked for.

    Raises
    ------
    ValueError
        When the settings do not go with the plan, or a field with its block.
    """
    target = field_grid(plan, settings["field_factor"])
    with tempfile.TemporaryDirectory(prefix="weft-") as folder:
        rows, chosen = _choose(plan, load, records, before, settings, attempt, Path(folder))
        return _write(plan, chosen, rows, before, settings, target, out, measured)


def _choose(
    plan: Mapping[str, Any],
    load: Load,
    records: Mapping[str, Mapping[str, Any]],
    before: Displacements | None,
    settings: Mapping[str, Any],
    attempt: Attempts | None,
    folder: Path,
) -> tuple[list[dict[str, Any]], Load]:
    """What is used of each block: the block table, and what gives the fields."""
    limit = settings["agreement"] and settings["agreement"] * Grid.from_json(plan["grid"]).finest
    moved = {name: records[name]["largest_displacement_um"] for name in plan["ids"]}
    agreement = judge_agreement(plan, load, moved, limit)
    rows = {
        name: {**records[name], "block": name, "disagreement_um": agreement.disagreement[name]}
        for name in plan["ids"]
    }
    for name in agreement.rejected:
        rows[name] |= {"status": "disagrees", "used": "parent"}
    failed = {name for name in plan["ids"] if rows[name]["status"] in FAILED}
    replaced: dict[str, Path | None] = dict.fromkeys(agreement.rejected)

    def replace(name: str, u: np.ndarray | None) -> None:
        replaced[name] = None if u is None else folder / f"{name}.npy"
        if u is not None:
            write_array(folder / f"{name}.npy", u)

    def trusted(name: str) -> Field | None:
        return None if name in failed else load(name)

    def chosen(name: str) -> Field | None:
        if name not in replaced:
            return load(name)
        path = replaced[name]
        return None if path is None else np.load(path, mmap_mode="r", allow_pickle=False)

    for name in (name for name in plan["ids"] if name in failed):
        if agreement.limit is None:
            break
        u, changes = repair_block(plan, name, trusted, before, agreement.limit, attempt or no_attempt)
        if changes["used"] == "deformable" or rows[name]["used"] == "parent":
            replace(name, u)
            rows[name] |= changes
        else:
            rows[name]["tries"] = changes["tries"]
    return list(rows.values()), chosen


def _write(
    plan: Mapping[str, Any],
    load: Load,
    rows: list[dict[str, Any]],
    before: Displacements | None,
    settings: Mapping[str, Any],
    target: Grid,
    out: WritableField | None,
    measured: bool,
) -> Combined:
    """Blend, write, measure and unfold the field."""
    blended = _blended(plan, load, target, before, settings)
    field: WritableField = np.empty(blended.shape, np.float32) if out is None else out
    shards = shard_regions(target)
    new_survey = partial(FieldSurvey, target, blended.seams, measured=measured)
    survey = new_survey()
    folds: list[np.ndarray] = []
    for shard in shards:
        # One sample more on every side is blended again: less work than to read it back.
        wide = with_rim(shard, target)
        u = blended[(slice(None), *wide)]
        inner = box(
            *np.transpose([(s.start - w.start, s.stop - w.start) for s, w in zip(shard, wide, strict=True)])
        )
        field[(slice(None), *shard)] = u[(slice(None), *inner)]
        survey.add(shard, wide, u)
        if settings["unfold"]:
            found = folds_within(u, target.crop(wide), inner)
            if len(found):
                folds.append(found + [w.start for w in wide])
    folded, left = np.concatenate(folds) if folds else np.zeros((0, 3), np.int64), 0
    if len(folded):
        left = unfold_parts(field, target, folded)
        survey = new_survey().survey(field, shards)
    facts: dict[str, Any] = {
        "unfolded": len(folded),
        "still_folded": left,
        "residual_um": expected_residual(survey.detail.percentile99, Grid.from_json(plan["grid"]).finest),
    }
    if measured:
        facts |= {"folded": survey.folded, "jacobian": survey.jacobian, "seam_ratio": survey.seam_ratio}
    return Combined(Displacements(field, target), rows, facts)


def _blended(
    plan: Mapping[str, Any],
    load: Load,
    target: Grid,
    before: Displacements | None,
    settings: Mapping[str, Any],
) -> BlendedField:
    """The blocks' fields as one on the target grid."""

    def fields() -> Iterator[BlockField]:
        for name in plan["ids"]:
            core = field_core(plan, name, settings["field_factor"])
            yield BlockField(block_field_grid(plan, name), partial(load, name), core)

    return BlendedField(fields(), target, before, method=settings["method"])
