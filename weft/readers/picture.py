"""Pictures: PNG, JPEG, BMP and single-page TIFF files, grey or in colour."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import SimpleITK

from weft.grid import Grid
from weft.image import Image, Level
from weft.readers.checks import (
    COLOURS,
    channel_names,
    label_type,
    orientation_code,
    reading,
    sample_number,
    voxel_size,
)
from weft.readers.fingerprint import existing
from weft.readers.lazy import DecodedVolume

PICTURES = (".png", ".jpg", ".jpeg", ".bmp")

Colour = Literal["rgb", "density"]


def open_picture(
    path: str | Path,
    *,
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
    channels: Sequence[str] | None = None,
    labels: bool = False,
    colour: Colour = "rgb",
) -> Image:
    """Open a picture as a volume of one plane.

    Parameters
    ----------
    path
        A PNG, JPEG or BMP file, or a TIFF file of one page.
    spacing
        Pixel size, um, (z, y, x), z being the thickness of the section; pictures do not state it reliably.
    orientation
        Code of three letters; pictures have none.
    channels
        Names of the channels; by default ``red``, ``green``, ``blue`` of a colour picture.
    labels
        True for a label image, which must be grey and of an integer type.
    colour
        What becomes of colours. ``rgb``: three channels. ``density``: one, the optical density
        -log10((v + 1) / (top + 1)), v the value and top the largest of the type, summed over the colours (law
        of Beer and Lambert): stained tissue becomes bright and the light of the lamp dark.

    Returns
    -------
    Image
        One level of one plane, (1, y, x); an opacity channel is left out.

    Raises
    ------
    FileNotFoundError
        When nothing is at ``path``.
    ValueError
        When the file is broken, the pixel size is missing or not positive, there is no such treatment of
        colours, or labels are in colour or no integers.
    """
    path = existing(path)
    if colour not in get_args(Colour):
        raise ValueError(f"{path}: colour is {colour!r}; wanted {' or '.join(get_args(Colour))}")
    density = colour == "density"
    volume = picture_volume(path, density=density)
    if labels:
        label_type(volume.dtype, path)
        if volume.shape[0] > 1 or density:
            raise ValueError(f"{path}: labels are in colour; wanted a grey picture, for labels are names")
    if channels is None and volume.shape[0] == len(COLOURS):
        channels = COLOURS
    return Image(
        levels=(
            Level(volume.lazy((1, *volume.shape[2:])), Grid(volume.shape[1:], voxel_size(spacing, path))),
        ),
        channels=channel_names(channels, volume.shape[0], path),
        orientation=orientation_code(orientation, path),
        labels=labels,
    )


def picture_volume(
    path: Path, *, density: bool = False, sample: int | str | None = None, keep: bool = True
) -> DecodedVolume:
    """The pixels of a picture, (c, 1, y, x): its colours, one of them, or their optical density.

    Parameters
    ----------
    path
        File.
    density
        Whether colours become their optical density, float32 (see `open_picture`).
    sample
        Which colour is read: 0, 1, 2, or red, green, blue; default all, opacity left out.
    keep
        As in `DecodedVolume`.

    Raises
    ------
    ValueError
        When the file is broken, holds several planes, or has no such colour.
    """
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    with reading(path, "a picture"):
        reader.ReadImageInformation()
    size = reader.GetSize()
    if len(size) > 2 and max(size[2:]) > 1:
        raise ValueError(f"{path}: has {len(size)} axes of {size} pixels; wanted one plane")
    components = _colours(reader.GetNumberOfComponents())
    chosen = None if sample is None else sample_number(sample, components, path)
    count = 1 if density or chosen is not None else components
    return DecodedVolume(
        path,
        "a picture",
        (count, 1, size[1], size[0]),
        np.dtype(np.float32) if density else _type(reader.GetPixelID()),
        partial(_decode, density=density, sample=chosen),
        keep,
    )


def _decode(path: Path, *, density: bool, sample: int | None) -> np.ndarray:
    """All pixels, (c, 1, y, x)."""
    picture = SimpleITK.ReadImage(str(path))
    height, width = picture.GetSize()[1::-1]
    pixels = SimpleITK.GetArrayFromImage(picture).reshape(
        height, width, picture.GetNumberOfComponentsPerPixel()
    )
    pixels = np.moveaxis(pixels[..., : _colours(pixels.shape[-1])], -1, 0)[:, None]
    if not density:
        return np.ascontiguousarray(pixels if sample is None else pixels[sample : sample + 1])
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else max(float(pixels.max()), 1.0)
    return -np.log10((pixels.astype(np.float32) + 1) / (np.float32(top) + 1)).sum(0, keepdims=True)


def _colours(components: int) -> int:
    """Components without opacity, which is the second of two and the fourth of four."""
    return components - 1 if components in (2, 4) else components


def _type(pixel_id: int) -> np.dtype:
    return SimpleITK.GetArrayFromImage(SimpleITK.Image([1, 1], pixel_id)).dtype
