"""How far the native engine's results differ between types of CPU: docs/engine.md states the bound."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
LARGEST, MEAN = 0.01, 0.0005  # voxels

WORK = """
import sys
import numpy as np
from weft.grid import Grid
from weft.registration.backends.native import register
from weft.registration.contract import Initial

rng = np.random.default_rng(0)
shape = (40, 44, 48)
spectrum = np.fft.rfftn(rng.standard_normal(shape))
k2 = sum(np.square(f) for f in np.meshgrid(*map(np.fft.fftfreq, shape[:2]), np.fft.rfftfreq(shape[2]), indexing="ij"))
fixed = np.fft.irfftn(spectrum * np.exp(-k2 / 0.02), s=shape)
fixed = (1000 + 300 * fixed / fixed.std()).astype(np.float32)
moving = np.roll(fixed, (1, -2, 1), (0, 1, 2)) + rng.normal(0, 20, shape).astype(np.float32)
grid = Grid(shape, (1.0, 1.0, 1.0))
np.save(sys.argv[1], register(fixed, grid, moving, grid, Initial.identity(), (None, None), {}, 0).displacement)
"""


def displacement(folder: Path, **cpu: str) -> np.ndarray:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), "PYTHONPATH": str(ROOT), **cpu}
    if cpu:
        environment.pop("NUMBA_CACHE_DIR", None)
    else:
        environment.pop("XDG_CACHE_HOME")
    file = folder / f"{len(cpu)}.npy"
    run = subprocess.run(
        [sys.executable, "-c", WORK, str(file)], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return np.load(file)


def test_types_of_cpu_differ_by_less_than_stated(tmp_path):
    """This machine's vectors against the oldest 64-bit CPU's: half to a quarter as wide, without fused products."""
    here = displacement(tmp_path)
    plain = displacement(tmp_path, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="")
    difference = np.linalg.norm(here - plain, axis=0)
    assert np.linalg.norm(here, axis=0).mean() > 1
    assert difference.max() < LARGEST
    assert difference.mean() < MEAN
