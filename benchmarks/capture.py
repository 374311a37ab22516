"""Capture range of the affine start: rotation to 30 degrees, shift to 25 % of the extent, scale 0.7 to 1.4."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

import report
from weft.grid import Grid
from weft.image import box
from weft.phantom.anatomy import Anatomy, atlas_plane, make_anatomy, regions_at
from weft.phantom.deformation import Deformation, make_deformation, to_sample
from weft.phantom.sample import make_contrast, sample_plane
from weft.phantom.settings import phantom_settings
from weft.registration.affine import AffineResult, register_affine
from weft.registration.candidates import rotation_about
from weft.registration.given import fit_landmarks
from weft.registration.linear_model import LinearModel
from weft.sampling import resample, stage_grid

TOLERANCE = 3.0  # per cent of the longest extent: a larger mean error at the corners is wrong
SEEDS = (404, 505, 606)  # none of them tuned on
REACH = 0.25  # largest shift, share of the extent
DATA = Path(os.environ.get("WEFT_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@dataclass(frozen=True)
class Pair:
    """A pair of images and the affine between them.

    Parameters
    ----------
    fixed, moving
        (z, y, x) float32.
    fixed_grid, moving_grid
        Grids, um.
    truth
        (4, 4), um, fixed to moving.
    codes
        Orientation codes of the two.
    spacing
        Voxel size, um, of the moving image of a trial.
    whole
        The field of a trial's moving image holds all that the moving image shows; else it has the moving image's
        own size, and what is moved out of it is lost.
    dark
        Brightness around the moving image; by default that of its faces.
    places
        Points of the tissue, (n, 3) um, in both: what the deformation does to a part is partly an affine of its own.
    """

    fixed: np.ndarray
    fixed_grid: Grid
    moving: np.ndarray
    moving_grid: Grid
    truth: np.ndarray
    codes: tuple[str, str]
    spacing: float
    whole: bool
    dark: float | None = None
    places: tuple[np.ndarray, np.ndarray] | None = None


def main() -> None:
    """Measure, write and print."""
    given = report.options(
        __doc__.splitlines()[0],
        sizes=list(PAIRS),
        quick=["brain"],
        size=pair_of,
        explain="pair of images",
        seeds=SEEDS,
        more=further_options,
    )
    count = given.trials or (3 if given.quick else 34)
    print(f"capture range, {count} trials per pair and seed ({report.load()})\n", flush=True)
    rows: list[report.Row] = []
    lines = []
    for name in given.sizes:
        outcomes = []
        for seed in given.seeds:
            try:
                make = PAIRS[name](seed)
            except FileNotFoundError as error:
                print(f"{name}: left out, {error}", flush=True)
                break
            for number in range(given.first, given.first + count):
                outcomes.append(run_trial(make, seed, number))
                if given.show:
                    print(
                        json.dumps({"pair": name, "seed": seed, "trial": number} | outcomes[-1]), flush=True
                    )
        if outcomes:
            rows += summary(f"capture.{name}", outcomes)
            lines.append(line(name, outcomes))
    head = [
        "pair",
        "trials",
        "right %",
        "accepted",
        "warned",
        "refused",
        "confident, wrong %",
        "error %",
        "CPU-s",
    ]
    report.show_table(head, lines, "<>>>>>>>>")
    report.show(rows)
    report.write(rows, given.json)


def further_options(parser: argparse.ArgumentParser) -> None:
    """How many trials, and whether each is shown."""
    parser.add_argument("--trials", type=int, help="trials per pair and seed (default: 34)")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial (default: 0)")
    parser.add_argument("--show", action="store_true", help="print every trial as a line of JSON")


def pair_of(text: str) -> str:
    """The name of a pair, from the command line."""
    if text not in PAIRS:
        raise argparse.ArgumentTypeError(f"wanted one of {', '.join(PAIRS)}; found {text!r}")
    return text


# ---------------------------------------------------------------------------------------------- trials
def run_trial(make: Callable[[np.random.Generator], Pair], seed: int, number: int) -> dict[str, Any]:
    """What became of one trial."""
    random = np.random.default_rng([seed, number])
    pair, facts = perturbed(make(random), random)
    start = time.process_time()
    result = register_affine(
        pair.fixed,
        pair.fixed_grid,
        pair.moving,
        pair.moving_grid,
        fixed_orientation=pair.codes[0],
        moving_orientation=pair.codes[1],
    )
    seconds = time.process_time() - start
    error = corner_error(result, pair)
    return facts | {
        "error": round(error, 3),
        "right": bool(error < TOLERANCE),
        "verdict": result.accepted,
        "score": round(result.score, 4),
        "margin": None if result.margin is None else round(result.margin, 3),
        "ncc": round(result.ncc, 4),
        "overlap": round(result.overlap, 4),
        "seconds": round(seconds, 2),
    }


def perturbed(pair: Pair, random: np.random.Generator) -> tuple[Pair, dict[str, float]]:
    """The pair with its moving image turned, enlarged and shifted at random."""
    angle, scale = random.uniform(0, 30), random.uniform(0.7, 1.4)
    grid = pair.moving_grid
    centre = 0.5 * (grid.lower + grid.upper)
    shift = random.uniform(-REACH, REACH, 3) * grid.extent
    move = np.eye(4)
    move[:3, :3] = scale * rotation_about(random.normal(size=3), angle)
    move[:3, 3] = centre + shift - move[:3, :3] @ centre
    half = 0.5 * grid.extent
    if pair.whole:
        half = np.abs(move[:3, :3]) @ half + REACH * grid.extent
    shape = tuple(np.ceil(2 * half / pair.spacing).astype(int))
    field = Grid(shape, (pair.spacing,) * 3, tuple(centre - half + 0.5 * pair.spacing))
    step = pair.spacing / scale / np.asarray(grid.spacing)
    smooth = gaussian_filter(pair.moving, 0.5 * np.sqrt(np.maximum(step**2 - 1, 0)))
    index = np.linalg.inv(grid.matrix()) @ np.linalg.inv(move) @ field.matrix()
    faces = [np.take(pair.moving, end, axis).ravel() for axis in range(3) for end in (0, -1)]
    dark = float(np.median(np.concatenate(faces))) if pair.dark is None else pair.dark
    moving = affine_transform(smooth, index[:3, :3], index[:3, 3], shape, order=1, mode="constant", cval=dark)
    facts = {"angle": round(angle, 1), "scale": round(scale, 3)}
    return replace(pair, moving=moving, moving_grid=field, truth=move @ pair.truth), facts


def corner_error(result: AffineResult, pair: Pair) -> float:
    """Mean error at the corners of the image that shows less, per cent of its longest extent."""
    from_fixed = pair.fixed_grid.extent.prod() <= pair.moving_grid.extent.prod() or not pair.whole
    found, truth = result.matrix, pair.truth
    grid, scale = pair.fixed_grid, np.cbrt(abs(np.linalg.det(truth[:3, :3])))
    if not from_fixed:
        found, truth = np.linalg.inv(found), np.linalg.inv(truth)
        grid, scale = pair.moving_grid, 1 / scale
    difference = (found - truth)[:3]
    distance = np.linalg.norm(grid.corners() @ difference[:, :3].T + difference[:, 3], axis=1).mean()
    return float(100 * distance / (scale * grid.extent.max()))


# ---------------------------------------------------------------------------------------------- pairs
def brain(seed: int) -> Callable[[np.random.Generator], Pair]:
    """A template and a whole sample of other contrast, deformed beyond its affine."""
    streams = [np.random.default_rng([seed, k]) for k in range(4)]
    # The phantom's own deformation is so strong that no two measures agree on its best affine to 4 %.
    settings = phantom_settings({"size": "tiny", "deformation": 1.5})
    anatomy, grid = make_anatomy(settings, streams[0])
    deformation = make_deformation(settings, anatomy, grid, streams[1])
    contrast = make_contrast(settings, anatomy, streams[2])
    template = np.empty(grid.shape, np.float32)
    regions = np.empty(grid.shape, np.int32)
    for k in range(grid.shape[0]):
        atlas_plane(anatomy, np.asarray(grid.origin), anatomy.unit, k, template[k], regions[k])
    spacing = grid.spacing[0] / 2
    shape = tuple(int(extent / spacing) for extent in settings.frame)
    sample_grid = Grid(shape, (spacing,) * 3)
    signal = np.empty((2, *shape[1:]), np.float32)
    regions = np.empty(shape[1:], np.int32)
    sample = np.empty(shape, np.float32)
    for k in range(shape[0]):
        sample_plane(anatomy, deformation, contrast, np.zeros(3), np.full(3, spacing), k, signal, regions)
        sample[k] = signal[0]
    sample = np.clip(110 + 600 * sample + 12 * streams[3].normal(size=shape), 0, None).astype(np.float32)
    pair = Pair(
        1000 * template,
        grid,
        sample,
        sample_grid,
        deformation.affine,
        ("pil", "air"),
        grid.spacing[0],
        True,
        places=_places(anatomy, deformation, grid, streams[3]),
    )
    return lambda _: pair


def _places(
    anatomy: Anatomy, deformation: Deformation, grid: Grid, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points all over the tissue, in the template and in the sample."""
    points = random.uniform(grid.lower, grid.upper, (20_000, 3))
    points = points[regions_at(anatomy, points) >= 0]
    return points, to_sample(deformation, points)[0]


