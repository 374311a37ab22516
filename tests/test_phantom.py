"""The phantom: its files, its truth against itself, its hardness."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import tifffile
from scipy.ndimage import map_coordinates

from weft.phantom import make_phantom, phantom_settings

MICRO = {
    "pixels": 48,
    "planes": 24,
    "z_step": 214,
    "jitter": 1.0,
    "registration_voxel": 200.0,
    "deformation": 2.0,
    "cells": 200,
}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    make_phantom(folder, MICRO, seed=3)
    return folder


@pytest.fixture(scope="module")
def truth(phantom: Path) -> dict:
    return json.loads((phantom / "truth" / "truth.json").read_text())


@pytest.fixture(scope="module")
def transform(phantom: Path) -> dict[str, np.ndarray]:
    with np.load(phantom / "truth" / "transform.npz", allow_pickle=False) as file:
        return dict(file)


def labels_of(phantom: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(phantom / "atlas" / "annotation.nrrd")))


def to_atlas(transform: dict[str, np.ndarray], points: np.ndarray) -> np.ndarray:
    """The inverse in closed form, as truth/README.txt states it, by SciPy's spline."""
    index = (points - transform["lattice_origin"]) / transform["lattice_spacing"]
    moved = [map_coordinates(part, index.T, order=3, prefilter=False) for part in transform["lattice"]]
    affine = transform["inverse_affine"]
    return points @ affine[:3, :3].T + affine[:3, 3] + np.stack(moved, axis=1)


def tile(phantom: Path, name: str, channel: str) -> np.ndarray:
    planes = sorted((phantom / "sample" / "VW0" / name).glob(f"*{channel}*.tif"))
    return np.stack([tifffile.imread(path) for path in planes])


def test_both_directions_agree(phantom: Path, truth: dict, transform: dict) -> None:
    grid = truth["fixed_grid"]
    index = np.stack(np.meshgrid(*map(np.arange, grid["shape"]), indexing="ij"), axis=-1).reshape(-1, 3)
    points = index * np.array(grid["spacing"]) + grid["origin"]
    back = to_atlas(transform, transform["points"].reshape(3, -1).T.astype(float))
    assert np.abs(back - points).max() < 0.01


