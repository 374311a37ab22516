"""Rule solve_poses: one position per tile."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.poses import PoseSettings, apply_overrides
from weft.poses import solve_poses as solve
from weft.steps.quality import write_quality
from weft.steps.tile_tables import EXCLUDED, LINEAR, read_links

COLUMNS = ("tile", "z", "y", "x", "stage_z", "stage_y", "stage_x", "status", "component", "residual_um")
LINK_COLUMNS = ("tile_a", "tile_b", "status", "used", "weight", "votes", "residual_um")


def solve_poses(
    *,
    tiles: str,
    links: str,
    matches: str,
    settings: dict[str, Any],
    overrides: list[dict[str, Any]],
    gates: dict[str, Any],
    code: str,
    poses: str,
    solved_links: str,
    quality: str,
) -> None:
    """Solve for the positions of all tiles and write them, um, with the largest residual of each tile.

    Rows of the table of overrides are the hand's word on tiles and pairs (see `apply_overrides`). A second table says of every link how far the solve believed it: ``used`` is ``first`` or ``rival`` (which
    of its displacements), or ``no``; ``votes`` counts the cycles that close with it.
    """
    index = receipts.read(tiles)
    names = [tile["name"] for tile in index["tiles"]]
    stage = np.array([tile["position"] for tile in index["tiles"]], float)
    measured, pins = apply_overrides(overrides, read_links(links, names, matches), names, stage)
    solved = solve(
        stage, measured, index["spacing"], pins=pins, shape=index["shape"], settings=PoseSettings(**settings)
    )
    believed = solved.weight > PoseSettings.used
    excluded = {row["tile_a"] for row in overrides if row["action"] == "exclude" and row["tile_b"] is None}
    status = [EXCLUDED if n in excluded else s for n, s in zip(names, solved.status, strict=True)]
    worst = np.zeros(len(names))
    for link, residual in zip(np.array(measured)[believed], solved.residual[believed], strict=True):
        worst[[link.i, link.j]] = np.maximum(worst[[link.i, link.j]], residual)
    with Path(poses).open("w", newline="") as handle:
        table = csv.writer(handle, delimiter="\t", lineterminator="\n")
        table.writerow([*COLUMNS, *(LINEAR if solved.linear is not None else ())])
        for n, name in enumerate(names):
            numbers = [f"{v:.6f}" for v in (*solved.positions[n], *stage[n])]
            cells = [name, *numbers, status[n], str(solved.component[n]), f"{worst[n]:.6f}"]
            linear = () if solved.linear is None else solved.linear[n].ravel()
            table.writerow([*cells, *(f"{v:.9f}" for v in linear)])
    with Path(solved_links).open("w", newline="") as handle:
        table = csv.writer(handle, delimiter="\t", lineterminator="\n")
        table.writerow(LINK_COLUMNS)
        for n, link in enumerate(measured):
            used = "no" if not believed[n] else "rival" if solved.rival[n] else "first"
            numbers = [f"{solved.weight[n]:.6f}", str(solved.votes[n]), f"{solved.residual[n]:.6f}"]
            table.writerow([names[link.i], names[link.j], link.status, used, *numbers])
    edge = max(index["spacing"])
    residuals = solved.residual[believed]
    good = np.array([link.status == "ok" for link in measured], bool)
    values = {
        "link_residual_p95_voxel": float(np.percentile(residuals, 95)) / edge if residuals.size else 0.0,
        "links_rejected_fraction": float((good & ~believed).sum() / max(good.sum(), 1)),
        "tiles_without_link_fraction": float(np.mean([s not in ("ok", "pinned", EXCLUDED) for s in status])),
        "components": float(len(set(solved.component))),
    }
    write_quality(quality, "solve_poses", index["image"], values, gates)
