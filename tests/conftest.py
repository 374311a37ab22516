"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets: $WEFT_TEST_DATA, or the one beside the repository; skips without."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("WEFT_TEST_DATA", beside))
    if not root.is_dir():
        pytest.skip(f"no test data in {root}")
    return root
