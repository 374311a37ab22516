"""Small sources of every format, with the voxels that were written into them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
import tensorstore
import tifffile
import zarr

from weft.grid import Grid
from weft.image import Image

BLOCK = (slice(20, 24), slice(100, 140), slice(30, 70))


def voxels(shape, seed=0, dtype="u2"):
    return np.random.default_rng(seed).integers(0, 60000, shape).astype(dtype)


def travelled(source):
    """A source as another process gets it (of dask's workers, which speak pickle)."""
    return pickle.loads(pickle.dumps(source))  # noqa: S301


def write_planes(folder: Path, volume: np.ndarray, stem="plane", **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for z, plane in enumerate(volume):
        tifffile.imwrite(folder / f"{stem}{z}.tif", plane, **options)
    return folder


def write_colm(folder: Path, tiles: dict[int, np.ndarray], rows=2, columns=2, **changes) -> Path:
    """A COLM acquisition of tiles (c, z, y, x) by LOC number; ``changes`` replace values of the settings."""
    first = next(iter(tiles.values()))
    values = {
        "Num Horizontal": columns,
        "Num Vertical": rows,
        "Stack Step (mm)": 0.0025,
        "Num in stack (Top Left Corner)": first.shape[1],
        "X Resolution": first.shape[3],
        "Num Enabled Channels": first.shape[0],
        "Actual Horizontal Overlap (%)": 12.5,
        "Actual Vertical Overlap (%)": 15,
        "North": "Olympus XLPLN10XSVMP 10x NA 0.6",
    } | changes
    sections = {
        "North Scan Region": ["Num Horizontal", "Num Vertical", "Stack Step (mm)"],
        "Experiment Settings": ["Num in stack (Top Left Corner)", "X Resolution", "Num Enabled Channels"],
        "North Scan Region Stats": ["Actual Horizontal Overlap (%)", "Actual Vertical Overlap (%)"],
        "Objectives": ["North"],
    }
    folder.mkdir(parents=True)
    lines = []
    for section, keys in sections.items():
        lines += [f"[{section}]", *(f'{key} = "{values[key]}"' for key in keys if values[key] is not None)]
    (folder / "Experiment.ini").write_text("\n".join(lines))
    cells = [
        ",".join('"1"' if c + r * columns in tiles else '"0"' for c in range(columns)) for r in range(rows)
    ]
    (folder / "Scanned Cells.txt").write_text("\r\n".join(cells) + "\r\n")
    for number, tile in tiles.items():
        place = folder / "VW0" / f"LOC{number:03}"
        place.mkdir(parents=True)
        for c, channel in enumerate(tile):
            for z, plane in enumerate(channel):
                tifffile.imwrite(place / f"LOC{number:03}_CHN0{c}_PLN{z:04}.tif", plane)
    return folder


def write_n5(folder: Path, volume: np.ndarray, attributes: dict) -> Path:
    spec = {
        "driver": "n5",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "metadata": {
            "dimensions": list(volume.shape[::-1]),
            "blockSize": [32, 32, 32],
            "dataType": volume.dtype.name,
            "compression": {"type": "gzip"},
        },
        "create": True,
    }
    tensorstore.open(spec).result().write(volume.T).result()
    place = folder / "attributes.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | attributes))
    return folder


def write_ome_zarr(
    folder: Path, levels, *, version="0.5", axes="czyx", unit="micrometer", scale=1.0, **extra
) -> Path:
    """Levels of the given axes; scale of level n is ``scale * 2**n`` in z, y, x."""
    group = zarr.open_group(str(folder), mode="w", zarr_format=3 if version == "0.5" else 2)
    datasets = []
    for n, level in enumerate(levels):
        chunks = tuple(
            1 if axis in "tc" else min(32, size) for axis, size in zip(axes, level.shape, strict=True)
        )
        array = group.create_array(str(n), shape=level.shape, chunks=chunks, dtype=level.dtype)
        array[:] = level
        step = [scale * 2**n if axis in "zyx" else 1.0 for axis in axes]
        datasets.append({"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": step}]})
    kinds = {"t": "time", "c": "channel"}
    named = [
        {"name": a, "type": kinds.get(a, "space"), **({"unit": unit} if a in "zyx" and unit else {})}
        for a in axes
    ]
    multiscales = [{"axes": named, "datasets": datasets, "version": version} | extra.pop("multiscale", {})]
    metadata = {"multiscales": multiscales, **extra}
    group.attrs.update({"ome": {"version": version, **metadata}} if version == "0.5" else metadata)
    return folder


def build(kind: str, folder: Path) -> tuple[Path, dict]:
    """A source of (64, 256, 256) random voxels, 8 MB, that no compression shrinks much."""
    volume = voxels((64, 256, 256))
    um = {"spacing": (2, 1, 1)}
    folder.mkdir(parents=True)
    if kind == "colm":
        return write_colm(folder / "raw", {0: volume[None], 1: volume[None]}, 1, 2), {}
    if kind == "tiff_tiles":
        tifffile.imwrite(folder / "a.tif", volume, compression="zlib")
        (folder / "tiles.csv").write_text("tile,path,z,y,x\na,a.tif,0,0,0\n")
        return folder, um
    if kind == "tiff_planes":
        return write_planes(folder / "planes", volume, compression="zlib"), um
    if kind == "tiff_plain":
        tifffile.imwrite(folder / "a.tif", volume)
        return folder / "a.tif", um
    if kind == "tiff_pages":
        tifffile.imwrite(folder / "a.tif", volume, compression="zlib", tile=(64, 64))
        return folder / "a.tif", um
    if kind in ("ome_zarr_0.4", "ome_zarr_0.5"):
        return write_ome_zarr(folder / "a.zarr", [volume[None]], version=kind[-3:]), {}
    if kind == "ome_zarr_zyx":
        return write_ome_zarr(folder / "a.zarr", [volume], axes="zyx"), {}
    if kind == "n5":
        return write_n5(folder / "a.n5", volume, {"pixelResolution": [1, 1, 2]}), {}
    if kind == "nifti":
        nibabel.save(nibabel.Nifti1Image(volume.T, np.diag([0.001, 0.001, 0.002, 1])), folder / "a.nii")
        return folder / "a.nii", {}
    if kind in ("nrrd", "mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume), folder / f"a.{kind}", False)
        return folder / f"a.{kind}", {"spacing_unit": "um"}
    if kind == "precomputed":
        from weft.image import Level
        from weft.stores.precomputed import write_precomputed

        image = Image(
            (Level(zarr.array(volume[None], chunks=(1, 32, 32, 32)), Grid(volume.shape, (2, 1, 1))),)
        )
        write_precomputed(image, folder / "pc", segmentation=False, chunk=(32, 32, 32))
        return folder / "pc", {}
    raise AssertionError(kind)


KINDS = (
    *("colm", "tiff_tiles", "tiff_planes", "tiff_plain", "tiff_pages", "ome_zarr_0.4", "ome_zarr_0.5"),
    *("ome_zarr_zyx", "n5", "nifti", "nrrd", "mha", "precomputed"),
)
