"""TIFF stacks: a folder of planes, or one multi-page file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from weft.grid import Grid
from weft.image import Image, Level
from weft.readers.checks import channel_names, label_type, orientation_code, voxel_size
from weft.readers.fingerprint import existing
from weft.readers.lazy import RawVolume
from weft.readers.tiff import TiffSource, open_planes, open_volume_file, planes_in


def open_tiff_stack(
    path: str | Path,
    *,
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
    channels: Sequence[str] | Mapping[str, str] | None = None,
    pattern: str = "*",
    labels: bool = False,
    check: Literal["first", "full"] = "first",
    sample: int | str | None = None,
) -> Image:
    """Open a folder of single-plane TIFF files (in natural order of their names), or one multi-page TIFF file.

    Parameters
    ----------
    path
        Folder or file.
    spacing
        Voxel size, um, (z, y, x); needed unless OME-XML or ImageJ metadata of a multi-page file state it.
    orientation
        Code of three letters; TIFF files say none.
    channels
        Names of the channels; of a folder, a mapping of names to patterns of file names, one per channel,
        e.g. ``{"signal": "signal_*.tif"}``.
    pattern
        Which files of a folder are planes, where ``channels`` is no mapping.
    labels
        True for a label image, which must be of an integer type.
    check
        Compare the header of every plane now (``"full"``), or only when it is read.
    sample
        Which sample of files in colour is read: 0, 1, 2, or red, green, blue. Colours are refused without it.

    Returns
    -------
    Image
        One level; plane z, row y, column x of the files.

    Raises
    ------
    FileNotFoundError
        When nothing is at ``path``.
    ValueError
        When a file is broken, truncated or differs from the first, no file matches, channels differ in
        their number of planes, the voxel size is missing or not positive, or labels are not integers.
    """
    path = existing(path)
    names = None
    if path.is_dir():
        patterns = dict(channels) if isinstance(channels, Mapping) else {"0": pattern}
        names = tuple(patterns) if isinstance(channels, Mapping) else channels
        source = open_planes(_planes_by_channel(path, patterns), check, sample)
    elif isinstance(channels, Mapping):
        raise ValueError(
            f"{path}: `channels` maps names to patterns, which is for folders; wanted a list of names"
        )
    else:
        source = open_volume_file(path.absolute(), sample)
        names = channels or source.channels
    volume = source.volume
    if labels:
        label_type(volume.dtype, path)
    grid = Grid(volume.shape[1:], voxel_size(spacing or source.spacing, path))
    return Image(
        levels=(Level(_lazy(source), grid),),
        channels=channel_names(names, volume.shape[0], path),
        orientation=orientation_code(orientation, path),
        labels=labels,
        stated_spacing=source.spacing,
    )


def _planes_by_channel(folder: Path, patterns: Mapping[str, str]) -> list[list[Path]]:
    files = [planes_in(folder, pattern) for pattern in patterns.values()]
    counts = {name: len(planes) for name, planes in zip(patterns, files, strict=True)}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"{folder}: channels have different numbers of planes, {counts}; wanted the same for all"
        )
    return files


def _lazy(source: TiffSource) -> object:
    volume = source.volume
    return volume.lazy_rows() if isinstance(volume, RawVolume) else volume.lazy((1, *volume.shape[2:]))