def slab(seed: int) -> Callable[[np.random.Generator], Pair]:
    """The same, but one of the two images shows only a slab or a block."""

    def share(random: np.random.Generator) -> np.ndarray:
        if random.random() < 0.5:
            return random.uniform(0.6, 0.75, 3)
        thin = np.ones(3)
        thin[random.integers(3)] = random.uniform(0.35, 0.6)
        return thin

    return _part(brain(seed)(np.random.default_rng(0)), share, lambda random: random.random(3))


def hemisphere(seed: int) -> Callable[[np.random.Generator], Pair]:
    """The same, but one of the two images shows only about half of the brain, left or right."""
    return _part(
        brain(seed)(np.random.default_rng(0)),
        lambda random: np.array([1, 1, random.uniform(0.48, 0.6)]),
        lambda random: np.full(3, random.integers(2)),
    )


def _part(
    whole: Pair,
    share: Callable[[np.random.Generator], np.ndarray],
    place: Callable[[np.random.Generator], np.ndarray],
) -> Callable[[np.random.Generator], Pair]:
    """The fixed or the moving image cut to a share of its tissue's box, at a place from 0 to 1 within it.

    The truth is the best affine of what both show.
    """

    def make(random: np.random.Generator) -> Pair:
        moving = random.random() < 0.5
        image, grid = (whole.moving, whole.moving_grid) if moving else (whole.fixed, whole.fixed_grid)
        tissue = np.argwhere(image > np.percentile(image, 60))
        low, high = tissue.min(axis=0), tissue.max(axis=0) + 1
        length = np.round(share(random) * (high - low)).astype(int)
        first = low + np.round(place(random) * (high - low - length)).astype(int)
        region = box(first, first + length)
        assert whole.places is not None
        shown = grid.crop(region).contains(whole.places[moving])
        here, there = (points[shown] for points in whole.places)
        truth = fit_landmarks(here, there, LinearModel())
        if moving:
            dark = float(np.median(image[0]))
            return replace(whole, moving=image[region], moving_grid=grid.crop(region), dark=dark, truth=truth)
        return replace(whole, fixed=image[region], fixed_grid=grid.crop(region), truth=truth)

    return make


