"""The voxels behind a BigDataViewer project: HDF5, N5, OME-Zarr or TIFF, one volume for each view."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from weft.image import Region
from weft.readers.checks import inside, reading, whole_number
from weft.readers.fingerprint import existing
from weft.readers.lazy import CropOf, LazyVolume
from weft.readers.n5 import N5Level
from weft.readers.ome_zarr import open_ome_zarr
from weft.readers.tiff import is_tiff, open_volume_file
from weft.readers.xml import child, text_of

HDF5, N5, ZARR, FILES = "bdv.hdf5", "bdv.n5", "bdv.multimg.zarr", "spimreconstruction.filemap2"
LOADERS = (HDF5, N5, ZARR, FILES)


def open_view(
    loader: Element, base: Path, setup: int, time: int, size: tuple[int, int, int] | None, place: Path
) -> LazyVolume:
    """The volume of a view, (1, z, y, x), at full resolution.

    Parameters
    ----------
    loader
        The project's ``<ImageLoader>``, of one of the formats `LOADERS`.
    base
        Folder to which its paths are relative, and below which they have to lie.
    setup, time
        Identifiers of view setup and time point.
    size
        Voxels, (z, y, x), that the project states; None: none.
    place
        The project's file, for messages.

    Raises
    ------
    FileNotFoundError
        When a file is missing.
    ValueError
        When the view is not in it, or of another size than the project states.
    """
    form = loader.get("format")
    if form == HDF5:
        file = existing(inside(base, text_of(loader, "hdf5", place), place))
        volume: LazyVolume = Hdf5Volume(file, f"t{time:05}/s{setup:02}/0/cells")
    elif form == N5:
        root = existing(inside(base, text_of(loader, "n5", place), place))
        volume = N5Level([existing(root / f"setup{setup}" / f"timepoint{time}" / "s0")])
    elif form == ZARR:
        volume = _zarr(loader, base, setup, time, place)
    else:
        volume = _file(loader, base, setup, time, place)
    if size is not None and volume.shape[1:] != size:
        raise ValueError(
            f"{place}: view setup {setup} has {volume.shape[1:]} voxels (z, y, x); the project states {size}"
        )
    return volume


class Hdf5Volume(LazyVolume):
    """A data set of three axes, (z, y, x), of an HDF5 file.

    BigDataViewer stores unsigned integers as if they were signed; they come out unsigned.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        with reading(path, "an HDF5 file"), _hdf5(path) as file:
            _check_links(file, name, path)
            if name not in file:
                raise ValueError(f"it has no data set {name}")
            data = file[name]
            shape, stored, chunks = data.shape, data.dtype, data.chunks
        if len(shape) != 3 or stored.kind not in "uif":
            raise ValueError(f"{path}: {name} has shape {shape} of {stored}; wanted three axes of numbers")
        self.shape = (1, *shape)
        self.block = chunks or shape
        self.stored = stored.newbyteorder("=")
        self.dtype = np.dtype(f"u{stored.itemsize}") if stored.kind == "i" else self.stored

    def read(self, channel: int, region: Region) -> np.ndarray:
        with reading(self.path, "an HDF5 file"), _hdf5(self.path) as file:
            return np.asarray(file[self.name][region]).astype(self.stored, copy=False).view(self.dtype)


def _hdf5(path: Path) -> Any:
    import h5py

    return h5py.File(path, "r", locking=False)


def _check_links(file: Any, name: str, path: Path) -> None:
    """Refuse links on the way to a data set that lead to files elsewhere; those beside it are partitions."""
    import h5py

    parts = name.split("/")
    for n in range(len(parts)):
        link = file.get("/".join(parts[: n + 1]), getlink=True)
        if isinstance(link, h5py.ExternalLink):
            inside(path.parent, link.filename, path)
            return


class ChannelOf(LazyVolume):
    """One channel of a volume."""

    def __init__(self, volume: LazyVolume, channel: int) -> None:
        self.volume, self.channel = volume, channel
        self.shape, self.dtype = (1, *volume.shape[1:]), volume.dtype

    def read(self, channel: int, region: Region) -> np.ndarray:
        return self.volume.read(self.channel, region)


def _file(loader: Element, base: Path, setup: int, time: int, place: Path) -> LazyVolume:
    """The file of a view in a map of files."""
    for node in child(loader, "files", place).iterfind("FileMapping"):
        if (node.get("view_setup"), node.get("timepoint")) != (str(setup), str(time)):
            continue
        name = text_of(node, "file", place)
        series = whole_number(node.get("series", 0), "series", place)
        if not is_tiff(name) or series:
            raise ValueError(
                f"{place}: view setup {setup} is series {series} of {name}; wanted a TIFF file, or the project resaved "
                "as HDF5 or N5"
            )
        volume = open_volume_file(existing(inside(base, name, place)).absolute()).volume
        channel = whole_number(node.get("channel", 0), "channel", place)
        if channel >= volume.shape[0]:
            raise ValueError(
                f"{place}: {name} has {volume.shape[0]} channels; wanted channel {channel} of it"
            )
        return ChannelOf(volume, channel) if volume.shape[0] > 1 else volume
    raise ValueError(f"{place}: view setup {setup} has no file at time point {time}")


def _zarr(loader: Element, base: Path, setup: int, time: int, place: Path) -> LazyVolume:
    """The OME-Zarr image of a view, of which BigDataViewer takes one channel and one time point."""
    root = inside(base, text_of(loader, "zarr", place), place)
    for node in child(loader, "zgroups", place).iterfind("zgroup"):
        if (node.get("setup"), node.get("tp", node.get("timepoint"))) != (str(setup), str(time)):
            continue
        name = node.get("path") or text_of(node, "path", place)
        # Sic: BigStitcher's own spelling. Axes beyond x, y, z, in this order.
        channel, point = (whole_number(v, "indicies", place) for v in node.get("indicies", "0 0").split())
        image = open_ome_zarr(inside(root, name, place), spacing=(1, 1, 1), time=point)
        z, y, x = image.grid.shape
        volume = CropOf(image.levels[0].data, (slice(0, z), slice(0, y), slice(0, x)))
        if channel >= volume.shape[0]:
            raise ValueError(
                f"{place}: {name} has {volume.shape[0]} channels; wanted channel {channel} of it"
            )
        return ChannelOf(volume, channel) if volume.shape[0] > 1 else volume
    raise ValueError(f"{place}: view setup {setup} has no image at time point {time}")
