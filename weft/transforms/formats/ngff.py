"""Displacement fields as OME-NGFF stores (coordinate transformations of RFC-5, NGFF 0.6), Zarr v3, sharded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from weft import receipts
from weft.grid import Grid
from weft.image import Region, box
from weft.transforms.interpolate import Field, check_field

NGFF_VERSION = "0.6"
CHUNK = 32
SHARD = 128
AXES = ("d", "z", "y", "x")


class FieldWriter:
    """A displacement field on disk that is written part by part, and the digests of what was written.

    It is a `weft.transforms.interpolate.Field`: what was written can be read again. A part that is not made of whole
    shards costs reading the shards around it.

    Parameters
    ----------
    store
        Folder of the Zarr group; the field is its array ``0``. What lay in the array is replaced.
    grid
        Where the field's samples lie.
    attributes
        More attributes of the array, e.g. names of the spaces.
    name
        Of the NGFF coordinate system.
    """

    def __init__(
        self,
        store: str | Path,
        grid: Grid,
        attributes: dict[str, Any] | None = None,
        name: str = "displacements",
    ) -> None:
        self.store = Path(store)
        self.grid = grid
        self.digests: dict[str, str] = {}
        """Digest of every shard (name within the store -> digest of its decoded values): `data_digest` makes one of them."""
        group = zarr.open_group(str(store), mode="a", zarr_format=3)
        group.attrs["ome"] = _ngff_metadata(grid, name)
        self._array = group.create_array(
            "0",
            shape=(3, *grid.shape),
            dtype="float32",
            chunks=(3, CHUNK, CHUNK, CHUNK),
            shards=(3, *_shard_edges(grid)),
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

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, z, y, x)."""
        return (3, *self.grid.shape)

    def __getitem__(self, region: Any) -> Any:
        return self._array[region]

    def __setitem__(self, region: tuple[slice, ...], values: np.ndarray) -> None:
        """Write (3, z, y, x) um to ``(slice(None), z, y, x)``.

        Raises
        ------
        ValueError
            When there are values that are not finite.
        """
        if not np.isfinite(values).all():
            raise ValueError(
                f"{self.store}: the displacement field holds {int((~np.isfinite(values)).sum())} values that are not finite"
            )
        start = [part.indices(n)[0] for part, n in zip(region[1:], self.grid.shape, strict=True)]
        stop = [o + n for o, n in zip(start, values.shape[1:], strict=True)]
        for index, shard in _shards(self.grid, start, stop):
            low = [max(o, s.start) for o, s in zip(start, shard, strict=True)]
            high = [min(o, s.stop) for o, s in zip(stop, shard, strict=True)]
            part = values[(slice(None), *_shifted(low, high, start))]
            place = (slice(None), *shard)
            if part.shape[1:] != tuple(s.stop - s.start for s in shard):
                whole = np.asarray(self._array[place])
                whole[(slice(None), *_shifted(low, high, [s.start for s in shard]))] = part
                part = whole
            part = np.ascontiguousarray(part, np.float32)
            with receipts.writing(self.store):
                self._array[place] = part
            self.digests["/".join(["0", "c", "0", *map(str, index)])] = receipts.array_digest(part)


def shard_regions(grid: Grid) -> list[Region]:
    """The parts, slices (z, y, x), in which a field on a grid is written: its shards in C order."""
    return [shard for _, shard in _shards(grid, (0, 0, 0), grid.shape)]


def _shards(
    grid: Grid, start: Sequence[int], stop: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], Region]]:
    """Indices and slices (z, y, x) of the shards that meet a region."""
    edges = _shard_edges(grid)
    counts = (range(a // s, -(-b // s)) for a, b, s in zip(start, stop, edges, strict=True))
    for index in product(*counts):
        first = [i * s for i, s in zip(index, edges, strict=True)]
        last = [min(o + s, n) for o, s, n in zip(first, edges, grid.shape, strict=True)]
        yield index, box(first, last)


def _shard_edges(grid: Grid) -> tuple[int, ...]:
    """Samples of a shard along each axis: whole chunks."""
    return tuple(min(SHARD, CHUNK * -(-n // CHUNK)) for n in grid.shape)


def _shifted(low: Sequence[int], high: Sequence[int], origin: Sequence[int]) -> Region:
    """The slices of a box, counted from another origin."""
    return box(
        [a - o for a, o in zip(low, origin, strict=True)], [b - o for b, o in zip(high, origin, strict=True)]
    )


def save_field(
    store: str | Path,
    field: Field,
    grid: Grid,
    attributes: dict[str, Any] | None = None,
    name: str = "displacements",
) -> dict[str, str]:
    """Write a displacement field as a one-level NGFF image whose first axis is the displacement.

    Parameters
    ----------
    store, grid, attributes, name
        As `FieldWriter`.
    field
        (3, z, y, x) float32, um, components z, y, x; x -> x + u(x), pull-back. Read shard by shard.

    Returns
    -------
    `FieldWriter.digests`, for the receipt.

    Raises
    ------
    ValueError
        When the field does not lie on the grid or holds values that are not finite.
    """
    check_field(field, grid)
    writer = FieldWriter(store, grid, attributes, name)
    for region in shard_regions(grid):
        where = (slice(None), *region)
        writer[where] = np.asarray(field[where])
    return writer.digests


def open_field(store: str | Path, path: str = "0") -> tuple[Field, Grid]:
    """What `save_field` wrote, left on disk: slicing reads only the chunks asked for.

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
    check_field(array, grid)
    return array, grid


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