def cells(seed: int) -> Callable[[np.random.Generator], Pair]:
    """Sparse cells in a field without an outline: some are lost, some are new, all have another brightness."""
    random = np.random.default_rng([seed, 9])
    grid = Grid((50, 90, 90), (4.0, 4.0, 4.0))
    extent = grid.extent
    places = random.uniform(-0.2, 1.2, (2600, 3)) * extent
    linear = rotation_about(random.normal(size=3), 2) @ np.diag(random.uniform(0.97, 1.03, 3))
    truth = np.eye(4)
    truth[:3, :3] = linear
    truth[:3, 3] = 0.5 * extent - linear @ (0.5 * extent) + random.uniform(-0.05, 0.05, 3) * extent
    moved = places @ linear.T + truth[:3, 3] + random.normal(0, 1.5, places.shape)
    kept = random.random(len(places)) < 0.85
    moved[~kept] = random.uniform(-0.2, 1.2, ((~kept).sum(), 3)) * extent
    images = []
    for points in (places, moved):
        image = np.zeros(grid.shape, np.float32)
        index = np.rint(grid.to_index(points)).astype(int)
        inside = np.all((index >= 0) & (index < grid.shape), axis=1)
        np.add.at(image, tuple(index[inside].T), np.exp(random.normal(0, 0.5, inside.sum())))
        image = 4000 * gaussian_filter(image, 1.2) + 100 + 25 * random.normal(size=grid.shape)
        images.append(np.clip(image, 0, None).astype(np.float32))
    pair = Pair(images[0], grid, images[1], grid, truth, ("sal", "sal"), 4.0, False)
    return lambda _: pair


