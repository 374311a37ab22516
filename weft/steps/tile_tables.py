"""Read the tables of an image's tiles: links.tsv, matches.tsv and poses.tsv."""

from __future__ import annotations

import csv

import numpy as np

from weft.links.model import Link

# Status of a tile that the table of overrides excludes: it has a position, and is not fused.
EXCLUDED = "excluded"
LINEAR = tuple(f"linear_{i}{j}" for i in "zyx" for j in "zyx")


def read_links(path: str, names: list[str], matches: str | None = None) -> list[Link]:
    """The links of a table, by the tiles' places in ``names``; with their block matches where a table is given."""
    blocks: dict[tuple[str, str], list[list[float]]] = {}
    if matches:
        for row in read_rows(matches):
            numbers = [float(row[name]) for name in ("z", "y", "x", "dz", "dy", "dx", "ncc")]
            blocks.setdefault((row["tile_a"], row["tile_b"]), []).append(numbers)
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
            matches=np.array(blocks.get((row["tile_a"], row["tile_b"]), [])).reshape(-1, 7),
        )
        for row in read_rows(path)
    ]


def read_rows(path: str) -> list[dict[str, str]]:
    """The rows of a table, as they are."""
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def read_poses(path: str) -> np.ndarray:
    """Solved positions, (n, 3) um, in the order of the table."""
    return np.array([[float(row[axis]) for axis in "zyx"] for row in read_rows(path)])


def read_fused(path: str) -> list[int]:
    """Places of the tiles that are to be fused: all but those that a person excluded.

    Raises
    ------
    ValueError
        When none is left.
    """
    kept = [n for n, row in enumerate(read_rows(path)) if row["status"] != EXCLUDED]
    if not kept:
        raise ValueError(
            f"{path}: the table of overrides excludes every tile; wanted one at least to be fused"
        )
    return kept


def read_linear(path: str) -> np.ndarray | None:
    """Linear parts of the poses, (n, 3, 3), in the order of the table; None where all are translations."""
    rows = read_rows(path)
    if not rows or LINEAR[0] not in rows[0]:
        return None
    return np.array([[float(row[name]) for name in LINEAR] for row in rows]).reshape(-1, 3, 3)
