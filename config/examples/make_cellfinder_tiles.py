"""Cut a real light-sheet block into a COLM acquisition with known stage errors and a real flat-field.

Reads ``cellfinder_block`` (planes of the channels ``signal`` and, where it is there, ``background``) and
``fractal_illum`` (a flat-field) below ``--data`` and writes a grid of tiles in the COLM layout. Beside them lie
``truth.tsv``, the true position of every tile (um, z y x; known up to one shift of all tiles together), and
``gain.tif``, the gain that every plane was multiplied by. The same seed writes the same bytes.

    python make_cellfinder_tiles.py --data data --out data/cellfinder_tiles --seed 0
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK
import tifffile
from scipy.ndimage import gaussian_filter, zoom

BLOCK = "cellfinder_block/tests/data"
FLAT_FIELD = "fractal_illum/tests/data/illumination_correction/flatfield_corr_matrix.png"
CHANNELS = ("signal", "background")
SPACING = np.array([5.0, 2.0, 2.0])  # um
GRID = 3  # tiles along y and along x
OVERLAP = 0.15
JITTER = np.array([2, 8, 8])  # voxels, either way
DARK = 100.0  # counts
READ_NOISE = 4.0  # counts


class Layout(NamedTuple):
    """Shape of a tile (z, y, x) and the nominal step between tiles (y, x), voxels."""

    shape: tuple[int, int, int]
    step: tuple[int, int]


def main() -> None:
    """Read the arguments and write the acquisition."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder that holds cellfinder_block and fractal_illum"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the acquisition; must not exist yet"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the stage errors and the noise")
    arguments = parser.parse_args()
    channels = [folder for name in CHANNELS if (folder := arguments.data / BLOCK / name).is_dir()]
    if not channels:
        parser.error(f"{arguments.data / BLOCK}: found no folder of planes; wanted {' or '.join(CHANNELS)}")
    if not (arguments.data / FLAT_FIELD).is_file():
        parser.error(f"{arguments.data / FLAT_FIELD}: the flat-field is missing")
    if arguments.out.exists():
        parser.error(f"{arguments.out}: exists already; give another folder")
    write_tiles(channels, arguments.data / FLAT_FIELD, arguments.out, arguments.seed)


def write_tiles(channels: list[Path], flat_field: Path, out: Path, seed: int) -> None:
    """Write the tiles, the settings of the microscope, and the truth.

    Parameters
    ----------
    channels
        Folders of single-plane TIFF files, one per channel.
    flat_field
        Image whose shape of brightness is taken over.
    out
        New folder.
    seed
        Of stage errors and read noise.
    """
    blocks = [
        np.stack([tifffile.imread(path) for path in sorted(folder.glob("*.tif"))]) for folder in channels
    ]
    layout = plan_layout(blocks[0].shape)
    gain = load_gain(flat_field, layout.shape[1:])
    random = np.random.default_rng(seed)
    errors = random.integers(-JITTER, JITTER + 1, (GRID * GRID, 3))
    rows = []
    for tile, error in enumerate(errors):
        row, column = divmod(tile, GRID)
        nominal = np.array([0, row * layout.step[0], column * layout.step[1]])
        corner = JITTER + nominal + error
        region = tuple(slice(low, low + size) for low, size in zip(corner, layout.shape, strict=True))
        folder = out / "VW0" / f"LOC{tile:03d}"
        folder.mkdir(parents=True)
        for number, block in enumerate(blocks):
            light = gain * block[region] + DARK + random.normal(0.0, READ_NOISE, layout.shape)
            planes = np.clip(np.rint(light), 0, 65535).astype(np.uint16)
            for z, plane in enumerate(planes):
                tifffile.imwrite(folder / f"block_CHN{number:02d}_PLN{z:04d}.tif", plane, metadata=None)
        numbers = [*((nominal + error) * SPACING), *(nominal * SPACING)]
        rows.append("\t".join([folder.name, *(f"{value:g}" for value in numbers)]))
    heading = "\t".join(["tile", "z", "y", "x", "stage_z", "stage_y", "stage_x"])
    (out / "truth.tsv").write_text("\n".join([heading, *rows]) + "\n")
    tifffile.imwrite(out / "gain.tif", gain, metadata=None)
    write_settings(out, layout, len(blocks))


def plan_layout(shape: tuple[int, ...]) -> Layout:
    """The largest tiles whose grid, stage errors included, fits into a block of ``shape`` (z, y, x)."""
    room = np.array(shape) - 2 * JITTER
    tile = (room[1:] / (1 + (GRID - 1) * (1 - OVERLAP))).astype(int)
    step = ((1 - OVERLAP) * tile).astype(int)
    return Layout((int(room[0]), int(tile[0]), int(tile[1])), (int(step[0]), int(step[1])))


def load_gain(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A measured flat-field, resampled to the frame of a tile: float32 (y, x) of mean 1."""
    profile = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(np.float64)
    factors = np.array(shape) / profile.shape
    gain = zoom(gaussian_filter(profile, 0.5 / factors), factors, order=1)
    return (gain / gain.mean()).astype(np.float32)


def write_settings(out: Path, layout: Layout, channels: int) -> None:
    """Write what the microscope's own software leaves beside the tiles."""
    overlap = [100 * (1 - step / side) for step, side in zip(layout.step, layout.shape[1:], strict=True)]
    (out / "Experiment.ini").write_text(
        "[Experiment Settings]\n"
        f'Num in stack (Top Left Corner) = "{layout.shape[0]}"\n'
        f'X Resolution = "{layout.shape[2]}"\n'
        f'Y Resolution = "{layout.shape[1]}"\n'
        f'Num Enabled Channels = "{channels}"\n'
        "[North Scan Region]\n"
        f'Num Horizontal = "{GRID}"\n'
        f'Num Vertical = "{GRID}"\n'
        f'Stack Step (mm) = "{SPACING[0] / 1000:g}"\n'
        "[North Scan Region Stats]\n"
        f'Actual Horizontal Overlap (%) = "{overlap[1]:.9f}"\n'
        f'Actual Vertical Overlap (%) = "{overlap[0]:.9f}"\n'
        "[Objectives]\n"
        'North = "10x"\n'
    )
    (out / "Scanned Cells.txt").write_text("\n".join(",".join("1" * GRID) for _ in range(GRID)) + "\n")


if __name__ == "__main__":
    main()
