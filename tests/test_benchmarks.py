"""Benchmarks: all take the same options, and write rows of one form."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
HELPERS = {
    "engine.py",
    "faulty.py",
    "fusion_cases.py",
    "fusion_job.py",
    "illumination_cases.py",
    "illumination_picture.py",
    "illumination_real.py",
    "kernel_peers.py",
    "known_truth.py",
    "link_cases.py",
    "link_pictures.py",
    "multiview_links.py",
    "mvs_fusion.py",
    "pairs.py",
    "peers.py",
    "random_pairs.py",
    "real_pairs.py",
    "report.py",
    "tile_scans.py",
    "trial.py",
    "trials.py",
    "weak_scaling.py",
}
SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py") if path.name not in HELPERS)


def run(script: str, *options: str, folder: Path) -> str:
    """What a benchmark says, started in ``folder``: it must not matter where."""
    command = [sys.executable, "-X", "faulthandler", str(ROOT / "benchmarks" / script), *options]
    # Memory that is given back is overwritten: who still reads it gets other numbers, not now and then a crash.
    environment = {**os.environ, "MALLOC_PERTURB_": "165"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{script} ended with {done.returncode}: {done.stderr[-3000:]}"
    return done.stdout


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


@pytest.fixture
def pairs(monkeypatch):
    """The module that makes pairs of images."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import pairs

    return pairs


def test_the_truth_takes_a_fixed_voxel_to_the_same_tissue(pairs):
    pair = pairs.synthetic_pair(48, seed=3)
    index = np.argwhere(pair.mask)
    there = np.rint(index + pair.displacement[:, pair.mask].T).astype(int)
    same = pair.moving_labels[tuple(there.T)] == pair.fixed_labels[pair.mask]
    assert same.mean() > 0.99
    again = pairs.synthetic_pair(48, seed=3)
    assert np.array_equal(pair.fixed, again.fixed)
    assert not np.array_equal(pair.fixed, pairs.synthetic_pair(48, seed=4).fixed)


def test_scores_measure_a_known_error(pairs):
    pair = pairs.synthetic_pair(48, seed=3, largest=2, fine=0.2)
    exact = pairs.score(pair, pair.displacement)
    assert exact["epe"] == 0
    assert exact["dice"] > 0.99
    assert exact["folded"] == 0
    off = pairs.score(pair, pair.displacement + np.reshape([0, 3, 4], (3, 1, 1, 1)).astype(np.float32))
    assert off["epe"] == pytest.approx(5, abs=1e-4)
    assert off["dice"] < 0.6
    folded = pair.displacement.copy()
    folded[2, :, :, 24:] -= 2 * np.arange(24)
    assert pairs.score(pair, folded)["folded"] > 0.1 * pair.mask.sum()


def test_hard_pairs_change_what_they_say_and_keep_the_truth(pairs):
    pair = pairs.synthetic_pair(48, seed=3)
    tissue = pair.moving_labels > 0
    inverted = pairs.harder(pair, "inverted")
    changed = tissue & (pair.moving_labels % 3 == 0)
    assert np.array_equal(inverted.moving[~changed], pair.moving[~changed])
    assert np.corrcoef(inverted.moving[changed], pair.moving[changed])[0, 1] < -0.8
    missing = pairs.harder(pair, "missing")
    assert 0.2 <= 1 - (missing.moving == pair.moving)[tissue].mean() < 0.4
    assert 0.6 * pair.mask.sum() < missing.mask.sum() < pair.mask.sum()
    noisy = pairs.harder(pair, "noise")
    assert np.std(noisy.moving[tissue].astype(float) - pair.moving[tissue]) == pytest.approx(300, rel=0.05)
    for hard in (inverted, missing, noisy):
        assert np.array_equal(hard.displacement, pair.displacement)


def test_a_run_of_registrations_goes_on_where_it_stopped(tmp_path):
    arguments = ["--quick", "--sizes", "32", "--cases", "synthetic", "--peers", "--out", "kept"]
    first = run("registration.py", *arguments, "--json", "rows.json", folder=tmp_path)
    rows = {r["name"]: r for r in json.loads((tmp_path / "rows.json").read_text())}
    assert rows["registration.synthetic.32.folded"]["holds"] is True
    assert rows["registration.synthetic.32.cpu_seconds"]["value"] < 5
    kept = sorted((tmp_path / "kept/results").iterdir())
    assert len(kept) == 1
    assert "weft.backend: cpu_seconds" in first
    again = run("registration.py", *arguments, folder=tmp_path)
    assert "weft.backend: cpu_seconds" not in again
    assert "registration.synthetic.32.epe" in again


def test_more_blocks_read_and_hold_no_more(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import weak_scaling

    few, more = (weak_scaling.measure(tmp_path / str(n), n, block=32, overlap=4) for n in (2, 4))
    assert (few["blocks"], more["blocks"]) == (8, 64)
    assert few["bytes_read"] > 100_000
    assert more["bytes_read"] == few["bytes_read"]
    assert more["bytes_from_files"] < 1.01 * few["bytes_from_files"]
    assert more["peak_memory"] < 1.01 * few["peak_memory"]


def test_random_pairs_are_of_the_kinds_they_say(pairs):
    from random_pairs import KINDS, random_pair

    made = {kind: random_pair(7, number) for number, kind in enumerate(KINDS)}
    assert [pair.kind for pair in made.values()] == list(KINDS)
    assert made["plane"].grids[0].shape[0] == 1
    assert len(set(made["unequal_edges"].grids[0].spacing)) == 3
    assert not made["empty"].images[1].any()
    assert np.ptp(made["constant"].images[0]) == 0
    top = made["saturated"].images[0].max()
    assert (made["saturated"].images[0] == top).mean() > 0.1
    assert made["masked"].masks[0].shape == made["masked"].images[0].shape
    for name, pair in made.items():
        fixed, moving = pair.grids
        middle = (np.asarray(fixed.lower) + np.asarray(fixed.upper)) / 2
        there = pair.affine[:3, :3] @ middle + pair.affine[:3, 3]
        assert moving.contains(there[None])[0] != (name == "apart")
