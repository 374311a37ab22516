"""A small project whose truth is known, of which every script is run as Snakemake runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK
from workflow_jobs import plan_jobs, run_script
from workflow_project import OVERLAP, SIDE, TILE, Project, make_project

from weft import receipts

DARK = 100
SETTINGS: dict[str, Any] = {
    "illumination": {"method": "log_irls", "planes": 96, "dark": DARK, "corrected_copy": True},
    "links": {"search": [6, 6, 6]},
    "fusion": {"equalise": "check"},
    "bias": {"images": ["sample"]},
    "isotropic": {"fixed": 15.0, "regions": 15.0},
    "precomputed": ["fixed", "regions"],
    "terastitcher": ["sample"],
    "export_transforms": True,
    "points": {
        "cells": {"path": "data/cells.csv", "image": "moving"},
        "marks": {"path": "data/marks.csv", "image": "fixed"},
    },
}
REGISTRATIONS = (
    "registration\tfixed\tmoving\tlabels\tmoving_labels\tontology\tlandmarks\n"
    "pair\tfixed\tmoving\tregions\tmoved_regions\tdata/ontology.csv\tdata/landmarks.csv\n"
)
EDGE = 10.0  # um, of a voxel of the volumes


def true_jitter() -> np.ndarray:
    """Jitter of the tiles, (4, 3) voxels."""
    random = np.random.default_rng(1)
    return np.array([random.integers(-2, 3, 3) for _ in range(4)])


def true_corner(tile: int) -> np.ndarray:
    """Where a tile was cut from the scene, voxels."""
    row, column = divmod(tile, 2)
    step = TILE[1] - OVERLAP
    return np.array([2, 4 + row * step, 4 + column * step]) + true_jitter()[tile]


def true_gain() -> np.ndarray:
    y, x = np.mgrid[: TILE[1], : TILE[2]] / TILE[1] - 0.5
    gain = 1.2 - 0.8 * (y**2 + x**2)
    return gain / gain.mean()


def to_fixed(moving: np.ndarray) -> np.ndarray:
    """Where in the fixed volume points of the moving one come from, (n, 3) voxels."""
    waves = [1.5 * np.sin(2 * np.pi * (moving[:, n] / SIDE + n / 3)) for n in (1, 2, 0)]
    return moving + np.stack(waves, 1) + 1


def indices(shape=(SIDE,) * 3) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3).astype(float)


def in_body(fixed: np.ndarray, share=0.85) -> np.ndarray:
    """Which points of the fixed volume, voxels, lie well inside of what it shows."""
    return (((fixed - (SIDE - 1) / 2) / (0.42 * SIDE)) ** 2).sum(1) < share**2


class Run:
    """A project of which every script was run, job by job."""

    def __init__(self, folder: Path) -> None:
        self.project = make_project(folder, **SETTINGS)
        write_tables(self.project)
        self.raw = self.project.raw()
        self.jobs = plan_jobs(folder)
        for job in self.jobs:
            run_script(folder, job)

    def read(self, path: str) -> dict[str, Any]:
        return receipts.read(self.results / path)

    def table(self, path: str) -> pd.DataFrame:
        return pd.read_csv(self.results / path, sep="\t")

    @property
    def results(self) -> Path:
        return self.project.results


def write_tables(project: Project) -> None:
    (project.folder / "registrations.tsv").write_text(REGISTRATIONS)
    with (project.folder / "images.tsv").open("a") as images:
        images.write("moved_regions\tdata/moved_regions.nrrd\tauto\tpil\t10,10,10\tyes\n")
    regions = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(project.folder / "data" / "regions.nrrd")))
    nearest = np.rint(to_fixed(indices())).astype(int).clip(0, SIDE - 1).T
    moved = SimpleITK.GetImageFromArray(regions[tuple(nearest)].reshape(regions.shape))
    SimpleITK.WriteImage(moved, str(project.folder / "data" / "moved_regions.nrrd"))
    cells = np.random.default_rng(8).uniform(14, 34, (50, 3)) * EDGE
    cells = np.vstack([cells, [-500.0, 100.0, 100.0]])  # the last one lies far outside
    table = pd.DataFrame(cells, columns=list("zyx")).assign(cell=[f"c{n}" for n in range(51)])
    for name in ("cells", "marks"):
        table.to_csv(project.folder / "data" / f"{name}.csv", index=False)
    marked = pd.DataFrame(cells[:50], columns=["moving_z", "moving_y", "moving_x"])
    marked[["fixed_z", "fixed_y", "fixed_x"]] = to_fixed(cells[:50] / EDGE) * EDGE
    marked.to_csv(project.folder / "data" / "landmarks.csv", index=False)
    rows = ["100,body,BODY,", "200,upper,UP,100", "300,lower,LO,100"]
    rows += [f"{n},octant {n},O{n},{200 if n % 2 else 300}" for n in range(1, 9)]
    (project.folder / "data" / "ontology.csv").write_text(
        "\n".join(["id,name,acronym,parent_id", *rows]) + "\n"
    )
