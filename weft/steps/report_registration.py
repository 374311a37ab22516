"""The part of the report that shows the registrations: an overview, and the pictures and tables of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from weft import receipts
from weft.figures.block_map import block_map
from weft.figures.checkerboard import checkerboard
from weft.figures.deformation import deformation
from weft.figures.label_outlines import label_outlines
from weft.figures.landmark_map import landmark_map
from weft.figures.likeness_map import likeness_map
from weft.figures.overlay import overlay
from weft.figures.report import Picture, Section, Table, verdict_of
from weft.figures.style import number_text
from weft.grid import Grid
from weft.logs import log
from weft.quality.likeness import comparison_grid
from weft.quality.pulled import SlicedImage, sliced_fixed, sliced_labels, sliced_moving
from weft.steps.sources import channel_of, open_received
from weft.transforms import open_transform
from weft.transforms.model import Sequence as Transform

ROWS = 40  # of a long table that the page shows


def overview_section(
    root: Path, registrations: Mapping[str, Mapping[str, Any]], gates: Sequence[Mapping[str, Any]]
) -> Section:
    """One row for every registration: its verdict and its most telling numbers; ``registrations`` as in `registration_section`."""
    rows = []
    for name, facts in registrations.items():
        last = facts["stages"][-1] if facts["stages"] else ""
        values = flat(receipts.read(root / "registrations" / name / "quality.json")["values"])
        rows.append(
            {
                "registration": name,
                "verdict": verdict_of(row for row in gates if row["subject"].partition("/")[0] == name),
                "correlation": _change(values, "ncc_affine", "ncc"),
                "mutual information": _change(values, "mutual_information_affine", "mutual_information"),
                "landmarks (um)": _change(values, "tre_affine_median_um", "tre_median_um"),
                "labels (Dice)": _change(values, "dice_affine_mean", "dice_mean"),
                "volume change": _range(values, "jacobian_p1", "jacobian_p99"),
                "folded": values.get("jacobian_folded_fraction"),
                "round trip (um)": values.get("round_trip_p95_um"),
                "seams": values.get(f"{last}.seam_ratio"),
                "failed blocks": values.get(f"{last}.blocks_failed_fraction"),
            }
        )
    kept = [c for c in rows[0] if any(row[c] not in ("", None) for row in rows)]
    caption = (
        "Where two numbers stand with an arrow: under the affine alone, then under the whole transform. Landmarks: median "
        "distance. Volume change: factor at the 1 % and 99 % quantiles. Round trip: 95th percentile of there and back. Seams: how "
        "much more the field bends at the faces of blocks than elsewhere. Failed blocks: share, of the last stage."
    )
    return Section("Registrations", [Table("Overview", rows, columns=kept, caption=caption)])


def registration_section(root: Path, name: str, facts: dict[str, Any]) -> Section:
    """Draw the pictures of a registration; give its part of the page.

    Parameters
    ----------
    root
        Folder of the results.
    name
        Of the registration.
    facts
        ``fixed``, ``moving``, ``labels``, ``moving_labels`` (names of images), ``channels``, ``stages``, ``spacing``, ``landmarks``,
        ``rois``: what there is of it.
    """
    folder = root / "registrations" / name
    figures = folder / "figures"
    values = flat(receipts.read(folder / "quality.json")["values"])
    grid, fixed, moved = _volumes(root, folder, facts)
    states = (
        ("By the affine alone", moved[0]),
        ("By the whole transform" if facts["stages"] else "By the transform (an affine)", moved[1]),
    )
    items: list[Picture | Table] = [*doubtful_start(folder)]

    def add(file: str, title: str, alt: str, caption: str = "") -> None:
        items.append(Picture(figures / file, title, alt, caption))

    overlay(
        fixed, moved[1], grid.spacing, figures / "overlay.png",
        f"{name}: {facts['moving']} (green) on {facts['fixed']} (magenta)", before=moved[0],
        captions=(f"affine, NCC {values['ncc_affine']:.3f}", f"final, NCC {values['ncc']:.3f}"),
    )  # fmt: skip
    add(
        "overlay.png", "Overlay", f"{facts['moving']} on {facts['fixed']} before and after the deformation",
        "Grey where both images are equally bright; magenta where only the fixed image, green where only the moving one is.",
    )  # fmt: skip
    checkerboard(fixed, states, grid, figures / "checkerboard.png", f"{name}: checkerboard of both images")
    add(
        "checkerboard.png", "Checkerboard", f"Squares of {facts['fixed']} and {facts['moving']} in turn",
        "Squares show the fixed (warm) and the moving image (cold) in turn. Structures should go on across their borders.",
    )  # fmt: skip
    _draw_likeness(folder, figures, name, fixed, grid)
    add(
        "local_ncc.png", "Local correlation", "Local correlation of both images over the fixed image",
        "Yellow: the images agree within the window (with the same or with inverted contrast); dark violet: they do not. Nothing is drawn where there is no texture to "
        "compare. The worst places stand in the table below.",
    )  # fmt: skip
    displacements = open_transform(folder / "transform.json").split()[1]
    if displacements is not None:
        deformation(fixed, grid, displacements, figures / "deformation.png", f"{name}: deformation")
        add(
            "deformation.png", "Deformation and change of volume",
            "Grid lines moved by the transform, and the logarithm of its Jacobian",
            "Red: the moving image's tissue fills more space there than the fixed image's, blue: less. Black would be a fold.",
        )  # fmt: skip
    if facts["landmarks"]:
        _draw_landmarks(folder, figures, name, values, fixed, grid)
        add(
            "landmarks.png", "Landmarks", "Arrows from each landmark of the fixed image to where its partner lands",
            "An arrow starts at the point marked in the fixed image and points to where its partner of the moving image lands; its "
            "colour is the distance. Arrows are drawn as many times too long as stands above them.",
        )  # fmt: skip
    if facts["moving_labels"]:
        _draw_labels(root, folder, figures, name, facts, fixed, grid)
        add(
            "labels.png", "Labels", "Borders of the labels of both images on the fixed image",
            "Borders of the labels of the fixed and of the moving image; white where they coincide.",
        )  # fmt: skip
    for stage in facts["stages"]:
        file = f"blocks_{stage}.png"
        measured = folder / "quality" / "blocks.tsv" if stage == facts["stages"][-1] else None
        ledger = folder / "stages" / stage / "ledger.tsv"
        block_map(ledger, figures / file, f"{name}: blocks of stage {stage}", measured)
        add(
            file, f"Blocks of stage {stage}", f"What became of each block of stage {stage}",
            "Similarity as the backend measures it: above the dashed line the stage made a block more alike. "
            f"Every block's numbers: registrations/{name}/stages/{stage}/ledger.tsv.",
        )  # fmt: skip
    items += _tables(folder, values, facts)
    log.info("drew %s", name)
    return Section(f"Registration {name}", items, _words(values, facts))


def doubtful_start(folder: Path) -> list[Picture]:
    """The candidates of an affine start that was not simply accepted, with what was to be said of it."""
    start = receipts.read(folder / "quality" / "affine.json")
    if not start["picture"]:
        return []
    rival = " First the affine that was taken, then the best different one." if start["rival"] else ""
    return [
        Picture(
            folder / start["picture"],
            "Affine start: look at it",
            "The moving image over the fixed one, by the affine that was taken and by its rival",
            f"{'; '.join(start['notes'])}.{rival} Is it the right one?",
        )
    ]


def flat(values: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by name; of those measured at named places (one is written down) the number alone."""
    plain: dict[str, float] = {}
    for name, value in values.items():
        number = next(iter(value.values()), None) if isinstance(value, Mapping) else value
        plain[name] = float("nan") if number is None else float(number)
    return plain


