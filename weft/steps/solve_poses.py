"""Rule solve_poses: one position per tile."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.poses import PoseSettings
from weft.poses import solve_poses as solve
from weft.steps.quality import write_quality
from weft.steps.tile_tables import read_links

COLUMNS = ("tile", "z", "y", "x", "stage_z", "stage_y", "stage_x", "status", "component", "residual_um")


def solve_poses(
    *,
    tiles: str,
    links: str,
    settings: dict[str, Any],
    gates: dict[str, Any],
    code: str,
    poses: str,
    quality: str,
) -> None:
    """Solve for the positions of all tiles and write them, um, with the largest residual of each tile."""
    index = receipts.read(tiles)
    names = [tile["name"] for tile in index["tiles"]]
    stage = np.array([tile["position"] for tile in index["tiles"]], float)
    measured = read_links(links, names)
    solved = solve(stage, measured, index["spacing"], settings=PoseSettings(**settings))
    worst = np.zeros(len(names))
    used = []
    for link, residual, weight in zip(measured, solved.residual, solved.weight, strict=True):
        if link.status == "ok" and weight > 0:
            used.append(float(residual))
            worst[[link.i, link.j]] = np.maximum(worst[[link.i, link.j]], residual)
    with Path(poses).open("w", newline="") as handle:
        table = csv.writer(handle, delimiter="\t", lineterminator="\n")
        table.writerow(COLUMNS)
        for n, name in enumerate(names):
            numbers = [f"{v:.6f}" for v in (*solved.positions[n], *stage[n])]
            table.writerow([name, *numbers, solved.status[n], int(solved.component[n]), f"{worst[n]:.6f}"])
    edge = max(index["spacing"])
    values = {
        "link_residual_p95_voxel": float(np.percentile(used, 95)) / edge if used else 0.0,
        "tiles_without_link_fraction": float(np.mean([status != "ok" for status in solved.status])),
    }
    write_quality(quality, "solve_poses", index["image"], values, gates)
