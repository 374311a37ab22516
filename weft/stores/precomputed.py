"""Neuroglancer precomputed volumes, written chunk by chunk."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cloudvolume import CloudVolume

from weft.grid import Grid, Shape
from weft.image import Image, Level, Region

# Voxels held in memory at a time, all channels together.
_BATCH = 2**25


def write_precomputed(
    image: Image,
    path: str | Path,
    *,
    segmentation: bool,
    chunk: Shape = (64, 64, 64),
    compress: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write an image or segmentation with all its pyramid levels.

    Voxels stream through memory in batches of whole chunks. Integers are written as they are, floats as float32,
    bool as uint8. A chunk that is there already is replaced, so that a killed run is simply repeated.

    ``resolution`` is the voxel size in nanometres. ``voxel_offset`` is the nearest that whole voxels can say: of
    the finest level, its origin in voxels; of a coarser one, the distance of its lower face from that of voxel 0.

    Parameters
    ----------
    image
        What is written; level n becomes mip n.
    path
        Folder of the volume.
    segmentation
        Write a segmentation layer (compressed where the type is uint32 or uint64), not an image layer.
    chunk
        Voxels of a chunk, (z, y, x).
    compress
        Compress chunks with gzip. Smaller, but then a plain file server cannot serve the folder: the files end
        in ``.gz`` and only cloud storage, or a server that knows, hands them out under their own names.
    progress
        Called as ``progress(done, total)`` after each batch.

    Raises
    ------
    ValueError
        When a segmentation is not of an unsigned integer type, an image is of a type that the format lacks,
        or ``path`` holds another volume.
    """
    dtype = _stored_type(image.dtype, segmentation)
    info = _info(image, dtype, segmentation, chunk)
    url = f"precomputed://file://{Path(path).absolute()}"
    _commit(url, Path(path), info)
    batches = [(mip, region) for mip, level in enumerate(image.levels) for region in _batches(level, chunk)]
    volumes = [
        CloudVolume(url, mip=mip, progress=False, compress=compress) for mip in range(len(image.levels))
    ]
    for done, (mip, region) in enumerate(batches):
        volume = volumes[mip]
        voxels = np.asarray(image.levels[mip].data[(slice(None), *region)])
        offset = [int(o) for o in volume.voxel_offset[::-1]]
        box = [slice(part.start + o, part.stop + o) for part, o in zip(region, offset, strict=True)]
        volume[tuple(box[::-1])] = voxels.astype(dtype, copy=False).T
        if progress is not None:
            progress(done + 1, len(batches))


def _stored_type(dtype: np.dtype, segmentation: bool) -> np.dtype:
    if segmentation:
        if dtype.kind != "u":
            raise ValueError(f"a segmentation is {dtype}; wanted uint8, uint16, uint32 or uint64")
        return dtype
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind not in "ui" or dtype == np.int64:
        raise ValueError(
            f"an image is {dtype}, which precomputed volumes lack; wanted float32 or integers up to 32 bits"
        )
    return dtype


def _info(image: Image, dtype: np.dtype, segmentation: bool, chunk: Shape) -> dict[str, Any]:
    encoding = "compressed_segmentation" if segmentation and dtype.itemsize >= 4 else "raw"
    grids = [level.grid for level in image.levels]
    scales = []
    for grid in grids:
        resolution = [_plain(1000 * s) for s in grid.spacing[::-1]]
        scale = {
            "key": "_".join(str(r) for r in resolution),
            "size": list(grid.shape[::-1]),
            "resolution": resolution,
            "voxel_offset": _voxel_offset(grid, grids[0])[::-1],
            "chunk_sizes": [list(chunk[::-1])],
            "encoding": encoding,
        }
        if encoding == "compressed_segmentation":
            scale["compressed_segmentation_block_size"] = [8, 8, 8]
        scales.append(scale)
    keys = [str(scale["key"]) for scale in scales]
    if len(set(keys)) < len(keys):
        raise ValueError(
            f"levels have the same voxel sizes, {', '.join(keys)} nm; wanted each level coarser than the last"
        )
    return {
        "@type": "neuroglancer_multiscale_volume",
        "type": "segmentation" if segmentation else "image",
        "data_type": dtype.name,
        "num_channels": int(image.levels[0].data.shape[0]),
        "scales": scales,
    }


def _voxel_offset(grid: Grid, finest: Grid) -> list[int]:
    """Lower face of a level in its own voxels, (z, y, x), where the finest grid's voxel 0 starts at face 0."""
    face = np.asarray(grid.lower) + 0.5 * np.asarray(finest.spacing)
    return [int(n) for n in np.rint(face / grid.spacing)]


def _plain(value: float) -> int | float:
    """Nanometres without the noise of the multiplication, and as an integer where they are one."""
    value = round(value, 6)
    return int(value) if value.is_integer() else value


def _commit(url: str, path: Path, info: dict[str, Any]) -> None:
    """Write ``info``, unless it is there already."""
    if (path / "info").exists():
        found = CloudVolume(url, progress=False).info
        if found != info:
            raise ValueError(
                f"{path}: holds another precomputed volume; wanted an empty place or the same volume"
            )
        return
    CloudVolume(url, info=info, progress=False).commit_info()


def _batches(level: Level, chunk: Shape) -> Iterator[Region]:
    """Boxes of whole chunks that cover a level; of whole chunks of its source too, where memory allows."""
    channels, *shape = level.data.shape
    source = getattr(level.data, "shards", None) or level.data.chunks
    size = list(chunk)
    wanted = [_first(source[axis + 1]) for axis in range(3)]
    limit = max(_BATCH // channels, math.prod(chunk))
    for axis in (2, 1, 0):
        most = limit // (math.prod(size) // size[axis])
        fit = min(max(most // chunk[axis], 1), -(-max(wanted[axis], 256) // chunk[axis]))
        size[axis] = fit * chunk[axis]
    starts = [range(0, n, s) for n, s in zip(shape, size, strict=True)]
    for start in itertools.product(*starts):
        z, y, x = (slice(a, min(a + s, n)) for a, s, n in zip(start, size, shape, strict=True))
        yield z, y, x


def _first(sizes: int | Sequence[int]) -> int:
    """Chunk length along an axis: of Zarr a number, of dask the lengths of all chunks."""
    return sizes if isinstance(sizes, int) else int(sizes[0])
