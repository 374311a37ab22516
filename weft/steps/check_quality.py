"""Rule check_quality: what a registration gained, and where it is to be looked at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.blocks import block_at, region
from weft.grid import Grid
from weft.image import Image, Region, box
from weft.logs import log
from weft.quality.landmarks import landmark_errors, read_landmarks, summarise_landmarks
from weft.quality.likeness import LOCAL, Likeness, compare_images, comparison_grid, worst_regions
from weft.quality.overlap import LabelOverlap, label_overlap, summarise_overlap
from weft.quality.volume_change import TILE, VolumeChange, volume_change
from weft.registration.ledger import read_ledger
from weft.registration.survey import overview
from weft.steps.levels import image_facts
from weft.steps.quality import collect_quality, write_quality
from weft.steps.sources import channel_of, open_received
from weft.stores.ome_zarr import create_image, create_level, open_level, write_region
from weft.transforms import open_transform
from weft.transforms.model import Displacements

MAPS = ("local_ncc_affine", "local_ncc")  # channels of the map
LAYOUT: dict[str, Any] = {"chunk": (64, 64, 64), "shard": (64, 64, 64)}
SAMPLES: dict[str, Any] = {
    "chunk": (64, 64, 64),
    "shard": (TILE, TILE, TILE),
}  # a part that is measured is a shard
FLATTEST = (
    1e-3  # determinants below count as this one in the map of logarithms: where space folds it has none
)
LIKENESS = ("voxels", "ncc_affine", "ncc", "mutual_information_affine", "mutual_information", *LOCAL)
JACOBIAN = ("jacobian_min", "jacobian_p1", "jacobian_p99", "jacobian_folded_fraction")
ROUND_TRIP = ("round_trip_p50_um", "round_trip_p95_um", "round_trip_max_um")
BLOCKS = (
    *("block", "z_um", "y_um", "x_um", "status", "used"),
    *LIKENESS,
    *JACOBIAN,
    *("disagreement_um", *ROUND_TRIP),
    *("landmarks", "tre_median_um", "labels", "dice_affine", "dice"),
)
REGIONS = ("region", "z_um", "y_um", "x_um", "local_ncc_affine", "local_ncc", "block")
LANDMARKS = (
    "landmark",
    *(
        f"{role}_{axis}"
        for role in ("fixed", "moving", "mapped", "landed_affine", "landed")
        for axis in "zyx"
    ),
    *("tre_affine_um", "tre_um", "tre_inverse_um", "inside"),
)
LABELS = ("label", "voxels_fixed", "voxels_moved", "dice_affine", "dice", "in_both")


def check_quality(
    *,
    parts: list[str],
    round_trip: str,
    fixed: str,
    moving: str,
    affine: str,
    transform: str,
    inverse: str,
    plan: str | list[str],
    ledger: str | list[str],
    landmarks: list[str],
    landmark_paths: list[str],
    fixed_labels: str | list[str],
    moving_labels: str | list[str],
    channels: dict[str, str | None],
    settings: dict[str, Any],
    gates: dict[str, Any],
    code: str,
    quality: str,
    local_ncc: str,
    log_jacobian: str,
    block_table: str,
    region_table: str,
    landmark_table: str,
    label_table: str,
) -> None:
    """Measure a registration before (affine) and after, as a whole, block by block and place by place; collect all gates.

    ``plan`` and ``ledger`` are those of the last stage and, as the label images, empty where there are none; of
    ``landmarks`` the paths are read that ``landmark_paths`` names. ``round_trip`` is what rule invert_transform measured,
    of every block too.
    """
    planned = receipts.read(plan) if isinstance(plan, str) else None
    labels = [path for path in (fixed_labels, moving_labels) if isinstance(path, str)]
    images = [fixed, moving, *(labels if len(labels) == 2 else [])]
    facts = [receipts.read(path) for path in images]
    key = receipts.digest(
        [
            [[fact["data"], fact["grid"]] for fact in facts],
            [receipts.read(path)["data"] for path in (affine, transform, inverse)],
            [receipts.file_digest(path) for path in landmark_paths],
            [planned, channels, settings, code, receipts.environment("numba", "scipy", "zarr")],
        ]
    )
    store = receipts.KeyedStore(Path(local_ncc).with_name("local_ncc.ome.zarr"), key)
    change = receipts.KeyedStore(Path(log_jacobian).with_name("log_jacobian.ome.zarr"), key)
    with receipts.job_lock(quality):
        if not (store.done("all") and change.done("all")):
            store.restart()
            change.restart()
            found = _measure(
                images, (affine, transform, inverse), landmark_paths, planned, channels, settings, change
            )
            shards = _write_maps(store, *found.pop("maps"))
            store.finish("all", shards, **_plain(found))
        found = store.records(["all"])["all"]
        orientation = facts[0]["orientation"]
        rows = {row["block"]: row for row in (read_ledger(ledger) if isinstance(ledger, str) else [])}
        values = found["values"] | _agreement(rows.values(), planned)
        own = f"{quality}.own.json"
        write_quality(own, "check_quality", Path(quality).parent.name, _numbers(values), gates)
        for maps, receipt, names in ((store, local_ncc, MAPS), (change, log_jacobian, ("log_jacobian",))):
            made = maps.records(["all"])
            cells = [Grid.from_json(made["all"]["cells"])]
            about: dict[str, Any] = {"channels": names, "orientation": orientation, "labels": False}
            create_image(maps.path, cells, np.float32, name=Path(receipt).stem, arrays=False, **about)
            maps.publish(receipt)
            receipts.write_provenance(receipt, key=maps.key, settings=settings, code=code)
            receipts.write(receipt, image_facts(maps, made, cells, dtype=np.float32, **about))
        trips = receipts.read(round_trip)["blocks"]
        _write_table(
            block_table,
            BLOCKS,
            [rows.get(row["block"], {}) | trips.get(row["block"], {}) | row for row in found["blocks"]],
        )
        _write_table(region_table, REGIONS, found["regions"])
        _write_table(landmark_table, LANDMARKS, found["landmarks"])
        _write_table(label_table, LABELS, found["labels"])
        receipts.write(quality, collect_quality([*parts, own]))
        Path(own).unlink()


def _measure(
    images: list[str],
    transforms: tuple[str, str, str],
    landmark_paths: list[str],
    plan: dict[str, Any] | None,
    channels: dict[str, str | None],
    settings: dict[str, Any],
    log_jacobian: receipts.KeyedStore,
) -> dict[str, Any]:
    """All that is measured anew: ``values``, the rows of the tables, and the maps with their grid; one map is written."""
    opened = [open_received(path)[0] for path in images]
    pick: list[tuple[Image, int]] = [
        (image, channel_of(image.channels, channels[role], f"{role}_channel"))
        for role, image in zip(("fixed", "moving"), opened[:2], strict=True)
    ]
    affine, transform, inverse = (open_transform(path) for path in transforms)
    grid = comparison_grid(pick[0][0].grid, settings["spacing"])
    likeness = compare_images(pick[0], pick[1], affine, transform, grid, plan, overview(*pick[0]).background)
    _, displacements, _ = transform.split()
    content = likeness.content, likeness.cells
    change = _write_change(log_jacobian, displacements, likeness.cells, plan, content)
    values = {**likeness.values, **change.values}
    log.info(
        "compared at %.4g um: ncc %.4f -> %.4f",
        values["comparison_spacing_um"],
        values["ncc_affine"],
        values["ncc"],
    )
    marks: list[dict[str, Any]] = []
    if landmark_paths:
        pairs = read_landmarks(landmark_paths, opened[0].grid, opened[1].grid)
        marks = landmark_errors(pairs, affine, transform, inverse)
        values |= summarise_landmarks(marks, opened[0].grid, opened[1].grid)
    overlap: LabelOverlap | None = None
    if len(opened) == 4:
        overlap = label_overlap(opened[2], opened[3], affine, transform, plan)
        values |= summarise_overlap(overlap.labels, overlap.grid)
    return {
        "values": values,
        "blocks": [] if plan is None else _block_rows(plan, likeness, change, marks, overlap),
        "regions": worst_regions(likeness, plan),
        "landmarks": marks,
        "labels": [] if overlap is None else overlap.labels,
        "cells": likeness.cells.to_json(),
        "maps": (likeness.cells, [likeness.local_ncc_affine, likeness.local_ncc]),
    }


def _block_rows(
    plan: dict[str, Any],
    likeness: Likeness,
    change: VolumeChange,
    marks: list[dict[str, Any]],
    overlap: LabelOverlap | None,
) -> list[dict[str, Any]]:
    errors: dict[str, list[float]] = {name: [] for name in plan["ids"]}
    for mark in marks:
        if mark["inside"]:
            place = np.array([mark[f"fixed_{axis}"] for axis in "zyx"])
            errors[block_at(plan, place)].append(mark["tre_um"])
    return [
        {
            "block": name,
            **_centre(plan, name),
            **likeness.blocks[name],
            **change.blocks.get(name, {}),
            "landmarks": len(errors[name]),
            "tre_median_um": float(np.median(errors[name])) if errors[name] else math.nan,
            **({} if overlap is None else overlap.blocks.get(name, {})),
        }
        for name in plan["ids"]
    ]


def _write_change(
    store: receipts.KeyedStore,
    displacements: Displacements | None,
    cells: Grid,
    plan: dict[str, Any] | None,
    content: tuple[np.ndarray, Grid],
) -> VolumeChange:
    """Measure the change of volume, and write its logarithm where it is measured: at the field's samples."""
    grid = cells if displacements is None else displacements.grid
    create_level(store.path / "0", grid, 1, np.float32, **SAMPLES)
    array = open_level(store.path / "0")
    shards: dict[str, str] = {}

    def keep(part: Region, determinants: np.ndarray) -> None:
        shards.update(write_region(array, 0, part, np.log(np.maximum(determinants, FLATTEST)), "0"))

    change = volume_change(displacements, plan, content, keep)
    if displacements is None:  # an affine alone
        shards = write_region(array, 0, box((0, 0, 0), grid.shape), None, "0")
    store.finish("all", shards, cells=grid.to_json())
    return change


