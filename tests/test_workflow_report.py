"""The report of a whole run in a real browser."""

from __future__ import annotations

import pandas as pd
import pytest
from test_report_browser import CHROMIUM, LOOK_AT_PICTURES, browser
from workflow_copy import PAIR, WholeRun

__all__ = ["browser"]  # a fixture
pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


def test_report_shows_the_run_and_loads_nothing(browser, whole_run: WholeRun) -> None:
    report = whole_run.project.results / "report.html"
    browser.open(report)
    assert not browser.seen("Runtime.exceptionThrown")
    assert not browser.seen("Runtime.consoleAPICalled")
    assert not browser.seen("Log.entryAdded")
    assert not browser.seen("Network.loadingFailed")
    urls = {request["request"]["url"] for request in browser.seen("Network.requestWillBeSent")}
    assert {url for url in urls if not url.startswith("data:")} == {report.as_uri()}

    pictures = browser.evaluate(LOOK_AT_PICTURES)
    # 4 of each stitched image (positions, seams, tiles before and after, gain) and the bias of one; overlay,
    # checkerboard, correlation, deformation and 2 stages of the registration
    assert len(pictures) == 4 * 2 + 1 + 4 + 2
    for picture in pictures:
        assert picture["colours"] > 50, picture["alt"]
        assert picture["shown"] > 200, picture["alt"]
    text = browser.evaluate("document.body.innerText")
    regions = pd.read_csv(whole_run.project.folder / PAIR / "rois" / "regions.csv")
    largest = regions.loc[regions["voxels"].idxmax(), "name"]
    for word in (
        "sample_to_atlas",
        "Worst regions",
        "The correlation of both images went",
        "round_trip_p95_voxel",
        "register_blocks",
        largest,
    ):
        assert word in text
