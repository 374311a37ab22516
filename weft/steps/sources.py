"""Open what earlier steps left: tiles, illumination, images by their receipts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft import receipts
from weft.bias import corrected, load_biases
from weft.image import Image, TileSet
from weft.plugins import import_plugins
from weft.readers import open_source
from weft.stores import open_image


def open_tiles(path: str, source: dict[str, Any]) -> TileSet:
    """The raw tiles of an image, as its row of images.tsv says (and the modules that the setting `plugins` names)."""
    import_plugins(source.get("plugins", ()))
    options = {name: source[name] for name in ("spacing", "channels", "orientation") if source.get(name)}
    options |= source["options"]
    tiles = open_source(path, format=source["format"], **options)
    if not isinstance(tiles, TileSet):
        raise ValueError(
            f"{path}: format {source['format']!r} gives an image, not tiles; leave `format` empty in images.tsv"
        )
    return tiles


def open_received(receipt: str | Path) -> tuple[Image, dict[str, Any]]:
    """The image that a receipt speaks of, and the receipt.

    Channels, orientation and the kind (labels or not) are the receipt's: a store that is only referenced
    may not say them. The receipt of a bias speaks of the image that is seen through it.
    """
    facts = receipts.read(receipt)
    folder = Path(receipt).parent
    facts = {**facts, **facts.get("seen", {})}
    image = open_image(folder / facts["store"])
    image = dataclasses.replace(
        image, channels=tuple(facts["channels"]), orientation=facts["orientation"], labels=facts["labels"]
    )
    return corrected(image, load_biases(folder / facts["bias"])) if facts.get("bias") else image, facts


def open_mask(receipt: str | list[str]) -> Image | None:
    """The mask that a receipt speaks of; none where a script is handed an empty list."""
    return open_received(receipt)[0] if isinstance(receipt, str) else None


def tile_digests(tiles: dict[str, Any], channel: int) -> list[str]:
    """The data digest of every tile in one channel."""
    return [tile["data"][channel] for tile in tiles["tiles"]]


def tile_places(tiles: dict[str, Any]) -> list[Any]:
    """Voxel size and stage positions, um: what a result depends on beside the tiles' voxels."""
    return [tiles["spacing"], [tile["position"] for tile in tiles["tiles"]]]


def channel_of(channels: Sequence[str], name: str | None, where: str) -> int:
    """Index of the channel that a setting names, or of the first.

    Parameters
    ----------
    channels
        Names of an image's channels.
    name
        What the setting says; None for the first channel.
    where
        What an error begins with: the setting, and the image.

    Raises
    ------
    ValueError
        When there is no such channel.
    """
    if name is not None and name not in channels:
        raise ValueError(f"{where}: there is no channel {name!r}; wanted one of {', '.join(channels)}")
    return 0 if name is None else channels.index(name)