def _write_maps(store: receipts.KeyedStore, cells: Grid, maps: list[np.ndarray]) -> dict[str, str]:
    create_level(store.path / "0", cells, len(maps), np.float32, **LAYOUT)
    array = open_level(store.path / "0")
    digests: dict[str, str] = {}
    for channel, values in enumerate(maps):
        digests |= write_region(array, channel, box((0, 0, 0), cells.shape), values, "0")
    return digests


def _agreement(rows: Iterable[Mapping[str, Any]], plan: dict[str, Any] | None) -> dict[str, Any]:
    """How far neighbouring blocks of the last stage differ in their overlap, those that are used."""
    lengths = [float(row["disagreement_um"]) for row in rows if row["used"] == "deformable"]
    if plan is None or len(lengths) < 2:
        return {}
    p95 = float(np.percentile(lengths, 95))
    return {
        "disagreement_median_um": float(np.median(lengths)),
        "disagreement_p95_um": p95,
        "disagreement_p95_voxel": p95 / plan["grid"]["spacing"][0],
    }


def _centre(plan: dict[str, Any], name: str) -> dict[str, float]:
    grid = Grid.from_json(plan["grid"]).crop(region(name, plan["grid"]["shape"], plan["block"]))  # type: ignore[arg-type]
    middle = (grid.lower + grid.upper) / 2
    return {f"{axis}_um": float(v) for axis, v in zip("zyx", middle, strict=True)}


def _plain(value: Any) -> Any:
    """Values as JSON holds them: what is no finite number becomes null."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Values out of JSON: null is not a number."""
    return {name: math.nan if value is None else value for name, value in values.items()}


def _write_table(path: str, columns: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> None:
    """A tab-separated table: the same rows, the same bytes; what is not known stays empty."""
    lines = ["\t".join(columns), *("\t".join(_text(row.get(name)) for name in columns) for row in rows)]
    receipts.write_text(path, "\n".join(lines) + "\n")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
