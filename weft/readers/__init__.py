"""Readers: one file per format, one function ``open_...() -> Image | TileSet``, lazy; found by name here."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.plugins import published
from weft.readers.fingerprint import existing

__all__ = [
    "detect_format",
    "formats",
    "open_source",
    "reader",
    "reader_identity",
    "register_reader",
    "tiled_formats",
]

if TYPE_CHECKING:
    from weft.image import Image, TileSet

Reader = Callable[..., "Image | TileSet"]

ENTRY_POINTS = "weft.readers"
# Module and function of each format; a module is imported when its format is first asked for.
_BUILT_IN = {
    "colm": ("weft.readers.colm", "open_colm"),
    "tiff_tiles": ("weft.readers.tiff_tiles", "open_tiff_tiles"),
    "tiff_grid": ("weft.readers.tiff_grid", "open_tiff_grid"),
    "terastitcher": ("weft.readers.terastitcher", "open_terastitcher"),
    "czi": ("weft.readers.czi", "open_czi"),
    "bdv": ("weft.readers.bdv", "open_bdv"),
    "hcs": ("weft.readers.hcs", "open_hcs"),
    "tiff_stack": ("weft.readers.tiff_stack", "open_tiff_stack"),
    "ome_zarr": ("weft.readers.ome_zarr", "open_ome_zarr"),
    "n5": ("weft.readers.n5", "open_n5"),
    "volume": ("weft.readers.volume_file", "open_volume"),
    "precomputed": ("weft.readers.precomputed", "open_precomputed"),
    "picture": ("weft.readers.picture", "open_picture"),
}
_TILED = ("colm", "tiff_tiles", "tiff_grid", "terastitcher", "czi", "bdv", "hcs")
_registered: dict[str, Reader] = {}
_registered_tiled: set[str] = set()


def open_source(path: str | Path, format: str | None = "auto", **options: Any) -> Image | TileSet:
    """Open a source of images, lazily.

    Parameters
    ----------
    path
        File or folder.
    format
        Name of a reader (see `formats`); ``"auto"`` or None finds the format by `detect_format`.
    **options
        Those of the reader, e.g. ``spacing`` (um, z y x), ``orientation``, ``channels``.

    Returns
    -------
    Image or TileSet
        An image, or the tiles of one that is still to be stitched.

    Raises
    ------
    FileNotFoundError
        When nothing is at ``path``.
    ValueError
        When the format is unknown, the reader has no such option, or the source is broken.
    """
    if format in (None, "auto"):
        format = detect_format(path)
    function = reader(str(format))
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    unknown = [name for name in options if name not in known]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise ValueError(f"{path}: reader {format!r} has no option {unknown[0]!r}; it has {', '.join(known)}")
    return function(path, **options)


def formats() -> tuple[str, ...]:
    """Names of all readers: built in, registered, and of entry points ``weft.readers``."""
    return tuple(dict.fromkeys([*_BUILT_IN, *_registered, *published(ENTRY_POINTS)]))


def tiled_formats() -> tuple[str, ...]:
    """Names of the readers that hand out tiles, which are still to be stitched."""
    return (*_TILED, *sorted(_registered_tiled))


def reader(name: str) -> Reader:
    """The function that opens a format, ``function(path, **options) -> Image | TileSet``.

    Raises
    ------
    ValueError
        When there is no such reader.
    """
    if name in _registered:
        return _registered[name]
    if name in _BUILT_IN:
        module, function = _BUILT_IN[name]
        return getattr(import_module(module), function)
    if entry := published(ENTRY_POINTS).get(name):
        return entry.load()
    raise ValueError(f"unknown format {name!r}; wanted one of {', '.join(formats())}")


def register_reader(name: str, function: Reader, *, tiles: bool = False) -> None:
    """Add a reader under a new name, for instance from a module of the config's ``plugins``.

    Parameters
    ----------
    name
        What the column `format` of images.tsv calls it.
    function
        ``function(path, **options) -> Image | TileSet``; its options are keyword-only parameters.
    tiles
        Whether it gives the tiles of an image (`TileSet`) rather than an image.

    Raises
    ------
    ValueError
        When the name is one of weft's own.
    """
    if name in _BUILT_IN:
        raise ValueError(f"reader {name!r} is one of weft's own; wanted another name")
    _registered[name] = function
    if tiles:
        _registered_tiled.add(name)
    else:
        _registered_tiled.discard(name)


def reader_identity(name: str) -> str:
    """What stands for a reader in the name of a result: ``weft``, or module, function and digest of a plug-in.

    ``"auto"`` finds weft's own readers only.
    """
    if name == "auto" or name in _BUILT_IN:
        return "weft"
    function = reader(name)
    file = inspect.getsourcefile(function)
    digest = hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()[:16]
    return f"{function.__module__}.{function.__qualname__}@{digest}"


def detect_format(path: str | Path) -> str:
    """Name of the built-in reader for what lies at ``path``, by file names (of XML files, by how they begin).

    Raises
    ------
    FileNotFoundError
        When nothing is there.
    ValueError
        When it looks like none of the formats.
    """
    if "://" in str(path):
        return "precomputed"
    place = existing(path)
    name = place.name.lower()
    if place.is_file():
        if name.endswith((".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")):
            return "volume"
        if name.endswith((".tif", ".tiff")):
            return "tiff_stack"
        if name.endswith((".png", ".jpg", ".jpeg", ".bmp")):
            return "picture"
        if name.endswith((".csv", ".tsv")) or name == "tileconfiguration.txt":
            return "tiff_tiles"
        if name.endswith(".czi"):
            return "czi"
        if name.endswith(".xml") and (form := _xml_format(place)):
            return form
    else:
        if any((place / file).exists() for file in ("zarr.json", ".zgroup", ".zattrs")):
            return "ome_zarr"
        if name.endswith(".n5") or _holds_n5(place):
            return "n5"
        if (place / "info").is_file():
            return "precomputed"
        if (place / "Experiment.ini").is_file():
            return "colm"
        if any((place / file).is_file() for file in ("tiles.tsv", "tiles.csv", "TileConfiguration.txt")):
            return "tiff_tiles"
        if any(file.suffix.lower() in (".tif", ".tiff") for file in place.iterdir()):
            return "tiff_stack"
    raise ValueError(
        f"{path}: looks like none of the formats weft knows; say which, of {', '.join(formats())}"
    )


def _xml_format(file: Path) -> str | None:
    with file.open("rb") as handle:
        start = handle.read(4096)
    roots = {b"<TeraStitcher": "terastitcher", b"<SpimData": "bdv"}
    return next((form for root, form in roots.items() if root in start), None)


def _holds_n5(folder: Path) -> bool:
    try:
        attributes = json.loads((folder / "attributes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(attributes, dict) and bool(
        {"n5", "dimensions", "pixelResolution", "scales"} & set(attributes)
    )
