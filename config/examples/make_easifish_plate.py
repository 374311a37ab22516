"""Cut two imaging rounds of one tissue volume into the fields of a plate's well, with known stage errors and a real flat-field.

Reads ``easifish_lowres`` (two rounds, N5) and ``fractal_illum`` (a flat-field) below ``--data`` and writes an OME-Zarr
plate with one well, whose acquisition 0 is the first round and acquisition 1 the second. Beside it lies ``truth.tsv``: the
true and the stage position of every field (um, z y x; known up to one shift of a round's fields together).
The same seed writes the same voxels.

    python make_easifish_plate.py --data data --out data/easifish_plate --seed 0
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import zarr

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the library, when it is not installed

from make_cellfinder_tiles import DARK, FLAT_FIELD, READ_NOISE, load_gain

from weft.readers import open_source

ROUNDS = ("fix", "mov")
GRID, OVERLAP = (2, 3), 0.2  # fields along y and x
JITTER = np.array([2, 6, 6])  # voxels, either way


def main() -> None:
    """Read the arguments and write the plate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder that holds easifish_lowres and fractal_illum"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the plate; must not exist yet")
    parser.add_argument("--seed", type=int, default=0, help="of the stage errors and the noise")
    arguments = parser.parse_args()
    if not (arguments.data / FLAT_FIELD).is_file():
        parser.error(f"{arguments.data / FLAT_FIELD}: the flat-field is missing")
    if arguments.out.exists():
        parser.error(f"{arguments.out}: exists already; give another folder")
    write_plate(arguments.data, arguments.out, arguments.seed)


def write_plate(data: Path, out: Path, seed: int) -> None:
    """Write plate, well, fields and the truth.

    Parameters
    ----------
    data
        Folder of the data sets.
    out
        New folder.
    seed
        Of stage errors and read noise.
    """
    random = np.random.default_rng(seed)
    well = out / "plate.zarr/A/1"
    images, rows = [], []
    for number, name in enumerate(ROUNDS):
        image = open_source(str(data / f"easifish_lowres/resources/{name}.n5"))
        volume = np.asarray(image.levels[0].read(0)).astype(np.float32)
        spacing = np.array(image.grid.spacing)
        room = np.array(volume.shape) - 2 * JITTER
        field = [int(n / (1 + (k - 1) * (1 - OVERLAP))) for n, k in zip(room[1:], GRID, strict=True)]
        shape, step = np.array([room[0], *field]), (np.array(field) * (1 - OVERLAP)).astype(int)
        gain = load_gain(data / FLAT_FIELD, (field[0], field[1]))
        for place in np.ndindex(GRID):
            stage = np.array([0, *(step * place)])
            error = random.integers(-JITTER, JITTER + 1)
            start = JITTER + stage + error
            signal = volume[tuple(slice(p, p + n) for p, n in zip(start, shape, strict=True))]
            light = gain * signal + DARK + random.normal(0.0, READ_NOISE, shape)
            path = str(len(images))
            write_field(
                well / path, np.clip(np.rint(light), 0, 65535).astype(np.uint16), spacing, stage * spacing
            )
            images.append({"path": path, "acquisition": number})
            numbers = [*((stage + error) * spacing), *(stage * spacing)]
            rows.append("\t".join([path, str(number), *(f"{value:g}" for value in numbers)]))
    zarr.open_group(str(well), mode="a", zarr_format=3).attrs["ome"] = {
        "version": "0.5",
        "well": {"images": images},
    }
    zarr.open_group(str(out / "plate.zarr"), mode="a", zarr_format=3).attrs["ome"] = {
        "version": "0.5",
        "plate": {
            "acquisitions": [{"id": number, "name": name} for number, name in enumerate(ROUNDS)],
            "rows": [{"name": "A"}],
            "columns": [{"name": "1"}],
            "wells": [{"path": "A/1", "rowIndex": 0, "columnIndex": 0}],
        },
    }
    heading = "\t".join(["tile", "acquisition", "z", "y", "x", "stage_z", "stage_y", "stage_x"])
    (out / "truth.tsv").write_text("\n".join([heading, *rows]) + "\n")


def write_field(folder: Path, voxels: np.ndarray, spacing: np.ndarray, position: np.ndarray) -> None:
    """One field of view, (z, y, x), as an image of the well that states its place, um."""
    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    group.create_array("0", data=voxels[None], chunks=(1, 64, 64, 64))
    steps = [
        {"type": "scale", "scale": [1.0, *map(float, spacing)]},
        {"type": "translation", "translation": [0.0, *map(float, position)]},
    ]
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


if __name__ == "__main__":
    main()
