"""Volumes in one file: NIfTI, NRRD and MetaImage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
from nibabel.openers import ImageOpener

from weft.grid import Grid, Triple
from weft.image import Image, Level, Region
from weft.readers.checks import (
    channel_names,
    label_volume,
    micrometres,
    orientation_code,
    reading,
    voxel_size,
    whole_number,
)
from weft.readers.fingerprint import existing
from weft.readers.lazy import DecodedVolume, LazyVolume, RawVolume
from weft.readers.nrrd import read_nrrd_header

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


def open_volume(
    path: str | Path,
    *,
    spacing: Sequence[float] | None = None,
    spacing_unit: str | None = None,
    orientation: str | None = None,
    channels: Sequence[str] | None = None,
    labels: bool = False,
    frame: int | str | None = None,
) -> Image:
    """Open a NIfTI (``.nii``, ``.nii.gz``), NRRD (``.nrrd``, ``.nhdr``) or MetaImage (``.mha``, ``.mhd``) volume.

    Axes are those of the file, slowest first: (z, y, x) = (k, j, i). The grid starts at 0: the file's origin and
    the small angles of its direction matrix are not used, only the orientation that the matrix comes closest to.
    Voxels of an uncompressed file are read box by box; a compressed file has no blocks and is decoded whole
    into memory when it is first read.

    Parameters
    ----------
    path
        File.
    spacing
        Voxel size, um, (z, y, x), instead of the file's.
    spacing_unit
        Unit of the file's voxel size. By default what a NIfTI or NRRD header states; a NIfTI or MetaImage
        header that states none means millimetres, a NRRD header that states none is refused.
    orientation
        Code of three letters instead of the file's (a NRRD without ``space`` has none). Atlases in NRRD often
        carry a direction matrix that nobody meant: state it for those.
    channels
        Name of the one channel.
    labels
        True for a label image, of an integer type, or of floats that are whole numbers: these become uint32.
    frame
        Of a NIfTI file of four axes: which volume along the fourth is read, counted from 0; such files are refused
        without it.

    Returns
    -------
    Image
        One level. Voxels are those that nibabel or SimpleITK read (NIfTI's intensity slope applied).

    Raises
    ------
    FileNotFoundError
        When the file is missing.
    ValueError
        When the file is broken, truncated or no volume of three axes and one component, its voxel size is
        missing, without unit or not positive, or labels are not integers.
    """
    path = existing(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(
            f"{path}: not the name of a volume file; wanted one that ends in {', '.join(SUFFIXES)}"
        )
    if path.name.lower().endswith((".nii", ".nii.gz")):
        data, sizes, unit, code = _open_nifti(path, frame)
    elif frame is not None:
        raise ValueError(f"{path}: frame is {frame!r}; only NIfTI files have frames")
    else:
        data, sizes, unit, code = _open_itk(path)
    if labels:
        data = label_volume(data, path)
    wanted, stated = spacing, sizes
    if unit is not None and sizes is not None:
        stated = _in_um(sizes, unit, path)
    if spacing is None and sizes is not None:
        nrrd = path.name.lower().endswith((".nrrd", ".nhdr"))
        meant = spacing_unit or unit or (None if nrrd else "mm")
        if meant is None:
            raise ValueError(
                f"{path}: voxel size {list(sizes)} has no unit; give `spacing_unit`, or `spacing` in um"
            )
        wanted = list(_in_um(sizes, meant, path))
    return Image(
        levels=(Level(data, Grid(data.shape[1:], voxel_size(wanted, path))),),
        channels=channel_names(channels, 1, path),
        orientation=orientation_code(orientation, path) or code,
        labels=labels,
        stated_spacing=stated,
        stated_um=unit is not None,
    )


def _in_um(sizes: Triple, unit: str, path: Path) -> Triple:
    z, y, x = sizes
    factor = micrometres(unit, path)
    return z * factor, y * factor, x * factor


class _Nifti(LazyVolume):
    """An uncompressed NIfTI file: nibabel seeks to what a box touches, and applies the intensity slope."""

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: Any, frame: int = 0) -> None:
        self.path, self.shape, self.dtype, self.frame = path, (1, *shape), np.dtype(dtype), frame

    def read(self, channel: int, region: Region) -> np.ndarray:
        z, y, x = region
        with reading(self.path, "NIfTI"):
            image: Any = nibabel.load(self.path, mmap=False)
            proxy = image.dataobj
            further = (self.frame, *(0,) * (proxy.ndim - 4)) if proxy.ndim > 3 else ()
            return np.asarray(proxy[(x, y, z, *further)]).astype(self.dtype, copy=False).T


class _MetaImage(LazyVolume):
    """An uncompressed MetaImage file: ITK streams the box asked for."""

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: Any) -> None:
        self.path, self.shape, self.dtype = path, (1, *shape), np.dtype(dtype)

    def read(self, channel: int, region: Region) -> np.ndarray:
        with reading(self.path, "MetaImage"):
            reader = SimpleITK.ImageFileReader()
            reader.SetImageIO("MetaImageIO")
            reader.SetFileName(str(self.path))
            reader.SetExtractIndex([part.start for part in region[::-1]])
            reader.SetExtractSize([part.stop - part.start for part in region[::-1]])
            return SimpleITK.GetArrayFromImage(reader.Execute())


def _open_nifti(path: Path, frame: int | str | None) -> tuple[Any, Triple | None, str | None, str | None]:
    """Lazy voxels, voxel size (z, y, x), its unit, and orientation."""
    with reading(path, "NIfTI"):
        image: Any = nibabel.load(path, mmap=False)
        proxy = image.dataobj
        unit = image.header.get_xyzt_units()[0]
        # As they stand in the file: nibabel makes 1 of 0, and 3 of -3. They are float32, whose shortest
        # decimals are what was meant (0.2, not 0.20000000298).
        with ImageOpener(str(path)) as file:
            stated = image.header_class.from_fileobj(file, check=False)["pixdim"]
        z, y, x = (float(str(v)) for v in stated[3:0:-1])
        oriented = len(image.shape) >= 3 and np.isfinite(image.affine).all()
        code = "".join(nibabel.aff2axcodes(image.affine)[2::-1]) if oriented else None
    frames = image.shape[3] if len(image.shape) > 3 else 1
    if len(image.shape) < 3 or any(n > 1 for n in image.shape[4:]) or (frame is None and frames > 1):
        raise ValueError(
            f"{path}: its shape is {image.shape}; wanted three axes (x, y, z), or four and `frame` to say which is read"
        )
    chosen = whole_number(frame or 0, "frame", path)
    if chosen >= frames:
        raise ValueError(f"{path}: frame is {frame!r}; it has {frames}")
    shape = image.shape[2::-1]
    with reading(path, "NIfTI"):
        # An intensity slope makes floats of integers: ask nibabel for one voxel to know the type.
        dtype = np.asarray(proxy[(slice(0, 1),) * proxy.ndim]).dtype.newbyteorder("=")
    if path.name.lower().endswith(".gz"):
        volume: LazyVolume = DecodedVolume(
            path, "NIfTI", (1, *shape), dtype, partial(_decode_nifti, frame=chosen)
        )
    else:
        needed = proxy.offset + int(np.prod(image.shape, dtype=np.int64)) * proxy.dtype.itemsize
        if (found := path.stat().st_size) < needed:
            raise ValueError(f"{path}: truncated; found {found} bytes, wanted {needed}")
        volume = _Nifti(path, shape, dtype, chosen)
    return (
        volume.lazy(_block(shape)),
        (z, y, x),
        None if unit == "unknown" else unit,
        orientation_code(code, path),
    )


def _decode_nifti(path: Path, *, frame: int) -> np.ndarray:
    image: Any = nibabel.load(path, mmap=False)
    voxels = np.asarray(image.dataobj).reshape(*image.shape[:3], -1)[..., frame].T[None]
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)


def _open_itk(path: Path) -> tuple[Any, Triple | None, str | None, str | None]:
    """Lazy voxels, voxel size (z, y, x; None where the file states none), its unit, and orientation.

    Of a NRRD or MetaImage file.
    """
    nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    kind = "NRRD" if nrrd else "MetaImage"
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if nrrd else "MetaImageIO")
    reader.SetFileName(str(path))
    with reading(path, kind):
        reader.ReadImageInformation()
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise ValueError(
            f"{path}: has {reader.GetDimension()} axes and {reader.GetNumberOfComponents()} components a voxel; wanted 3 and 1"
        )
    shape = reader.GetSize()[::-1]
    dtype = SimpleITK.GetArrayFromImage(SimpleITK.Image([1, 1, 1], reader.GetPixelID())).dtype
    z, y, x = (float(v) for v in reader.GetSpacing()[::-1])
    # A direction matrix has a row per (x, y, z) of the patient, towards left, posterior, superior.
    axes = np.asarray(reader.GetDirection()).reshape(3, 3)[:, ::-1]
    matrix = np.eye(4)
    matrix[:3, :3] = axes * np.array([[-1.0], [-1.0], [1.0]])
    code = orientation_code("".join(nibabel.aff2axcodes(matrix)), path)
    if not nrrd:
        fields = _metaimage_fields(path)
        volume: LazyVolume = _MetaImage(path, shape, dtype)
        if fields.get("CompressedData", "False").lower() == "true":
            volume = DecodedVolume(path, kind, (1, *shape), dtype, _decode_itk)
        stated = fields.get("ElementSpacing") or fields.get("ElementSize")
        return volume.lazy(_block(shape)), _stated_sizes((z, y, x), stated), None, code
    header = read_nrrd_header(path)
    stated = header.fields.get("spacings") or header.fields.get("space directions")
    oriented = header.fields.get("space", "") not in ("", "right-up", "3D-right-handed", "3D-left-handed")
    if header.stored is not None:
        volume = RawVolume(path, header.end, (1, *shape), header.stored)
    else:
        volume = DecodedVolume(path, kind, (1, *shape), dtype, _decode_itk)
    return (
        volume.lazy(_block(shape)),
        _stated_sizes((z, y, x), stated),
        header.unit,
        code if oriented else None,
    )


def _stated_sizes(sizes: Triple, stated: str | None) -> Triple | None:
    """What ITK reads, where it reads what the header states: it makes 1 of nothing, and of NaN."""
    if not stated:
        return None
    parts = stated.lower().split()
    return (math.nan,) * 3 if len(parts) == 3 and any("nan" in part for part in parts) else sizes


def _metaimage_fields(path: Path) -> dict[str, str]:
    fields = {}
    with open(path, "rb") as file:
        for line in iter(file.readline, b""):
            name, _, value = line.decode("ascii", "replace").partition("=")
            fields[name.strip()] = value.strip()
            if name.strip() == "ElementDataFile":
                break
    return fields


def _decode_itk(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[None]


def _block(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Chunk, (z, y, x), of about a million voxels: whole rows, for that is how the file lies."""
    rows = max(1, min(shape[1], 128))
    return max(1, 2**20 // (rows * shape[2])), rows, shape[2]
