"""Make the phantom: an atlas, a sample as a microscope leaves it, and the truth about both."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from weft.grid import Grid
from weft.phantom.anatomy import Anatomy, atlas_plane, make_anatomy
from weft.phantom.deformation import Deformation, make_deformation, to_sample
from weft.phantom.microscope import CHANNELS, PlacedTile, acquire, make_optics, place_tiles
from weft.phantom.ontology import region_ids, write_ontology
from weft.phantom.sample import Cells, Contrast, make_cells, make_contrast, sample_plane
from weft.phantom.settings import PhantomSettings, phantom_settings

# where an axis points as its index grows; as brainglobe's origin corners: asr and psl
ATLAS_ORIENTATION = "pil"
SAMPLE_ORIENTATION = "air"
PARTS = ("atlas", "sample", "truth")
MARK = ".phantom"
ATLAS_BRIGHTNESS = 20_000.0
LANDMARKS = 60  # places that are given in both images

README = """Truth of a phantom: read by the judge alone. Axis order z y x, units um, index = voxel centre.

Atlas frame    origin at the centre of voxel (0, 0, 0) of atlas/annotation.nrrd.
Sample frame   origin at the NOMINAL (stage) place of the centre of voxel (0, 0, 0) of tile LOC000; y grows with the
               rows of the scan, x with its columns, z with the planes. Tile LOC<n> nominally starts at
               (0, row * step, column * step) pixels; it truly starts where tiles.tsv says, by a stage error of its
               own. The errors of the tiles with tissue have mean zero. A stitching knows its frame only up to one
               global shift: remove the median over the tiles with tissue of (found - true) position.

tiles.tsv      true position (z y x) and stage position (stage_z ...) of the centre of a tile's first voxel, um;
               content: share of tissue in the tile (0: empty).
gain_<c>.npy   (y, x) float32, mean 1: counts = dark + noise(gain * light).
dark.npy       (y, x) float32, counts, both channels.
transform.npz  affine (4, 4): atlas um -> sample um, the true affine. points (3, z, y, x) float32: the true transform,
               the sample point (um) of every voxel centre of the atlas; tissue (z, y, x) bool: where it counts.
               inverse_affine (4, 4), lattice (3, z, y, x), lattice_origin (3,), lattice_spacing: the inverse in closed
               form, atlas = inverse_affine(sample) + v(sample), v the uniform cubic B-spline of the control points.
labels.npy     (z, y, x) uint32: region of every voxel centre of label_grid (truth.json) in the sample, 0 outside.
cells.csv      place in the sample (z y x) and in the atlas (atlas_z ...), um; region; distance of the place in the
               atlas to the next border of a region, atlas voxels.
