"""TIFF files: headers, planes and multi-page volumes, read no further than asked."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from weft.grid import Triple
from weft.image import Region
from weft.readers.checks import micrometres, natural_order, reading, sample_number
from weft.readers.lazy import LazyVolume, RawVolume

_SUFFIXES = (".tif", ".tiff")
_KIND = "a TIFF file"


@dataclass(frozen=True)
class PlaneHeader:
    """What the header of a single-plane TIFF says: (y, x) and the type of a voxel (native byte order).

    ``sample`` is the one that is read of pixels in colour; None for grey ones.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    sample: int | None = None


def is_tiff(name: str) -> bool:
    """Whether a file name is that of a TIFF file."""
    return name.lower().endswith(_SUFFIXES)


def plane_header(path: str | Path, sample: int | str | None = None) -> PlaneHeader:
    """Header of a TIFF file that holds one plane, grey or, where ``sample`` is given, in colour; no pixel is read.

    Raises
    ------
    ValueError
        When the file is no TIFF, is broken, or holds something else than one plane.
    """
    with reading(path, _KIND), tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        shape, dtype, axes = page.shape, page.dtype, page.axes
    if dtype is None or axes not in ("YX", "YXS", "SYX") or ("S" in axes and sample is None):
        raise ValueError(
            f"{path}: its first page has shape {shape} and type {dtype}; wanted one grey plane (y, x), "
            "or `sample` to say which colour is read"
        )
    found = dict(zip(axes, shape, strict=True))
    chosen = sample_number(sample or 0, found["S"], path) if "S" in axes else None
    return PlaneHeader((found["Y"], found["X"]), np.dtype(dtype).newbyteorder("="), chosen)


def check_plane(path: str | Path, found: PlaneHeader, wanted: PlaneHeader) -> None:
    """Refuse a plane of another shape or type.

    Raises
    ------
    ValueError
        When either differs.
    """
    if found.shape != wanted.shape:
        raise ValueError(
            f"{path}: the plane has shape {found.shape}; wanted {wanted.shape} (y, x), as the others"
        )
    if found.dtype != wanted.dtype:
        raise ValueError(f"{path}: the plane is {found.dtype}; wanted {wanted.dtype}, as the others")


def read_plane(path: str | Path, rows: slice, columns: slice, wanted: PlaneHeader) -> np.ndarray:
    """A part of a single-plane TIFF, (y, x), native byte order; only the rows, strips or tiles it touches are read.

    Raises
    ------
    ValueError
        When the file is broken or truncated, or the plane is of another shape or type than ``wanted``.
    """
    with reading(path, _KIND), tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        shape = tuple(
            n for a, n in zip(page.axes, page.shape, strict=True) if a in "YX" or wanted.sample is None
        )
        found = PlaneHeader(shape, np.dtype(page.dtype).newbyteorder("="), wanted.sample)
        if found == wanted:
            return _page_part(file, page, rows, columns, wanted.sample)
    check_plane(path, found, wanted)
    raise AssertionError  # check_plane has raised


def _page_part(
    file: tifffile.TiffFile, page: Any, rows: slice, columns: slice, sample: int | None = None
) -> np.ndarray:
    """A part of a page, (y, x): only the rows, strips or tiles that it touches are read; of colours all are."""
    keyframe = page.keyframe
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or max(ends) > file.filehandle.size:
        raise ValueError(f"truncated: found {file.filehandle.size} bytes, wanted {max(ends, default=0)}")
    if sample is not None and "S" in page.axes:
        return page.asarray().take(sample, page.axes.index("S"))[rows, columns]
    if keyframe.is_contiguous and keyframe.predictor == 1 and keyframe.fillorder == 1:
        return _rows(file, page, rows)[:, columns]
    if keyframe.jpegtables is not None or len(ends) == 1:
        return page.asarray()[rows, columns]
    return _segments(file, page, rows, columns)


def _rows(file: tifffile.TiffFile, page: Any, rows: slice) -> np.ndarray:
    """Whole rows of an uncompressed page, (y, x)."""
    width = page.keyframe.shape[1]
    stored = np.dtype(file.byteorder + page.keyframe.dtype.char)
    with file.filehandle.lock:
        file.filehandle.seek(page.dataoffsets[0] + rows.start * width * stored.itemsize)
        part = np.frombuffer(file.filehandle.read((rows.stop - rows.start) * width * stored.itemsize), stored)
    return part.reshape(-1, width).astype(stored.newbyteorder("="))