# ---------------------------------------------------------------------- pictures
def _volumes(
    root: Path, folder: Path, facts: dict[str, Any]
) -> tuple[Grid, SlicedImage, tuple[SlicedImage, SlicedImage]]:
    """The grid of the pictures; the fixed image on it; the moving one by the affine and by the whole transform."""
    opened = []
    for role in ("fixed", "moving"):
        image, _ = open_received(root / "images" / facts[role] / "image.json")
        opened.append((image, channel_of(image.channels, facts["channels"][role], f"{role}_channel")))
    grid = comparison_grid(opened[0][0].grid, facts["spacing"])
    before, after = (
        sliced_moving(*opened[1], open_transform(folder / f"{file}.json"), grid)
        for file in ("affine", "transform")
    )
    return grid, sliced_fixed(*opened[0], grid), (before, after)


def _draw_likeness(folder: Path, figures: Path, name: str, fixed: SlicedImage, grid: Grid) -> None:
    maps, _ = open_received(folder / "quality" / "local_ncc.json")
    level = maps.levels[0]

    def channel(number: int) -> SlicedImage:
        return SlicedImage(level.grid, lambda there: level.read(number, _region(level.grid, there)))

    volumes = (channel(0), channel(1))
    likeness_map(
        fixed, grid, list(zip(("By the affine alone", "By the whole transform"), volumes, strict=True)), level.grid,
        _table(folder / "quality" / "worst_regions.tsv"), figures / "local_ncc.png",
        f"{name}: local correlation in windows of {number_text(3 * max(level.grid.spacing))} um",
    )  # fmt: skip


