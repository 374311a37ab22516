"""Benchmarks: all take the same options, and write rows of one form."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HELPERS = {"report.py"}
SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py") if path.name not in HELPERS)


def run(script: str, *options: str, folder: Path) -> str:
    """What a benchmark says, started in ``folder``: it must not matter where."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *options]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_takes_the_four_options(script, tmp_path):
    said = run(script, "--help", folder=tmp_path)
    for option in ("--sizes", "--seeds", "--quick", "--json"):
        assert option in said
    assert f"`{script}`" in (ROOT / "benchmarks" / "README.md").read_text()


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Rows and printed table of the kernels' quick run."""
    folder = tmp_path_factory.mktemp("kernels")
    said = run("kernels.py", "--quick", "--json", "rows.json", folder=folder)
    return json.loads((folder / "rows.json").read_text()), said


def test_rows_have_one_form(quick):
    rows, said = quick
    assert len({row["name"] for row in rows}) == len(rows) >= 8
    for row in rows:
        assert list(row) == ["name", "value", "unit", "bar", "holds"]
        assert re.fullmatch(r"kernels\.64\.\w+\.\w+", row["name"])
        assert isinstance(row["value"], int | float)
        assert row["unit"]
        assert row["name"] in said


def test_bars_are_judged(quick):
    judged = [row for row in quick[0] if row["bar"]]
    assert judged
    for row in quick[0]:
        if row["bar"] is None:
            assert row["holds"] is None
        else:
            sign, bar = row["bar"].split()
            met = row["value"] <= float(bar) if sign == "<=" else row["value"] >= float(bar)
            assert row["holds"] is met


def test_kernels_agree_with_their_peers(quick):
    differences = {
        row["name"]: row["value"] for row in quick[0] if row["name"].endswith("largest_difference")
    }
    assert len(differences) == 2
    assert max(differences.values()) <= 1


def test_a_process_is_measured(tmp_path):
    """Bytes after the start-up, CPU and memory of a process of known work, its child included."""
    (tmp_path / "data").write_bytes(bytes(3_000_000))
    (tmp_path / "work.py").write_text(
        "import subprocess, sys\n"
        "open('it.log', 'w').close()\n"  # the start-up ends here
        "data = open('data', 'rb').read()\n"
        "open('copy', 'wb').write(data[:1_000_000])\n"
        "held = bytearray(b'1') * 200_000_000\n"
        "burn = 'import time\\nwhile time.process_time() < 0.5: pass'\n"
        "subprocess.run([sys.executable, '-c', burn], check=True)\n"
    )
    records = tmp_path / "records"
    records.mkdir()
    environment = {"PYTHONPATH": str(ROOT / "benchmarks/meter"), "METER_FOLDER": str(records)}
    subprocess.run([sys.executable, "work.py"], cwd=tmp_path, env=environment, check=True)
    found = [json.loads(path.read_text()) for path in records.glob("*.json")]
    assert len(found) == 2  # the script and its child, which is a Python of its own
    record = next(r for r in found if r["program"] == "work.py")
    moved = {name: record["ended"][name] - record["ready"][name] for name in ("bytes_read", "bytes_written")}
    assert 3_000_000 <= moved["bytes_read"] < 3_000_000 + 2_000_000  # the child's own start-up comes on top
    assert 1_000_000 <= moved["bytes_written"] < 1_000_000 + 20_000
    assert record["ready"]["children_cpu"] == 0
    assert record["ended"]["children_cpu"] >= 0.5
    assert 200_000_000 < record["own_peak"] < 300_000_000
    assert record["started"] < record["ready"]["clock"] < record["ended"]["clock"]
