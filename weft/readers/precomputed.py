"""Neuroglancer precomputed volumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cloudvolume import CloudVolume

from weft.grid import Grid
from weft.image import Image, Level, Region
from weft.readers.checks import channel_names, label_type, orientation_code, reading, voxel_size
from weft.readers.fingerprint import existing
from weft.readers.lazy import LazyVolume

_KIND = "a precomputed volume"


def open_precomputed(
    path: str | Path,
    *,
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
    channels: Sequence[str] | None = None,
    labels: bool | None = None,
    remote: bool = False,
    fill_missing: bool = False,
) -> Image:
    """Open a Neuroglancer precomputed image or segmentation, all its scales.

    A precomputed voxel (i) covers [i, i + 1) resolutions. The grid puts the centre of full-resolution voxel 0 at
    0, so that voxel_offset times resolution is the origin of the finest level and the coarser ones follow the
    half-voxel rule.

    Parameters
    ----------
    path
        Folder that holds ``info``; with ``precomputed://`` and ``file://`` in front or not.
    spacing
        Voxel size of the finest level, um, (z, y, x), instead of ``resolution``; the scales keep their ratios.
    orientation
        Code of three letters; precomputed volumes say none.
    channels
        Names of the channels, instead of their numbers.
    labels
        Whether voxels are names; by default, whether ``type`` is segmentation.
    remote
        Allow other protocols than ``file://`` (``s3://``, ``gs://``, ``https://``).
    fill_missing
        Read chunks that are not there as 0, which some writers mean by leaving them out, instead of refusing.

    Returns
    -------
    Image
        Dask arrays whose chunks are those of the volume.

    Raises
    ------
    FileNotFoundError
        When the folder or its ``info`` is missing.
    ValueError
        When the volume is remote and that is not allowed, ``info`` makes no sense, or labels are not integers.
    """
    url = _url(str(path), remote)
    with reading(path, _KIND):
        volume = CloudVolume(url, mip=0, progress=False, fill_missing=fill_missing)
        scales, kind, count = volume.info["scales"], volume.info.get("type"), volume.num_channels
        dtype = np.dtype(volume.dtype)
    labels = kind == "segmentation" if labels is None else labels
    if labels:
        label_type(dtype, path)
    stated = np.array([scale["resolution"][::-1] for scale in scales], float) / 1000
    full = np.asarray(voxel_size(spacing if spacing is not None else stated[0], path))
    levels = []
    for mip, scale in enumerate(scales):
        ratio = stated[mip] / stated[0]
        offset = np.asarray(scale.get("voxel_offset", (0, 0, 0))[::-1])
        z, y, x = (int(n) for n in scale["size"][::-1])
        grid = Grid((z, y, x), voxel_size(ratio * full, path), tuple(((offset + 0.5) * ratio - 0.5) * full))
        source = _Scale(url, mip, (count, z, y, x), dtype, offset.tolist(), fill_missing)
        levels.append(Level(source.lazy(tuple(scale["chunk_sizes"][0][::-1])), grid))
    return Image(
        levels=tuple(levels),
        channels=channel_names(channels, count, path),
        orientation=orientation_code(orientation, path),
        labels=labels,
        stated_spacing=tuple(stated[0].tolist()),
        stated_um=True,
    )


class _Scale(LazyVolume):
    """One scale; a volume is opened for each box, so that nothing is shared between threads."""

    def __init__(
        self,
        url: str,
        mip: int,
        shape: tuple[int, int, int, int],
        dtype: np.dtype,
        offset: Sequence[int],
        fill_missing: bool,
    ) -> None:
        self.url, self.mip, self.shape, self.dtype = url, mip, shape, dtype
        self.offset, self.fill_missing = offset, fill_missing

    def read(self, channel: int, region: Region) -> np.ndarray:
        box = [slice(part.start + o, part.stop + o) for part, o in zip(region, self.offset, strict=True)]
        with reading(self.url, _KIND):
            volume = CloudVolume(self.url, mip=self.mip, progress=False, fill_missing=self.fill_missing)
            voxels = np.asarray(volume[(*box[::-1], channel)])
        return voxels.reshape(voxels.shape[:3]).T


def _url(path: str, remote: bool) -> str:
    path = path.removeprefix("precomputed://")
    protocol, mark, rest = path.partition("://")
    if mark and protocol != "file":
        if not remote:
            raise ValueError(
                f"{path}: lies at {protocol}://; wanted a local folder, or `remote: true` to allow it"
            )
        return f"precomputed://{path}"
    folder = existing(rest if mark else path)
    if not (folder / "info").is_file():
        raise FileNotFoundError(f"{folder}: has no file `info`; wanted a precomputed volume")
    return f"precomputed://file://{folder.absolute()}"
