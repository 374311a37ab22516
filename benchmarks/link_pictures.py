"""The pictures of docs/links.md: `python benchmarks/link_pictures.py FOLDER [DATA]`; DATA has the real sets."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import link_cases
import tile_scans
from weft.figures.positions import positions
from weft.figures.seams import SeamPicture, seams
from weft.links import LinkSettings, measure_link
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


def photographs(data: Path, folder: Path) -> None:
    """What the blocks of three overlaps ask for, beside what others and we made of them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tiles, registered = tile_scans.photographs(data)
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for axis, n in zip(axes, (0, 4, 6), strict=True):
        link = measure_link(tiles, n, n + 1, 0, search_voxels=(0, 40, 90), settings=LinkSettings(slack=24))
        across = link.matches[:, 2] - link.displacement[2]
        axis.scatter(across, link.matches[:, 5], 14, "0.3", label="blocks")
        axis.axhline((registered[n + 1] - registered[n])[2], color="tab:orange", label="others")
        axis.axhline(link.displacement[2], color="tab:blue", label="weft")
        axis.set(title=f"overlap {n + 1}", xlabel="place across the overlap, pixels")
    axes[0].set_ylabel("displacement along the row, pixels")
    axes[0].legend(frameon=False)
    figure.savefig(folder / "photographs.png", dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        photographs(Path(sys.argv[2]), Path(sys.argv[1]))
