"""Judge a run on the phantom: compare what the chain wrote with the truth.

Nothing of the chain is used here: files are opened with NumPy, pandas, zarr and json, and fields are
interpolated by SciPy, so that an error in a step cannot hide in its judge.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
import zarr
from scipy.ndimage import map_coordinates

# figure: (bar, True where more is better)
BARS: dict[str, tuple[float, bool]] = {
    "tile_position_rms_voxel": (0.5, False),
    "gain_rmse": (0.03, False),
    "registration_error_mean_voxel": (1.0, False),
    "registration_error_p95_voxel": (2.5, False),
    "folded_fraction": (0.0, False),
    "round_trip_p95_voxel": (0.2, False),
    "label_dice_mean": (0.90, True),
    "cells_in_right_region": (0.99, True),
}
CONTENT = 0.01  # tiles with a smaller share of tissue count as empty: nothing can place them
LABEL_VOXELS = 1000  # regions up to this size (registration voxels) are left out of the Dice
BORDER = 2.0  # registration voxels; cells nearer to a border are reported, not judged


def judge(
    phantom: str | Path,
    *,
    poses: str | Path,
    gain: str | Path | Mapping[str, str | Path],
    transform: str | Path,
    inverse: str | Path,
    labels: str | Path,
    points: str | Path,
    annotation: str | Path | None = None,
) -> dict[str, float]:
    """Score the outputs of one run against the truth of its phantom.

    Parameters
    ----------
    phantom
        Folder that `make_phantom` wrote.
    poses
        ``poses.tsv`` of the sample: columns tile, z, y, x (um).
    gain
        Gain of the channels, in the phantom's order: one (c, y, x) array, or a path per channel name, each
        a ``.npy`` file or a Zarr array.
    transform, inverse
        ``transform.json`` (atlas to sample) and ``inverse.json`` (sample to atlas).
    labels
        Annotation warped to the sample, OME-Zarr.
    points
        The phantom's cells warped to the atlas, Parquet or CSV: columns warped_z, warped_y, warped_x (um), in the
        phantom's order or with the column ``cell``.
    annotation
        The atlas's labels; by default the phantom's own ``atlas/annotation.nrrd``.

    Returns
    -------
    dict
        The figures of `BARS`, and ``round_trip_outside`` (voxels of the atlas that leave the domain of a
        field on the round trip) and ``cells_in_right_region_all`` (cells near borders included). "voxel" is
        the registration's, except that tiles are measured in their own, smaller voxels.

    Raises
    ------
    FileNotFoundError, ValueError
        When an output is missing or is not what it should be.
    """
    phantom = Path(phantom)
    truth = json.loads((phantom / "truth" / "truth.json").read_text())
    rms, offset = _tile_positions(Path(poses), phantom / "truth" / "tiles.tsv", np.array(truth["voxel"]))
    figures = {"tile_position_rms_voxel": rms, "gain_rmse": _gain_rmse(gain, phantom, truth["channels"])}
    forward, backward = _Transform(Path(transform)), _Transform(Path(inverse))
    figures |= _registration(forward, backward, truth, phantom / "truth" / "transform.npz", offset)
    figures["label_dice_mean"] = _dice(Path(labels), phantom / "truth" / "labels.npy", truth, offset)
    atlas = Path(annotation) if annotation else phantom / "atlas" / "annotation.nrrd"
    return figures | _cells(Path(points), phantom / "truth" / "cells.csv", atlas, truth["fixed_grid"])


def print_table(figures: Mapping[str, float], file: TextIO | None = None) -> bool:
    """Print every figure beside its bar; True when all bars hold."""
    file = file or sys.stdout
    width = max(len(name) for name in figures)
    print(f"{'figure':{width}}  {'value':>10}  {'bar':>9}", file=file)
    held = True
    for name, value in figures.items():
        bar, more = BARS.get(name, (None, True))
        if bar is None:
            print(f"{name:{width}}  {value:10.4g}", file=file)
            continue
        holds = bool(value >= bar if more else value <= bar)  # a NaN holds nothing
        held &= holds
        sign = ">=" if more else "<="
        print(f"{name:{width}}  {value:10.4g}  {sign} {bar:<6g}  {'pass' if holds else 'FAIL'}", file=file)
    return held


# ---------------------------------------------------------------------- tiles
def _tile_positions(poses: Path, tiles: Path, voxel: np.ndarray) -> tuple[float, np.ndarray]:
    """RMS length of the errors of tiles with tissue, voxels; and the median error, um, that was removed."""
    found = _table(poses).set_index("tile")
    true = pd.read_csv(tiles, sep="\t").set_index("tile")
    true = true[true["content"] >= CONTENT]
    missing = [name for name in true.index if name not in found.index]
    if missing:
        raise ValueError(f"{poses}: tile {missing[0]} has no pose")
    axes = ["z", "y", "x"]
    error = found.loc[true.index, axes].to_numpy(float) - true[axes].to_numpy(float)
    offset = np.median(error, axis=0)
    return float(np.sqrt((((error - offset) / voxel) ** 2).sum(axis=1).mean())), offset


def _gain_rmse(gain: str | Path | Mapping[str, str | Path], phantom: Path, channels: list[str]) -> float:
    if isinstance(gain, Mapping):
        found = [np.squeeze(_array(Path(gain[channel]))) for channel in channels]
    else:
        found = list(_array(Path(gain)))
    worst = 0.0
    for channel, estimate in zip(channels, found, strict=True):
        true = np.load(phantom / "truth" / f"gain_{channel}.npy", allow_pickle=False).astype(float)
        if estimate.shape != true.shape:
            raise ValueError(f"gain of {channel}: found shape {estimate.shape}, wanted {true.shape}")
        error = estimate / estimate.mean(dtype=float) - true / true.mean()
        worst = max(worst, float(np.sqrt((error**2).mean())))
    return worst


# ---------------------------------------------------------------------- transforms
class _Field:
    """A displacement field on a grid: x + u(x), linear, held at the border."""

    def __init__(self, store: Path, path: str) -> None:
        array = _open(store / path if path else store)
        group = _open(store)
        grid = array.attrs.get("grid") or group.attrs.get("grid")
        if grid is None:
            raise ValueError(f"{store}: attribute 'grid' is missing")
        self.values = np.asarray(array[...], np.float32)
        self.shape = np.array(self.values.shape[1:])
        self.spacing, self.origin = np.array(grid["spacing"], float), np.array(grid["origin"], float)

    def index(self, points: np.ndarray) -> np.ndarray:
        return (points - self.origin) / self.spacing

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        index = self.index(points)
        inside = np.all((index >= -0.5) & (index <= self.shape - 0.5), axis=1)
        moved = [map_coordinates(part, index.T, order=1, mode="nearest") for part in self.values]
        return points + np.stack(moved, axis=1), inside


class _Affine:
    def __init__(self, matrix: Any) -> None:
        self.matrix = np.array(matrix, float)

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return points @ self.matrix[:3, :3].T + self.matrix[:3, 3], np.ones(len(points), bool)


class _Transform:
    """The steps of a transform file, applied in their order."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such transform")
        self.steps: list[_Field | _Affine] = []
        for step in json.loads(path.read_text())["sequence"]:
            if step["type"] == "affine":
                self.steps.append(_Affine(step["matrix"]))
            elif step["type"] == "displacements":
                self.steps.append(_Field(path.parent / step["store"], step.get("path", "")))
            else:
                raise ValueError(f"{path}: unknown step {step['type']!r}")

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside = np.ones(len(points), bool)
        for step in self.steps:
            points, here = step(points)
            inside &= here
        return points, inside


