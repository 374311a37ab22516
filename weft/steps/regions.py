"""Regions of a batched store: its shards, their names, and whether the batches made them all."""

from __future__ import annotations

from typing import Any

from weft.blocks import cut, index_of, region
from weft.stores.ome_zarr import shard_shape


def region_names(array: Any) -> list[str]:
    """Names ``c.i.j.k`` of the shards of a level (c, z, y, x), in z-order."""
    return cut(array.shape, (1, *shard_shape(array)))


def split_name(name: str, array: Any) -> tuple[int, tuple[slice, slice, slice]]:
    """Channel and slices (z, y, x) of a region's name."""
    parts = region(name, array.shape, (1, *shard_shape(array)))
    return index_of(name)[0], parts[1:]  # type: ignore[return-value]


def one_key(parts: list[dict[str, Any]], receipt: str) -> str:
    """The key under which all batches were made."""
    keys = sorted({part["key"] for part in parts})
    if len(keys) != 1:
        raise ValueError(
            f"{receipt}: its batches were made from different inputs or settings (keys {', '.join(keys)}); rerun them"
        )
    return keys[0]


def check_complete(parts: list[dict[str, Any]], names: list[str], receipt: str) -> None:
    """That the batches made every region once."""
    made = [name for part in parts for name in part["regions"]]
    if sorted(made) != sorted(names):
        missing = sorted(set(names) - set(made))
        raise ValueError(
            f"{receipt}: {len(missing)} of {len(names)} regions were dealt to no batch, e.g. {missing[:1]}; rerun the batches"
        )
