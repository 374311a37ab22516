"""The same bytes from freshly compiled kernels and from cached ones."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

WORK = """
import numpy as np
from weft import receipts
from weft.grid import Grid
from weft.image import TileSet, Tile
from weft.links import LinkSettings, measure_link
from weft.registration.backends.native import register
from weft.registration.backends.native_field import smooth_within
from weft.registration.contract import Initial

random = np.random.default_rng(0)
noise = random.normal(size=(40, 48, 52))
spectrum = np.fft.rfftn(noise)
k = np.sqrt(sum(np.square(f) for f in np.meshgrid(*[np.fft.fftfreq(n) for n in (40, 48)], np.fft.rfftfreq(52), indexing="ij")))
fixed = (1000 + 300 * np.fft.irfftn(spectrum * np.exp(-((k / 0.12) ** 2)), s=noise.shape) * 30).astype(np.float32)
moving = np.roll(fixed, (1, -2, 1), (0, 1, 2))
grid = Grid(fixed.shape, (10.0, 10.0, 10.0))
result = register(fixed, grid, moving, grid, Initial.identity(), (None, None), {}, 0)
tiles = TileSet(
    (Tile("a", (0.0, 0.0, 0.0)), Tile("b", (0.0, 0.0, 26.0))), (40, 48, 36), (1.0, 1.0, 1.0), np.dtype(np.float32), ("0",),
    lambda tile, channel, region: fixed[:, :, (0, 16)[tile]:(36, 52)[tile]][region],
)
link = measure_link(tiles, 0, 1, 0, None, search_voxels=(4, 4, 12), settings=LinkSettings())
assert len(smooth_within.signatures) == 1, smooth_within.signatures  # else it is compiled once more, in the middle of a run
print(receipts.array_digest(result.displacement), result.metric_after, link.displacement.tobytes().hex(), link.ncc)
"""


def test_compiled_and_cached_kernels_give_the_same_bytes(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("NUMBA_CACHE_DIR", None)
    said = []
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", WORK], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        said.append(run.stdout)
    assert any(tmp_path.rglob("*.nbi")), "the first run left no compiled kernels behind"
    assert said[0] == said[1]
