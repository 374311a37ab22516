"""A small project in a folder, runs of Snakemake on it, and what is compared afterwards."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import tifffile
import yaml
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[1]
TILE = (24, 64, 64)
OVERLAP = 16  # pixels: 25 %
PIXEL = 2048 / 64 * 1.46  # um, as a frame of 64 pixels behind the 4x objective
SIDE = 48  # voxels of the imported volumes

CONFIG: dict[str, Any] = {
    "images": "images.tsv",
    "registrations": "registrations.tsv",
    "batches": {"measure_links": 2, "fuse_tiles": 2, "register_blocks": 2, "warp_image": 1},
    "store": {"chunk": [16, 16, 16], "shard": [16, 64, 64]},
    "illumination": {"method": "mean", "planes": 16},
    "links": {"search": [3, 6, 6]},
    "pyramid": {"smallest": 32},
    "affine": {"spacing": 30, "policy": "warn"},
    "stages": [
        {"name": "coarse", "level": 20, "overlap": 4},
        {"name": "fine", "level": 10, "block": 24, "overlap": 8},
    ],
    "export_transforms": False,
}
IMAGES = """image\tsource\tformat\torientation\tspacing\tlabels
sample\tdata/sample\tcolm\tpil\t\tno
fixed\tdata/fixed.nrrd\tauto\tpil\t10,10,10\tno
moving\tdata/moving.nrrd\tauto\tpil\t10,10,10\tno
regions\tdata/regions.nrrd\tauto\tpil\t10,10,10\tyes
"""
REGISTRATIONS = "registration\tfixed\tmoving\tlabels\npair\tfixed\tmoving\tregions\n"

# Snakemake's and Python's own files, costs, exports, and how things were made: not what was made.
_ASIDE = re.compile(
    r"(^|/)(logs|benchmarks|\.locks)/|\.provenance\.json$|\.cost\.json$|/costs\.tsv$|\.(h5|png|html|parquet|xml)$"
)

# Holds a process just before it takes a file's name, or opens it for writing, so that a test can kill it there;
# and lists every name that was taken, so that what was made can be counted.
_HOOK = """
import os, re, sys, threading, time
folder = os.environ.get("WATCH_FOLDER")
pattern = re.compile(os.environ.get("WATCH_PATTERN") or "(?!)")
after = int(os.environ.get("WATCH_AFTER", "0"))
seen = 0

def watch(event, args):
    global seen
    if event == "os.rename":
        path = os.fspath(args[1])
        with os.fdopen(os.open(folder + "/names", os.O_WRONLY | os.O_APPEND | os.O_CREAT), "w") as names:
            names.write(f"{path}\\n")
    elif event == "open" and isinstance(args[0], str) and isinstance(args[2], int) and args[2] & os.O_CREAT:
        path = args[0]
    else:
        return
    if not pattern.search(path):
        return
    seen += 1
    if seen <= after:
        return
    try:
        os.unlink(folder + "/armed")
    except OSError:
        return
    open(folder + "/reached", "w").close()
    while not os.path.exists(folder + "/go"):
        time.sleep(0.02)

if folder:
    sys.addaudithook(watch)
"""


class Watch:
    """Watches the processes of a run from inside.

    Parameters
    ----------
    folder
        For its notes; made anew.
    pattern
        Regular expression of the path before whose taking a process is held (empty: none is).
    after
        How many such paths a process lets pass first.
    """

    def __init__(self, folder: Path, pattern: str = "", after: int = 0) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "sitecustomize.py").write_text(_HOOK)
        self.folder = folder
        if pattern:
            (folder / "armed").touch()
        self.environment = {
            "WATCH_FOLDER": str(folder),
            "WATCH_PATTERN": pattern,
            "WATCH_AFTER": str(after),
        }

    def wait(self, run: subprocess.Popen) -> None:
        """Wait until a process is held."""
        while not (self.folder / "reached").exists():
            if run.poll() is not None:
                raise AssertionError(f"the run ended before it was held:\n{run.stdout.read()}")  # type: ignore[union-attr]
            time.sleep(0.02)

    def release(self) -> None:
        """Let the held process go on."""
        (self.folder / "go").touch()

    def taken(self, pattern: str) -> list[str]:
        """Names taken so far that match, in order."""
        path = self.folder / "names"
        names = path.read_text().splitlines() if path.exists() else []
        return [name for name in names if re.search(pattern, name)]


class Project:
    """A project's folder: settings, tables, raw data, results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results"

    def copy(self, folder: Path) -> Project:
        """The project as it stands, times of files included."""
        subprocess.run(["cp", "-a", str(self.folder), str(folder)], check=True)
        return Project(folder)

    def set(self, **settings: Any) -> None:
        """Change settings; a dict is merged into what is there."""
        path = self.folder / "my.yaml"
        config = yaml.safe_load(path.read_text())
        for name, value in settings.items():
            config[name] = {**config.get(name, {}), **value} if isinstance(value, dict) else value
        path.write_text(yaml.safe_dump(config))

    def start(self, *targets: str, cores: int = 2, watch: Watch | None = None) -> subprocess.Popen:
        """Start Snakemake in a process group of its own."""
        environment = {**os.environ, "PYTHONPATH": "", **(watch.environment if watch else {})}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        if watch:
            environment["PYTHONPATH"] = str(watch.folder)
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), *targets]
        command += ["--cores", str(cores), "--workflow-profile", str(ROOT / "profiles" / "default")]
        return subprocess.Popen(
            [*command, "--configfile", "my.yaml"],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *targets: str, cores: int = 2, watch: Watch | None = None) -> str:
        """Run Snakemake to its good end; give what it said."""
        code, said = self.try_run(*targets, cores=cores, watch=watch)
        assert code == 0, said
        return said

    def try_run(self, *targets: str, cores: int = 2, watch: Watch | None = None) -> tuple[int, str]:
        """Run Snakemake; give its exit status and what it said."""
        run = self.start(*targets, cores=cores, watch=watch)
        said = run.communicate()[0]
        return run.returncode, said

    def weft(self, *arguments: str) -> tuple[int, str]:
        """Run ``python -m weft``; give its exit status and what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "weft", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def unlock(self) -> None:
        """What a user does after a killed run."""
        self.run("--unlock")

    def digests(self) -> dict[str, str]:
        """Digest of every file that says what was made, by its path below the results."""
        return tree_digests(self.results, skip=_ASIDE)

    def raw(self) -> dict[str, str]:
        """Digest of every raw file."""
        return tree_digests(self.folder / "data")


def kill(run: subprocess.Popen, *, group: bool = True) -> None:
    """``kill -9`` of a run: of its whole process group, or of the main process alone."""
    if group:
        os.killpg(run.pid, signal.SIGKILL)
    else:
        os.kill(run.pid, signal.SIGKILL)
    run.wait()


def tree_digests(folder: Path, skip: re.Pattern | None = None) -> dict[str, str]:
    """SHA-256 of every file below a folder by its relative path."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    kept = [name for name in names if not (skip and skip.search(name))]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in kept}


