"""Wells of OME-Zarr plates whose fields of view are tiles of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from weft.grid import Triple
from weft.image import Image, Tile, TileSet
from weft.readers.checks import (
    channel_names,
    inside,
    number,
    orientation_code,
    reading,
    voxel_size,
    whole_number,
)
from weft.readers.fingerprint import existing
from weft.readers.lazy import CropOf, LazyVolume
from weft.readers.ome_zarr import open_ome_zarr
from weft.readers.tile_table import read_tile_table
from weft.readers.tile_volumes import TileVolumes, check_alike

ROIS = "FOV_ROI_table"


def open_hcs(
    path: str | Path,
    *,
    acquisition: int | str | None = None,
    table: str | None = None,
    rois: str | None = None,
    flip: str = "",
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
    channels: Sequence[str] | None = None,
) -> TileSet:
    """Index the fields of view of a well, which overlap and are still to be stitched.

    Fields are either images of the well each, or regions of one image in which they lie side by side, as Fractal
    writes them. Several rounds of imaging are acquisitions of the well: one row of images.tsv each.

    Parameters
    ----------
    path
        Folder of a well (``plate.zarr/B/03``).
    acquisition
        Which acquisition is read, by its identifier; needed where the well has several.
    table
        Of fields that are images: a table of stage positions beside or in the well's folder (columns tile, path, z,
        y, x in um; ``path`` is the image's in the well), instead of the translations that the images state.
    rois
        Of fields that are regions: the name of their table (default: ``FOV_ROI_table``, where the image has it);
        positions are its columns ``x_micrometer_original`` and ``y_micrometer_original``.
    flip
        ``y``, ``x`` or ``yx``: the stage's axes point against those of the pixels.
    spacing
        Voxel size, um, (z, y, x), instead of that of the images.
    orientation, channels
        Instead of what the images state.

    Returns
    -------
    TileSet
        Tiles named as the images or regions are.

    Raises
    ------
    FileNotFoundError
        When the well or a table is missing.
    ValueError
        When the folder is no well, has several acquisitions and none is named, positions are missing or all the
        same, or fields differ in shape, type or voxel size.
    """
    path = existing(path)
    if set(flip) - set("yx"):
        raise ValueError(f"{path}: flip is {flip!r}; wanted y, x or yx")
    names = _images(path, acquisition)
    images = [open_ome_zarr(inside(path, name, path), orientation=orientation) for name in names]
    sizes = {image.grid.spacing for image in images}
    if len(sizes) > 1:
        raise ValueError(f"{path}: its images have the voxel sizes {sorted(sizes)}; wanted one for all")
    voxel = voxel_size(spacing or images[0].grid.spacing, path)
    if rois is None and len(images) == 1 and table is None and (path / names[0] / "tables" / ROIS).is_dir():
        rois = ROIS
    if rois is not None:
        if len(images) > 1 or table is not None:
            raise ValueError(
                f"{path}: rois is {rois!r} beside {len(images)} images; wanted one image whose regions are the fields"
            )
        fields = _regions(path / names[0], images[0], rois)
    else:
        fields = _whole_images(path, names, images, table)
    volumes = [[field.volume] for field in fields]
    check_alike(volumes, [f"{path}: field {field.name}" for field in fields])
    positions = np.array([field.position for field in fields])
    if len(fields) > 1 and not np.ptp(positions, axis=0).any():
        raise ValueError(
            f"{path}: all fields lie at {positions[0].tolist()}; wanted a table of their positions"
        )
    for axis, name in ((1, "y"), (2, "x")):
        if name in flip:
            positions[:, axis] = positions[:, axis].max() - positions[:, axis]
    first = fields[0].volume
    return TileSet(
        tiles=tuple(
            Tile(field.name, (float(z), float(y), float(x)))
            for field, (z, y, x) in zip(fields, positions, strict=True)
        ),
        shape=first.shape[1:],
        spacing=voxel,
        dtype=first.dtype,
        channels=channel_names(channels or images[0].channels, first.shape[0], path),
        reader=TileVolumes(volumes),
        orientation=orientation_code(orientation, path) or images[0].orientation,
    )


@dataclass(frozen=True)
class _Field:
    """A field of view: its name, voxels, and stage position, um, (z, y, x)."""

    name: str
    volume: LazyVolume
    position: Triple


def _images(well: Path, acquisition: int | str | None) -> list[str]:
    """Paths of the images of one acquisition in the well."""
    with reading(well, "a Zarr group"):
        attributes: dict[str, Any] = dict(zarr.open_group(str(well), mode="r").attrs)
    listed = attributes.get("ome", attributes).get("well", {}).get("images")
    if not isinstance(listed, list) or not all(isinstance(one, dict) and "path" in one for one in listed):
        raise ValueError(f"{well}: it is no well of a plate; wanted a folder such as plate.zarr/B/03")
    of = {str(one["path"]): int(one.get("acquisition", 0)) for one in listed}
    known = sorted(set(of.values()))
    wanted = (
        known[0] if acquisition is None and known else whole_number(acquisition or 0, "acquisition", well)
    )
    if wanted not in known or (acquisition is None and len(known) > 1):
        raise ValueError(
            f"{well}: it has the acquisitions {', '.join(map(str, known)) or '(none)'}; say which is read with `acquisition`"
        )
    return [name for name, number_ in of.items() if number_ == wanted]


def _whole_images(well: Path, names: list[str], images: list[Image], table: str | None) -> list[_Field]:
    """Fields that are images of their own."""
    stated: dict[str, Triple] = {name: image.grid.origin for name, image in zip(names, images, strict=True)}
    if table is not None:
        place = existing(inside(well, table, well))
        rows, in_voxels = read_tile_table(place)
        listed = {row.path: row.position for row in rows}
        if lost := [name for name in names if name not in listed]:
            raise ValueError(
                f"{place}: image {lost[0]!r} of the well is not in it; wanted a line for each image"
            )
        if in_voxels:
            raise ValueError(f"{place}: it is a tile configuration in voxels; wanted a table in um")
        stated = {name: listed[name] for name in names}
    fields = []
    for name, image in zip(names, images, strict=True):
        box = tuple(slice(0, n) for n in image.grid.shape)
        fields.append(_Field(name, CropOf(image.levels[0].data, box), stated[name]))  # type: ignore[arg-type]
    return fields


def _regions(place: Path, image: Image, rois: str) -> list[_Field]:
    """Fields that are regions of one image."""
    table = place / "tables" / rois
    existing(inside(place, f"tables/{rois}", place))
    with reading(table, "a table of regions"):
        group: Any = zarr.open_group(str(table), mode="r")
        columns = [str(v) for v in group["var"][group["var"].attrs["_index"]][:]]
        names = [str(v) for v in group["obs"][group["obs"].attrs["_index"]][:]]
        values = dict(zip(columns, np.asarray(group["X"][:], float).T, strict=True))
    corner = [f"{axis}_micrometer" for axis in "zyx"]
    length = [f"len_{axis}_micrometer" for axis in "zyx"]
    stage = ["y_micrometer_original", "x_micrometer_original"]
    if lost := [name for name in (*corner, *length, *stage) if name not in values]:
        raise ValueError(
            f"{table}: column {lost[0]!r} is missing; wanted {', '.join((*corner, *length, *stage))}"
        )
    fields = []
    for n, name in enumerate(names):
        box = []
        for axis, size in enumerate(image.grid.spacing):
            # As Fractal does it: both ends rounded to voxels.
            ends = [
                values[corner[axis]][n] / size,
                (values[corner[axis]][n] + values[length[axis]][n]) / size,
            ]
            low, high = (round(number(end, corner[axis], table)) for end in ends)
            if not 0 <= low < high <= image.grid.shape[axis]:
                raise ValueError(
                    f"{table}: region {name!r} is [{low}, {high}) voxels along {'zyx'[axis]}; "
                    f"wanted a part of the image's {image.grid.shape[axis]}"
                )
            box.append(slice(low, high))
        position = float(values[corner[0]][n]), float(values[stage[0]][n]), float(values[stage[1]][n])
        fields.append(_Field(name, CropOf(image.levels[0].data, (box[0], box[1], box[2])), position))
    if not fields:
        raise ValueError(f"{table}: it has no regions")
    return fields
