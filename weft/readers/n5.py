"""N5 pyramids."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from weft.grid import Grid, Triple
from weft.image import Image, Level, Region
from weft.readers.checks import (
    channel_names,
    label_type,
    micrometres,
    natural_order,
    orientation_code,
    reading,
    voxel_size,
)
from weft.readers.fingerprint import existing
from weft.readers.lazy import LazyVolume
from weft.readers.n5_lz4 import read_lz4

_ATTRIBUTES = "attributes.json"


def open_n5(
    path: str | Path,
    *,
    dataset: str | Sequence[str] | None = None,
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
    channels: Sequence[str] | None = None,
    labels: bool = False,
) -> Image:
    """Open an N5 pyramid, one data set per level (``s0``, ``s1``, ...).

    The voxel size of a level is ``pixelResolution`` (x, y, z, of the level or of a folder above it) times the
    level's ``downsamplingFactors`` (or the entry of ``scales`` above it): ``pixelResolution`` is that of full
    resolution, though each level repeats it. Levels start at the centre of their first bin of full-resolution
    voxels, also where the full resolution itself is not there.

    Parameters
    ----------
    path
        The N5 container, or a folder in it.
    dataset
        Path in it of one channel: a folder of levels (``c0``) or a single data set (``c0/s2``); several
        for several channels. Needed only where the container does not make it plain.
    spacing
        Voxel size at full resolution, um, (z, y, x), instead of ``pixelResolution``.
    orientation
        Code of three letters; N5 says none.
    channels
        Names of the channels; by default the names of their folders.
    labels
        True for a label image, which must be of an integer type.

    Returns
    -------
    Image
        Dask arrays whose chunks are N5 blocks, in native byte order (N5 stores big-endian).

    Raises
    ------
    FileNotFoundError
        When the container or data set is missing.
    ValueError
        When no data set or several are found, one has other than three axes, channels differ, or the voxel
        size is missing or not positive.
    """
    path = existing(path)
    names = (
        [dataset]
        if isinstance(dataset, str)
        else list(dataset)
        if dataset is not None
        else _find_channels(path)
    )
    pyramids = [_levels(existing(path / name)) for name in names]
    if len({len(levels) for levels in pyramids}) > 1:
        raise ValueError(
            f"{path}: channels {', '.join(names)} have different numbers of levels; wanted the same for all"
        )
    levels = []
    for folders in zip(*pyramids, strict=True):
        volume = N5Level(folders)
        levels.append(Level(volume.lazy(volume.block), _grid(folders[0], volume.shape[1:], path, spacing)))
    stated: Triple | None = None
    with contextlib.suppress(ValueError):  # where it is broken and needed, the grids have said so
        stated = _resolution(pyramids[0][0], path)
    if labels:
        label_type(levels[0].data.dtype, path)
    stems = [Path(name).name for name in names]
    default = stems if len(set(stems)) == len(stems) > 1 else None
    return Image(
        levels=tuple(levels),
        channels=channel_names(channels or default, len(names), path),
        orientation=orientation_code(orientation, path),
        labels=labels,
        stated_spacing=stated,
        stated_um=True,
    )


class N5Level(LazyVolume):
    """One level: a data set, (z, y, x), per channel."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        stores = [_facts(folder) for folder in folders]
        found = {(shape, dtype.name) for shape, dtype, _ in stores}
        shape, dtype, block = stores[0]
        if len(found) > 1 or len(shape) != 3:
            shapes = ", ".join(f"{shape} {kind}" for shape, kind in sorted(found))
            raise ValueError(
                f"{folders[0]}: shapes (x, y, z) are {shapes}; wanted three axes, the same for all channels"
            )
        self.shape, self.dtype = (len(folders), *shape[::-1]), dtype
        self.block = block[2], block[1], block[0]

    def read(self, channel: int, region: Region) -> np.ndarray:
        z, y, x = region
        folder = self.folders[channel]
        with reading(folder, "an N5 data set"):
            if _is_lz4(attributes := _attributes(folder)):
                return read_lz4(folder, attributes, region)
            return _open(folder)[x, y, z].read().result().T


