"""Tables: ROI tables as Fractal's specification has them, and plain files that keep what they are given."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr

from weft.stores.tables import (
    CORNER,
    LENGTHS,
    read_points,
    read_roi_table,
    write_csv,
    write_parquet,
    write_roi_table,
)


@pytest.fixture
def rois():
    table = pd.DataFrame(
        {name: np.arange(3.0) + n for n, name in enumerate((*CORNER, *LENGTHS))}, index=["a", "b", "c"]
    )
    # A label that float32 cannot hold, and words.
    return table.assign(
        label=np.array([614454277, 7, 2**31 + 1], np.uint32), acronym=["CTX", "è", ""], cells=[1, 2, 3]
    )


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_roi_tables_follow_the_specification(tmp_path, rois, zarr_format):
    store = tmp_path / "image.zarr"
    zarr.open_group(str(store), mode="w", zarr_format=zarr_format)
    write_roi_table(store, "regions", rois, kind="masking_roi_table", label_image="annotation")
    write_roi_table(store, "boxes", rois)
    group = zarr.open_group(str(store), mode="r")
    assert group["tables"].attrs["tables"] == ["boxes", "regions"]
    assert {array.metadata.zarr_format for _, array in group["tables/regions"].arrays()} == {zarr_format}
    attributes = dict(group["tables/regions"].attrs)
    assert attributes == {
        "encoding-type": "anndata", "encoding-version": "0.1.0",
        "fractal_table_version": "1", "table_version": "1", "type": "masking_roi_table", "backend": "anndata_v1",
        "index_key": "label", "index_type": "int", "region": {"path": "../labels/annotation"}, "instance_key": "label",
    }  # fmt: skip
    assert group["tables/boxes"].attrs["type"] == "roi_table"
    assert group["tables/boxes"].attrs["index_key"] == "FieldIndex"

    # As anndata, which the specification rests on, reads it.
    annotated = anndata.read_zarr(store / "tables" / "regions")
    assert annotated.X.dtype == np.float32
    assert list(annotated.var_names) == [*CORNER, *LENGTHS, "cells"]
    assert list(annotated.obs_names) == ["a", "b", "c"]
    assert annotated.obs["label"].tolist() == rois["label"].tolist()
    back = read_roi_table(store, "regions")
    assert back["acronym"].astype(str).tolist() == ["CTX", "è", ""]
    np.testing.assert_array_equal(back[list(LENGTHS)], rois[list(LENGTHS)])


def test_roi_tables_refuse(tmp_path, rois):
    store = tmp_path / "image.zarr"
    with pytest.raises(FileNotFoundError, match="no such store"):
        write_roi_table(store, "a", rois)
    zarr.open_group(str(store), mode="w", zarr_format=3)
    write_roi_table(store, "a", rois)
    with pytest.raises(ValueError, match="the table is there already"):
        write_roi_table(store, "a", rois)
    write_roi_table(store, "a", rois.iloc[:1], overwrite=True)
    assert len(read_roi_table(store, "a")) == 1
    for table, kind, label_image, message in [
        (rois.drop(columns="len_y_micrometer"), "roi_table", None, "column 'len_y_micrometer' is missing"),
        (rois.drop(columns="label"), "feature_table", "l", "column 'label' is missing"),
        (rois, "feature_table", None, "masking and feature tables, and only they, need one"),
        (rois, "tabel", None, "kind is 'tabel'"),
        (rois.assign(x_micrometer=np.nan), "roi_table", None, "a box is not finite"),
        (rois.set_axis(["a", "b", "a"]), "roi_table", None, "the name 'a' comes twice"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_roi_table(store, "b", table, kind=kind, label_image=label_image)
    with pytest.raises(ValueError, match="has no table 'b'"):
        read_roi_table(store, "b")


def test_files_keep_values_and_bytes(tmp_path, rois):
    rois = rois.assign(third=1 / 3)
    for name in ("a", "b"):
        write_csv(rois, tmp_path / "deep" / f"{name}.csv")
        write_parquet(rois, tmp_path / "deep" / f"{name}.parquet")
    assert (tmp_path / "deep/a.csv").read_bytes() == (tmp_path / "deep/b.csv").read_bytes()
    assert (tmp_path / "deep/a.parquet").read_bytes() == (tmp_path / "deep/b.parquet").read_bytes()
    assert (tmp_path / "deep/a.csv").read_bytes().count(b"\r") == 0
    back = pd.read_csv(tmp_path / "deep/a.csv", keep_default_na=False, float_precision="round_trip")
    pd.testing.assert_frame_equal(back, rois.reset_index(drop=True), check_dtype=False, check_exact=True)
    back = pd.read_parquet(tmp_path / "deep/a.parquet")
    pd.testing.assert_frame_equal(back, rois.reset_index(drop=True), check_exact=True)
    write_csv(rois, tmp_path / "a.tsv", separator="\t")
    assert (tmp_path / "a.tsv").read_text().startswith("x_micrometer\t")
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_points_are_read_and_checked(tmp_path, suffix):
    points = pd.DataFrame({"name": ["a", "b"], "z": [1, 2], "y": [0.1, 1 / 3], "x": [-5.0, 7e9]})
    path = tmp_path / f"points{suffix}"

    def write(table):
        if suffix == ".parquet":
            write_parquet(table, path)
        else:
            write_csv(table, path, separator="," if suffix == ".csv" else "\t")

    with pytest.raises(FileNotFoundError, match="no such table of points"):
        read_points(path)
    write(points)
    pd.testing.assert_frame_equal(read_points(path), points.astype({"z": float}), check_exact=True)
    write(points.drop(columns="y"))
    with pytest.raises(ValueError, match="column 'y' is missing"):
        read_points(path)
    write(points.assign(x=["1", "left"]))
    with pytest.raises(ValueError, match="x of point 1 is 'left'; wanted a finite number"):
        read_points(path)
    if suffix != ".tsv":
        path.write_bytes(b"")
        with pytest.raises(ValueError, match="cannot be read as a table"):
            read_points(path)
    with pytest.raises(ValueError, match="not the name of a table"):
        read_points(__file__)


def test_tables_of_others_are_read(data_root):
    store = data_root / "apx_hcs/tests/data/hcs_ngff_3D.zarr/B/03/2"
    table = read_roi_table(store, "FOV_ROI_table")
    assert {*CORNER, *LENGTHS} <= set(table.columns)
    wanted = zarr.open_array(str(store / "tables/FOV_ROI_table/X"), mode="r")[:]
    np.testing.assert_array_equal(table.iloc[:, : wanted.shape[1]].to_numpy(np.float32), wanted)
