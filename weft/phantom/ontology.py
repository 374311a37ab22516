"""Names, ids and hierarchy of the phantom's regions."""

from __future__ import annotations

import colorsys
import csv
from pathlib import Path

import numpy as np

from weft.phantom.anatomy import DIVISIONS, NUCLEI, REGIONS, Anatomy, depth_at

ROOT, CEREBRUM, TRUNK, VENTRICLES = 1, 2, 3, 4
FIRST_GROUP = 10


def region_ids() -> np.ndarray:
    """Id of every leaf region, (REGIONS,) uint32, by the region's index in `Anatomy`.

    They need 8, 17, 25 and 30 bits: ids that 16-bit integers or 32-bit floats would spoil are among them.
    """
    ids = np.empty(REGIONS, np.uint32)
    ids[:15] = 100 + 7 * np.arange(15)
    ids[15:30] = 70_001 + 13 * np.arange(15)
    ids[30:DIVISIONS] = 2**24 + 1 + 2 * np.arange(DIVISIONS - 30)
    ids[DIVISIONS : DIVISIONS + NUCLEI] = 614_454_271 + np.arange(NUCLEI)
    ids[DIVISIONS + NUCLEI] = 98
    return ids


def write_ontology(path: Path, anatomy: Anatomy) -> None:
    """Write id, name, acronym, parent_id and colour of every region as CSV.

    A nucleus is part of the division around it, which is part of a group, of the cerebrum or the trunk, of
    the root; the root, the groups and what is above them own no voxel themselves.
    """
    ids = region_ids()
    rows = [
        (ROOT, "brain", "BR", ""),
        (CEREBRUM, "cerebrum", "CER", ROOT),
        (TRUNK, "trunk", "TR", ROOT),
        (VENTRICLES, "ventricular system", "VS", ROOT),
    ]
    rows += [
        (FIRST_GROUP + 2 * part + inner, f"{where} {what}", f"{where[0].upper()}{what[0].upper()}", CEREBRUM)
        for part, where in enumerate(("posterior", "middle", "anterior"))
        for inner, what in enumerate(("mantle", "core"))
    ]
    for k in range(DIVISIONS):
        rows.append((int(ids[k]), f"division {k + 1}", f"D{k + 1}", _group(anatomy, anatomy.seeds[:3, k])))
    for k in range(NUCLEI):
        distance = ((anatomy.seeds[:3] - anatomy.nuclei[:3, k, None]) ** 2).sum(axis=0) - anatomy.seeds[3]
        rows.append((int(ids[DIVISIONS + k]), f"nucleus {k + 1}", f"N{k + 1}", int(ids[np.argmin(distance)])))
    rows.append((int(ids[DIVISIONS + NUCLEI]), "ventricle", "V", VENTRICLES))
    with open(path, "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "name", "acronym", "parent_id", "red", "green", "blue"])
        for k, row in enumerate(rows):
            colour = colorsys.hsv_to_rgb(0.618034 * k % 1.0, 0.65, 0.9)
            table.writerow([*row, *(round(255 * part) for part in colour)])


def _group(anatomy: Anatomy, seed: np.ndarray) -> int:
    if seed[1] > anatomy.cerebrum[0, 1] + anatomy.cerebrum[1, 1]:
        return TRUNK
    place = (seed[0] - anatomy.cerebrum[0, 0]) / anatomy.cerebrum[1, 0]
    part = 0 if place < -1 / 3 else 1 if place < 1 / 3 else 2
    depth = depth_at(anatomy, seed[0], seed[1], anatomy.cerebrum[0, 2] + seed[2])
    return FIRST_GROUP + 2 * part + int(depth > 0.25 * anatomy.cerebrum[1, 1])
