"""Rule render_report: the pictures of a run and the page that shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from weft import receipts
from weft.figures.illumination import illumination
from weft.figures.positions import positions
from weft.figures.report import Picture, Section, Table
from weft.figures.report import render_report as render
from weft.logs import log
from weft.quality.gates import read_quality_table
from weft.steps.illumination import load_illumination
from weft.steps.report_registration import overview_section, registration_section
from weft.steps.tile_tables import read_links, read_poses, read_rows

_LINK_COLUMNS = (
    "tile_a", "tile_b", "z", "y", "x", "ncc", "peak_ratio", "window", "overlap", "confidence", "status", "reason",
    "used", "votes", "residual_um",
)  # fmt: skip
# A link with more than this left over, voxels, puts its tiles on the list of those that need a look.
_RESIDUAL = 2.0


def render_report(
    *,
    parts: list[str],
    table: str,
    contents: dict[str, Any],
    code: str,
    html: str,
    **_: Any,
) -> None:
    """Draw every picture, then the page. What it shows is named in ``contents``."""
    root = Path(html).parent
    gates = read_quality_table(table)
    sections = [overview_section(root, contents["registrations"], gates)] if contents["registrations"] else []
    sections += [_image_section(root / "images" / name, name) for name in contents["images"]]
    sections += [registration_section(root, name, facts) for name, facts in contents["registrations"].items()]
    sections.append(_cost_section(root))
    render(
        sections,
        html,
        title="weft report",
        subtitle=", ".join(
            f"{len(contents[kind])} {words if len(contents[kind]) != 1 else words[:-1]}"
            for kind, words in (("images", "stitched images"), ("registrations", "registrations"))
        ),
        gates=gates,
    )


def _image_section(folder: Path, name: str) -> Section:
    tiles = receipts.read(folder / "tiles.json")
    names = [tile["name"] for tile in tiles["tiles"]]
    solved = read_poses(str(folder / "poses.tsv"))
    status = pd.read_csv(folder / "poses.tsv", sep="\t")["status"].replace(
        {"neighbours": "unlinked", "stage_only": "unlinked"}
    )
    links = read_links(str(folder / "links.tsv"), names)
    pairs = np.array([[link.i, link.j] for link in links]).reshape(-1, 2)
    residuals = np.array([link.displacement - (solved[link.j] - solved[link.i]) for link in links]).reshape(
        -1, 3
    )
    solved_links = read_rows(str(folder / "solved_links.tsv"))
    figures = folder / "figures"
    positions(
        np.array([tile["position"] for tile in tiles["tiles"]]),
        solved,
        np.asarray(tiles["shape"]) * np.asarray(tiles["spacing"]),
        figures / "positions.png",
        f"{name}: positions of the tiles",
        names=names,
        status=list(status),
        links=pairs,
        residuals=residuals,
        used=np.array([row["used"] != "no" for row in solved_links[: len(links)]], bool),
    )
    lights = [load_illumination(folder / "illumination.json", c) for c in range(len(tiles["channels"]))]
    illumination(
        np.stack([light.gain for light in lights]),
        np.stack([light.dark for light in lights]),
        figures / "illumination.png",
        f"{name}: illumination",
        channels=tiles["channels"],
    )
    log.info("drew %s", name)
    rows = _rows(pd.read_csv(folder / "links.tsv", sep="\t", keep_default_na=False))
    for row, solution in zip(rows, solved_links, strict=False):
        row.update({key: solution[key] for key in ("used", "votes", "residual_um")})
    return Section(
        f"Image {name}",
        [
            Picture(
                figures / "positions.png",
                "Tile positions",
                f"Where the tiles of {name} lie by the stage and by the solve",
            ),
            Table(
                "Tiles that need a look",
                _doubtful_tiles(folder, max(tiles["spacing"])),
                ("tile", "why"),
                caption="Where the table is empty, every tile is tied by links that agree.",
            ),
            Picture(
                figures / "seams.png",
                "Seams",
                f"Patches where two tiles of {name} meet, by the stage and by the solve",
                "One tile in green, the other in magenta: grey where they agree, coloured edges where they do not. "
                "The seams that most need a look come first; all are in seams.tsv.",
            ),
            Picture(figures / "illumination.png", "Illumination", f"Gain and dark of each channel of {name}"),
            Table(
                "Links",
                rows,
                _LINK_COLUMNS,
                caption="Displacement (um) of the second tile relative to the first, as measured, with the gate that it "
                "failed; whether the solve used it (or its second peak, the rival), how many cycles close with it, and what is left over.",
            ),
        ],
    )


def _doubtful_tiles(folder: Path, voxel: float) -> list[dict[str, str]]:
    """Tiles that no link ties to the largest set, or whose links disagree by more than two voxels, with the reason."""
    words = {
        "neighbours": "no link is believed: it moved as its neighbours did",
        "stage_only": "nothing near it: it lies where the stage says",
    }
    found = []
    for tile in read_rows(str(folder / "poses.tsv")):
        why = [words[tile["status"]]] if tile["status"] in words else []
        if tile["status"] == "ok" and tile["component"] != "0":
            why.append(f"its set of tiles (number {tile['component']}) is placed by the stage alone")
        if float(tile["residual_um"]) > _RESIDUAL * voxel:
            why.append(f"a link of it has {float(tile['residual_um']):.3g} um left over")
        if why:
            found.append({"tile": tile["tile"], "why": "; ".join(why)})
    return found


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _cost_section(root: Path) -> Section:
    """Wall time and peak memory of each rule, from the benchmarks."""
    rows = []
    for folder in sorted((root / "benchmarks").glob("*")):
        paths = [folder] if folder.is_file() else sorted(folder.rglob("*.jsonl"))
        jobs = [receipts.read(path) for path in paths if path.suffix == ".jsonl" and path.stat().st_size]
        if jobs:
            seconds = [float(job["s"]) for job in jobs]
            memory = [float(job["max_rss"]) for job in jobs if job.get("max_rss") not in (None, "NA", "-")]
            rows.append(
                {
                    "rule": folder.stem,
                    "jobs": len(jobs),
                    "seconds": round(sum(seconds), 1),
                    "peak memory (MB)": round(max(memory), 0) if memory else "",
                }
            )
    return Section(
        "Costs",
        [
            Table(
                "Rules",
                rows,
                bars=("seconds",),
                caption="Wall seconds of all jobs of a rule, and the largest of their memories.",
            )
        ]
        if rows
        else [],
    )
