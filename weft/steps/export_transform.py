"""Rule export_transform: both directions as ITK files and as one OME-NGFF scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weft import receipts
from weft.grid import Grid
from weft.transforms import open_transform
from weft.transforms.formats.itk import check_itk, write_itk
from weft.transforms.formats.scene import read_scene, write_scene
from weft.transforms.model import Displacements, Sequence

PROBES = 1000
READ_BACK = 100  # samples of a field, along each axis, that ITK reads back
AGREEMENT = 0.01  # largest difference, voxels, between what ITK and weft make of a transform


def export_transform(*, transform: str, inverse: str, fixed: str, code: str, receipt: str) -> None:
    """Write itk.h5, itk_inverse.h5 (ITK units are um) and ngff.ome.zarr; read them back and compare probe points.

    ITK holds all of a file that it reads, several times. So what is written of a large field is read by ITK from a cut of
    the same transform around the middle of the fixed image, in a file of its own.

    Raises
    ------
    ValueError
        When ITK makes something else of a file than weft does of the transform.
    """
    grid = Grid.from_json(receipts.read(fixed)["grid"])
    random = np.random.default_rng(0)
    probes = grid.to_physical(random.uniform(0, np.asarray(grid.shape) - 1, (PROBES, 3)))
    forward, backward = open_transform(transform), open_transform(inverse)
    near = _near_middle(grid, (forward, backward), random)
    folder = Path(receipt).parent
    written = {}
    for name, sequence, points in (
        ("itk.h5", forward, near),
        ("itk_inverse.h5", backward, forward.apply(near)),
    ):
        path = folder / name
        partial, part = folder / f"partial-{name}", folder / f"part-{name}"
        write_itk(partial, sequence)
        cut = sequence.within(_around(points))
        write_itk(part, cut)
        difference = check_itk(part, cut, points)
        part.unlink()
        if difference > AGREEMENT * min(grid.spacing):
            raise ValueError(
                f"{path}: ITK differs from weft by up to {difference:.3g} um; wanted at most {AGREEMENT} voxels"
            )
        partial.replace(path)
        written[name] = {"probes": PROBES, "agrees_within_voxel": AGREEMENT}
    data = [receipts.read(path)["data"] for path in (transform, inverse)]
    store = receipts.KeyedStore(
        folder / "ngff.ome.zarr", receipts.digest([data, code, receipts.environment("zarr")])
    )
    with receipts.job_lock(receipt):
        if not store.done("all"):
            _write_ngff(store, forward, probes)
        records = store.records(["all"])
        store.publish(receipt)
        receipts.write_provenance(receipt, key=store.key, code=code)
        digest = store.data_digest(records)
        receipts.write(receipt, {"files": written, "of": data, "store": store.public.name, "data": digest})


def _near_middle(
    grid: Grid, transforms: tuple[Sequence, Sequence], random: np.random.Generator
) -> np.ndarray:
    """Probe points, (n, 3) um, so near the middle of a grid that few samples of the transforms' fields are needed."""
    fields = [step for t in transforms for step in t.steps if isinstance(step, Displacements)]
    step = min((min(field.grid.spacing) for field in fields), default=min(grid.spacing))
    extent = np.minimum(np.asarray(grid.shape) - 1, READ_BACK * step / np.asarray(grid.spacing))
    first = (np.asarray(grid.shape) - 1 - extent) / 2
    return grid.to_physical(random.uniform(first, first + extent, (PROBES, 3)))


def _around(points: np.ndarray) -> Grid:
    """A grid of two samples along each axis whose extent holds the points, (n, 3) um."""
    low, high = points.min(axis=0), points.max(axis=0)
    z, y, x = (float(v) for v in np.maximum(high - low, 1e-6))
    return Grid((2, 2, 2), (z, y, x), (float(low[0]), float(low[1]), float(low[2])))


def _write_ngff(store: receipts.KeyedStore, forward: Sequence, probes: np.ndarray) -> None:
    """Write both directions as one scene, and read it back."""
    store.restart()
    write_scene(store.path, forward)
    difference = np.abs(read_scene(store.path).apply(probes) - forward.apply(probes)).max()
    if difference > 0:
        raise ValueError(f"{store.public}: reads back with a difference of {difference:.3g} um; wanted none")
    store.finish("all", {}, files=receipts.file_digests(store.path))
