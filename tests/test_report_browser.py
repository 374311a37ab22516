"""The report in a real browser: no error, no request, pictures that show something."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from weft.figures.overlay import overlay
from weft.figures.report import Picture, Section, Table, render_report

websocket = pytest.importorskip("websocket")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

LOOK_AT_PICTURES = """
[...document.images].map(image => {
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const pixels = new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  const shown = image.getBoundingClientRect();
  return {width: image.naturalWidth, colours: new Set(pixels).size, shown: shown.width, alt: image.alt};
})
"""


class Page:
    """A tab of a headless browser, spoken to by the DevTools protocol over loopback."""

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, timeout=30, suppress_origin=True)
        self.events: list[dict] = []
        self.number = 0

    def call(self, method: str, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def open(self, path: Path) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not self.seen("Page.loadEventFired"):
            self.events.append(json.loads(self.socket.recv()))

    def evaluate(self, expression: str):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def seen(self, method: str) -> list[dict]:
        return [event["params"] for event in self.events if event.get("method") == method]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    profile = tmp_path_factory.mktemp("chromium")
    flags = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"]
    flags += ["--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        [CHROMIUM, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        port_file = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert process.poll() is None, "chromium ended before it listened"
            assert time.monotonic() < deadline, "chromium did not listen within a minute"
            time.sleep(0.1)
        port = int(port_file.read_text().split()[0])
        with urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            tabs = json.load(answer)
        yield Page(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    z, y, x = np.mgrid[-1:1:32j, -1:1:40j, -1:1:48j]
    ball = (z**2 + y**2 + x**2 < 0.5) * 1000.0
    overlay(ball, np.roll(ball, 4, 2), (2, 2, 2), folder / "one.png", "Ball", before=np.roll(ball, 12, 2))
    overlay(ball, ball, (2, 2, 2), folder / "two.png", "Ball")
    gate = {"stage": "s", "subject": "<b>&", "name": "n", "value": 3.0, "threshold": "<= 1", "policy": "fail"}
    rows = [
        gate | {"holds": False, "where": "tile <script>alert(1)</script>"},
        gate | {"holds": True, "where": ""},
    ]
    pictures = [
        Picture(folder / f"{n}.png", f"Overlay {n}", "A ball over a ball.", "Caption.")
        for n in ("one", "two")
    ]
    costs = Table("Costs", [{"rule": "a", "seconds": 1.5}, {"rule": "b", "seconds": 30.0}], bars=("seconds",))
    sections = [Section("Pictures", pictures, "Two of them."), Section("Costs", [costs])]
    render_report(sections, folder / "report.html", gates=rows, facts={"images": 2})
    return folder / "report.html"


@pytest.fixture(scope="module")
def page(browser, report):
    browser.open(report)
    return browser


def test_no_error_and_no_request_leaves_the_file(page, report):
    assert page.evaluate("document.title") == "weft report"
    assert not page.seen("Runtime.exceptionThrown")
    assert not page.seen("Runtime.consoleAPICalled")
    assert not [entry["entry"] for entry in page.seen("Log.entryAdded")]
    urls = {request["request"]["url"] for request in page.seen("Network.requestWillBeSent")}
    assert {url for url in urls if not url.startswith("data:")} == {report.as_uri()}
    assert not page.seen("Network.loadingFailed")


def test_every_picture_shows_something(page):
    pictures = page.evaluate(LOOK_AT_PICTURES)
    assert len(pictures) == 2
    for picture in pictures:
        assert picture["width"] > 0
        assert picture["colours"] > 50
        assert picture["shown"] > 200
        assert picture["alt"]


def test_words_of_others_are_shown_not_run(page):
    assert page.evaluate("document.scripts.length") == 0
    assert "tile <script>alert(1)</script>" in page.evaluate("document.querySelector('tbody').innerText")


def test_colours_of_the_gates_and_bars_are_drawn(page):
    colours = page.evaluate(
        "[...document.querySelectorAll('.badge')].map(b => getComputedStyle(b).backgroundColor)"
    )
    assert len(set(colours)) == 2
    widths = page.evaluate(
        "[...document.querySelectorAll('td.bar')].map(c => getComputedStyle(c).getPropertyValue('--share').trim())"
    )
    assert widths == ["5.0%", "100.0%"]


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_the_page_fits_its_window(page, width):
    page.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.call("Emulation.clearDeviceMetricsOverride")


def test_dark_windows_get_a_dark_page(page):
    background = "getComputedStyle(document.body).backgroundColor"
    found = {}
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        found[scheme] = sum(int(v) for v in page.evaluate(background)[4:-1].split(","))
    assert found["light"] > 600
    assert found["dark"] < 150


def test_a_click_enlarges_a_picture_and_closes_again(page):
    width = "document.images[0].clientWidth"
    fixed = "getComputedStyle(document.querySelector('.large')).position"
    page.evaluate("document.querySelector('a.open').click()")
    assert page.evaluate(fixed) == "fixed"
    assert page.evaluate(width) == page.evaluate("document.images[0].naturalWidth")
    page.evaluate("document.querySelector('a.close').click()")
    assert page.evaluate(fixed) == "static"
