"""Rule export_transform: both directions as ITK files and as one OME-NGFF scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weft import receipts
from weft.grid import Grid
from weft.transforms import open_transform
from weft.transforms.formats.itk import check_itk, write_itk
from weft.transforms.formats.scene import read_scene, write_scene
from weft.transforms.model import Sequence

PROBES = 1000
AGREEMENT = 0.01  # largest difference, voxels, between what ITK and weft make of a transform


def export_transform(*, transform: str, inverse: str, fixed: str, code: str, receipt: str) -> None:
    """Write itk.h5, itk_inverse.h5 (ITK units are um) and ngff.ome.zarr; read them back and compare probe points.

    Raises
    ------
    ValueError
        When ITK makes something else of a file than weft does of the transform.
    """
    grid = Grid.from_json(receipts.read(fixed)["grid"])
    random = np.random.default_rng(0)
    probes = grid.to_physical(random.uniform(0, np.asarray(grid.shape) - 1, (PROBES, 3)))
    forward, backward = open_transform(transform), open_transform(inverse)
    folder = Path(receipt).parent
    written = {}
    for name, sequence, points in (
        ("itk.h5", forward, probes),
        ("itk_inverse.h5", backward, forward.apply(probes)),
    ):
        path = folder / name
        partial = folder / f"partial-{name}"
        write_itk(partial, sequence)
        difference = check_itk(partial, sequence, points)
        if difference > AGREEMENT * min(grid.spacing):
            raise ValueError(
                f"{path}: ITK differs from weft by up to {difference:.3g} um; wanted at most {AGREEMENT} voxels"
            )
        partial.replace(path)
        written[name] = {"probes": PROBES, "agrees_within_voxel": AGREEMENT}
    # The files themselves hold the host's name of its system, so that the receipt gives no digest of them.
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


def _write_ngff(store: receipts.KeyedStore, forward: Sequence, probes: np.ndarray) -> None:
    """Write both directions as one scene, and read it back."""
    store.restart()
    write_scene(store.path, forward)
    difference = np.abs(read_scene(store.path).apply(probes) - forward.apply(probes)).max()
    if difference > 0:
        raise ValueError(f"{store.public}: reads back with a difference of {difference:.3g} um; wanted none")
    store.finish("all", {}, files=receipts.file_digests(store.path))
