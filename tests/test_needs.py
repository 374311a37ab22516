"""What a block needs: a halo for what is still to be found, and memory, predicted and measured."""

import os
import subprocess
import sys

import numpy as np
import pytest

from weft.blocks import cut, region
from weft.grid import Grid
from weft.registration.needs import block_memory, expected_residual, halo, process_memory, workers
from weft.registration.plan import plan_stage
from weft.transforms.detail import LostDetail

STAGE = {
    "name": "fine",
    "level": 10.0,
    "block": "auto",
    "overlap": "auto",
    "backend": "native",
    "settings": {},
}
BACKEND = """
from weft.registration.backends.native import register

def smoothing_radius(settings):
    return settings["radius"]

def predicted_memory(fixed_shape, moving_shape, settings):
    return settings["bytes"] * fixed_shape[0] * fixed_shape[1] * fixed_shape[2]
"""
# The most memory, bytes, that a fresh process takes for a block of 112^3 beside what it takes for a small one.
MEASURE = """
import numpy as np, re
from scipy.ndimage import gaussian_filter
from weft.grid import Grid
from weft.image import Image, Level
from weft.registration.plan import block_regions, plan_stage
from weft.registration.stage import StageJob
from weft.transforms.model import Displacements

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

def run(edge, overlap):
    grid = Grid((3 * edge,) * 3, (10.0,) * 3)
    rng = np.random.default_rng(0)
    # Smooth: a block of noise would end before it takes its memory.
    smooth = gaussian_filter(rng.normal(size=grid.shape), 2)
    pixels = (5000 + 10000 * smooth).astype("u2")[None]
    pixels[..., ::edge, ::edge, ::edge] = 65535  # saturated: there are weights
    images = [Image((Level(pixels, grid),)), Image((Level(np.roll(pixels, 1, axis=3), grid),))]
    del smooth
    coarse = grid.coarsen((2, 2, 2))
    start = Displacements(np.zeros((3, *coarse.shape), "f4"), coarse)
    plan = plan_stage(grid, {"name": "a", "level": 10.0, "block": edge, "overlap": overlap})
    settings = {"backend": "native", "settings": {"iterations": [2]}, "min_content": 0.0}
    open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far: that of compiling
    before = peak()
    StageJob(plan, settings, [(images[0], 0)], [(images[1], 0)], np.eye(4), start, (0.0, 0.0)).run("1.1.1")
    return peak() - before

run(16, 8)
print(run(80, 16))
"""


@pytest.fixture
def backend(tmp_path, monkeypatch):
    (tmp_path / "needing.py").write_text(BACKEND)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "needing:register"


# ---------------------------------------------------------------------------------- halo
def test_a_halo_holds_what_is_expected_and_the_radius(backend):
    assert halo(25.0, 10.0, backend, {"radius": 7}) == 10  # 3 voxels and 7
    assert halo(0.1, 10.0, backend, {"radius": 7}) == 8
    assert halo(100.0, 10.0, backend, {"radius": 7}) == 18  # even
    assert halo(25.0, 10.0, "demons", {}) == 12
    assert halo(10.0, 10.0, "native", {"sigma": [1.5]}) == 10
    assert halo(10.0, 10.0, "native", {"sigma": [3.0]}) > 14


def test_the_halo_of_a_stage_follows_what_is_expected():
    image = Grid((200, 300, 400), (10.0, 10.0, 10.0))
    first = plan_stage(image, STAGE)
    assert first["overlap"] == halo(200.0, 10.0, "native", {})  # a twentieth of 4000 um
    later = plan_stage(image, STAGE, residual=15.0)
    assert later["overlap"] == halo(15.0, 10.0, "native", {}) < first["overlap"]
    said = {**STAGE, "expected_displacement": 60.0}
    assert plan_stage(image, said, residual=15.0)["overlap"] == halo(60.0, 10.0, "native", {})
    assert plan_stage(image, {**STAGE, "overlap": 4}, residual=15.0)["overlap"] == 4


def lost_detail(u, grid, parts):
    detail = LostDetail(grid)
    for part in parts:
        detail.add(part, u[(slice(None), *part)])
    return detail.percentile99


