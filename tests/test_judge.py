"""The judge: perfect outputs pass, and each kind of spoilt output is seen in its own figure."""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from scipy.ndimage import map_coordinates

from weft import judge as judge_module
from weft.judge import BARS, judge, print_table
from weft.phantom import make_phantom

SETTINGS = {
    "pixels": 64,
    "planes": 32,
    "z_step": 160,
    "jitter": 1.0,
    "registration_voxel": 130.0,
    "deformation": 2.0,
    "cells": 300,
}


def centres(grid: dict) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, grid["shape"]), indexing="ij"), axis=-1).reshape(-1, 3)
    return index * np.array(grid["spacing"]) + grid["origin"]


def write_field(path: Path, field: np.ndarray, grid: dict) -> None:
    group = zarr.create_group(str(path), zarr_format=3, overwrite=True)
    array = group.create_array("0", data=field.astype(np.float32))
    array.attrs["grid"] = grid


def write_labels(path: Path, labels: np.ndarray, scale: list, translation: list) -> None:
    group = zarr.create_group(str(path), zarr_format=3, overwrite=True)
    group.create_array("0", data=labels)
    steps = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]
    group.attrs["ome"] = {"multiscales": [{"datasets": [{"path": "0", "coordinateTransformations": steps}]}]}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    make_phantom(folder, SETTINGS, seed=1)
    return folder


@pytest.fixture(scope="module")
def pieces(phantom: Path) -> dict:
    """What a perfect run would find, in a stitching that is shifted as a whole."""
    truth = json.loads((phantom / "truth" / "truth.json").read_text())
    with np.load(phantom / "truth" / "transform.npz", allow_pickle=False) as file:
        known = dict(file)
    shift = np.array([30.0, -20.0, 10.0])
    grid = truth["fixed_grid"]
    affine = known["affine"].copy()
    affine[:3, 3] += shift
    here = centres(grid)
    inverse = np.linalg.inv(affine)

    def backward(places: np.ndarray) -> np.ndarray:
        index = (places - shift - known["lattice_origin"]) / known["lattice_spacing"]
        moved = [map_coordinates(part, index.T, order=3, prefilter=False) for part in known["lattice"]]
        return places @ inverse[:3, :3].T + inverse[:3, 3] + np.stack(moved, axis=1)

    there = known["points"].reshape(3, -1).T + shift
    u = (there @ inverse[:3, :3].T + inverse[:3, 3] - here).T.reshape(3, *grid["shape"])
    wide = {  # the inverse's domain reaches as far as any voxel is moved
        "shape": [n + 12 for n in grid["shape"]],
        "spacing": grid["spacing"],
        "origin": [-6 * s for s in grid["spacing"]],
    }
    places = centres(wide)
    v = (backward(places @ affine[:3, :3].T + affine[:3, 3]) - places).T.reshape(3, *wide["shape"])
    cells = pd.read_csv(phantom / "truth" / "cells.csv")
    tiles = pd.read_csv(phantom / "truth" / "tiles.tsv", sep="\t")
    tiles[["z", "y", "x"]] += shift
    tiles.loc[tiles["tile"] == "LOC008", "x"] += 500  # empty: nobody can know
    return {
        "affine": affine,
        "u": u,
        "grid": grid,
        "v": v,
        "wide": wide,
        "labels": np.load(phantom / "truth" / "labels.npy"),
        "label_grid": truth["label_grid"],
        "shift": shift,
        "tiles": tiles[["tile", "z", "y", "x"]],
        "gain": np.stack([np.load(phantom / "truth" / f"gain_{c}.npy") for c in truth["channels"]]),
        "points": cells[["cell"]].assign(
            warped_z=cells["atlas_z"], warped_y=cells["atlas_y"], warped_x=cells["atlas_x"]
        ),
    }


def score(phantom: Path, folder: Path, pieces: dict) -> dict[str, float]:
    """Write the pieces as a run does, and judge them."""
    pieces["tiles"].to_csv(folder / "poses.tsv", sep="\t", index=False)
    zarr.save_array(str(folder / "gain.zarr"), 2.5 * pieces["gain"], zarr_format=3)
    write_field(folder / "transform.ome.zarr", pieces["u"], pieces["grid"])
    write_field(folder / "inverse.ome.zarr", pieces["v"], pieces["wide"])
    affine = {"type": "affine", "matrix": pieces["affine"].tolist()}
    back = {"type": "affine", "matrix": np.linalg.inv(pieces["affine"]).tolist()}
    field = {"type": "displacements", "path": "0"}
    (folder / "transform.json").write_text(
        json.dumps({"sequence": [field | {"store": "transform.ome.zarr"}, affine]})
    )
    (folder / "inverse.json").write_text(
        json.dumps({"sequence": [back, field | {"store": "inverse.ome.zarr"}]})
    )
    grid = pieces["label_grid"]
    write_labels(
        folder / "labels.ome.zarr",
        pieces["labels"],
        grid["spacing"],
        (np.array(grid["origin"]) + pieces["shift"]).tolist(),
    )
    pieces["points"].to_parquet(folder / "points.parquet")
    return judge(
        phantom,
        poses=folder / "poses.tsv",
        gain=folder / "gain.zarr",
        transform=folder / "transform.json",
        inverse=folder / "inverse.json",
        labels=folder / "labels.ome.zarr",
        points=folder / "points.parquet",
    )


