"""A stitched image in the report: its tiles, links and seams, and what was corrected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from weft import receipts
from weft.bias import load_biases
from weft.figures.bias import bias
from weft.figures.illumination import illumination
from weft.figures.positions import positions
from weft.figures.report import Picture, Section, Table
from weft.logs import log
from weft.steps.fit_illumination import bad_tiles
from weft.steps.illumination import load_illumination
from weft.steps.sources import open_received
from weft.steps.tile_tables import read_links, read_poses, read_rows

_LINK_COLUMNS = (
    "tile_a", "tile_b", "z", "y", "x", "ncc", "peak_ratio", "window", "overlap", "confidence", "status", "reason",
    "used", "votes", "residual_um",
)  # fmt: skip
_LIGHT_COLUMNS = (
    "asked", "method", "accepted", "reason", "planes", "seams", "shading_before", "shading_after", "seam_before", "seam_after", "expected_error",
)  # fmt: skip
_BRIGHTNESS_COLUMNS = (
    "accepted", "reason", "pairs", "before", "after", "held_out_before", "held_out_after", "least", "largest",
)  # fmt: skip
_BIAS_COLUMNS = (
    "accepted", "reason", "size", "disagreement", "entropy_before", "entropy_after", "least", "largest",
)  # fmt: skip
# A link with more than this left over, voxels, puts its tiles on the list of those that need a look.
_RESIDUAL = 2.0


def image_section(folder: Path, name: str) -> Section:
    """Draw the pictures of an image and lay out its part of the report; ``folder`` holds its results."""
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
    lights = load_illumination(folder / "illumination.json")
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
            *_light_items(folder, name),
            Table(
                "Links",
                rows,
                _LINK_COLUMNS,
                caption="Displacement (um) of the second tile relative to the first, as measured, with the gate that it "
                "failed; whether the solve used it (or its second peak, the rival), how many cycles close with it, and what is left over.",
            ),
        ],
    )


def _light_items(folder: Path, name: str) -> list[Picture | Table]:
    """Pictures and tables of what was corrected: gain and dark, brightness of tiles, bias of the image; bad tiles."""
    figures, light = folder / "figures", receipts.read(folder / "illumination.json")
    bad = bad_tiles(light["defects"])
    items: list[Picture | Table] = [
        Picture(
            figures / "flat_field.png",
            "Tiles before and after correction",
            f"A tile of {name}, and its tiles side by side, before and after correction",
            "The middle plane of the brightest tile and of the tiles about the middle of the scan, pasted over one another at their solved places: less "
            "the dark, and divided by the gain (and by the tiles' factors, where they are equalised). Both of a pair have one scale of grey. Borders that "
            "stay visible after correction are what fusion has to blend.",
        ),
        Picture(figures / "illumination.png", "Illumination", f"Gain and dark of each channel of {name}"),
        Table(
            "How the gain was found",
            _channel_rows(light, _LIGHT_COLUMNS),
            caption="RMS of the log gain (0.1 is 10 %): the shading of tiles that the fit did not see, and the log ratio of the same content in two "
            "tiles, before and after; a gain that makes either worse is not used, and the reason is given.",
        ),
        Table(
            "Bad tiles",
            [{"tile": tile, "why": "; ".join(why)} for tile, why in bad.items()],
            ("tile", "why"),
            caption="Tiles that no correction can mend; those that the table of overrides excludes are not fused. Where the table is empty, none was found.",
        ),
    ]
    if (folder / "brightness.json").exists():
        items.append(
            Table(
                "Brightness of tiles",
                _channel_rows(receipts.read(folder / "brightness.json"), _BRIGHTNESS_COLUMNS),
                caption="RMS log ratio of the same content in two tiles before and after every tile was divided by its factor, the same on slabs that the "
                "fit did not see, and the range of the factors.",
            )
        )
    if (folder / "bias.json").exists():
        items += [
            Picture(
                _bias_picture(folder, name),
                "Bias",
                f"The middle plane of {name} as it is, seen through its bias, and the bias",
                "What varies slowly over the whole image, as registration is spared it: the image as it is, divided by the gain, and the gain.",
            ),
            Table(
                "How the bias was found",
                _channel_rows(receipts.read(folder / "bias.json"), _BIAS_COLUMNS),
                caption="RMS log gain, and of the difference of what two halves of the image ask for; entropy of the log intensities of a half before "
                "and after, under the other half's field. A bias that the halves do not agree on is not used.",
            ),
        ]
    return items


def _channel_rows(facts: dict[str, Any], columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row for each channel of what its report says."""
    pairs = zip(facts["channels"], facts["reports"], strict=True)
    return [
        {"channel": channel, **{key: report.get(key, "") for key in columns}} for channel, report in pairs
    ]


def _bias_picture(folder: Path, name: str) -> Path:
    path = folder / "figures" / "bias.png"
    plain, seen = (open_received(folder / f"{kind}.json")[0] for kind in ("image", "bias"))
    level, through = plain.levels[-1], seen.levels[-1]
    biases = load_biases(folder / receipts.read(folder / "bias.json")["store"])
    grid = level.grid
    middle = grid.shape[0] // 2
    plane = (slice(middle, middle + 1), slice(None), slice(None))
    bias(
        [
            (channel, level.read(c, plane)[0], through.read(c, plane)[0], biases[c].gain(grid, (middle, 0, 0), (1, *grid.shape[1:]))[0])
            for c, channel in enumerate(plain.channels)
        ],
        path,
        f"{name}: bias of the whole image",
    )  # fmt: skip
    return path


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