def _registration(
    forward: _Transform, backward: _Transform, truth: dict[str, Any], path: Path, offset: np.ndarray
) -> dict[str, float]:
    """Errors in the tissue; folds and round trip over every voxel of the atlas."""
    grid, unit = truth["fixed_grid"], truth["registration_voxel"]
    with np.load(path, allow_pickle=False) as file:
        wanted, tissue = file["points"], file["tissue"]
    found = np.empty((*grid["shape"], 3))
    errors, trips = [], []
    outside = 0
    for k in range(grid["shape"][0]):  # plane by plane
        here = _centres(grid, k)
        there, inside = forward(here)
        found[k] = there.reshape(*grid["shape"][1:], 3)
        mask = tissue[k].ravel()
        true = wanted[:, k].reshape(3, -1).T[mask] + offset
        errors.append(np.linalg.norm(there[mask] - true, axis=1))
        back, inside_too = backward(there)
        inside &= inside_too
        outside += int((~inside).sum())
        trips.append(np.linalg.norm(back - here, axis=1)[inside])
    error, trip = np.concatenate(errors) / unit, np.concatenate(trips) / unit
    return {
        "registration_error_mean_voxel": float(error.mean()),
        "registration_error_p95_voxel": float(np.percentile(error, 95)),
        "folded_fraction": _folded(found),
        "round_trip_p95_voxel": float(np.percentile(trip, 95)) if trip.size else float("nan"),
        "round_trip_outside": outside,
    }