def _draw_landmarks(
    folder: Path, figures: Path, name: str, values: Mapping[str, float], fixed: SlicedImage, grid: Grid
) -> None:
    table = pd.read_csv(folder / "quality" / "landmarks.tsv", sep="\t")
    table = table[table["inside"]]

    def points(role: str) -> np.ndarray:
        return table[[f"{role}_{axis}" for axis in "zyx"]].to_numpy(float)

    words = ("By the affine alone: median {} um", "By the whole transform: median {} um")
    medians = (values.get("tre_affine_median_um", np.nan), values["tre_median_um"])
    landed = [
        (text.format(number_text(median)), points(role))
        for text, median, role in zip(words, medians, ("landed_affine", "landed"), strict=True)
    ]
    landmark_map(
        fixed, grid, points("fixed"), landed, figures / "landmarks.png", f"{name}: {len(table)} landmarks"
    )


def _draw_labels(
    root: Path,
    folder: Path,
    figures: Path,
    name: str,
    facts: Mapping[str, Any],
    fixed: SlicedImage,
    grid: Grid,
) -> None:
    ours, theirs = (
        open_received(root / "images" / facts[role] / "image.json")[0] for role in ("labels", "moving_labels")
    )
    identity = Transform((), facts["fixed"], facts["fixed"])
    moved = [
        (text, sliced_labels(theirs, open_transform(folder / f"{file}.json"), grid))
        for text, file in (("By the affine alone", "affine"), ("By the whole transform", "transform"))
    ]
    label_outlines(
        fixed,
        sliced_labels(ours, identity, grid),
        moved,
        grid,
        figures / "labels.png",
        f"{name}: borders of the labels",
    )


def _region(grid: Grid, there: Grid) -> tuple[slice, slice, slice]:
    """Where a crop of a grid lies in it."""
    z, y, x = np.rint(grid.to_index(there.origin)).astype(int)
    return (
        slice(z, z + there.shape[0]), slice(y, y + there.shape[1]), slice(x, x + there.shape[2]),
    )  # fmt: skip


# ---------------------------------------------------------------------- words and numbers
def _words(values: Mapping[str, float], facts: Mapping[str, Any]) -> str:
    """What the registration reached, in sentences."""
    moving, fixed = facts["moving"], facts["fixed"]
    parts = [
        f"The moving image {moving} was brought onto the fixed image {fixed}: first by an affine (turn, shift, stretch), then "
        f"by {len(facts['stages'])} stage{'s' * (len(facts['stages']) > 1)} of local deformation."
        if facts["stages"]
        else f"The moving image {moving} was brought onto the fixed image {fixed} by an affine (turn, shift, stretch)."
    ]
    if np.isnan(values["ncc"]):
        parts.append("There is nothing to compare: no place shows anything in both images.")
    elif facts["stages"]:
        parts.append(
            f"The correlation of both images went from {values['ncc_affine']:.3f} to {values['ncc']:.3f} (1 is perfect), over "
            f"{100 * values['covered_fraction']:.0f} % of the fixed image, compared at {number_text(values['comparison_spacing_um'])} um."
        )
    if facts["stages"]:
        parts.append(
            f"Volumes change by factors of {values['jacobian_p1']:.2f} to {values['jacobian_p99']:.2f} (1 % and 99 %); "
            f"{'nothing folds' if not values['jacobian_folded_fraction'] else 'folds: {:.2g} of the field'.format(values['jacobian_folded_fraction'])}."
        )
    if "tre_median_um" in values and "tre_affine_median_um" in values:
        parts.append(
            f"Landmarks miss their partners by {number_text(values['tre_median_um'])} um in the median "
            f"({number_text(values['tre_affine_median_um'])} by the affine alone), {100 * values['rtre_median']:.2g} % of the image's diagonal."
        )
    if "dice_affine_mean" in values:
        parts.append(
            f"Labels overlap with a mean Dice of {values['dice_mean']:.3f} ({values['dice_affine_mean']:.3f} by the affine alone)."
        )
    if "round_trip_p95_um" in values:
        parts.append(
            f"There and back ends within {number_text(values['round_trip_p95_um'])} um for 95 % of the voxels, "
            f"{number_text(values['round_trip_max_um'])} um at most."
        )
    return " ".join(parts)


