"""Images on disk: OME-Zarr 0.5, sharded, one array (c, z, y, x) per pyramid level."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from weft import receipts
from weft.coverage import ATTRIBUTE, Coverage
from weft.grid import Grid
from weft.image import Image, Region, box
from weft.stores.shards import ShardWriter, array_folder, compressor

AXES = ("c", "z", "y", "x")
# OME-NGFF RFC-4: the value says from where to where an axis runs.
DIRECTIONS = {
    "r": "left-to-right",
    "l": "right-to-left",
    "a": "posterior-to-anterior",
    "p": "anterior-to-posterior",
    "s": "inferior-to-superior",
    "i": "superior-to-inferior",
}


def open_image(path: str | Path) -> Image:
    """Open an OME-Zarr image (0.4 or 0.5) lazily: slicing a level reads only the chunks asked for."""
    from weft.readers.ome_zarr import open_ome_zarr

    return open_ome_zarr(path)


def create_image(
    path: str | Path,
    grids: Sequence[Grid],
    dtype: Any,
    *,
    channels: Sequence[str] = ("0",),
    orientation: str | None = None,
    labels: bool = False,
    chunk: Sequence[int] = (64, 64, 64),
    shard: Sequence[int] = (128, 256, 256),
    codec: str = "lz4",
    name: str = "image",
    arrays: bool = True,
    coverage: Coverage | None = None,
) -> None:
    """Create an empty OME-Zarr 0.5 image; safe when several jobs do it at once.

    Parameters
    ----------
    path
        Folder of the store.
    grids
        Grid of each pyramid level, finest first.
    dtype
        Type of a voxel; kept as it is for labels (uint32, uint64).
    chunk, shard
        Voxels per chunk and per shard, (z, y, x); both are clipped to the image.
    codec
        Of voxels that are no labels, as `weft.stores.shards.compressor` takes it.
    arrays
        False to write the metadata alone (the arrays are there already).
    coverage
        Of a stitched image: written beside the ``ome`` attributes as ``weft.tiles``.
    """
    with receipts.job_lock(path):
        group = zarr.open_group(str(path), mode="a", zarr_format=3)
        if "ome" in group.attrs:
            return
        for n, grid in enumerate(grids):
            if arrays and str(n) not in group:
                _create_level(Path(path) / str(n), grid, len(channels), dtype, chunk, shard, codec)
        if coverage is not None:
            group.attrs[ATTRIBUTE] = {"tiles": coverage.to_json()}
        group.attrs["ome"] = image_metadata(
            grids, channels=channels, orientation=orientation, labels=labels, name=name
        )


def create_level(
    path: str | Path,
    grid: Grid,
    channels: int,
    dtype: Any,
    *,
    chunk: Sequence[int],
    shard: Sequence[int],
    codec: str = "lz4",
) -> zarr.Array:
    """Create the sharded array (c, z, y, x) of one level, or open it where it is there already."""
    with receipts.job_lock(path):
        if (Path(path) / "zarr.json").exists():
            return open_level(path)
        return _create_level(path, grid, channels, dtype, chunk, shard, codec)


def _create_level(
    path: str | Path,
    grid: Grid,
    channels: int,
    dtype: Any,
    chunk: Sequence[int],
    shard: Sequence[int],
    codec: str,
) -> zarr.Array:
    inner = [min(c, n) for c, n in zip(chunk, grid.shape, strict=True)]
    outer = [-(-min(s, n) // c) * c for s, n, c in zip(shard, grid.shape, inner, strict=True)]
    return zarr.create_array(
        store=str(path),
        shape=(channels, *grid.shape),
        chunks=(1, *inner),
        shards=(1, *outer),
        dtype=dtype,
        fill_value=0,
        compressors=compressor(dtype, codec),
        dimension_names=AXES,
        zarr_format=3,
    )


def open_level(path: str | Path, mode: str = "r+") -> zarr.Array:
    """Open the array of one level."""
    return zarr.open_array(str(path), mode=mode)


def shard_shape(array: zarr.Array) -> tuple[int, int, int]:
    """Voxels per shard, (z, y, x): what one writer may touch at a time."""
    z, y, x = (array.shards or array.chunks)[1:]
    return z, y, x


def write_region(
    array: zarr.Array, channel: int, region: Region, data: np.ndarray | None, prefix: str
) -> dict[str, str]:
    """Write a region made of whole shards; give the digest of each shard's voxels.

    Parameters
    ----------
    array
        Level to write to, (c, z, y, x).
    region
        Slices (z, y, x) that start on shard borders and end on one or at the array's end.
    data
        Voxels of the region, of the array's dtype; None where all are zero, which takes no time.
    prefix
        Name of the level inside the store; names of shards are ``<prefix>/c.i.j.k``.

    Raises
    ------
    ValueError
        When the region is not made of whole shards, or ``data`` is of another shape or dtype.
    """
    step = shard_shape(array)
    for part, s, n in zip(region, step, array.shape[1:], strict=True):
        if part.start % s or (part.stop % s and part.stop != n) or part.stop > n:
            raise ValueError(
                f"{array_folder(array)}: a region starts on a shard border and ends on one or at the array's end; "
                f"found {region} for shards of {step} in {array.shape[1:]} voxels (z, y, x)"
            )
    shape = tuple(part.stop - part.start for part in region)
    if data is not None and (data.shape != shape or data.dtype != array.dtype):
        raise ValueError(
            f"{array_folder(array)}: found {data.dtype} voxels of shape {data.shape}; "
            f"wanted {array.dtype} of {shape}"
        )
    writer = ShardWriter(array)
    digests = {}
    for corner in itertools.product(*(range(p.start, p.stop, s) for p, s in zip(region, step, strict=True))):
        index = (channel, *(o // s for o, s in zip(corner, step, strict=True)))
        within = tuple(
            slice(o - p.start, min(o + s, p.stop) - p.start)
            for o, s, p in zip(corner, step, region, strict=True)
        )
        name = f"{prefix}/{'.'.join(map(str, index))}"
        if data is None:
            writer.remove(index)
            digests[name] = _digest_of_zeros(tuple(w.stop - w.start for w in within), array.dtype.str)
        else:
            voxels = np.ascontiguousarray(data[within])
            writer.write(index, voxels)
            digests[name] = receipts.array_digest(voxels)
    return digests


@lru_cache(maxsize=64)
def _digest_of_zeros(shape: tuple[int, ...], dtype: str) -> str:
    return receipts.array_digest(np.zeros(shape, dtype))


def shard_voxels(store: str | Path, name: str) -> np.ndarray:
    """The decoded voxels, (z, y, x), of a shard named as `write_region` does."""
    prefix, index = name.rsplit("/", 1) if "/" in name else ("", name)
    array = open_level(Path(store) / prefix, "r")
    channel, *where = (int(i) for i in index.split("."))
    step = np.array(shard_shape(array))
    start = np.array(where) * step
    region = box(start, np.minimum(start + step, array.shape[1:]))
    return np.asarray(array[(channel, *region)])


def link_level(source: str | Path, target: str | Path) -> None:
    """Put the array ``source`` at ``target`` too: hard links where the file system can, else copies.

    Shard files are never changed in place (a writer replaces them), so the two names stay independent.
    """
    source, target = Path(source), Path(target)
    for folder, _, files in os.walk(source):
        if receipts.RECORDS in Path(folder).relative_to(source).parts:
            continue
        place = target / Path(folder).relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        for name in files:
            (place / name).unlink(missing_ok=True)
            try:
                os.link(Path(folder) / name, place / name)
            except OSError:
                shutil.copyfile(Path(folder) / name, place / name)


def image_metadata(
    grids: Sequence[Grid], *, channels: Sequence[str], orientation: str | None, labels: bool, name: str
) -> dict[str, Any]:
    """The ``ome`` attributes of OME-NGFF 0.5 (with the axis orientations of RFC-4)."""
    axes: list[dict[str, Any]] = [{"name": "c", "type": "channel"}]
    for n, axis in enumerate("zyx"):
        entry: dict[str, Any] = {"name": axis, "type": "space", "unit": "micrometer"}
        if orientation:
            entry["orientation"] = {"type": "anatomical", "value": DIRECTIONS[orientation[n]]}
        axes.append(entry)
    datasets = [
        {
            "path": str(n),
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0, *grid.spacing]},
                {"type": "translation", "translation": [0.0, *grid.origin]},
            ],
        }
        for n, grid in enumerate(grids)
    ]
    ome: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": axes, "datasets": datasets}],
    }
    if labels:
        ome["image-label"] = {"version": "0.5"}
    else:
        ome["omero"] = {
            "channels": [
                {"label": channel, "color": _COLOURS[n % len(_COLOURS)]} for n, channel in enumerate(channels)
            ]
        }
    return ome


def metadata_digest(store: str | Path) -> str:
    """Digest of all metadata files of a store, of Zarr 3 or (where it is only referenced) 2."""
    names = {"zarr.json", ".zattrs", ".zarray", ".zgroup"}
    files = sorted(path for path in Path(store).rglob("*") if path.name in names)
    return receipts.digest([[str(f.relative_to(store)), receipts.file_digest(f)] for f in files])


_COLOURS = ("FFFFFF", "00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")