truth.json     grids, spacings, and how hard this phantom is.
"""


def make_phantom(
    folder: str | Path,
    settings: Mapping[str, Any] | PhantomSettings | None = None,
    seed: int = 0,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Make an atlas and a raw sample with known truth below ``folder``.

    The sample is not resampled from the atlas: both are drawn from one procedural brain, the sample at
    exact places through the known transform. It is drawn plane by plane; only the atlas, at the level of
    registration, is held as a whole.

    Parameters
    ----------
    folder
        Gets ``atlas/`` (``template.nrrd`` uint16, ``annotation.nrrd`` uint32, ``ontology.csv``), ``sample/``
        (COLM layout, ``dark.tif``, ``cells.csv`` with cell, z, y, x in um of the sample frame, ``landmarks.csv`` with
        some of these places in the atlas (fixed) and in the sample (moving)), ``truth/``
        (see its README.txt) and ``phantom.json``.
    settings
        See `phantom_settings`.
    seed
        Another seed, another phantom.
    threads
        Planes drawn at a time; the bytes do not depend on it.
    progress
        Called with the number of planes done and of all planes.

    Returns
    -------
    dict
        What ``phantom.json`` says: digest of all files, names and shapes a reader needs.

    Raises
    ------
    ValueError
        For settings that cannot be, or when ``folder`` holds files that are not a phantom's.
    """
    settings = phantom_settings(settings)
    folder = Path(folder)
    _clear(folder)
    streams = [np.random.default_rng([seed, k]) for k in range(6)]
    anatomy, grid = make_anatomy(settings, streams[0])
    deformation = make_deformation(settings, anatomy, grid, streams[1])
    contrast = make_contrast(settings, anatomy, streams[2])
    cells = make_cells(settings, anatomy, deformation, np.asarray(grid.upper), streams[3])
    optics = make_optics(settings, streams[4])
    tiles = place_tiles(settings, streams[5])

    annotation = _write_atlas(folder / "atlas", anatomy, grid)
    content = acquire(
        folder / "sample",
        settings,
        anatomy,
        deformation,
        contrast,
        cells,
        optics,
        tiles,
        seed,
        threads=threads,
        progress=progress,
    )
    _write_table(
        folder / "sample" / "cells.csv",
        ["cell", "z", "y", "x"],
        ([k, *(f"{v:.3f}" for v in place)] for k, place in enumerate(cells.sample)),
    )
    _write_table(
        folder / "sample" / "landmarks.csv",
        ["name", *(f"{role}_{axis}" for role in ("fixed", "moving") for axis in "zyx")],
        (
            [f"cell {k}", *(f"{v:.3f}" for v in (*cells.atlas[k], *cells.sample[k]))]
            for k in range(0, len(cells.sample), max(1, len(cells.sample) // LANDMARKS))
        ),
    )

    truth = folder / "truth"
    (truth / "README.txt").write_text(README)
    for name, gain in zip(CHANNELS, optics.gain, strict=True):
        np.save(truth / f"gain_{name}.npy", gain)
    np.save(truth / "dark.npy", optics.dark)
    _write_tiles(truth / "tiles.tsv", tiles, content)
    hardness = _write_transform(truth / "transform.npz", deformation, grid, annotation > 0)
    label_grid = _write_labels(truth / "labels.npy", settings, anatomy, deformation, contrast)
    _write_cells(truth / "cells.csv", cells, annotation, grid)
    sizes = np.unique(annotation[annotation > 0], return_counts=True)[1]
    about = {
        "registration_voxel": settings.registration_voxel,
        "fixed_grid": grid.to_json(),
        "label_grid": label_grid.to_json(),
        "voxel": list(settings.spacing),
        "channels": list(CHANNELS),
        "hardness": {
            **hardness,
            "regions": len(sizes),
            "regions_under_2000_voxels": int((sizes < 2000).sum()),
            "tissue_share_of_tiles": float(np.mean(content)),
            "tissue_share_of_widest_plane": _widest(np.load(truth / "labels.npy", mmap_mode="r")),
        },
    }
    (truth / "truth.json").write_text(json.dumps(about, indent=1) + "\n")

    receipt = {
        "data": _digest(folder),
        "seed": seed,
        "settings": json.loads(json.dumps(dataclasses.asdict(settings))),
        "atlas": {"orientation": ATLAS_ORIENTATION, "grid": grid.to_json()},
        "sample": {
            "orientation": SAMPLE_ORIENTATION,
            "channels": list(CHANNELS),
            "tiles": len(tiles),
            "tile_shape": [settings.planes, settings.pixels, settings.pixels],
            "spacing": list(settings.spacing),
        },
    }
    (folder / "phantom.json").write_text(json.dumps(receipt, indent=1) + "\n")
    return receipt


def _clear(folder: Path) -> None:
    """Remove an older phantom; refuse to touch anything else."""
    present = [folder / part for part in PARTS if (folder / part).exists() or (folder / part).is_symlink()]
    if present and not (folder / MARK).is_file():
        raise ValueError(f"{present[0]}: exists and is not a phantom's; name an empty folder")
    for part in present:
        if part.is_symlink():
            raise ValueError(f"{part}: is a link; a phantom is made only in a folder of its own")
        shutil.rmtree(part)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("made by weft; whatever lies in atlas, sample and truth is replaced\n")
    for name in PARTS:
        (folder / name).mkdir()


def _write_atlas(folder: Path, anatomy: Anatomy, grid: Grid) -> np.ndarray:
    """Write template, annotation and ontology; returns the annotation, (z, y, x) uint32."""
    import SimpleITK as sitk  # only here: it takes a second to load

    template = np.empty(grid.shape, np.float32)
    regions = np.empty(grid.shape, np.int32)
    for k in range(grid.shape[0]):
        atlas_plane(anatomy, np.asarray(grid.origin), anatomy.unit, k, template[k], regions[k])
    annotation = np.where(regions < 0, np.uint32(0), region_ids()[regions])
    scaled = np.rint(np.clip(ATLAS_BRIGHTNESS * template, 0, 65535)).astype(np.uint16)
    for name, voxels in (("template", scaled), ("annotation", annotation)):
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing(grid.spacing[::-1])
        sitk.WriteImage(image, str(folder / f"{name}.nrrd"), useCompression=True)
    write_ontology(folder / "ontology.csv", anatomy)
    return annotation


def _write_transform(
    path: Path, deformation: Deformation, grid: Grid, tissue: np.ndarray
) -> dict[str, float]:
    """Write both directions of the truth; returns how far and how unevenly it moves the tissue."""
    points = np.empty((3, *grid.shape), np.float32)
    errors = np.empty(grid.shape, np.float32)
    jacobian = np.empty(grid.shape, np.float32)
    affine = deformation.affine
    rows, columns = np.meshgrid(np.arange(grid.shape[1]), np.arange(grid.shape[2]), indexing="ij")
    for k in range(grid.shape[0]):
        here = grid.to_physical(np.stack([np.full(rows.size, k), rows.ravel(), columns.ravel()], axis=1))
        there, determinant = to_sample(deformation, here)
        points[:, k] = there.T.reshape(3, *grid.shape[1:])
        moved = np.linalg.norm(there - (here @ affine[:3, :3].T + affine[:3, 3]), axis=1)
        errors[k] = (moved / grid.spacing[0]).reshape(grid.shape[1:])
        jacobian[k] = (1.0 / (determinant * np.linalg.det(affine[:3, :3]))).reshape(grid.shape[1:])
    np.savez(
        path,
        affine=affine,
        points=points,
        tissue=tissue,
        inverse_affine=np.linalg.inv(affine),
        lattice=deformation.lattice,
        lattice_origin=deformation.origin,
        lattice_spacing=deformation.spacing,
    )
    return {
        "affine_error_mean_voxel": float(errors[tissue].mean()),
        "affine_error_p95_voxel": float(np.percentile(errors[tissue], 95)),
        "affine_error_max_voxel": float(errors[tissue].max()),
        "jacobian_min": float(jacobian.min()),
        "jacobian_max": float(jacobian.max()),
    }


def _write_labels(
    path: Path, settings: PhantomSettings, anatomy: Anatomy, deformation: Deformation, contrast: Contrast
) -> Grid:
    """Write the true region of every voxel of a coarser sample grid, plane by plane."""
    spacing = np.asarray(settings.spacing)
    factors = np.maximum(1, (settings.registration_voxel / spacing).astype(int))
    full = Grid(tuple(np.rint(np.asarray(settings.frame) / spacing)), settings.spacing)
    grid = full.coarsen(tuple(factors))
    ids = np.append(region_ids(), np.uint32(0))  # region -1 is outside
    labels = np.lib.format.open_memmap(path, "w+", np.uint32, grid.shape)
    regions = np.empty(grid.shape[1:], np.int32)
    signal = np.empty((2, *grid.shape[1:]), np.float32)
    for k in range(grid.shape[0]):
        sample_plane(
            anatomy, deformation, contrast, np.array(grid.origin), np.array(grid.spacing), k, signal, regions
        )
        labels[k] = ids[regions]
    labels.flush()
    return grid


def _widest(labels: np.ndarray) -> float:
    return max(float((plane > 0).mean()) for plane in labels)


def _write_cells(path: Path, cells: Cells, annotation: np.ndarray, grid: Grid) -> None:
    """Write where cells truly are, and how far from a border of regions."""
    border = np.zeros(annotation.shape, bool)
    for axis in range(3):
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        differs = annotation[tuple(ahead)] != annotation[tuple(behind)]
        border[tuple(ahead)] |= differs
        border[tuple(behind)] |= differs
    # a border is the face between two voxels, half a voxel beyond the centre of the last one
    distance = distance_transform_edt(~border) + 0.5
    index = np.rint(grid.to_index(cells.atlas)).astype(int)
    ids = region_ids()
    _write_table(
        path,
        ["cell", "z", "y", "x", "atlas_z", "atlas_y", "atlas_x", "region", "distance"],
        (
            [
                k,
                *(f"{v:.3f}" for v in (*cells.sample[k], *cells.atlas[k])),
                ids[cells.region[k]],
                f"{distance[tuple(index[k])]:.3f}",
            ]
            for k in range(len(cells.sample))
        ),
    )


def _write_tiles(path: Path, tiles: list[PlacedTile], content: list[float]) -> None:
    lines = ["tile\trow\tcolumn\tz\ty\tx\tstage_z\tstage_y\tstage_x\tcontent"]
    for tile, share in zip(tiles, content, strict=True):
        places = "\t".join(f"{v:.4f}" for v in (*tile.position, *tile.stage))
        lines.append(f"{tile.name}\t{tile.row}\t{tile.column}\t{places}\t{share:.5f}")
    path.write_text("\n".join(lines) + "\n")


def _write_table(path: Path, header: list[str], rows) -> None:
    with open(path, "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


def _digest(folder: Path) -> str:
    """sha256 over names and contents of all files, in the order of their names."""
    total = hashlib.sha256()
    files = (path for part in PARTS for path in (folder / part).rglob("*") if path.is_file())
    for name in sorted(path.relative_to(folder).as_posix() for path in files):
        total.update(f"{name}\n{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