def test_perfect_outputs_pass(phantom: Path, pieces: dict, tmp_path: Path) -> None:
    figures = score(phantom, tmp_path, pieces)
    assert set(figures) == {*BARS, "round_trip_outside", "cells_in_right_region_all"}
    assert figures["tile_position_rms_voxel"] < 1e-3
    assert figures["gain_rmse"] < 1e-6
    assert figures["registration_error_p95_voxel"] < 1e-3
    assert figures["folded_fraction"] == 0
    assert figures["round_trip_p95_voxel"] < 0.05
    assert figures["round_trip_outside"] == 0
    assert figures["label_dice_mean"] == 1
    assert figures["cells_in_right_region"] == 1
    assert figures["cells_in_right_region_all"] > 0.8  # the rest: an atlas has finite voxels
    text = io.StringIO()
    assert print_table(figures, text)
    assert "FAIL" not in text.getvalue()


def spoil_tile(pieces: dict) -> None:
    pieces["tiles"].loc[4, "x"] += 100.0


def spoil_gain(pieces: dict) -> None:
    pieces["gain"][1] *= np.linspace(0.9, 1.1, pieces["gain"].shape[2])


def spoil_registration(pieces: dict) -> None:
    pieces["affine"][:3, 3] += 3 * pieces["grid"]["spacing"][0]  # both directions agree, and are wrong


def spoil_field(pieces: dict) -> None:
    pieces["u"][2, 10, 10, 10] += 3 * pieces["grid"]["spacing"][0]


def spoil_inverse(pieces: dict) -> None:
    pieces["v"] += np.float32(0.3 * pieces["grid"]["spacing"][0])


def spoil_labels(pieces: dict) -> None:
    pieces["labels"] = np.roll(pieces["labels"], 2, axis=2)


def spoil_points(pieces: dict) -> None:
    pieces["points"]["warped_y"] += 3 * pieces["grid"]["spacing"][0]


@pytest.mark.parametrize(
    ("spoil", "failing"),
    [
        (spoil_tile, {"tile_position_rms_voxel"}),
        (spoil_gain, {"gain_rmse"}),
        (spoil_registration, {"registration_error_mean_voxel", "registration_error_p95_voxel"}),
        (spoil_field, {"folded_fraction"}),
        (spoil_inverse, {"round_trip_p95_voxel"}),
        (spoil_labels, {"label_dice_mean"}),
        (spoil_points, {"cells_in_right_region"}),
    ],
)
def test_each_fault_fails_its_own_bar(
    phantom: Path, pieces: dict, tmp_path: Path, spoil, failing: set
) -> None:
    mine = {name: value.copy() if hasattr(value, "copy") else value for name, value in pieces.items()}
    spoil(mine)
    figures = score(phantom, tmp_path, mine)
    failed = {
        name for name, (bar, more) in BARS.items() if (figures[name] < bar if more else figures[name] > bar)
    }
    assert failed == failing
    assert not print_table(figures, io.StringIO())


def test_voxels_that_leave_the_domain_are_counted(phantom: Path, pieces: dict, tmp_path: Path) -> None:
    narrow = {**pieces["grid"], "shape": [n - 4 for n in pieces["grid"]["shape"]]}
    v = pieces["v"][:, 6 : 6 + narrow["shape"][0], 6 : 6 + narrow["shape"][1], 6 : 6 + narrow["shape"][2]]
    figures = score(phantom, tmp_path, {**pieces, "v": v, "wide": narrow})
    _, ny, nx = pieces["grid"]["shape"]
    assert figures["round_trip_outside"] > 2 * ny * nx
    assert figures["round_trip_p95_voxel"] < 0.05


def test_missing_outputs_are_named(phantom: Path, pieces: dict, tmp_path: Path) -> None:
    score(phantom, tmp_path, pieces)
    paths = {
        "poses": "poses.tsv",
        "gain": "gain.zarr",
        "transform": "transform.json",
        "inverse": "inverse.json",
        "labels": "labels.ome.zarr",
        "points": "points.parquet",
    }
    for missing in paths:
        given = {name: tmp_path / file for name, file in paths.items()}
        given[missing] = tmp_path / "nothing"
        with pytest.raises(FileNotFoundError, match="nothing"):
            judge(phantom, **given)
    pieces["tiles"].iloc[1:].to_csv(tmp_path / "poses.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match="tile LOC000 has no pose"):
        judge(phantom, **{name: tmp_path / file for name, file in paths.items()})


def test_not_a_number_holds_no_bar() -> None:
    assert not print_table(dict.fromkeys(BARS, float("nan")), io.StringIO())


def test_the_judge_shares_no_code_with_the_chain() -> None:
    tree = ast.parse(Path(judge_module.__file__).read_text())
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in modules if name.split(".")[0] in ("weft", "", ".")]