def _tables(folder: Path, values: Mapping[str, float], facts: Mapping[str, Any]) -> list[Table]:
    quality = folder / "quality"
    tables = [
        Table(
            "Worst regions", _table(quality / "worst_regions.tsv"),
            caption="Centres of the windows of weakest local correlation, um in the space of the fixed image.",
        )
    ]  # fmt: skip
    if facts["landmarks"]:
        marks = pd.read_csv(quality / "landmarks.tsv", sep="\t").sort_values("tre_um", ascending=False)
        columns = [
            "landmark",
            "fixed_z",
            "fixed_y",
            "fixed_x",
            "tre_affine_um",
            "tre_um",
            "tre_inverse_um",
            "inside",
        ]
        tables.append(
            Table(
                "Landmarks, the farthest first", _records(marks.head(ROWS)[columns]), bars=("tre_um",),
                caption=f"All: registrations/{folder.name}/quality/landmarks.tsv. Distances in the moving image; the inverse's in the fixed.",
            )
        )  # fmt: skip
    if facts["moving_labels"]:
        labels = pd.read_csv(quality / "labels.tsv", sep="\t").sort_values("dice")
        tables.append(
            Table(
                "Overlap of labels, the least first", _records(labels.head(ROWS)), bars=("dice",),
                caption=f"All: registrations/{folder.name}/quality/labels.tsv.",
            )
        )  # fmt: skip
    if facts["stages"]:
        blocks = pd.read_csv(quality / "blocks.tsv", sep="\t", dtype={"block": str}).sort_values("ncc")
        columns = [
            "block",
            "status",
            "used",
            "ncc_affine",
            "ncc",
            "mutual_information",
            "jacobian_min",
            "disagreement_um",
            "round_trip_p95_um",
            *(["dice"] if facts["moving_labels"] else []),
        ]
        tables.append(
            Table(
                f"Blocks of stage {facts['stages'][-1]}, the least alike first", _records(blocks.head(ROWS)[columns]),
                caption=f"All {len(blocks)}: registrations/{folder.name}/quality/blocks.tsv.",
            )
        )  # fmt: skip
    tables.append(
        Table("Numbers", [{"number": key, "value": value} for key, value in sorted(values.items())])
    )
    if facts["rois"]:
        regions = pd.read_csv(folder / "rois" / "regions.csv")
        regions = regions[(regions["side"] == "both") & (regions["voxels"] > 0)]
        regions = regions.sort_values("voxels", ascending=False).head(ROWS)
        kept = [c for c in ("id", "acronym", "name", "voxels", "volume_mm3", "cells") if c in regions]
        rows = _records(regions[kept].fillna(""))
        tables.append(
            Table("Largest regions", rows, bars=("voxels",), caption="All regions: rois/regions.csv")
        )
    return tables


def _table(path: Path) -> list[dict[str, Any]]:
    return _records(pd.read_csv(path, sep="\t", dtype={"block": str}))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _change(values: Mapping[str, float], before: str, after: str) -> str:
    if before not in values or after not in values:
        return ""
    return f"{number_text(values[before])}\u00a0\u2192\u00a0{number_text(values[after])}"


def _range(values: Mapping[str, float], low: str, high: str) -> str:
    return f"{values[low]:.2f} \u2013 {values[high]:.2f}" if low in values and high in values else ""
