"""One scan through multiview-stitcher, for `assembly.py`, in a process of the Python that has it.

``python multiview_links.py FOLDER``: the folder holds tiles.npy, (n, z, y, x), and stage.npy, (n, 3); it leaves
positions.npy and result.json (CPU seconds of the registration). Settings: those that did best on such scans, crops
16 voxels wider than the stage says, voxels binned by two, and the filter on the links' quality.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))

import dask
import numpy as np
from multiview_stitcher import msi_utils, registration
from multiview_stitcher import spatial_image_utils as si_utils


def main(folder: Path) -> None:
    """Register the tiles of a folder."""
    tiles, stage = np.load(folder / "tiles.npy"), np.load(folder / "stage.npy")
    views = []
    for tile, place in zip(tiles, stage, strict=True):
        view = si_utils.get_sim_from_array(
            tile,
            dims=["z", "y", "x"],
            scale={"z": 1, "y": 1, "x": 1},
            translation=dict(zip("zyx", place, strict=True)),
            transform_key="stage",
        )
        views.append(msi_utils.get_msim_from_sim(view, scale_factors=[]))
    before = os.times()
    with dask.config.set(scheduler="synchronous"):
        found = registration.register(
            views,
            transform_key="stage",
            new_transform_key="registered",
            reg_channel_index=0,
            overlap_tolerance=16.0,
            registration_binning={"z": 2, "y": 2, "x": 2},
            post_registration_do_quality_filter=True,
            return_dict=True,
        )
    after = os.times()
    moves = np.array([np.asarray(matrix.squeeze())[:3, 3] for matrix in found["params"]])
    np.save(folder / "positions.npy", stage + moves)
    (folder / "result.json").write_text(json.dumps({"cpu_seconds": sum(after[:4]) - sum(before[:4])}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
