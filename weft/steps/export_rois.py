"""Rule export_rois: what lies in each region, in the moving image's own space."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from weft import receipts
from weft.grid import Grid
from weft.image import Image
from weft.logs import log, progress
from weft.ontology import Ontology, Structure
from weft.rois import LEFT, NONE, RIGHT, MeasuredBlock, measure_regions, roi_table
from weft.steps.regions import region_names, split_name
from weft.steps.sources import open_received
from weft.stores.ome_zarr import image_metadata, link_level, open_level
from weft.stores.tables import write_csv, write_parquet, write_roi_table
from weft.transforms import open_transform
from weft.transforms.model import Sequence

SIDE_STEP = 8  # voxels between the points at which the side is looked up


def export_rois(
    *,
    fixed: str,
    moving: str,
    labels: str,
    inverse: str,
    points: list[str],
    names: dict[str, str],
    ontology: str | None,
    code: str,
    csv: str,
    parquet: str,
    receipt: str,
    ontology_source: Any = None,
) -> None:
    """Measure the regions of the inverse-warped annotation on the moving image's voxels."""
    image, facts = open_received(moving)
    annotation, label_facts = open_received(labels)
    atlas = receipts.read(fixed)
    if annotation.grid != image.grid:
        raise ValueError(
            f"{labels}: the annotation's grid is not that of {names['moving']!r}; leave warp.spacing empty"
        )
    cells = [pd.read_parquet(path)[["z", "y", "x"]].to_numpy(float) for path in points]
    tree = Ontology.read(ontology) if ontology else _flat_ontology(annotation)
    sequence = open_transform(inverse)
    table = measure_regions(
        _blocks(image, annotation, Path(labels), sequence, atlas),
        image.grid,
        image.channels,
        tree,
        np.concatenate(cells) if cells else None,
    )
    if table.attrs["unknown_regions"]:
        log.warning("the ontology does not know the regions %s", table.attrs["unknown_regions"][:20])
    outside = {str(k): int(value) for k, value in table.attrs.items() if str(k).endswith("outside")}
    table.attrs = {}
    write_csv(table, csv)
    write_parquet(table, parquet)
    made_of = [facts["data"], label_facts["data"], label_facts["metadata"], receipts.file_digest(csv), code]
    store = receipts.KeyedStore(
        Path(receipt).with_name("regions.ome.zarr"), receipts.digest([made_of, receipts.environment("zarr")])
    )
    with receipts.job_lock(receipt):
        if not store.done("all"):
            store.restart()
            _write_store(store.partial, table, annotation, Path(labels).parent / label_facts["store"])
            store.finish("all", {}, files=receipts.file_digests(store.partial))
        records = store.records(["all"])
        store.publish(receipt)
        receipts.write_provenance(receipt, key=store.key, code=code)
        receipts.write(
            receipt,
            {
                "store": store.public.name,
                "regions": int(table["id"].nunique()),
                **outside,
                "data": store.data_digest(records),
            },
        )


def _blocks(
    image: Image, annotation: Image, labels: Path, sequence: Sequence, atlas: dict[str, Any]
) -> Iterator[MeasuredBlock]:
    """The volume shard by shard: annotation, sides and intensities."""
    array = open_level(labels.parent / receipts.read(labels)["store"] / "0", "r")
    regions = region_names(array)
    grid = Grid.from_json(atlas["grid"])
    for name in progress(regions, len(regions), "export_rois: regions"):
        _, where = split_name(name, array)
        ids = annotation.levels[0].read(0, where)
        sides = _sides(image.grid.crop(where), sequence, grid, atlas["orientation"])
        intensities = np.stack(
            [image.levels[0].read(channel, where) for channel in range(len(image.channels))]
        )
        yield MeasuredBlock(where, ids, sides, intensities)


def _flat_ontology(annotation: Image) -> Ontology:
    """Regions named by their ids, none part of another: for an annotation without a table of names."""
    coarse = annotation.levels[-1].read(0)
    ids = set(np.unique(coarse).tolist()) | {1}
    return Ontology(tuple(Structure(i, str(i), str(i), None) for i in sorted(ids - {0})))


def _sides(block: Grid, sequence: Sequence, atlas: Grid, orientation: str | None) -> np.ndarray:
    """Side of every voxel of a block: that of the atlas position it comes from.

    The distance to the mid-plane is smooth, so that it is taken on every eighth voxel and interpolated.
    """
    if orientation is None:
        return np.full(block.shape, NONE, np.uint8)
    axis = next(n for n, letter in enumerate(orientation) if letter in "lr")
    middle = float(atlas.lower[axis] + atlas.extent[axis] / 2)
    knots = [np.unique(np.append(np.arange(0, n, SIDE_STEP), n - 1)) for n in block.shape]
    mesh = np.stack(np.meshgrid(*knots, indexing="ij"), -1).reshape(-1, 3)
    distance = (sequence.apply(block.to_physical(mesh))[:, axis] - middle).reshape([len(k) for k in knots])
    for n, size in enumerate(block.shape):
        distance = _interpolate(distance, knots[n], size, n)
    positive = RIGHT if orientation[axis] == "r" else LEFT
    negative = LEFT if positive == RIGHT else RIGHT
    return np.where(distance > 0, positive, np.where(distance < 0, negative, NONE)).astype(np.uint8)


def _interpolate(values: np.ndarray, knots: np.ndarray, size: int, axis: int) -> np.ndarray:
    if len(knots) == 1:
        return np.repeat(values, size, axis)
    position = np.arange(size)
    upper = np.clip(np.searchsorted(knots, position, "right"), 1, len(knots) - 1)
    shape = [1, 1, 1]
    shape[axis] = -1
    weight = ((position - knots[upper - 1]) / (knots[upper] - knots[upper - 1])).reshape(shape)
    return np.take(values, upper - 1, axis) * (1 - weight) + np.take(values, upper, axis) * weight


def _write_store(path: Path, table: pd.DataFrame, annotation: Image, source: Path) -> None:
    """An OME-Zarr with the annotation as a label image and the regions as a table of regions of interest."""
    grids = [level.grid for level in annotation.levels]
    root = zarr.open_group(str(path), mode="a", zarr_format=3)
    labels = root.require_group("labels")
    labels.attrs["ome"] = {"version": "0.5", "labels": ["annotation"]}
    group = labels.require_group("annotation")
    for n in range(len(grids)):
        link_level(source / str(n), path / "labels" / "annotation" / str(n))
    group.attrs["ome"] = image_metadata(
        grids,
        channels=annotation.channels,
        orientation=annotation.orientation,
        labels=True,
        name="annotation",
    )
    write_roi_table(
        path, "regions", roi_table(table), kind="masking_roi_table", label_image="annotation", overwrite=True
    )