def _facts(folder: Path) -> tuple[tuple[int, ...], np.dtype, tuple[int, ...]]:
    """Shape, (x, y, z), type and blocks of a data set."""
    attributes = _attributes(folder)
    if _is_lz4(attributes):
        with reading(folder, "an N5 data set"):
            shape = tuple(int(n) for n in attributes["dimensions"])
            return shape, np.dtype(attributes["dataType"]), tuple(int(n) for n in attributes["blockSize"])
    store = _open(folder)
    return store.shape, np.dtype(store.dtype.numpy_dtype), store.chunk_layout.read_chunk.shape


def _is_lz4(attributes: Mapping[str, Any]) -> bool:
    compression = attributes.get("compression")
    return isinstance(compression, Mapping) and compression.get("type") == "lz4"


def _open(folder: Path) -> Any:
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{folder.absolute()}/"}}
    with reading(folder, "an N5 data set"):
        return tensorstore.open(spec, open=True, read=True).result()


def _attributes(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / _ATTRIBUTES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{folder / _ATTRIBUTES}: cannot be read as JSON ({error})") from error


def _is_data_set(folder: Path) -> bool:
    return "dimensions" in _attributes(folder)


def _levels(folder: Path) -> list[Path]:
    """Data sets of a channel, finest first: its children s0, s1, ..., or itself."""
    if _is_data_set(folder):
        return [folder]
    children = [f for f in folder.iterdir() if re.fullmatch(r"s\d+", f.name) and _is_data_set(f)]
    if not children:
        raise ValueError(f"{folder}: holds no N5 data set; wanted one, or levels named s0, s1, ...")
    return sorted(children, key=lambda f: natural_order(f.name))


def _find_channels(path: Path) -> list[str]:
    """The one place in a container where an image is plain to see."""
    children = sorted((f for f in path.iterdir() if f.is_dir()), key=lambda f: natural_order(f.name))
    if _is_data_set(path) or any(re.fullmatch(r"s\d+", f.name) for f in children):
        return ["."]
    numbered = [f.name for f in children if re.fullmatch(r"c\d+", f.name)]
    if numbered:
        return numbered
    sets = [f.name for f in children if _is_data_set(f) or _is_data_set(f / "s0")]
    if len(sets) != 1:
        raise ValueError(
            f"{path}: found the data sets {', '.join(sets) or '(none)'}; say which is wanted as `dataset`"
        )
    return sets


def _grid(level: Path, shape: tuple[int, int, int], root: Path, spacing: Sequence[float] | None) -> Grid:
    """Where the voxels of a level lie: the half-voxel rule on the grid of full resolution."""
    full = voxel_size(spacing if spacing is not None else _resolution(level, root), level)
    factors = np.asarray(_factors(level, root), float)
    if factors.shape != (3,) or not np.all(factors >= 1):
        raise ValueError(f"{level}: downsampling factors are {factors.tolist()}; wanted three of at least 1")
    return Grid(shape, tuple(factors * full), tuple((factors - 1) / 2 * full))


def _above(level: Path, root: Path) -> list[Path]:
    """The level's folder and those above it, up to the container's root."""
    folders = [level, *level.parents]
    return folders[: folders.index(root) + 1] if root in folders else folders[:2]


def _resolution(level: Path, root: Path) -> Triple | None:
    for folder in _above(level, root):
        stated = _attributes(folder).get("pixelResolution")
        if stated is None:
            continue
        unit = str(stated.get("unit", "um")) if isinstance(stated, Mapping) else "um"
        sizes = stated.get("dimensions") if isinstance(stated, Mapping) else stated
        z, y, x = voxel_size(sizes[::-1] if sizes else sizes, folder / _ATTRIBUTES)
        factor = micrometres(unit, folder / _ATTRIBUTES)
        return z * factor, y * factor, x * factor
    return None


def _factors(level: Path, root: Path) -> list[float]:
    """Downsampling factors, (z, y, x), of a level against full resolution."""
    stated = _attributes(level).get("downsamplingFactors")
    number = re.fullmatch(r"s(\d+)", level.name)
    if stated is None and number:
        for folder in _above(level, root)[1:]:
            attributes = _attributes(folder)
            table = attributes.get("downsamplingFactors") or attributes.get("scales") or []
            if int(number[1]) < len(table):
                stated = table[int(number[1])]
                break
    return [float(f) for f in stated[::-1]] if stated else [1.0, 1.0, 1.0]
