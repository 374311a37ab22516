"""Displacement fields as OME-NGFF stores (coordinate transformations of RFC-5, NGFF 0.6), Zarr v3, sharded."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from weft import receipts
from weft.grid import Grid
from weft.transforms.interpolate import check_field

NGFF_VERSION = "0.6"
CHUNK = 32
SHARD = 128
AXES = ("d", "z", "y", "x")


def save_field(
    store: str | Path,
    field: np.ndarray,
    grid: Grid,
    attributes: dict[str, Any] | None = None,
    name: str = "displacements",
) -> dict[str, str]:
    """Write a displacement field as a one-level NGFF image whose first axis is the displacement.

    Parameters
    ----------
    store
        Folder of the new Zarr group; the field is its array ``0``. What lay in the array is replaced.
    field
        (3, z, y, x) float32, um, components z, y, x; x -> x + u(x), pull-back.
    grid
        Where its samples lie.
    attributes
        More attributes of the array, e.g. names of the spaces.
    name
        Of the NGFF coordinate system.

    Returns
    -------
    Digest of every shard (name within the store -> digest of its decoded values), for the receipt:
    `data_digest` makes one out of them.

    Raises
    ------
    ValueError
        When the field does not lie on the grid or holds values that are not finite.
    """
    check_field(field, grid)
    if not np.isfinite(field).all():
        raise ValueError(
            f"{store}: the displacement field holds {int((~np.isfinite(field)).sum())} values that are not finite"
        )
    group = zarr.open_group(str(store), mode="a", zarr_format=3)
    group.attrs["ome"] = _ngff_metadata(grid, name)
    spatial = tuple(min(SHARD, CHUNK * -(-n // CHUNK)) for n in grid.shape)
    array = group.create_array(
        "0",
        shape=(3, *grid.shape),
        dtype="float32",
        chunks=(3, CHUNK, CHUNK, CHUNK),
        shards=(3, *spatial),
        compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
        dimension_names=AXES,
        fill_value=0.0,
        overwrite=True,
        attributes={
            "grid": grid.to_json(),
            "units": "micrometer",
            "type": "displacements",
            "direction": "pull-back",
            "rfc5": NGFF_VERSION,
            **(attributes or {}),
        },
    )
    digests = {}
    for index in product(*(range(-(-n // s)) for n, s in zip(grid.shape, spatial, strict=True))):
        region = (
            slice(None),
            *(slice(i * s, min((i + 1) * s, n)) for i, s, n in zip(index, spatial, grid.shape, strict=True)),
        )
        shard = np.ascontiguousarray(field[region], np.float32)
        array[region] = shard
        digests["/".join(["0", "c", "0", *map(str, index)])] = receipts.array_digest(shard)
    return digests


def load_field(store: str | Path, path: str = "0") -> tuple[np.ndarray, Grid]:
    """Read what `save_field` wrote.

    Parameters
    ----------
    store
        Folder of the Zarr group.
    path
        Of the array in it.

    Returns
    -------
    field, grid
        (3, z, y, x) float32, um, and where its samples lie.

    Raises
    ------
    FileNotFoundError
        When there is no such store.
    ValueError
        When it holds no displacement field.
    """
    store = Path(store)
    if not (store / path / "zarr.json").is_file():
        raise FileNotFoundError(
            f"{store}: there is no displacement field in {path!r}; wanted a Zarr v3 array"
        )
    array = zarr.open_array(str(store), path=path, mode="r")
    if array.attrs.get("type") != "displacements" or "grid" not in array.attrs:
        raise ValueError(
            f"{store}: array {path!r} is no displacement field: attributes 'type' and 'grid' are missing"
        )
    grid = Grid.from_json(dict(array.attrs["grid"]))  # type: ignore[arg-type]
    field = np.asarray(array[:], np.float32)
    check_field(field, grid)
    return field, grid


def data_digest(shards: dict[str, str]) -> str:
    """One digest of a store: the Merkle root over the digests of its shards."""
    return receipts.digest(sorted(shards.items()))


def _ngff_metadata(grid: Grid, name: str) -> dict[str, Any]:
    space = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in AXES[1:]]
    transformation = {
        "type": "sequence",
        "input": {"path": "0"},
        "output": {"name": name},
        "transformations": [
            {"type": "scale", "scale": [1.0, *grid.spacing]},
            {"type": "translation", "translation": [0.0, *grid.origin]},
        ],
    }
    return {
        "version": NGFF_VERSION,
        "multiscales": [
            {
                "name": name,
                "coordinateSystems": [
                    {
                        "name": name,
                        "axes": [{"name": AXES[0], "type": "displacement", "discrete": True}, *space],
                    }
                ],
                "datasets": [{"path": "0", "coordinateTransformations": [transformation]}],
            }
        ],
    }
