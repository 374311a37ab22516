"""Move slabs of human brains, with their labels, by random affines, so that they have to be found again.

Reads ``jlf_brains/data/JLF/{ilist,slist}<n>.nii.gz`` below ``--data`` and writes, for every second slab,
``moved<n>.nii.gz`` and ``moved<n>_labels.nii.gz``: turned by up to 15 degrees about each axis, stretched by up to a
tenth along each, and shifted by a random margin. Of the first slabs the labels are written as ``fixed<n>_labels.nii.gz``:
whole numbers, where the source has floats. The same seed writes the same voxels.

    python make_jlf_slabs.py --data data --out data/jlf_moved --seed 101
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

SLABS = "jlf_brains/data/JLF"
FIXED, MOVED = (1, 3, 5), (2, 4, 6)
LARGEST_ROTATION = 15.0  # degrees
LARGEST_STRETCH = 0.1


def main() -> None:
    """Read the arguments and write the slabs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds jlf_brains")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the moved slabs; must not exist yet"
    )
    parser.add_argument("--seed", type=int, default=101, help="of the affines")
    arguments = parser.parse_args()
    if not (arguments.data / SLABS).is_dir():
        parser.error(f"{arguments.data / SLABS}: the folder of the slabs is missing")
    if arguments.out.exists():
        parser.error(f"{arguments.out}: exists already; give another folder")
    arguments.out.mkdir(parents=True)
    for number in FIXED:
        labels = SimpleITK.ReadImage(str(arguments.data / SLABS / f"slist{number}.nii.gz"))
        whole = SimpleITK.Cast(labels, SimpleITK.sitkUInt8)
        SimpleITK.WriteImage(whole, str(arguments.out / f"fixed{number}_labels.nii.gz"))
    for number in MOVED:
        move_slab(arguments.data / SLABS, number, arguments.out, arguments.seed)


def move_slab(folder: Path, number: int, out: Path, seed: int) -> None:
    """Write one slab and its labels on a grid that holds all of the moved slab.

    Parameters
    ----------
    folder
        Of the slabs.
    number
        Of the slab.
    out
        Folder to write to.
    seed
        Of the affine, together with the number.
    """
    slab, labels = (SimpleITK.ReadImage(str(folder / f"{kind}list{number}.nii.gz")) for kind in "is")
    matrix, shape = random_affine(slab.GetSize()[::-1], np.random.default_rng([seed, number]))
    for image, order, name in ((slab, 1, ""), (labels, 0, "_labels")):
        values = SimpleITK.GetArrayFromImage(image)
        values = values.astype(np.float32 if order else np.uint8)
        moved = affine_transform(values, matrix[:3, :3], matrix[:3, 3], shape, order=order)
        written = SimpleITK.GetImageFromArray(moved)
        written.SetSpacing(image.GetSpacing())
        written.SetDirection(image.GetDirection())
        SimpleITK.WriteImage(written, str(out / f"moved{number}{name}.nii.gz"))


def random_affine(
    shape: tuple[int, ...], random: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """An affine from the voxels of a moved image to those of an image of ``shape``, and the moved image's shape."""
    turn = Rotation.from_euler("zyx", random.uniform(-LARGEST_ROTATION, LARGEST_ROTATION, 3), degrees=True)
    linear = turn.as_matrix() @ np.diag(random.uniform(1 - LARGEST_STRETCH, 1 + LARGEST_STRETCH, 3))
    corners = np.stack(np.meshgrid(*([0, n - 1] for n in shape), indexing="ij"), -1).reshape(-1, 3)
    seen = corners @ np.linalg.inv(linear).T
    low = np.floor(seen.min(0)) - random.integers(2, 12, 3)
    z, y, x = (np.ceil(seen.max(0)) - low + random.integers(2, 12, 3)).astype(int) + 1
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, linear @ low
    return matrix, (int(z), int(y), int(x))


if __name__ == "__main__":
    main()
