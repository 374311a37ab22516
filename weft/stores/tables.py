"""Tables: AnnData ROI tables in an OME-Zarr, Parquet and CSV files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import zarr

CORNER = ("x_micrometer", "y_micrometer", "z_micrometer")
LENGTHS = ("len_x_micrometer", "len_y_micrometer", "len_z_micrometer")
_KINDS = ("roi_table", "masking_roi_table", "feature_table", "generic_table")


def write_roi_table(
    store_path: str | Path,
    name: str,
    table: pd.DataFrame,
    *,
    kind: Literal["roi_table", "masking_roi_table", "feature_table", "generic_table"] = "roi_table",
    label_image: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a table into the group ``tables`` of an OME-Zarr image, as Fractal's table specification V1 has it.

    Columns of numbers become the matrix X (float32), all others, and the integers of ``label``, the observations'
    own columns, where no number is rounded. The Zarr format is that of the store.

    Parameters
    ----------
    store_path
        The OME-Zarr image.
    name
        Name of the table.
    table
        One row per region; its index (strings) names them. Tables of regions of interest have the columns
        ``{x,y,z}_micrometer`` (lower corner: face of the first voxel, not its centre) and
        ``len_{x,y,z}_micrometer``.
    kind
        ``roi_table``: boxes. ``masking_roi_table``: boxes around the regions of a label image.
        ``feature_table``: any numbers of such regions. ``generic_table``: neither.
    label_image
        Name of the label image in the store's group ``labels`` whose values the column ``label`` holds; for
        masking and feature tables.
    overwrite
        Replace a table of this name.

    Raises
    ------
    FileNotFoundError
        When the store is not there.
    ValueError
        When a column is missing, a row's name comes twice, boxes are not finite, or the table is there.
    """
    import anndata

    if not Path(store_path).exists():
        raise FileNotFoundError(
            f"{store_path}: no such store; wanted an OME-Zarr image to hold table {name!r}"
        )
    where = f"{store_path}/tables/{name}"
    _check(table, kind, label_image, where)
    store = zarr.open_group(str(store_path), mode="r+")
    tables = store.require_group("tables")
    if name in tables:
        if not overwrite:
            raise ValueError(f"{where}: the table is there already; wanted another name, or `overwrite`")
        del tables[name]

    numbers = [c for c in table.columns if c != "label" and table[c].dtype.kind in "fiub"]
    others = [c for c in table.columns if c not in numbers]
    names = table.index.astype(str)
    annotated = anndata.AnnData(
        X=table[numbers].to_numpy(np.float32),
        obs=table[others].set_axis(names, axis=0),
        var=pd.DataFrame(index=pd.Index(numbers, dtype=str)),
    )
    with anndata.settings.override(zarr_write_format=store.metadata.zarr_format, auto_shard_zarr_v3=False):
        anndata.io.write_elem(tables, name, annotated)
    by_label = label_image is not None
    attributes: dict[str, Any] = {
        "type": kind,
        "fractal_table_version": "1",
        "table_version": "1",
        "backend": "anndata_v1",
        "index_key": "label" if by_label else "FieldIndex",
        "index_type": "int" if by_label else "str",
    }
    if by_label:
        attributes |= {"region": {"path": f"../labels/{label_image}"}, "instance_key": "label"}
    tables[name].attrs.update(attributes)
    listed: Any = tables.attrs.get("tables", [])
    tables.attrs["tables"] = sorted({*listed, name})


def read_roi_table(store_path: str | Path, name: str) -> pd.DataFrame:
    """A table that `write_roi_table` wrote (or Fractal): X's columns, then those of the observations.

    Raises
    ------
    ValueError
        When the store has no such table.
    """
    import anndata

    group = zarr.open_group(str(store_path), mode="r")
    if f"tables/{name}" not in group:
        raise ValueError(f"{store_path}: has no table {name!r} in its group `tables`")
    annotated = anndata.io.read_elem(group[f"tables/{name}"])
    return pd.concat([annotated.to_df(), annotated.obs], axis=1)


def read_points(path: str | Path) -> pd.DataFrame:
    """A table of points: CSV (``.csv``), tab-separated text (``.tsv``, ``.txt``) or Parquet (``.parquet``).

    Its columns z, y, x, um, become float64; all others are kept.

    Raises
    ------
    FileNotFoundError
        When the file is missing.
    ValueError
        When its name ends otherwise, it is broken, a column is missing, or a position is no finite number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table of points; wanted columns z, y, x in micrometres")
    if path.suffix.lower() not in (".csv", ".tsv", ".txt", ".parquet"):
        raise ValueError(
            f"{path}: not the name of a table; wanted one that ends in .csv, .tsv, .txt or .parquet"
        )
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(
                path, sep="," if path.suffix.lower() == ".csv" else "\t", float_precision="round_trip"
            )
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as a table ({' '.join(str(error).split())})") from error
    for axis in "zyx":
        if axis not in table:
            raise ValueError(f"{path}: column {axis!r} is missing; wanted z, y, x in micrometres")
        numbers = pd.to_numeric(table[axis], errors="coerce").to_numpy(float)
        if not np.isfinite(numbers).all():
            line = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise ValueError(
                f"{path}: {axis} of point {line} is {table[axis].iloc[line]!r}; wanted a finite number"
            )
        table[axis] = numbers
    return table


def write_parquet(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as Parquet (zstd), without its index; the file appears whole or not at all."""
    partial = Path(f"{path}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(partial, engine="pyarrow", compression="zstd", index=False)
    os.replace(partial, path)


def write_csv(table: pd.DataFrame, path: str | Path, *, separator: str = ",") -> None:
    """Write a table as text, without its index; floats in the shortest form that reads back the same.

    The same table gives the same bytes; the file appears whole or not at all.
    """
    partial = Path(f"{path}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(partial, sep=separator, index=False, lineterminator="\n", encoding="utf-8")
    os.replace(partial, path)


def _check(table: pd.DataFrame, kind: str, label_image: str | None, where: str) -> None:
    if kind not in _KINDS:
        raise ValueError(f"{where}: kind is {kind!r}; wanted one of {', '.join(_KINDS)}")
    if (kind in ("masking_roi_table", "feature_table")) != (label_image is not None):
        raise ValueError(
            f"{where}: a {kind} with label image {label_image!r}; masking and feature tables, and only they, need one"
        )
    needed = [*CORNER, *LENGTHS] if kind in ("roi_table", "masking_roi_table") else []
    if label_image is not None:
        needed.append("label")
    if lost := [column for column in needed if column not in table.columns]:
        raise ValueError(f"{where}: column {lost[0]!r} is missing; a {kind} needs {', '.join(needed)}")
    boxes = table[[column for column in needed if column != "label"]].to_numpy(float)
    if not np.isfinite(boxes).all():
        raise ValueError(
            f"{where}: a box is not finite; wanted numbers of micrometres in {', '.join(needed)}"
        )
    if not table.index.is_unique:
        raise ValueError(
            f"{where}: the name {table.index[table.index.duplicated()][0]!r} comes twice; wanted one row per region"
        )
