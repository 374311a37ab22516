"""What the settings of assembly do to tiles whose truth is known, through the rules' own scripts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from workflow_jobs import plan_jobs, run_script
from workflow_project import Project, make_project

from weft import receipts
from weft.grid import Grid
from weft.steps.tile_tables import read_fused
from weft.stores import open_image

IMAGES = "image\tsource\tformat\torientation\tdark\nsample\tdata/sample\tcolm\tpil\t100\n"


def stitched(folder: Path, **settings) -> Project:
    """The small project without registrations, stitched script by script."""
    project = make_project(folder, **settings)
    (folder / "images.tsv").write_text(IMAGES)
    project.set(registrations=None)
    return project


def run_all(project: Project) -> Path:
    """Run every script; give the folder of the image."""
    for job in plan_jobs(project.folder):
        run_script(project.folder, job)
    return project.results / "images" / "sample"


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """The image, stitched with the default settings."""
    return run_all(stitched(tmp_path_factory.mktemp("assembly") / "plain"))


def test_an_excluded_tile_is_placed_and_not_fused(tmp_path, plain):
    project = stitched(tmp_path / "excluded", overrides="overrides.tsv")
    (project.folder / "overrides.tsv").write_text("image\taction\ttile_a\nsample\texclude\tLOC003\n")
    image = run_all(project)
    poses = pd.read_csv(image / "poses.tsv", sep="\t")
    assert poses.status.tolist() == ["ok", "ok", "ok", "excluded"]
    tile = receipts.read(image / "tiles.json")
    grid = Grid.from_json(receipts.read(image / "fused.json")["grid"])
    places = poses[list("zyx")].to_numpy()[:3]
    wanted = (places.max(0) - places.min(0)) / tile["spacing"] + tile["shape"]
    assert np.abs(np.array(grid.shape) - wanted).max() < 1
    fused, whole = (open_image(folder / "image.ome.zarr").levels[0] for folder in (image, plain))
    corner = fused.read()[4:20, -30:, -30:]  # only the excluded tile reaches it
    assert not corner.any()
    assert whole.read()[4:20, -40:-10, -40:-10].min() > 0
    seams = pd.read_csv(image / "seams.tsv", sep="\t")
    assert len(seams) == 3
    assert "LOC003" not in set(seams.tile_a) | set(seams.tile_b)
    assert receipts.read(image / "quality/poses.json")["values"]["tiles_without_link_fraction"] == 0


def test_no_tile_left_is_refused(tmp_path):
    table = tmp_path / "poses.tsv"
    table.write_text("tile\tstatus\nA\texcluded\nB\tok\n")
    assert read_fused(str(table)) == [1]
    table.write_text("tile\tstatus\nA\texcluded\nB\texcluded\n")
    with pytest.raises(ValueError, match=r"poses\.tsv: the table of overrides excludes every tile"):
        read_fused(str(table))
