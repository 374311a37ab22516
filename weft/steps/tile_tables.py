"""Read the tables of an image's tiles: links.tsv and poses.tsv."""

from __future__ import annotations

import csv

import numpy as np

from weft.links.model import Link


def read_links(path: str, names: list[str]) -> list[Link]:
    """The links of a table, by the tiles' places in ``names``."""
    with open(path, newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    place = {name: n for n, name in enumerate(names)}
    return [
        Link(
            i=place[row["tile_a"]],
            j=place[row["tile_b"]],
            displacement=np.array([float(row[axis]) for axis in "zyx"]),
            ncc=float(row["ncc"]),
            peak_ratio=float(row["peak_ratio"]),
            overlap=float(row["overlap"]),
            confidence=float(row["confidence"]),
            status=row["status"],  # type: ignore[arg-type]
            window=float(row["window"]),
            rival=np.array([float(row[f"rival_{axis}"]) for axis in "zyx"]) if row["rival_z"] else None,
        )
        for row in rows
    ]


def read_poses(path: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Solved poses, in the order of the table.

    Returns
    -------
    positions
        Of the first voxel's centre of each tile, (n, 3) um.
    linear
        (n, 3, 3), of the columns ``a00`` to ``a22``: the voxel at the offset d (um, (z, y, x)) from the first one
        lies at ``position + linear @ d``. None where the table has no such columns, and tiles are only shifted.
    """
    with open(path, newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    positions = np.array([[float(row[axis]) for axis in "zyx"] for row in rows])
    if not rows or "a00" not in rows[0]:
        return positions, None
    entries = [f"a{i}{j}" for i in range(3) for j in range(3)]
    return positions, np.array([[float(row[entry]) for entry in entries] for row in rows]).reshape(-1, 3, 3)
