"""Rule fit_illumination: gain and dark of each channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import zarr

from weft import receipts
from weft.corrections import tell
from weft.illumination import Illumination, find_defects, read_once, read_profile, resolve_dark
from weft.illumination import fit_illumination as fit
from weft.illumination.basic import require_basic
from weft.illumination.depth import fit_depth
from weft.logs import log
from weft.steps.quality import write_quality
from weft.steps.sources import open_tiles, tile_digests, tile_places


def fit_illumination(
    *,
    tiles: str,
    path: str,
    source: dict[str, Any],
    settings: dict[str, Any],
    state: Any,
    gates: dict[str, Any],
    code: str,
    receipt: str,
    quality: str,
    threads: int,
) -> None:
    """Estimate the illumination of every channel and store gain and dark, (c, y, x) float32; and the relief, (c, slab, y, x)."""
    index = receipts.read(tiles)
    raw = read_once(open_tiles(path, source))
    channels = range(len(raw.channels))
    packages = ["scipy"]
    if settings["method"] == "basic":
        require_basic()
        packages.append("basicpy")
    darks = [
        resolve_dark(settings["dark"], raw, channel, settings["dark_percentile"]) for channel in channels
    ]
    profile = settings["profile"]
    facts = [
        [tile_digests(index, channel) for channel in channels],
        tile_places(index),
        _digests(darks),
        [_digests(read_profile(profile, c, raw.shape[1:])) for c in channels if profile],
        [settings[name] for name in ("method", "policy", "planes", "percentile", "slabs")],
    ]
    key = receipts.digest([facts, code, receipts.environment(*packages)])
    store = receipts.KeyedStore(receipt.replace(".json", ".zarr"), key)

    options = {name: settings[name] for name in ("method", "policy", "percentile")}

    def one(channel: int) -> tuple[Illumination, np.ndarray | None]:
        whole = fit(raw, channel, dark=darks[channel], profile=profile, samples=settings["planes"], **options)
        if settings["slabs"] == 1:
            return whole, None
        relief, reports = fit_depth(
            raw, channel, whole, settings["slabs"], samples=settings["planes"], **options
        )
        return replace(whole, report={**whole.report, "slabs": reports}), relief

    with receipts.job_lock(receipt):
        if not store.done("all"):
            store.start()
            with ThreadPoolExecutor(threads) as pool:
                pairs = list(pool.map(one, channels))
            fitted = [whole for whole, _ in pairs]
            arrays = {name: np.stack([getattr(value, name) for value in fitted]) for name in ("gain", "dark")}
            if settings["slabs"] > 1:
                arrays["relief"] = np.stack([relief for _, relief in pairs if relief is not None])
            shards = {}
            for name, planes in arrays.items():
                zarr.create_array(str(store.path / name), data=planes, zarr_format=3, overwrite=True)
                shards[name] = receipts.array_digest(planes)
            defects = [find_defects(raw, channel) for channel in channels]
            store.finish("all", shards, reports=[value.report for value in fitted], defects=defects)
            log.info("fitted %d channels", len(fitted))
        records = store.records(["all"])
        _tell(index["image"], raw.channels, records["all"])
        bad = bad_tiles(records["all"]["defects"])
        words = ", ".join(f"{name} ({'; '.join(why)})" for name, why in bad.items())
        count: float | dict[str, float] = {words: float(len(bad))} if bad else 0.0
        write_quality(quality, "fit_illumination", index["image"], {"bad_tiles": count}, gates)
        store.publish(receipt)
        receipts.write_provenance(receipt, key=store.key, settings=settings, code=code)
        receipts.write(
            receipt,
            {
                "store": store.public.name,
                "channels": list(raw.channels),
                "reports": records["all"]["reports"],
                "defects": records["all"]["defects"],
                "data": store.data_digest(records),
            },
        )


def bad_tiles(defects: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """What is wrong with each tile that is dead, saturated or doubled, by its name; ``defects`` of each channel."""
    found: dict[str, list[str]] = {}
    for channel in defects:
        said = [(name, kind) for kind in ("dead", "saturated") for name in channel[kind]]
        for group in channel["doubled"]:
            said += [(name, f"the same as {', '.join(sorted(set(group) - {name}))}") for name in group]
        for name, words in said:
            if words not in found.setdefault(name, []):
                found[name].append(words)
    return dict(sorted(found.items()))


def _digests(planes: Iterable[np.ndarray | None]) -> list[str | None]:
    return [None if plane is None else receipts.array_digest(plane) for plane in planes]


def _tell(image: str, channels: Sequence[str], record: dict[str, Any]) -> None:
    """Say which corrections were refused and which tiles are bad."""
    for channel, report, defects in zip(channels, record["reports"], record["defects"], strict=True):
        if report["asked"] != "none":
            tell(image, channel, "gain", report)
        for kind, found in defects.items():
            if found:
                log.warning("%s, channel %s: %s tiles: %s", image, channel, kind, found)