def jobs(said: str) -> dict[str, int]:
    """How many jobs of each rule a run of Snakemake started."""
    counts: dict[str, int] = {}
    for rule in re.findall(r"^(?:local)?rule (\w+):$", said, re.MULTILINE):
        counts[rule] = counts.get(rule, 0) + 1
    return counts


def make_project(folder: Path, **settings: Any) -> Project:
    """Write a project: 2 x 2 COLM tiles in 2 channels, two volumes to register, and labels."""
    data = folder / "data"
    data.mkdir(parents=True)
    _write_tiles(data / "sample")
    _write_volumes(data)
    (folder / "images.tsv").write_text(IMAGES)
    (folder / "registrations.tsv").write_text(REGISTRATIONS)
    (folder / "my.yaml").write_text(yaml.safe_dump(CONFIG))
    project = Project(folder)
    project.set(**settings)
    return project


def texture(shape: Iterable[int], seed: int) -> np.ndarray:
    """Blobs of several sizes, float (z, y, x), from 0 to 1."""
    random = np.random.default_rng(seed)
    shape = tuple(shape)
    values = sum(ndimage.gaussian_filter(random.standard_normal(shape), s) * s**1.5 for s in (1.5, 3, 6))
    values = values - values.min()  # type: ignore[operator]
    return values / values.max()


def _write_tiles(folder: Path) -> None:
    planes, height, width = TILE
    step = height - OVERLAP
    random = np.random.default_rng(1)
    scene = [texture((planes + 4, height + step + 8, width + step + 8), seed) for seed in (2, 3)]
    y, x = np.mgrid[:height, :width] / height - 0.5
    gain = 1.2 - 0.8 * (y**2 + x**2)
    for number in range(4):
        row, column = divmod(number, 2)
        jitter = random.integers(-2, 3, 3)
        z0, y0, x0 = np.array([2, 4 + row * step, 4 + column * step]) + jitter
        place = folder / "VW0" / f"LOC{number:03}"
        place.mkdir(parents=True)
        for channel in (0, 1):
            light = scene[channel][z0 : z0 + planes, y0 : y0 + height, x0 : x0 + width]
            stack = np.rint(100 + 4000 * light * gain).astype(np.uint16)
            for z in range(planes):
                name = f"tile_CHN0{channel}_PLN{z:04}.tif"
                tifffile.imwrite(place / name, stack[z], metadata=None)
    percent = 100 * OVERLAP / height
    (folder / "Experiment.ini").write_text(
        f"""[Experiment Settings]
Num in stack (Top Left Corner) = "{planes}"
X Resolution = "{width}"
Y Resolution = "{height}"
Num Enabled Channels = "2"
[North Scan Region]
Num Horizontal = "2"
Num Vertical = "2"
Stack Step (mm) = "{PIXEL / 1000:g}"
[North Scan Region Stats]
Actual Horizontal Overlap (%) = "{percent:g}"
Actual Vertical Overlap (%) = "{percent:g}"
[Objectives]
North = "4x"
"""
    )
    (folder / "Scanned Cells.txt").write_text("1,1\n1,1\n")


def _write_volumes(folder: Path) -> None:
    """A volume, the same one displaced smoothly, and regions of the first."""
    grid = np.indices((SIDE,) * 3).astype(float)
    centre = (SIDE - 1) / 2
    radius = np.sqrt((((grid - centre) / (0.42 * SIDE)) ** 2).sum(0))
    body = 1 / (1 + np.exp(12 * (radius - 1)))
    fixed = body * (0.3 + 0.7 * texture((SIDE,) * 3, 4))
    wave = [1.5 * np.sin(2 * np.pi * (grid[n] / SIDE + n / 3)) for n in (1, 2, 0)]
    moving = ndimage.map_coordinates(
        fixed, [axis + u + 1 for axis, u in zip(grid, wave, strict=True)], order=1
    )
    octant = (grid > centre).astype(np.uint32)
    regions = np.where(radius < 1, 1 + octant[0] + 2 * octant[1] + 4 * octant[2], 0).astype(np.uint32)
    for name, voxels in (("fixed", fixed), ("moving", moving)):
        _write_nrrd(folder / f"{name}.nrrd", np.rint(20000 * voxels).astype(np.uint16))
    _write_nrrd(folder / "regions.nrrd", regions)


def _write_nrrd(path: Path, voxels: np.ndarray) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
