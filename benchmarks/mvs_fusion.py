"""multiview-stitcher's fusion of the same tiles: `python mvs_fusion.py FOLDER`, with the interpreter that has it.

The tiles are in memory before the clock starts, and there is no flat-field. Prints JSON: voxels and CPU seconds.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

import dask
import numpy as np
from multiview_stitcher import fusion
from multiview_stitcher import spatial_image_utils as si

CHUNK = {"z": 64, "y": 128, "x": 128}  # the faster one of those tried


def main() -> None:
    """Fuse on one thread into compressed chunks."""
    warnings.filterwarnings("ignore")
    folder = Path(sys.argv[1])
    about = json.loads((folder / "tiles.json").read_text())
    images = [
        si.get_sim_from_array(
            np.fromfile(folder / name, "<u2").reshape(about["shape"]),
            dims=["z", "y", "x"],
            scale={"z": 1, "y": 1, "x": 1},
            translation=dict(zip("zyx", position, strict=True)),
            transform_key="pose",
        )
        for name, position in zip(about["files"], about["positions"], strict=True)
    ]
    with dask.config.set(scheduler="threads", num_workers=1):
        fuse(images[:1], folder / "warm-up.zarr")
        start = time.process_time()
        voxels = fuse(images, folder / "mvs.zarr")
    print(json.dumps({"voxels": voxels, "cpu_seconds": time.process_time() - start}))


def fuse(images: list, path: Path) -> int:
    """Fuse into a store; the number of voxels."""
    fused = fusion.fuse(images, transform_key="pose", output_chunksize=CHUNK).data.squeeze()
    fused.to_zarr(str(path))
    return int(np.prod(fused.shape))


if __name__ == "__main__":
    main()