def allen(seed: int) -> Callable[[np.random.Generator], Pair]:
    """A real brain and the Allen template at 200 um."""
    import SimpleITK
    import tifffile

    template = DATA / "allen_ccf_cloudreg/cloudreg/registration/atlases/average_template_200.nrrd"
    planes = sorted((DATA / "brainreg_mouse/tests/data/input/brain").glob("*.tif"))
    if not planes or not template.is_file():
        raise FileNotFoundError(f"no brain_allen in {DATA}")
    fixed = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(template))).transpose(2, 1, 0)
    sample = np.stack([tifffile.imread(plane) for plane in planes]).astype(np.float32)
    return _real(fixed, (200.0,) * 3, sample, (50.0, 40.0, 40.0), ("pil", "air"), 100.0, 200.0, True)


def easifish(seed: int) -> Callable[[np.random.Generator], Pair]:
    """Two rounds of imaging of one expanded volume: cells, of which a part is lost at the field's edge."""
    from weft.readers import open_source

    folder = DATA / "easifish_lowres" / "resources"
    if not folder.is_dir():
        raise FileNotFoundError(f"no easifish_lowres in {DATA}")
    fixed, moving = (_n5(open_source, folder / f"{name}.n5" / "lowres") for name in ("fix", "mov"))
    spacing = (1.68, 1.84, 1.84)
    return _real(fixed, spacing, moving, spacing, ("sal", "sal"), 3.68, 5.5, False)


def _n5(open_source: Callable[..., Any], path: Path) -> np.ndarray:
    return open_source(str(path)).levels[0].read(0)


_accepted: dict[str, np.ndarray] = {}  # affine of an untransformed pair, found once


def _real(
    fixed: np.ndarray,
    fixed_spacing: tuple[float, float, float],
    moving: np.ndarray,
    moving_spacing: tuple[float, float, float],
    codes: tuple[str, str],
    kept: float,
    spacing: float,
    whole: bool,
) -> Callable[[np.random.Generator], Pair]:
    """A real pair; its truth is the accepted affine of the pair as it is."""
    fixed_grid, moving_grid = Grid(fixed.shape, fixed_spacing), Grid(moving.shape, moving_spacing)
    key = f"{fixed.shape}{moving.shape}"
    if key not in _accepted:
        result = register_affine(
            fixed, fixed_grid, moving, moving_grid, fixed_orientation=codes[0], moving_orientation=codes[1]
        )
        if result.accepted != "accept":
            sys.exit(f"the affine of the untransformed pair is not accepted: {'; '.join(result.notes)}")
        _accepted[key] = result.matrix
    finer = stage_grid(moving_grid, kept)
    moving = resample(moving, moving_grid, finer)
    coarse = stage_grid(fixed_grid, spacing)
    fixed = resample(fixed, fixed_grid, coarse)
    pair = Pair(fixed, coarse, moving, finer, _accepted[key], codes, spacing, whole)
    return lambda _: pair


PAIRS: dict[str, Callable[[int], Callable[[np.random.Generator], Pair]]] = {
    "brain": brain,
    "slab": slab,
    "hemisphere": hemisphere,
    "cells": cells,
    "brain_allen": allen,
    "easifish": easifish,
}


# ---------------------------------------------------------------------------------------------- results
def summary(name: str, outcomes: list[dict[str, Any]]) -> list[report.Row]:
    """Rows of one pair."""
    right = 100 * np.mean([o["right"] for o in outcomes])
    confident = 100 * np.mean([not o["right"] and o["verdict"] == "accept" for o in outcomes])
    seconds = [o["seconds"] for o in outcomes]
    most = 5.0 if name.endswith("brain_allen") else None
    return [
        report.row(f"{name}.right", [right], "%", at_least=98),
        report.row(f"{name}.confident_and_wrong", [confident], "%", at_most=0.5),
        report.row(f"{name}.cpu_seconds", seconds, "CPU-s", at_most=most),
    ]


def line(name: str, outcomes: list[dict[str, Any]]) -> list[str]:
    """One line of the table."""
    verdicts = [o["verdict"] for o in outcomes]
    wrong = sum(not o["right"] and o["verdict"] == "accept" for o in outcomes)
    return [
        name,
        str(len(outcomes)),
        f"{100 * np.mean([o['right'] for o in outcomes]):.1f}",
        *(str(verdicts.count(v)) for v in ("accept", "warn", "refuse")),
        f"{100 * wrong / len(outcomes):.1f}",
        f"{np.median([o['error'] for o in outcomes]):.2f}",
        f"{np.median([o['seconds'] for o in outcomes]):.1f} (max {max(o['seconds'] for o in outcomes):.1f})",
    ]


if __name__ == "__main__":
    main()
