"""Rule check_seams: how well tiles agree where they meet, and pictures of the seams that need a look."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.figures.seams import SeamPicture, seams
from weft.links.seams import Seam, seam
from weft.logs import log, progress
from weft.steps.illumination import load_illumination
from weft.steps.sources import channel_of, open_tiles
from weft.steps.tile_tables import read_fused, read_poses, read_rows

COLUMNS = ("tile_a", "tile_b", "status", "used", "residual_um", "ncc_stage", "ncc_solved")
MEASURED, DRAWN = 200, 8


def check_seams(
    *,
    tiles: str,
    illumination: str,
    poses: str,
    solved_links: str,
    path: str,
    source: dict[str, Any],
    channel: str | None,
    code: str,
    table: str,
    picture: str,
) -> None:
    """Correlate what two tiles show of the same place, by the stage and by the solve; draw the worst seams.

    Of large scans, the seams that most need a look: links that were measured and not used, then those with the
    largest residuals.
    """
    index = receipts.read(tiles)
    raw = open_tiles(path, source)
    number = channel_of(raw.channels, channel, f"links.channel: image {index['image']!r}")
    light = load_illumination(illumination, number)
    places = {tile["name"]: n for n, tile in enumerate(index["tiles"])}
    stage, solved = raw.positions(), read_poses(poses)
    fused = {index["tiles"][n]["name"] for n in read_fused(poses)}
    links = [row for row in read_rows(solved_links) if {row["tile_a"], row["tile_b"]} <= fused]
    rows = sorted(links, key=_urgency)[:MEASURED]
    drawn: list[SeamPicture] = []
    lines: list[list[str]] = []
    for row in progress(rows, len(rows), "check_seams: seams"):
        pair = places[row["tile_a"]], places[row["tile_b"]]
        before, after = (seam(raw, pair, number, light, positions) for positions in (stage, solved))
        numbers = [float("nan") if s is None else s.ncc for s in (before, after)]
        lines.append([*(row[name] for name in COLUMNS[:5]), *(f"{v:.4f}" for v in numbers)])
        if len(drawn) < DRAWN:
            drawn.append(
                SeamPicture(
                    f"{row['tile_a']} - {row['tile_b']}",
                    _words(row),
                    _patches(before),
                    _patches(after),
                    (numbers[0], numbers[1]),
                )
            )
    with Path(table).open("w", newline="") as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(lines))
    seams(drawn, picture, f"{index['image']}: seams that most need a look")
    log.info("measured %d seams, drew %d", len(lines), len(drawn))


def _urgency(row: dict[str, str]) -> tuple[int, float, str, str]:
    """Smaller for what needs a look more."""
    kind = 0 if row["used"] == "no" and row["status"] != "empty" else 1 if row["used"] != "no" else 2
    return kind, -float(row["residual_um"]), row["tile_a"], row["tile_b"]


def _words(row: dict[str, str]) -> str:
    left = f"{float(row['residual_um']):.3g} um left over"
    if row["used"] == "no":
        return "nothing to see" if row["status"] == "empty" else f"not used ({row['status']}), {left}"
    return f"its second peak is used, {left}" if row["used"] == "rival" else left


def _patches(found: Seam | None) -> tuple[np.ndarray, np.ndarray] | None:
    return None if found is None else (found.first, found.second)
