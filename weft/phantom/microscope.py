"""The phantom's light-sheet microscope: stage, objective, camera, and the COLM's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

from weft.phantom.anatomy import Anatomy
from weft.phantom.deformation import Deformation
from weft.phantom.sample import Cells, Contrast, add_cells, sample_plane
from weft.phantom.settings import PhantomSettings

CHANNELS = ("CHN00", "CHN01")  # structure (for registration), and labelled cells
BRIGHTNESS = 2400.0  # camera counts of relative brightness 1 under a gain of 1
BACKGROUND = 20.0  # counts of the empty medium under a gain of 1
COUNTS_PER_PHOTON = 2.0
READ_NOISE = 4.0  # counts, standard deviation
FOLDER = "VW0"


class Optics(NamedTuple):
    """What the microscope does to brightness."""

    gain: np.ndarray  # (2, y, x) float32 per channel, mean 1
    dark: np.ndarray  # (y, x) float32 counts, the same for both channels


@dataclass(frozen=True)
class PlacedTile:
    """A scanned tile: its number in the grid, nominal and true position (um, z y x)."""

    number: int
    row: int
    column: int
    stage: np.ndarray
    position: np.ndarray

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"LOC{self.number:03d}"


def make_optics(settings: PhantomSettings, rng: np.random.Generator) -> Optics:
    """Draw vignetting between 0.5 and 1.5, of mean 1, another in each channel, and a dark frame."""
    y, x = np.meshgrid(*(np.linspace(-1.0, 1.0, settings.pixels),) * 2, indexing="ij")
    gain = np.stack([_vignetting(y, x, rng) for _ in CHANNELS])
    dark = 100.0 + 4.0 * y - 2.0 * x + 1.5 * np.sin(5.0 * x + rng.uniform(0.0, 6.0))
    return Optics(gain.astype(np.float32), dark.astype(np.float32))


def _vignetting(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cy, cx = rng.uniform(-0.25, 0.25, 2)
    a, b, c = rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.9), rng.uniform(-0.25, 0.25)
    shape = np.exp(-(a * (y - cy) ** 2 + b * (x - cx) ** 2 + c * (y - cy) * (x - cx)))
    shape += 0.06 * np.sin(2.5 * x + rng.uniform(0.0, 6.0)) + 0.06 * np.sin(2.5 * y + rng.uniform(0.0, 6.0))
    shape = (shape - shape.min()) / (shape.max() - shape.min())
    # an exponent brings the mean to 1 and leaves the ends at 0.5 and 1.5
    low, high = 0.05, 20.0
    for _ in range(60):
        exponent = np.sqrt(low * high)
        low, high = (exponent, high) if (shape**exponent).mean() > 0.5 else (low, exponent)
    return 0.5 + shape**exponent


def place_tiles(settings: PhantomSettings, rng: np.random.Generator) -> list[PlacedTile]:
    """Nominal and true places of the scanned tiles.

    The last tile of the scan is empty. Among the others stage errors come in opposite pairs, so that
    their mean is zero: a stitching is free to shift as a whole, and this fixes which shift is the true one.
    """
    numbers = [n for n in range(settings.rows * settings.columns) if n not in settings.unscanned]
    spacing = np.asarray(settings.spacing)
    half = (len(numbers) - 1) // 2
    errors = rng.uniform(-settings.jitter, settings.jitter, (half, 3))
    lone = np.zeros(((len(numbers) - 1) % 2, 3))
    errors = rng.permutation(np.concatenate([errors, -errors, lone]))
    errors = np.concatenate([errors, rng.uniform(-settings.jitter, settings.jitter, (1, 3))])
    tiles = []
    for number, error in zip(numbers, errors, strict=True):
        row, column = divmod(number, settings.columns)
        stage = np.array([0, row * settings.step, column * settings.step]) * spacing
        tiles.append(PlacedTile(number, row, column, stage, stage + error * spacing))
    return tiles


def acquire(
    folder: Path,
    settings: PhantomSettings,
    anatomy: Anatomy,
    deformation: Deformation,
    contrast: Contrast,
    cells: Cells,
    optics: Optics,
    tiles: list[PlacedTile],
    seed: int,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Write every plane of every tile and channel below ``folder``, one plane in memory per thread.

    Returns
    -------
    list of float
        Share of tissue in each tile.
    """
    for tile in tiles:
        (folder / FOLDER / tile.name).mkdir(parents=True)
    _write_metadata(folder, settings, tiles)
    tifffile.imwrite(folder / "dark.tif", optics.dark, metadata=None)
    spacing = np.asarray(settings.spacing)

    def plane(job: tuple[PlacedTile, int]) -> float:
        tile, z = job
        signal = np.empty((2, settings.pixels, settings.pixels), np.float32)
        regions = np.empty(signal.shape[1:], np.int32)
        sample_plane(anatomy, deformation, contrast, tile.position, spacing, z, signal, regions)
        add_cells(cells.sample, cells.brightness, cells.sigma, tile.position, spacing, z, signal[1])
        for c, channel in enumerate(CHANNELS):
            rng = np.random.default_rng([seed, tile.number, c, z])
            light = optics.gain[c] * (BRIGHTNESS * signal[c] + BACKGROUND)
            counts = COUNTS_PER_PHOTON * rng.poisson(light / COUNTS_PER_PHOTON) + optics.dark
            counts += READ_NOISE * rng.standard_normal(counts.shape, dtype=np.float32)
            image = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
            name = f"phantom_{channel}_PLN{z:04d}.tif"
            tifffile.imwrite(folder / FOLDER / tile.name / name, image, metadata=None)
        return float((regions >= 0).mean())

    jobs = [(tile, z) for tile in tiles for z in range(settings.planes)]
    shares = np.zeros(len(jobs))
    for k, share in enumerate(_in_order(plane, jobs, threads)):
        shares[k] = share
        if progress:
            progress(k + 1, len(jobs))
    return [float(part) for part in shares.reshape(len(tiles), -1).mean(axis=1)]


def _in_order(work: Callable, jobs: list, threads: int) -> Iterator:
    if threads < 2:
        yield from map(work, jobs)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, jobs)


def _write_metadata(folder: Path, settings: PhantomSettings, tiles: list[PlacedTile]) -> None:
    # rounded down: a reader that truncates pixels * (1 - overlap) must not lose a whole pixel
    overlap = int(1e8 * (settings.pixels - settings.step) / settings.pixels) / 1e6
    (folder / "Experiment.ini").write_text(
        "[Experiment Settings]\n"
        f'Num in stack (Top Left Corner) = "{settings.planes}"\n'
        f'X Resolution = "{settings.pixels}"\n'
        f'Y Resolution = "{settings.pixels}"\n'
        f'Num Enabled Channels = "{len(CHANNELS)}"\n'
        "[North Scan Region]\n"
        f'Num Horizontal = "{settings.columns}"\n'
        f'Num Vertical = "{settings.rows}"\n'
        f'Stack Step (mm) = "{settings.z_step / 1000:g}"\n'
        "[North Scan Region Stats]\n"
        f'Actual Horizontal Overlap (%) = "{overlap:.6f}"\n'
        f'Actual Vertical Overlap (%) = "{overlap:.6f}"\n'
        "[Objectives]\n"
        f'North = "{settings.magnification:2d}x"\n'
    )
    scanned = {tile.number for tile in tiles}
    rows = (
        ",".join(str(int(row * settings.columns + column in scanned)) for column in range(settings.columns))
        for row in range(settings.rows)
    )
    (folder / "Scanned Cells.txt").write_text("\n".join(rows) + "\n")
