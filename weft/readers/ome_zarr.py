"""OME-Zarr images and labels, versions 0.4 and 0.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from weft.coverage import ATTRIBUTE, Coverage
from weft.grid import Grid
from weft.image import Image, Level, Region
from weft.readers.checks import (
    channel_names,
    label_type,
    micrometres,
    orientation_code,
    reading,
    voxel_size,
    whole_number,
)
from weft.readers.fingerprint import existing
from weft.readers.lazy import LazyVolume

_AXES = "tczyx"


def open_ome_zarr(
    path: str | Path,
    *,
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
    channels: Sequence[str] | None = None,
    labels: bool | None = None,
    time: int | str | None = None,
) -> Image:
    """Open an OME-Zarr image or label image.

    Axes may be any of t, c, z, y, x that end in y, x. Scales and translations of the levels and of the whole
    pyramid are applied, in micrometres; the orientation is read where the axes state one (RFC-4).

    Parameters
    ----------
    path
        Group of one image: of a plate, ``plate.zarr/B/03/0``; of labels, ``image.zarr/labels/<name>``.
    spacing
        Voxel size of the finest level, um, (z, y, x), instead of the stated one; the pyramid keeps its ratios,
        and its finest level starts at 0.
    orientation, channels
        Instead of the stated ones.
    labels
        Whether voxels are names; by default, whether the group says ``image-label``.
    time
        Which time point, where there are several.

    Returns
    -------
    Image
        Each level is the Zarr array itself where its axes are (c, z, y, x), else a dask array over it.

    Raises
    ------
    FileNotFoundError
        When nothing is at ``path``.
    ValueError
        When the group is no image (for instance a plate), its axes or transformations make no sense, a
        voxel size is not positive, there are several time points, or labels are not integers.
    """
    path = existing(path)
    time = None if time is None else whole_number(time, "time", path)
    with reading(path, "a Zarr group"):
        group = zarr.open_group(str(path), mode="r")
    attributes: dict[str, Any] = dict(group.attrs)
    metadata = attributes.get("ome", attributes)
    pyramid = _pyramid(metadata, path)
    axes = _axis_names(pyramid, path)
    if labels is None:
        labels = "image-label" in metadata

    levels = []
    for dataset in pyramid["datasets"]:
        array = _array(group, str(dataset["path"]), path)
        if array.ndim != len(axes):
            raise ValueError(
                f"{path}/{dataset['path']}: has {array.ndim} axes; wanted {len(axes)}, as its metadata name"
            )
        scale, translation = _transformation(dataset, pyramid, axes, path)
        data = _as_czyx(array, axes, time, f"{path}/{dataset['path']}")
        levels.append(Level(data, Grid(data.shape[1:], scale, translation)))
    stated = levels[0].grid.spacing
    if spacing is not None:
        levels = _respaced(levels, spacing, path)
    if labels:
        label_type(levels[0].data.dtype, path)
    if orientation is None:
        orientation = _orientation(pyramid)
    count = levels[0].data.shape[0]
    tiles = _tiles(attributes, path) if spacing is None else None
    return Image(
        levels=tuple(levels),
        channels=channel_names(channels or _channels(metadata, count), count, path),
        orientation=orientation_code(orientation, path),
        labels=labels,
        coverage=None if tiles is None else _coverage(tiles, path),
        stated_spacing=stated,
        stated_um=True,
    )


def _tiles(attributes: Mapping[str, Any], path: Path) -> Any:
    """What weft wrote of the tiles that an image was fused from; None where it wrote nothing."""
    own = attributes.get(ATTRIBUTE, {})
    if not isinstance(own, Mapping):
        raise ValueError(f"{path}: attribute {ATTRIBUTE} is {own!r}; wanted a mapping, or no such attribute")
    return own.get("tiles")


def _coverage(tiles: Any, path: Path) -> Coverage:
    try:
        return Coverage.from_json(tiles)
    except ValueError as error:
        raise ValueError(f"{path}: attribute {ATTRIBUTE}.{error}") from None


class _Axes(LazyVolume):
    """A Zarr array of other axes than (c, z, y, x), at one time point."""

    def __init__(self, array: zarr.Array, axes: str, time: int) -> None:
        sizes = dict(zip(axes, array.shape, strict=True))
        self.array, self.axes, self.time, self.dtype = array, axes, time, array.dtype
        self.shape = (sizes.get("c", 1), sizes.get("z", 1), sizes["y"], sizes["x"])

    def read(self, channel: int, region: Region) -> np.ndarray:
        z, y, x = region
        parts: dict[str, Any] = {"t": self.time, "c": channel, "z": z, "y": y, "x": x}
        voxels = np.asarray(self.array[tuple(parts[axis] for axis in self.axes)])
        return voxels if "z" in self.axes else np.repeat(voxels[None], z.stop - z.start, axis=0)


def _as_czyx(array: zarr.Array, axes: str, time: int | None, where: str) -> Any:
    """A lazy array (c, z, y, x): the array itself, or a dask array whose chunks are its chunks."""
    if axes == "czyx":
        return array
    sizes = dict(zip(axes, array.shape, strict=True))
    times = sizes.get("t", 1)
    if time is None and times > 1:
        raise ValueError(f"{where}: has {times} time points; say which is wanted as `time`")
    if not 0 <= (time or 0) < times:
        raise ValueError(f"{where}: time point {time} is not there; it has {times}")
    chunks = dict(zip(axes, array.chunks, strict=True))
    return _Axes(array, axes, time or 0).lazy((chunks.get("z", 1), chunks["y"], chunks["x"]))


def _pyramid(metadata: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if "plate" in metadata or "well" in metadata:
        kind = "plate" if "plate" in metadata else "well"
        raise ValueError(f"{path}: is a {kind}; wanted one image of it, for instance <plate>/B/03/0")
    multiscales = metadata.get("multiscales")
    if not multiscales or not multiscales[0].get("datasets"):
        raise ValueError(f"{path}: has no `multiscales` metadata; wanted an OME-Zarr image")
    version = str(metadata.get("version") or multiscales[0].get("version") or "0.4")
    if version not in ("0.4", "0.5"):
        raise ValueError(f"{path}: is OME-Zarr {version}; wanted 0.4 or 0.5")
    return multiscales[0]


def _axis_names(pyramid: Mapping[str, Any], path: Path) -> str:
    axes = [str(axis.get("name")) for axis in pyramid.get("axes", [])]
    if [a for a in _AXES if a in axes] != axes or axes[-2:] != ["y", "x"]:
        raise ValueError(
            f"{path}: its axes are {', '.join(axes) or 'not named'}; wanted some of t, c, z, y, x in this order"
        )
    return "".join(axes)


def _array(group: zarr.Group, name: str, path: Path) -> zarr.Array:
    with reading(f"{path}/{name}", "a Zarr array"):
        found = group[name]
    if not isinstance(found, zarr.Array):
        raise ValueError(f"{path}/{name}: is a group; wanted an array")
    return found


def _transformation(
    dataset: Mapping[str, Any], pyramid: Mapping[str, Any], axes: str, path: Path
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Spacing and origin of a level, um, (z, y, x): its own transformations, then those of the pyramid."""
    scale, translation = np.ones(len(axes)), np.zeros(len(axes))
    where = f"{path}/{dataset['path']}"
    stated = False
    for step in [
        *dataset.get("coordinateTransformations", []),
        *pyramid.get("coordinateTransformations", []),
    ]:
        kind = step.get("type")
        if kind == "identity":
            continue
        values = np.asarray(step.get(kind, []), float)
        if kind not in ("scale", "translation") or values.shape != scale.shape:
            raise ValueError(
                f"{where}: coordinate transformation {step}; wanted a scale or translation of {len(axes)} numbers"
            )
        if kind == "scale":
            scale, translation, stated = scale * values, translation * values, True
        else:
            translation = translation + values
    unit = [_unit(axis, path) for axis in pyramid["axes"]]
    if not stated:
        raise ValueError(f"{where}: no scale is stated; wanted the voxel size in coordinateTransformations")
    sizes = dict(zip(axes, zip(scale * unit, translation * unit, strict=True), strict=True))
    spacing, origin = zip(*(sizes.get(axis, (1.0, 0.0)) for axis in "zyx"), strict=True)
    start = (float(origin[0]), float(origin[1]), float(origin[2]))
    return voxel_size(spacing, where), start