def _segments(file: tifffile.TiffFile, page: Any, rows: slice, columns: slice) -> np.ndarray:
    """A part of a page, (y, x), of the strips or tiles that it touches."""
    keyframe = page.keyframe
    width = keyframe.shape[1]
    high, wide = (
        (keyframe.tilelength, keyframe.tilewidth) if keyframe.is_tiled else (keyframe.rowsperstrip, width)
    )
    across = -(-width // wide)
    touched = [
        line * across + place
        for line in range(rows.start // high, -(-rows.stop // high))
        for place in range(columns.start // wide, -(-columns.stop // wide))
    ]
    y0, x0 = rows.start // high * high, columns.start // wide * wide
    shape = -(-rows.stop // high) * high - y0, -(-columns.stop // wide) * wide - x0
    out = np.full(shape, keyframe.nodata, keyframe.dtype.newbyteorder("="))
    offsets, counts = ([values[n] for n in touched] for values in (page.dataoffsets, page.databytecounts))
    for data, index in file.filehandle.read_segments(
        offsets, counts, indices=touched, lock=file.filehandle.lock
    ):
        segment, (_, _, y, x, _), _ = keyframe.decode(data, index)
        if segment is not None:
            part = segment[0, :, :, 0]
            out[y - y0 : y - y0 + part.shape[0], x - x0 : x - x0 + part.shape[1]] = part
    return out[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]


class PlaneFiles(LazyVolume):
    """A volume whose planes are single-page TIFF files.

    Parameters
    ----------
    files
        Paths, ``files[channel][z]``, all channels of one length; None for a plane that is not there, which is zero.
    header
        What each plane must be; checked when a plane is read.
    """

    def __init__(self, files: Sequence[Sequence[Path | None]], header: PlaneHeader) -> None:
        self.files, self.header, self.dtype = files, header, header.dtype
        self.shape = (len(files), len(files[0]), *header.shape)

    def read(self, channel: int, region: Region) -> np.ndarray:
        z, y, x = region
        out = np.empty((z.stop - z.start, y.stop - y.start, x.stop - x.start), self.dtype)
        for n, path in enumerate(self.files[channel][z]):
            out[n] = 0 if path is None else read_plane(path, y, x, self.header)
        return out

    def paths(self, channel: int) -> Sequence[Path | None] | None:
        return self.files[channel]


class PagesVolume(LazyVolume):
    """A multi-page TIFF whose pages are compressed, tiled or scattered; touched strips or tiles are decoded.

    The file stays open while the object lives: finding page n anew means walking n headers.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int, int],
        dtype: Any,
        channels_last: bool,
        sample: int | None = None,
    ) -> None:
        self.path, self.shape, self.dtype, self.channels_last = path, shape, np.dtype(dtype), channels_last
        self.sample = sample
        self._file: tifffile.TiffFile | None = None
        self._lock = threading.Lock()

    def read(self, channel: int, region: Region) -> np.ndarray:
        z, y, x = region
        out = np.empty((z.stop - z.start, y.stop - y.start, x.stop - x.start), self.dtype)
        with self._lock, reading(self.path, _KIND):
            if self._file is None:
                self._file = tifffile.TiffFile(self.path)
            pages = self._file.series[0].pages
            for n, plane in enumerate(range(z.start, z.stop)):
                page = (
                    plane * self.shape[0] + channel if self.channels_last else channel * self.shape[1] + plane
                )
                out[n] = _page_part(self._file, pages[page], y, x, self.sample)
        return out

    def paths(self, channel: int) -> Sequence[Path | None] | None:
        return [self.path] if self.shape[0] == 1 else None

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self._file.close()  # type: ignore[union-attr]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_file", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _file=None, _lock=threading.Lock())


@dataclass(frozen=True)
class TiffSource:
    """A volume made of TIFF files, with what their metadata say.

    ``spacing`` (um, z y x) and ``channels`` are None where nothing says so.
    """

    volume: LazyVolume
    spacing: Triple | None = None
    channels: tuple[str, ...] | None = None


@lru_cache(maxsize=256)
def open_volume_file(path: Path, sample: int | str | None = None) -> TiffSource:
    """Open one TIFF file, of one page or many, as a volume (c, z, y, x).

    Axes are taken from OME-XML, ImageJ or tifffile metadata; pages without any are planes in z. Of pixels in
    colour the ``sample`` is read that is named.

    Raises
    ------
    ValueError
        When the file is broken or truncated, or has time points, other axes, or colours of which none is named.
    """
    with reading(path, _KIND), tifffile.TiffFile(path) as file:
        series = file.series[0]
        page: Any = series.keyframe
        axes, sizes, offset = series.axes, series.shape, series.dataoffset
        dtype = np.dtype(series.dtype).newbyteorder("=")
        stored = np.dtype(file.byteorder + dtype.char)
        plain = offset is not None and page.predictor == 1 and page.fillorder == 1
        pages = len(series.pages)
        chosen = None
        if sample is not None and axes.count("S") == 1 and page.axes in ("YXS", "SYX"):
            chosen = sample_number(sample, sizes[axes.index("S")], path)
            sizes = tuple(n for a, n in zip(axes, sizes, strict=True) if a != "S")
            axes, plain = axes.replace("S", ""), False
        spacing, channels = _ome_metadata(file) if file.is_ome else (_imagej_spacing(file), None)
    shape, channels_last = _volume_shape(path, axes, sizes)
    if plain:
        volume: LazyVolume = RawVolume(path, offset or 0, shape, stored, channels_last)
    elif pages == shape[0] * shape[1]:
        volume = PagesVolume(path, shape, dtype, channels_last, chosen)
    else:
        raise ValueError(
            f"{path}: {pages} pages are found; wanted {shape[0] * shape[1]}, one for each plane of {shape}"
        )
    return TiffSource(volume, spacing, channels if channels and len(channels) == shape[0] else None)


def open_planes(
    files: Sequence[Sequence[Path]], check: str = "first", sample: int | str | None = None
) -> TiffSource:
    """Open single-page TIFF files, ``files[channel][z]``, as a volume (c, z, y, x).

    ``check="full"`` compares every header now; otherwise a plane is checked when it is read. Of pixels in colour
    the ``sample`` is read that is named.
    """
    header = plane_header(files[0][0], sample)
    if check == "full":
        for path in (path for channel in files for path in channel):
            check_plane(path, plane_header(path, sample), header)
    return TiffSource(PlaneFiles(files, header))


def planes_in(folder: Path, pattern: str = "*") -> list[Path]:
    """TIFF files of a folder that match a pattern, in natural order.

    Raises
    ------
    ValueError
        When there are none.
    """
    files = sorted((f for f in folder.glob(pattern) if is_tiff(f.name)), key=lambda f: natural_order(f.name))
    if not files:
        raise ValueError(f"{folder}: no TIFF file matches {pattern!r}; wanted one for each plane")
    return files


def _volume_shape(path: Path, axes: str, sizes: Sequence[int]) -> tuple[tuple[int, int, int, int], bool]:
    """Shape (c, z, y, x) of a series, and whether its channels vary faster than its planes."""
    kept = "".join(a for a, n in zip(axes, sizes, strict=True) if n > 1 or a in "YX")
    for unnamed in "IQT":
        if "Z" not in kept and unnamed in kept:
            kept = kept.replace(unnamed, "Z", 1)
    if kept.lstrip("CZ") != "YX" or len(set(kept)) != len(kept):
        raise ValueError(
            f"{path}: its axes are {axes} with sizes {tuple(sizes)}; wanted planes (y, x) in z and channels"
            + (", or `sample` to say which colour is read" if "S" in axes else "")
        )
    size = dict(zip(kept, (n for a, n in zip(axes, sizes, strict=True) if n > 1 or a in "YX"), strict=True))
    return (size.get("C", 1), size.get("Z", 1), size["Y"], size["X"]), kept.startswith("ZC")


def _ome_metadata(file: tifffile.TiffFile) -> tuple[Triple | None, tuple[str, ...] | None]:
    from defusedxml import ElementTree

    root = ElementTree.fromstring(file.ome_metadata)
    pixels = root.find(".//{*}Pixels")
    if pixels is None:
        return None, None
    names = tuple(channel.get("Name") or str(n) for n, channel in enumerate(pixels.iterfind("{*}Channel")))
    sizes = []
    for axis in "ZYX":
        size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        if size is None:
            return None, names
        sizes.append(float(size) * micrometres(unit, file.filename))
    return (sizes[0], sizes[1], sizes[2]), names


def _imagej_spacing(file: tifffile.TiffFile) -> Triple | None:
    """Voxel size that ImageJ wrote: `spacing` in z, the resolution tags in y and x, all in `unit`."""
    metadata = file.imagej_metadata or {}
    unit = re.sub(r"\\u00B5", "µ", str(metadata.get("unit", "")))
    x, y = file.pages.first.resolution if "XResolution" in file.pages.first.tags else (0.0, 0.0)
    if "spacing" not in metadata or not unit or min(x, y) <= 0:
        return None
    try:
        factor = micrometres(unit, file.filename)
    except ValueError:
        return None  # ImageJ calls uncalibrated images "pixel"
    return float(metadata["spacing"]) * factor, factor / y, factor / x
