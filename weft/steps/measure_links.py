"""Rules measure_links and gather_links: the displacement between overlapping tiles."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from weft import receipts
from weft.blocks import deal
from weft.links import Link, LinkSettings, candidate_links, measure_link
from weft.logs import log, progress
from weft.steps.illumination import load_illumination, load_relief, prepared_tiles
from weft.steps.quality import write_quality
from weft.steps.sources import channel_of, open_tiles, tile_digests

# Displacements are in um; `window` is the part of the search window that is taken up, `rival_*` the second peak.
AXES = ("z", "y", "x")
NUMBERS = ("ncc", "peak_ratio", "window", "overlap", "confidence")
MATCH_COLUMNS = ("tile_a", "tile_b", *AXES, *(f"d{axis}" for axis in AXES), "ncc")
COLUMNS = ("tile_a", "tile_b", *AXES, *NUMBERS, "status", "reason", *(f"rival_{axis}" for axis in AXES))


def measure_links(
    *,
    tiles: str,
    illumination: str,
    path: str,
    source: dict[str, Any],
    settings: dict[str, Any],
    batches: int,
    batch: int,
    cache: str,
    code: str,
    receipt: str,
    threads: int,
) -> None:
    """Measure one batch of links; a link measured before from the same voxels and settings is found."""
    index = receipts.read(tiles)
    raw = open_tiles(path, source)
    channel = channel_of(raw.channels, settings["channel"], f"links.channel: image {index['image']!r}")
    lights = load_illumination(illumination)
    light, relief = lights[channel], load_relief(illumination)
    raw = prepared_tiles(raw, illumination, lights)
    diagonal = None if settings["diagonal"] == "auto" else settings["diagonal"]
    pairs = candidate_links(raw.positions(), raw.shape, raw.spacing, diagonal=diagonal)
    mine = deal([f"{i}-{j}" for i, j in pairs], batch, batches)
    data = tile_digests(index, channel)
    gates = ("method", "peaks", "min_ncc", "max_peak_ratio", "min_overlap", "border", "matches")
    options = LinkSettings(**{name: settings[name] for name in gates})
    facts = [receipts.array_digest(light.gain), receipts.array_digest(light.dark), settings, code]
    facts += [] if relief is None else [receipts.array_digest(relief)]
    facts += [index["spacing"], receipts.environment("scipy")]

    def one(name: str) -> tuple[str, dict[str, Any], bool]:
        i, j = (int(part) for part in name.split("-"))
        where = [list(raw.tiles[t].position) for t in (i, j)]
        key = receipts.digest([data[i], data[j], where, facts])

        def make() -> dict[str, Any]:
            link = measure_link(raw, i, j, channel, light, search_voxels=settings["search"], settings=options)
            return _plain(link, options)

        return key, *receipts.cached(f"{cache}/links", key, make)

    with receipts.job_lock(receipt):
        with ThreadPoolExecutor(threads) as pool:
            found = list(progress(pool.map(one, mine), len(mine), "measure_links: links"))
        log.info("made %d of %d links", sum(made for *_, made in found), len(found))
        receipts.write_provenance(receipt, keys=[key for key, *_ in found], code=code)
        receipts.write(
            receipt,
            {"links": [{**link, "pair": name} for name, (_, link, _) in zip(mine, found, strict=True)]},
        )


def gather_links(
    *,
    tiles: str,
    batches: list[str],
    gates: dict[str, Any],
    code: str,
    links: str,
    matches: str,
    quality: str,
) -> None:
    """Write all links as a table, what their blocks say as another, and the share of those that failed."""
    index = receipts.read(tiles)
    names = [tile["name"] for tile in index["tiles"]]
    rows = [link for path in batches for link in receipts.read(path)["links"]]
    with Path(links).open("w", newline="") as handle:
        table = csv.writer(handle, delimiter="\t", lineterminator="\n")
        table.writerow(COLUMNS)
        for link in rows:
            i, j = (int(part) for part in link["pair"].split("-"))
            numbers = [*link["displacement"], *(link[name] for name in NUMBERS)]
            cells = [names[i], names[j], *(f"{n:.6g}" for n in numbers), link["status"], link["reason"]]
            table.writerow([*cells, *([f"{n:.6g}" for n in link["rival"]] or [""] * len(AXES))])
    with Path(matches).open("w", newline="") as handle:
        table = csv.writer(handle, delimiter="\t", lineterminator="\n")
        table.writerow(MATCH_COLUMNS)
        for link in rows:
            i, j = (int(part) for part in link["pair"].split("-"))
            table.writerows([names[i], names[j], *(f"{n:.6g}" for n in match)] for match in link["matches"])
    judged = [link for link in rows if link["status"] != "empty"]
    failed = sum(link["status"] != "ok" for link in judged)
    image = index["image"]
    write_quality(
        quality, "measure_links", image, {"links_failed_fraction": failed / max(len(judged), 1)}, gates
    )


def _plain(link: Link, settings: LinkSettings) -> dict[str, Any]:
    """A link as JSON; ``rival`` is empty where there is none."""
    return {
        "displacement": link.displacement.tolist(),
        **{name: getattr(link, name) for name in NUMBERS},
        "status": link.status,
        "reason": link.reason(settings),
        "matches": link.matches.tolist(),
        "rival": [] if link.rival is None else link.rival.tolist(),
    }
