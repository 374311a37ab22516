"""Rule import_image: an image that has no tiles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.grid import Grid
from weft.image import Image
from weft.logs import log, warn
from weft.plugins import import_plugins
from weft.readers import open_source, reader_identity
from weft.steps.level_builder import LevelBuilder
from weft.steps.levels import finish_image, image_facts, level_grids
from weft.steps.regions import split_name
from weft.stores.ome_zarr import metadata_digest

UNLIKE = 1.02  # ratio of the axes' ratios from which two voxel sizes are not one in another unit


def import_image(
    *,
    path: str,
    state: str,
    image: dict[str, Any],
    settings: dict[str, Any],
    store: dict[str, Any],
    code: str,
    receipt: str,
    threads: int,
    phantom: str | None = None,
) -> None:
    """Bring an image in: a chunked pyramid (OME-Zarr) is referenced by a link, all else is converted."""
    import_plugins(image.get("plugins", ()))
    options = {
        name: image[name] for name in ("spacing", "orientation", "labels", "channels") if image.get(name)
    }
    options |= image["options"]
    opened = open_source(path, format=None if image["format"] == "auto" else image["format"], **options)
    if not isinstance(opened, Image):
        raise ValueError(f"{path}: holds tiles, not an image; name their format in images.tsv")
    if doubt := _spacing_doubt(image, opened):
        warn(f"image {image['image']!r}: {doubt} ({path})")
    if opened.labels and opened.dtype.kind not in "ui":
        raise ValueError(f"{path}: labels must be unsigned or signed integers; found {opened.dtype}")
    if phantom:
        state = receipts.read(phantom)["data"]
    about: dict[str, Any] = {
        "channels": list(opened.channels),
        "orientation": opened.orientation,
        "labels": opened.labels,
    }
    facts = {name: value for name, value in image.items() if name != "plugins"}
    identity = reader_identity(image["format"])
    versions = receipts.environment("numba", "zarr")
    key = receipts.digest([state, facts, identity, about, settings, store, code, versions])
    with receipts.job_lock(receipt):
        if _is_pyramid(path, opened) and not image.get("spacing"):
            made = _reference(path, opened, about, receipt)
        else:
            made = _convert(opened, about, key, settings, store, receipt, image["image"], threads)
            made |= {"spacing_doubt": doubt} if doubt else {}  # for the gate of whoever registers it
        receipts.write_provenance(receipt, key=key, source=path, settings=image, code=code)
        receipts.write(receipt, made)


def _spacing_doubt(image: dict[str, Any], opened: Image) -> str | None:
    """What is to be said of a voxel size in the table that differs from the source's as one of two mistakes would.

    Either the axes are to each other not as the source says, and may be swapped; or, where the source's unit is known, all
    are off by a thousand. Else another unit is no reason, as many files do not say in which theirs is.
    """
    given, stated = opened.grid.spacing, opened.stated_spacing
    if not image.get("spacing") or stated is None or not all(math.isfinite(v) and v > 0 for v in stated):
        return None
    sizes = zip(given, stated, opened.grid.shape, strict=True)
    ratios = [here / there for here, there, voxels in sizes if voxels > 1]
    if not ratios:
        return None
    if max(ratios) > UNLIKE * min(ratios):
        question = "is the order of its axes right?"
    elif opened.stated_um and any(abs(math.log(ratios[0] / mm)) < math.log(UNLIKE) for mm in (1e-3, 1e3)):
        question = "is it in um?"
    else:
        return None
    here, there = (", ".join(f"{v:g}" for v in size) for size in (given, stated))
    unit = " um" if opened.stated_um else ""
    return (
        f"the table of images gives a voxel size of {here} um (z, y, x), and its source states {there}{unit}; "
        f"the table's is used: {question}"
    )


def _is_pyramid(path: str, image: Image) -> bool:
    return len(image.levels) > 1 and (
        (Path(path) / "zarr.json").is_file() or (Path(path) / ".zattrs").is_file()
    )


def _reference(path: str, image: Image, about: dict[str, Any], receipt: str) -> dict[str, Any]:
    """Put a link to a pyramid where the image belongs; digest its voxels slab by slab."""
    link = Path(receipt).with_name("image.ome.zarr")
    with receipts.replaced(link, receipt):
        link.symlink_to(Path(path).resolve(), target_is_directory=True)
    log.info("referenced %s", path)
    return {
        "store": link.name,
        "referenced": True,
        "shape": [len(image.channels), *image.grid.shape],
        "dtype": str(image.dtype),
        "grid": image.grid.to_json(),
        "levels": len(image.levels),
        "data": referenced_digest(image),
        "metadata": metadata_digest(link),
        **about,
    }


def referenced_digest(image: Image) -> str:
    """Data digest of an image that is only referenced: over slabs of its finest level."""
    return receipts.digest(
        [
            receipts.array_digest(image.levels[0].read(channel, (slice(z, z + 64), slice(None), slice(None))))
            for channel in range(len(image.channels))
            for z in range(0, image.grid.shape[0], 64)
        ]
    )


def _convert(
    image: Image,
    about: dict[str, Any],
    key: str,
    settings: dict[str, Any],
    store: dict[str, Any],
    receipt: str,
    name: str,
    threads: int,
) -> dict[str, Any]:
    """Write all levels of an image that is no pyramid yet."""
    keyed = receipts.KeyedStore(Path(receipt).with_name("image.ome.zarr"), key)
    grids: list[Grid] = level_grids(image.grid, settings["smallest"])
    dtype = image.dtype.newbyteorder("=")
    builder = LevelBuilder(keyed, grids, len(image.channels), dtype, labels=image.labels, store=store)

    def read(region: str) -> tuple[np.ndarray, dict[str, Any]]:
        channel, where = split_name(region, builder.levels[0])
        return image.levels[0].read(channel, where).astype(dtype, copy=False), {}

    builder.build(builder.names(), read, threads=threads, what="import_image: regions")
    records = finish_image(builder, name=name, threads=threads, **about)
    keyed.publish(receipt)
    return image_facts(keyed, records, grids, dtype=dtype, **about)