@pytest.mark.parametrize("shard", [40, 16])
def test_what_a_field_cannot_show_is_expected_of_the_next_stage(shard):
    grid = Grid((40, 40, 40), (20.0, 20.0, 20.0))
    parts = [region(block, grid.shape, (shard,) * 3) for block in cut(grid.shape, (shard,) * 3)]
    z = np.arange(40)[:, None, None] * np.ones((1, 40, 40))
    plane = np.stack([3.0 * z, 0 * z, -2.0 * z]).astype("f4")  # nothing is lost by leaving samples out
    assert expected_residual(lost_detail(plane, grid, parts), 10.0) == pytest.approx(5, abs=0.5)
    rough = plane + (8.0 * (z % 2)).astype("f4")  # between the samples left, it is 8 um off along every axis
    assert expected_residual(lost_detail(rough, grid, parts), 10.0) == pytest.approx(
        2 * 8 * 3**0.5 + 5, rel=0.05
    )


def test_detail_does_not_depend_on_how_a_field_was_written():
    grid = Grid((100, 53, 1), (20.0, 20.0, 20.0))
    u = np.random.default_rng(0).normal(size=(3, *grid.shape)).astype("f4")
    found = set()
    for edges in (grid.shape, (32, 32, 32), (7, 60, 1)):
        parts = [region(block, grid.shape, edges) for block in cut(grid.shape, edges)]
        found.add(lost_detail(u, grid, parts))
    assert len(found) == 1
    with pytest.raises(ValueError, match="as a whole"):
        lost_detail(u, grid, parts[1:])


# ---------------------------------------------------------------------------------- memory
def test_blocks_are_as_large_as_their_memory_allows(backend):
    image = Grid((1000, 1000, 1000), (10.0, 10.0, 10.0))
    edges = []
    for memory in (50, 200, 500, 5000):
        plan = plan_stage(image, {**STAGE, "memory_mb": memory, "overlap": 16})
        edges.append(max(plan["block"]))
        assert plan["memory_mb"] <= memory
        assert len(set(plan["block"])) == 1
    assert edges == sorted(edges)
    assert edges[0] < edges[-1] <= 256 * 1.25
    greedy = {**STAGE, "backend": backend, "settings": {"radius": 4, "bytes": 2000}, "overlap": 16}
    assert max(plan_stage(image, greedy)["block"]) < max(plan_stage(image, {**STAGE, "overlap": 16})["block"])
    # A flat volume's halo ends with it, and its blocks may be longer.
    flat = plan_stage(Grid((64, 1000, 1000), (10.0, 10.0, 10.0)), {**STAGE, "overlap": 16})
    assert flat["block"][0] == 64
    assert max(flat["block"]) > max(plan_stage(image, {**STAGE, "overlap": 16})["block"])
    assert block_memory((64, 200, 200), 16, "native", {}, volume=(64, 1000, 1000)) < block_memory(
        (64, 200, 200), 16, "native", {}
    )
    thin = plan_stage(Grid((1, 4000, 4000), (10.0, 10.0, 10.0)), {**STAGE, "overlap": 16, "memory_mb": 50})
    assert thin["memory_mb"] <= 50


def test_a_backend_that_says_nothing_is_counted_by_voxels():
    one = block_memory((64, 64, 64), 16, "demons", {})
    assert one > 120 * 96**3
    assert block_memory((128, 128, 128), 32, "demons", {}) == pytest.approx(8 * one, rel=0.01)


def test_blocks_run_side_by_side_as_memory_holds():
    process = process_memory("native")
    assert workers("fine", {"memory_mb": 100, "process_mb": process}, process + 1000, 4) == 4
    assert workers("fine", {"memory_mb": 400, "process_mb": process}, process + 1000, 4) == 2
    with pytest.raises(
        ValueError,
        match=r"stage 'fine': a block takes about 1200 MB .* has mem_mb 1000; wanted mem_mb of at least 1600",
    ):
        workers("fine", {"memory_mb": 1200, "process_mb": process}, 1000, 4)


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux")
def test_the_memory_of_a_block_is_what_was_predicted():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    predicted = block_memory((80, 80, 80), 16, "native", {})
    assert predicted / 1.4 < int(done.stdout) < predicted


def test_the_smallest_blocks_that_still_take_too_much_are_warned_of(capsys):
    grid = Grid((200, 200, 200), (10.0,) * 3)
    plan = plan_stage(grid, {**STAGE, "overlap": 8, "memory_mb": 0.5})
    assert plan["block"] == [34, 34, 34]  # 200 in six parts, even
    assert "even blocks of 32 voxels, with an overlap of 8" in capsys.readouterr().err
    plan_stage(grid, {**STAGE, "overlap": 8, "memory_mb": plan["memory_mb"] + 1})
    assert capsys.readouterr().err == ""
