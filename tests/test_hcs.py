"""Wells whose fields of view overlap: as images with translations, with a table, and as Fractal's regions."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr

from weft.readers.hcs import open_hcs

SHAPE = (2, 3, 8, 10)  # c, z, y, x
PLACES = [(0, 0, 0), (0, 0.5, 4.5), (0, 3.6, 0)]  # um, (z, y, x)


def voxels(count=3):
    return np.random.default_rng(0).integers(0, 60000, (count, *SHAPE)).astype("u2")


def write_image(folder: Path, data, translation=None, scale=(1, 2, 0.5, 0.5)) -> zarr.Group:
    group = zarr.open_group(str(folder), mode="w", zarr_format=2)
    group.create_array("0", data=data, chunks=(1, 1, 4, 5))
    steps = [{"type": "scale", "scale": list(scale)}]
    if translation is not None:
        steps.append({"type": "translation", "translation": [0, *translation]})
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    group.attrs["multiscales"] = [
        {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    ]
    group.attrs["omero"] = {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}
    return group


def write_well(well: Path, images) -> Path:
    """``images``: (path, acquisition)."""
    group = zarr.open_group(str(well), mode="a", zarr_format=2)
    group.attrs["well"] = {"version": "0.4", "images": [{"path": p, "acquisition": a} for p, a in images]}
    return well


def test_fields_that_are_images_lie_where_they_say(tmp_path):
    truth = voxels()
    well = tmp_path / "plate.zarr/B/03"
    for n in range(3):
        write_image(well / str(n), truth[n], PLACES[n])
    write_image(well / "3", truth[0] + 1, (0, 0, 0))
    write_well(well, [("0", 0), ("1", 0), ("2", 0), ("3", 4)])
    tiles = open_hcs(well, acquisition="0")
    assert (tiles.shape, tiles.spacing, tiles.channels) == (SHAPE[1:], (2, 0.5, 0.5), ("DAPI", "GFP"))
    np.testing.assert_allclose(tiles.positions(), PLACES)
    travelled = pickle.loads(pickle.dumps(tiles))  # noqa: S301
    region = (slice(1, 3), slice(2, 7), slice(4, 9))
    for n in range(3):
        np.testing.assert_array_equal(tiles.read(n, 1), truth[n, 1])
        np.testing.assert_array_equal(travelled.read(n, 0, region), truth[n, 0][region])
    (one,) = open_hcs(well, acquisition=4).tiles
    assert one.name == "3"
    np.testing.assert_array_equal(open_hcs(well, acquisition=4).read(0), truth[0, 0] + 1)
    with pytest.raises(ValueError, match="it has the acquisitions 0, 4; say which is read"):
        open_hcs(well)
    with pytest.raises(ValueError, match="it has the acquisitions 0, 4"):
        open_hcs(well, acquisition=2)


def test_a_table_says_where_fields_lie(tmp_path):
    truth = voxels()
    for n in range(3):
        write_image(tmp_path / str(n), truth[n])
    write_well(tmp_path, [(str(n), 0) for n in range(3)])
    with pytest.raises(ValueError, match="all fields lie at"):
        open_hcs(tmp_path)
    lines = [f"f{n},{n},{z},{y},{x}" for n, (z, y, x) in enumerate(PLACES)]
    (tmp_path / "places.csv").write_text("\n".join(["tile,path,z,y,x", *lines]))
    np.testing.assert_allclose(open_hcs(tmp_path, table="places.csv").positions(), PLACES)
    turned = open_hcs(tmp_path, table="places.csv", flip="y").positions()
    np.testing.assert_allclose(turned[:, 1], [3.6, 3.1, 0])
    (tmp_path / "places.csv").write_text("\n".join(["tile,path,z,y,x", *lines[:2]]))
    with pytest.raises(ValueError, match="image '2' of the well is not in it"):
        open_hcs(tmp_path, table="places.csv")
    with pytest.raises(ValueError, match="leaves"):
        open_hcs(tmp_path, table="../places.csv")


def write_rois(image: Path, values, names, columns=None):
    columns = columns or [
        *(f"{a}_micrometer" for a in "xyz"),
        *(f"len_{a}_micrometer" for a in "xyz"),
        "x_micrometer_original",
        "y_micrometer_original",
    ]
    table = zarr.open_group(str(image / "tables/FOV_ROI_table"), mode="w", zarr_format=2)
    table.create_array("X", data=np.asarray(values, "f4"))
    for name, index in (("var", columns), ("obs", names)):
        group = table.create_group(name)
        group.attrs["_index"] = "_index"
        data = np.array(index)
        group.create_array("_index", shape=data.shape, dtype=data.dtype)[:] = data


def test_fields_that_are_regions_are_cut_from_their_image(tmp_path):
    truth = voxels(2)
    write_image(tmp_path / "0", np.concatenate(truth, axis=3))
    write_well(tmp_path, [("0", 0)])
    rows = [(0, 0, 0, 5, 4, 6, 100.5, 7), (5, 0, 0, 5, 4, 6, 104.75, 7.5)]
    write_rois(tmp_path / "0", rows, ["FOV_1", "FOV_2"])
    tiles = open_hcs(tmp_path)
    assert [tile.name for tile in tiles.tiles] == ["FOV_1", "FOV_2"]
    np.testing.assert_allclose(tiles.positions(), [(0, 7, 100.5), (0, 7.5, 104.75)])
    for n, c in np.ndindex(2, 2):
        np.testing.assert_array_equal(tiles.read(n, c), truth[n, c])
    write_rois(tmp_path / "0", [(*rows[0][:3], 50, *rows[0][4:])], ["FOV_1"])
    with pytest.raises(
        ValueError, match=r"region 'FOV_1' is \[0, 100\) voxels along x; wanted a part of the image's 20"
    ):
        open_hcs(tmp_path)
    write_rois(tmp_path / "0", [rows[0][:6]], ["FOV_1"], columns=[f"{a}_micrometer" for a in "xyzabc"])
    with pytest.raises(ValueError, match="column 'len_z_micrometer' is missing"):
        open_hcs(tmp_path)


def test_what_is_no_well_is_refused(tmp_path, data_root):
    write_image(tmp_path / "0", voxels(1)[0])
    with pytest.raises(ValueError, match="it is no well of a plate"):
        open_hcs(tmp_path / "0")
    write_well(tmp_path, [("../0", 0)])
    with pytest.raises(ValueError, match=r"the path '\.\./0' leaves"):
        open_hcs(tmp_path)
    # Three rounds of one field: nothing to stitch, and its metadata do not call them acquisitions.
    with pytest.raises(ValueError, match="all fields lie at"):
        open_hcs(data_root / "apx_hcs/tests/data/hcs_ngff_2D.zarr/B/03")
