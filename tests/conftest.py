"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from scripts_run import Run
    from workflow_copy import WholeRun


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets: $WEFT_TEST_DATA, or the one beside the repository; skips without."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("WEFT_TEST_DATA", beside))
    if not root.is_dir():
        pytest.skip(f"no test data in {root}")
    return root


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    """A complete run of the workflow on the tiny phantom, and its raw files before and after; never changed."""
    from workflow_copy import WholeRun, make_copy

    project = make_copy(tmp_path_factory.mktemp("whole") / "project")
    project.run("results/phantom/phantom.json")
    before = project.raw()
    said = project.run()
    return WholeRun(project, said, before, project.raw())


@pytest.fixture(scope="session")
def scripts_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small project of which every script was run, job by job; never changed."""
    from scripts_run import Run

    return Run(tmp_path_factory.mktemp("scripts") / "project")