def _unit(axis: Mapping[str, Any], path: Path) -> float:
    """Micrometres per unit of an axis; an axis of space that names none is taken to be in micrometres."""
    if axis["name"] not in "zyx":
        return 1.0
    return micrometres(axis.get("unit") or "micrometer", path)


def _respaced(levels: Sequence[Level], spacing: Sequence[float], path: Path) -> list[Level]:
    old, new = levels[0].grid, np.asarray(voxel_size(spacing, path))
    factor = new / old.spacing
    return [
        Level(
            level.data,
            Grid(
                level.grid.shape,
                tuple(factor * level.grid.spacing),
                tuple(factor * np.subtract(level.grid.origin, old.origin)),
            ),
        )
        for level in levels
    ]


def _orientation(pyramid: Mapping[str, Any]) -> str | None:
    """Code that the axes state: the last word of e.g. ``anterior-to-posterior`` is where the axis points."""
    words = {"right": "r", "left": "l", "anterior": "a", "posterior": "p", "superior": "s", "inferior": "i"}
    stated = {
        axis["name"]: words.get(str(axis["orientation"].get("value")).rpartition("-to-")[2])
        for axis in pyramid["axes"]
        if isinstance(axis.get("orientation"), Mapping)
    }
    letters = [stated.get(axis) for axis in "zyx"]
    return None if None in letters else "".join(filter(None, letters))


def _channels(metadata: Mapping[str, Any], count: int) -> list[str] | None:
    """Labels (or wavelength names) of the channels, where each channel has one of its own."""
    entries = (metadata.get("omero") or {}).get("channels") or []
    for key in ("label", "wavelength_id"):
        names = [str(entry[key]) for entry in entries if entry.get(key)]
        if len(names) == count == len(set(names)):
            return names
    return None
