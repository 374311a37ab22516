"""Rule export_transform: both directions as ITK files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weft import receipts
from weft.grid import Grid
from weft.transforms import open_transform
from weft.transforms.formats.itk import check_itk, write_itk

PROBES = 1000
AGREEMENT = 0.01  # largest difference, voxels, between what ITK and weft make of a transform


def export_transform(*, transform: str, inverse: str, fixed: str, code: str, receipt: str) -> None:
    """Write itk.h5 and itk_inverse.h5 (ITK units are um), read them back and compare probe points.

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
    receipts.write(receipt, {"files": written, "of": data})
    receipts.write_provenance(receipt, code=code)
