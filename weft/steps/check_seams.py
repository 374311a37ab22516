"""Rule check_seams: how well tiles agree where they meet; pictures of the seams that need a look, and of what the correction makes of tiles."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.figures.flat_field import FlatFieldPicture, flat_field, paste
from weft.figures.seams import SeamPicture, seams
from weft.illumination.model import Illumination
from weft.image import TileSet
from weft.links.seams import Seam, seam
from weft.logs import log, progress
from weft.pyramid import downsample
from weft.steps.illumination import load_illumination, prepared_tiles, read_factors
from weft.steps.sources import channel_of, open_tiles
from weft.steps.tile_tables import read_fused, read_linear, read_poses, read_rows

COLUMNS = ("tile_a", "tile_b", "status", "used", "residual_um", "ncc_stage", "ncc_solved")
MEASURED, DRAWN = 200, 8
# Of the picture of corrected tiles: how many at most, and its longest edge.
TILES, PIXELS = 64, 900


def check_seams(
    *,
    tiles: str,
    illumination: str,
    poses: str,
    solved_links: str,
    factors: str | list[str],
    path: str,
    source: dict[str, Any],
    channel: str | None,
    stripes: dict[str, Any],
    code: str,
    table: str,
    picture: str,
    flat_field_picture: str,
) -> None:
    """Correlate what two tiles show of the same place, by the stage and by the solve; draw the worst seams.

    Of large scans, the seams that most need a look: links that were measured and not used, then those with the
    largest residuals. A second picture shows tiles before and after they are corrected (``factors`` is the receipt
    of their brightness, and empty where none was asked for).
    """
    index = receipts.read(tiles)
    raw = open_tiles(path, source)
    number = channel_of(raw.channels, channel, f"links.channel: image {index['image']!r}")
    lights = load_illumination(illumination)
    places = {tile["name"]: n for n, tile in enumerate(index["tiles"])}
    stage, solved, linear = raw.positions(), read_poses(poses), read_linear(poses)
    fused = {index["tiles"][n]["name"] for n in read_fused(poses)}
    links = [row for row in read_rows(solved_links) if {row["tile_a"], row["tile_b"]} <= fused]
    rows = sorted(links, key=_urgency)[:MEASURED]
    drawn: list[SeamPicture] = []
    lines: list[list[str]] = []
    for row in progress(rows, len(rows), "check_seams: seams"):
        pair = places[row["tile_a"]], places[row["tile_b"]]
        before = seam(raw, pair, number, lights[number], stage)
        after = seam(raw, pair, number, lights[number], solved, linear)
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
    kept = read_fused(poses)
    brightness = read_factors(factors, len(raw.channels), len(raw.tiles))[:, kept]
    both = raw.part(kept), prepared_tiles(raw.part(kept), illumination, lights, stripes)
    shown = [_flat_field(both, c, lights[c], solved[kept], brightness[c]) for c in range(len(raw.channels))]
    flat_field(shown, flat_field_picture, f"{index['image']}: tiles before and after correction")


def _flat_field(
    pair: tuple[TileSet, TileSet],
    channel: int,
    light: Illumination,
    positions: np.ndarray,
    factors: np.ndarray,
) -> FlatFieldPicture:
    """The middle plane of the tiles about the middle of the scan, binned, and the brightest of them alone.

    ``pair`` are the tiles as they are and as they are fused.
    """
    tiles, fused = pair
    about = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
    chosen = np.sort(np.argsort(about, kind="stable")[:TILES])
    places = positions[chosen, 1:] / tiles.spacing[1:]
    extent = (np.ptp(places, axis=0) + tiles.shape[1:]).max()
    factor = max(1, int(np.ceil(extent / PIXELS)))
    z = tiles.shape[0] // 2
    before, after, best, alone = [], [], -np.inf, (0, np.empty((0, 0)), np.empty((0, 0)))
    for tile in chosen.tolist():
        where = slice(z, z + 1), slice(None), slice(None)
        plane = tiles.read(tile, channel, where)
        raw, signal = (
            plane[0].astype(np.float32) - light.dark,
            light.correct(fused.read(tile, channel, where))[0] / float(factors[tile]),
        )
        before.append(downsample(raw[None], (1, factor, factor))[0])
        after.append(downsample(signal[None], (1, factor, factor))[0])
        mean = float(signal.mean())
        if mean > best:
            edge = max(1, -(-max(raw.shape) // PIXELS))
            best, alone = mean, (tile, *(downsample(v[None], (1, edge, edge))[0] for v in (raw, signal)))
    corners = np.round((places - places.min(0)) / factor).astype(int)
    return FlatFieldPicture(
        tiles.channels[channel],
        tiles.tiles[alone[0]].name,
        *alone[1:],
        paste(before, corners),
        paste(after, corners),
    )


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