def _folded(points: np.ndarray) -> float:
    """Share of grid cells that a map, (z, y, x, 3), turns inside out: in any of the cell's 8 corners.

    Which sign is right side out is what most cells say (a sample may be stored mirrored).
    """
    low, high = slice(None, -1), slice(1, None)
    folded: Any = False
    for corner in range(8):
        pick = [high if corner >> a & 1 else low for a in range(3)]
        edges = []
        for axis in range(3):
            ahead, behind = list(pick), list(pick)
            ahead[axis], behind[axis] = high, low
            edges.append(points[tuple(ahead)] - points[tuple(behind)])
        a, b, c = edges
        determinant = (a * np.cross(b, c)).sum(axis=-1)
        sign = np.sign(np.median(determinant)) or 1.0
        folded = folded | (sign * determinant <= 0)
    return float(np.mean(folded))


# ---------------------------------------------------------------------- labels and cells
def _dice(labels: Path, true: Path, truth: dict[str, Any], offset: np.ndarray) -> float:
    """Mean Dice over regions above `LABEL_VOXELS`, looked up at the centres of the truth's voxels."""
    array, scale, translation = _ome_zarr(labels)
    found = np.asarray(array[...])
    grid = truth["label_grid"]
    wanted = np.load(true, mmap_mode="r", allow_pickle=False)
    pairs: dict[str, list[np.ndarray]] = {"true": [], "found": [], "both": []}
    for k in range(grid["shape"][0]):
        index = np.rint((_centres(grid, k) + offset - translation) / scale).astype(int)
        inside = np.all((index >= 0) & (index < found.shape), axis=1)
        seen = np.zeros(len(index), np.uint64)
        seen[inside] = found[tuple(index[inside].T)]
        here = wanted[k].ravel().astype(np.uint64)
        pairs["true"].append(here)
        pairs["found"].append(seen)
        pairs["both"].append(here[here == seen])
    counts = {
        name: dict(zip(*np.unique(np.concatenate(part), return_counts=True), strict=True))
        for name, part in pairs.items()
    }
    size = np.prod(grid["spacing"]) / truth["registration_voxel"] ** 3
    dice = [
        2.0 * counts["both"].get(region, 0) / (n + counts["found"].get(region, 0))
        for region, n in counts["true"].items()
        if region != 0 and n * size > LABEL_VOXELS
    ]
    return float(np.mean(dice)) if dice else float("nan")


def _cells(points: Path, true: Path, annotation: Path, grid: dict[str, Any]) -> dict[str, float]:
    """Share of cells whose place in the atlas lies in their true region."""
    found, cells = _table(points), pd.read_csv(true)
    if "cell" in found.columns:
        found = found.set_index("cell").reindex(cells["cell"])
    elif len(found) != len(cells):
        raise ValueError(f"{points}: {len(found)} points, wanted the phantom's {len(cells)} cells")
    import SimpleITK as sitk  # only here: it takes a second to load

    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(annotation)))
    index = (found[["warped_z", "warped_y", "warped_x"]].to_numpy(float) - grid["origin"]) / grid["spacing"]
    known = np.isfinite(index).all(axis=1)
    place = np.rint(np.where(known[:, None], index, -1)).astype(int)
    inside = np.all((place >= 0) & (place < labels.shape), axis=1)
    region = np.zeros(len(place), np.int64)
    region[inside] = labels[tuple(place[inside].T)]
    right = region == cells["region"].to_numpy(np.int64)
    clear = cells["distance"].to_numpy(float) > BORDER
    return {
        "cells_in_right_region": float(right[clear].mean()) if clear.any() else float("nan"),
        "cells_in_right_region_all": float(right.mean()),
    }


# ---------------------------------------------------------------------- files
def _centres(grid: dict[str, Any], plane: int) -> np.ndarray:
    """Voxel centres of one plane of a grid, (y * x, 3) um."""
    rows, columns = np.meshgrid(np.arange(grid["shape"][1]), np.arange(grid["shape"][2]), indexing="ij")
    index = np.stack([np.full(rows.size, plane), rows.ravel(), columns.ravel()], axis=1)
    return index * np.array(grid["spacing"]) + np.array(grid["origin"])


def _open(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such store")
    return zarr.open(str(path), mode="r")


def _array(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False).astype(float)
    return np.asarray(_open(path)[...], float)


def _table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such table")
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")


def _ome_zarr(path: Path) -> tuple[Any, np.ndarray, np.ndarray]:
    """The finest level of an OME-Zarr, (z, y, x), with voxel size and place of its first voxel, um."""
    group = _open(path)
    attributes = group.attrs.get("ome") or group.attrs
    if "multiscales" not in attributes:
        raise ValueError(f"{path}: attribute 'multiscales' is missing")
    finest = attributes["multiscales"][0]["datasets"][0]
    scale, translation = np.ones(3), np.zeros(3)
    for step in finest["coordinateTransformations"]:
        if step["type"] == "scale":
            scale = np.array(step["scale"][-3:], float)
        elif step["type"] == "translation":
            translation = np.array(step["translation"][-3:], float)
    array = group[finest["path"]]
    return (array if array.ndim == 3 else array[0]), scale, translation
