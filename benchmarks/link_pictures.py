"""The pictures of docs/assembly.md about links and poses: `python benchmarks/link_pictures.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import link_cases
import tile_scans
from weft.figures.positions import positions
from weft.figures.seams import SeamPicture, seams
from weft.links.seams import seam
from weft.poses import solve_poses


def main(folder: Path) -> None:
    """Measure and solve a scan of a small specimen, and draw it."""
    scan = tile_scans.synthetic("b", 0)
    stage, spacing = scan.tiles.positions(), scan.tiles.spacing
    links = link_cases.measured(scan.tiles, link_cases.SEARCH)
    poses = solve_poses(stage, links, spacing)
    positions(
        stage,
        poses.positions,
        np.multiply(scan.tiles.shape, spacing),
        folder / "positions.png",
        "A scan of 4 x 4 tiles",
        names=[tile.name for tile in scan.tiles.tiles],
        status=["unlinked" if word == "neighbours" else word for word in poses.status],
        links=np.array([(v.i, v.j) for v in links]),
        residuals=np.array([v.displacement - poses.positions[v.j] + poses.positions[v.i] for v in links]),
        used=poses.weight > 0.1,
    )
    drawn = []
    for i, j in ((5, 6), (5, 9)):
        before, after = (seam(scan.tiles, (i, j), 0, None, where) for where in (stage, poses.positions))
        assert before is not None
        assert after is not None
        shown = (before.first, before.second), (after.first, after.second)
        drawn.append(SeamPicture(f"T{i} - T{j}", "", *shown, (before.ncc, after.ncc)))
    seams(drawn, folder / "seams.png", "Two of its seams")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
