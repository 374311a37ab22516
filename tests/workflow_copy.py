"""A copy of the repository with a small project in it, so that tests may edit code as well as settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml
from workflow_project import ROOT, Project, Watch, make_project, tree_digests

CODE = ("Snakefile", "rules", "scripts", "weft", "report", "envs", "profiles", "config")
PAIR = "results/registrations/sample_to_atlas"

# The demo on the tiny phantom, at twice its voxel size; beside it a small image of four tiles and a volume that
# stays by itself, whose raw files are not made by the phantom, so that a test may change them.
SETTINGS = {
    "results": "results",
    "phantom": {"size": "tiny", "seed": 0},
    "images": "images.tsv",
    "registrations": "registrations.tsv",
    "affine": {"orientation": "code"},
    "stages": [
        {"name": "coarse", "level": 200, "block": "whole"},
        {"name": "fine", "level": 100, "block": 40, "overlap": 8},
    ],
    "links": {"search": [5, 5, 5]},
    "illumination": {"corrected_copy": True},
    "fusion": {"equalise": "check"},
    "bias": {"images": ["sample"]},
    "store": {"chunk": [32, 64, 64], "shard": [32, 128, 128]},
    "precomputed": ["sample"],
    "points": {
        "cells": {"path": "results/phantom/sample/cells.csv", "image": "sample"},
        "marks": {"path": "data/marks.csv", "image": "atlas"},
    },
}
IMAGES = """image\tsource\tformat\torientation\tspacing\tlabels\tdark\toptions
sample\tresults/phantom/sample\tcolm\tair\t\tno\tresults/phantom/sample/dark.tif\t
atlas\tresults/phantom/atlas/template.nrrd\tauto\tpil\t\tno\t\tspacing_unit=um
annotation\tresults/phantom/atlas/annotation.nrrd\tauto\tpil\t\tyes\t\tspacing_unit=um
bits\tdata/sample\tcolm\tpil\t\tno\t100\t
alone\tdata/moving.nrrd\tauto\tpil\t10,10,10\tno\t\t
"""
REGISTRATIONS = """registration\tfixed\tmoving\tlabels\tontology
sample_to_atlas\tatlas\tsample\tannotation\tresults/phantom/atlas/ontology.csv
"""
MARKS = "name,z,y,x\nfirst,3000,2500,2000\nsecond,4000,3000,3500\nfar away,-90000,0,0\n"


class RepositoryCopy(Project):
    """A project whose folder holds the workflow's code, too."""

    def start(self, *targets: str, cores: int = 2, watch: Watch | None = None) -> subprocess.Popen:
        """Start the folder's own workflow, with kernels compiled into the folder's own cache."""
        environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
        environment |= {"PYTHONPATH": "", "XDG_CACHE_HOME": str(self.folder.parent / "cache")}
        environment |= {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *targets, "--cores", str(cores), "--configfile", "my.yaml"],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def copy(self, folder: Path) -> RepositoryCopy:
        """The project as it stands, times of files included."""
        return RepositoryCopy(super().copy(folder).folder)

    def raw(self) -> dict[str, str]:
        """Digest of every raw file, those of the phantom included."""
        phantom = self.results / "phantom"
        parts = {name: tree_digests(phantom / name) for name in ("sample", "atlas")}
        return super().raw() | {
            f"{part}/{name}": d for part, found in parts.items() for name, d in found.items()
        }

    def planned(self, *targets: str) -> set[str]:
        """The jobs that a run would start, each as its rule and its wildcards: `fuse_tiles sample 0`."""
        said = self.run(*targets, "--dry-run")
        entries = re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)*)", f"{said}\n", re.MULTILINE)
        found = set()
        for rule, facts in entries:
            wildcards = re.search(r"^ {4}wildcards: (.*)$", facts, re.MULTILINE)
            values = [part.split("=", 1)[1] for part in wildcards[1].split(", ")] if wildcards else []
            found.add(" ".join([rule, *filter(None, values)]))
        if not found:
            assert "Nothing to be done" in said, said
        return found - {"all"}


@dataclass(frozen=True)
class WholeRun:
    """A complete run: its project, what Snakemake said, and the digests of the raw files before and after."""

    project: RepositoryCopy
    said: str
    raw_before: dict[str, str]
    raw_after: dict[str, str]


def make_copy(folder: Path) -> RepositoryCopy:
    """Copy the workflow's code and write the project; nothing is run yet."""
    make_project(folder)  # for its raw data
    for name in CODE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / name)
    (folder / "images.tsv").write_text(IMAGES)
    (folder / "registrations.tsv").write_text(REGISTRATIONS)
    (folder / "data" / "marks.csv").write_text(MARKS)
    (folder / "my.yaml").write_text(yaml.safe_dump(SETTINGS))
    return RepositoryCopy(folder)