def test_labels_of_the_sample_are_the_atlas_seen_through_the_transform(
    phantom: Path, truth: dict, transform: dict
) -> None:
    labels = np.load(phantom / "truth" / "labels.npy")
    grid, atlas = truth["label_grid"], labels_of(phantom)
    assert list(labels.shape) == grid["shape"]
    index = np.stack(np.meshgrid(*map(np.arange, labels.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    there = to_atlas(transform, index * np.array(grid["spacing"]) + grid["origin"])
    place = np.rint(there / truth["registration_voxel"]).astype(int)
    inside = np.all((place >= 0) & (place < atlas.shape), axis=1)
    seen = np.zeros(len(place), np.uint32)
    seen[inside] = atlas[tuple(place[inside].T)]
    tissue = labels.ravel() > 0
    assert labels.dtype == np.uint32
    # voxels are as large as a fifth of a region here; the rest is within a voxel of a border
    assert (seen == labels.ravel())[tissue].mean() > 0.75
    wrong = np.random.default_rng(0).permutation(seen)
    assert (wrong == labels.ravel())[tissue].mean() < 0.1


def test_cells_lie_in_their_regions_and_shine(phantom: Path, truth: dict, transform: dict) -> None:
    cells = pd.read_csv(phantom / "truth" / "cells.csv")
    here = cells[["z", "y", "x"]].to_numpy()
    there = cells[["atlas_z", "atlas_y", "atlas_x"]].to_numpy()
    assert np.abs(to_atlas(transform, here) - there).max() < 0.01
    atlas = labels_of(phantom)
    seen = atlas[tuple(np.rint(there / truth["registration_voxel"]).astype(int).T)]
    clear = cells["distance"] > 1.0
    assert clear.sum() > 5
    assert (seen == cells["region"])[clear].all()
    given = pd.read_csv(phantom / "sample" / "cells.csv")
    assert list(given.columns) == ["cell", "z", "y", "x"]
    np.testing.assert_array_equal(given[["z", "y", "x"]], here)
    marks = pd.read_csv(phantom / "sample" / "landmarks.csv")
    picked = marks["name"].str.removeprefix("cell ").astype(int)
    assert len(marks) >= 30
    np.testing.assert_array_equal(marks[["moving_z", "moving_y", "moving_x"]], here[picked])
    np.testing.assert_array_equal(marks[["fixed_z", "fixed_y", "fixed_x"]], there[picked])

    tiles = pd.read_csv(phantom / "truth" / "tiles.tsv", sep="\t").set_index("tile")
    place = tiles.loc["LOC001", ["z", "y", "x"]].to_numpy(float)
    voxels = tile(phantom, "LOC001", "CHN01").astype(float)
    index = np.rint((here - place) / truth["voxel"]).astype(int)
    index = index[np.all((index >= 0) & (index < voxels.shape), axis=1)]
    tissue = voxels[voxels > 300]
    assert len(index) > 10
    assert np.median(voxels[tuple(index.T)]) > 1.5 * np.median(tissue)


def test_tiles_overlap_where_the_truth_says(phantom: Path, truth: dict) -> None:
    """Two tiles, corrected by the true gain and dark, agree in their overlap at the true place only."""
    tiles = pd.read_csv(phantom / "truth" / "tiles.tsv", sep="\t").set_index("tile")
    gain = np.load(phantom / "truth" / "gain_CHN00.npy")
    dark = np.load(phantom / "truth" / "dark.npy")
    a, b = ((tile(phantom, name, "CHN00") - dark) / gain for name in ("LOC001", "LOC004"))
    places = tiles.loc[["LOC001", "LOC004"], ["z", "y", "x"]].to_numpy(float)
    shift = (places[1] - places[0]) / truth["voxel"]

    def difference(extra: tuple[float, float, float]) -> float:
        index = np.stack(np.meshgrid(*map(np.arange, b.shape), indexing="ij")).astype(float)
        index += (shift + extra)[:, None, None, None]
        limits = np.array(a.shape)[:, None, None, None] - 1
        inside = np.all((index >= 0) & (index <= limits), axis=0)
        seen = map_coordinates(a, index[:, inside], order=1)
        return float(np.abs(seen - b[inside]).mean())

    right = difference((0, 0, 0))
    for extra in ((1.5, 0, 0), (0, 1.5, 0), (0, 0, 1.5), (0, -1.5, 0)):
        assert difference(extra) > 1.2 * right


def test_gain_dark_and_empty_tile(phantom: Path) -> None:
    dark = np.load(phantom / "truth" / "dark.npy")
    np.testing.assert_array_equal(dark, tifffile.imread(phantom / "sample" / "dark.tif"))
    gains = [np.load(phantom / "truth" / f"gain_CHN0{c}.npy") for c in range(2)]
    for gain in gains:
        assert gain.mean() == pytest.approx(1.0, abs=1e-3)
        assert gain.min() == pytest.approx(0.5, abs=1e-3)
        assert gain.max() == pytest.approx(1.5, abs=1e-3)
    assert np.abs(gains[0] - gains[1]).mean() > 0.02
    tiles = pd.read_csv(phantom / "truth" / "tiles.tsv", sep="\t").set_index("tile")
    assert tiles.loc["LOC008", "content"] == 0
    empty = tile(phantom, "LOC008", "CHN00")
    np.testing.assert_allclose(empty.mean(axis=0) - 20 * gains[0], dark, atol=8)
    error = (tiles[["z", "y", "x"]].to_numpy() - tiles[["stage_z", "stage_y", "stage_x"]].to_numpy())[:-1]
    np.testing.assert_allclose(error.mean(axis=0), 0, atol=1e-3)


def test_layout_of_the_microscope(phantom: Path) -> None:
    sample = phantom / "sample"
    assert (sample / "Scanned Cells.txt").read_text() == "1,1,1\n1,1,1\n1,1,1\n"
    settings = (sample / "Experiment.ini").read_text()
    assert 'North = " 4x"' in settings
    assert 'Stack Step (mm) = "0.214"' in settings
    assert len(list(sample.glob("VW0/LOC*/*_CHN0[01]_PLN[0-9][0-9][0-9][0-9].tif"))) == 9 * 2 * 24
    plane = tifffile.imread(sample / "VW0" / "LOC004" / "phantom_CHN00_PLN0012.tif")
    assert plane.dtype == np.uint16
    assert plane.shape == (48, 48)


def test_regions_and_hierarchy(phantom: Path) -> None:
    with open(phantom / "atlas" / "ontology.csv") as file:
        rows = {int(row["id"]): row for row in csv.DictReader(file)}
    atlas = labels_of(phantom)
    present = np.setdiff1d(np.unique(atlas), [0])
    assert atlas.dtype == np.uint32
    assert len(present) >= 40
    assert present.max() > 2**24
    assert ((present > 2**16) & (present < 2**24)).any()
    deepest = 0
    for region in present:
        depth, row = 0, rows[int(region)]
        while row["parent_id"]:
            row, depth = rows[int(row["parent_id"])], depth + 1
        assert row["acronym"] == "BR"
        deepest = max(deepest, depth)
    assert deepest >= 3


def test_same_seed_same_bytes_whatever_the_threads(phantom: Path, tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    first = json.loads((phantom / "phantom.json").read_text())
    made = make_phantom(tmp_path, MICRO, seed=3, threads=2)
    assert made == first
    assert digests(tmp_path) == digests(phantom)
    assert str(tmp_path) not in (tmp_path / "phantom.json").read_text()
    # again in the same folder, with another seed and an unscanned cell: nothing of the old one stays
    done: list[tuple[int, int]] = []
    other = make_phantom(tmp_path, MICRO | {"unscanned": [2]}, seed=4, progress=lambda *now: done.append(now))
    assert other["data"] != first["data"]
    assert done[-1] == (8 * 24, 8 * 24)
    assert not (tmp_path / "sample" / "VW0" / "LOC002").exists()
    assert (tmp_path / "sample" / "Scanned Cells.txt").read_text().startswith("1,1,0\n")


def test_hardness_is_what_was_asked_for(truth: dict) -> None:
    hardness = truth["hardness"]
    assert hardness["affine_error_p95_voxel"] == pytest.approx(2.0, rel=0.1)
    assert 0.8 < hardness["affine_error_mean_voxel"] < 1.6
    assert hardness["jacobian_min"] > 0.2
    assert 0.25 < hardness["tissue_share_of_tiles"] < hardness["tissue_share_of_widest_plane"] < 0.6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "huge"}, "size must be one of"),
        ({"pixel": 10}, "unknown setting 'pixel'"),
        ({"scale": -1}, "scale must be positive"),
        ({"magnification": 5}, "magnification must be 4, 10 or 25"),
        ({"jitter": 40}, "jitter 40 can part tiles"),
        ({"planes": 0}, "planes must be positive"),
    ],
)
def test_settings_that_cannot_be(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        phantom_settings(values)


def test_scale_refines_the_same_specimen() -> None:
    demo, fine = phantom_settings(), phantom_settings({"scale": 2})
    assert fine.pixels == 2 * demo.pixels
    np.testing.assert_allclose(fine.frame, demo.frame, rtol=0.01)


def test_a_folder_of_others_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not a phantom's"):
        make_phantom(tmp_path, MICRO)
    assert (tmp_path / "sample" / "mine.txt").read_text() == "mine"
