"""The chain end to end on the phantom: what each rule costs, and what Snakemake itself does."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import report
from weft.phantom.settings import phantom_settings

ROOT = Path(__file__).resolve().parents[1]
CORES = 2
FIRST_RUN_SECONDS = 300  # what `make demo` may take on CORES cores, kernels not yet compiled
EMPTY_JOBS = 20
PHANTOM_RULES = ("make_phantom", "judge_phantom")
# The demo's settings suit every size but this one, whose atlas has voxels of 100 um and few of them.
SETTINGS: dict[str, dict[str, Any]] = {
    "tiny": {
        "stages": [
            {"name": "coarse", "level": 200},
            {"name": "fine", "level": 100, "block": 32, "overlap": 8},
        ],
        "links": {"search": [8, 8, 8]},
    }
}
QUANTITIES = {
    "jobs": "jobs",
    "seconds": "s",
    "cpu_seconds": "CPU-s",
    "peak_memory": "B",
    "bytes_read": "B",
    "bytes_written": "B",
}
SCRIPT = re.compile(r"/\.snakemake/scripts/tmp\w+\.(\w+)\.py$")


@dataclass(frozen=True)
class Process:
    """A Python process of a run, as ``meter/sitecustomize.py`` recorded it."""

    rule: str | None
    started: float
    ready: dict[str, float]
    ended: dict[str, float]
    own_peak: int
    children_peak: int

    @property
    def seconds(self) -> float:
        """Wall time from its start to its end."""
        return self.ended["clock"] - self.started

    @property
    def cpu_seconds(self) -> float:
        """CPU of the process and its children."""
        return self.ended["own_cpu"] + self.ended["children_cpu"]

    @property
    def peak_memory(self) -> int:
        """Largest resident set, bytes, of the process or any child."""
        return max(self.own_peak, self.children_peak)

    @property
    def startup_cpu_seconds(self) -> float:
        """CPU of interpreter and imports."""
        return self.ready["own_cpu"] + self.ready["children_cpu"]

    def moved(self, name: str) -> float:
        """Bytes read or written after the start-up."""
        return self.ended[name] - self.ready[name]


@dataclass(frozen=True)
class Run:
    """One call of Snakemake: its main process and its jobs' scripts."""

    main: Process
    jobs: list[Process]

    @property
    def without_job(self) -> float:
        """Seconds of the run in which no script ran."""
        busy, reached = 0.0, 0.0
        for job in sorted(self.jobs, key=lambda job: job.started):
            busy += max(0.0, job.ended["clock"] - max(job.started, reached))
            reached = max(reached, job.ended["clock"])
        return self.main.seconds - busy


def main() -> None:
    """Measure, write and print."""
    given = report.options(
        __doc__.splitlines()[0],
        sizes=["tiny", "demo"],
        quick=["tiny"],
        size=size_of,
        explain="a size of the phantom (tiny, demo, large), with a factor on its voxels per axis if wanted (demo:1.5)",
    )
    print(f"chain on {CORES} cores ({report.load()})\n", flush=True)
    rows: list[report.Row] = []
    with tempfile.TemporaryDirectory(prefix="chain-") as folder:
        for size in given.sizes:
            part = measure_size(size, given.seeds, Path(folder))
            show_size(size, part)
            rows += part
        control = measure_empty_jobs(Path(folder) / "empty")
        report.show(control)
    report.write(rows + control, given.json)


def size_of(text: str) -> str:
    """A size from the command line, if it is one."""
    name, _, scale = text.partition(":")
    try:
        phantom_settings({"size": name, "scale": float(scale or 1)})
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: {error}") from None
    return text


def measure_size(size: str, seeds: list[int], folder: Path) -> list[report.Row]:
    """Run the chain once with kernels to be compiled, then once per seed, and once more with nothing to do."""
    folder = folder / size.replace(":", "-")
    folder.mkdir()
    kernels = folder / "kernels"
    first = run_chain(prepare(folder / "first", size, seeds[0]), kernels)
    shutil.rmtree(folder / "first")
    measured: list[dict[str, tuple[float, str]]] = []
    for seed in seeds:
        place = prepare(folder / f"seed-{seed}", size, seed)
        run = run_chain(place, kernels)
        again = run_chain(place, kernels)
        raw = sum(path.stat().st_size for path in (place / "results/phantom/sample").rglob("*.tif*"))
        measured.append(rule_numbers(run) | total_numbers(run, raw) | snakemake_numbers(run, again))
        shutil.rmtree(place)
    limit = FIRST_RUN_SECONDS if size == "demo" else None
    rows = [report.row(f"chain.{size}.first_run_seconds", [first.main.seconds], "s", at_most=limit)]
    for name, (_, unit) in measured[0].items():
        bar = {"total.seconds": limit, "second_run.jobs": 0}.get(name)
        values = [numbers[name][0] for numbers in measured]
        rows.append(report.row(f"chain.{size}.{name}", values, unit, at_most=bar))
    return rows


def rule_numbers(run: Run) -> dict[str, tuple[float, str]]:
    """Per rule, by name: sums over its jobs, and the largest of their peaks."""
    numbers = {}
    for rule in sorted({job.rule for job in run.jobs if job.rule}):
        values = sums([job for job in run.jobs if job.rule == rule])
        numbers |= {f"{rule}.{name}": (values[name], unit) for name, unit in QUANTITIES.items()}
    return numbers


def total_numbers(run: Run, raw: int) -> dict[str, tuple[float, str]]:
    """The whole run, and what the chain proper moves per byte of raw tiles."""
    values = sums(run.jobs)
    values |= {"seconds": run.main.seconds, "cpu_seconds": run.main.cpu_seconds}
    chain = sums([job for job in run.jobs if job.rule not in PHANTOM_RULES])
    return {f"total.{name}": (values[name], unit) for name, unit in QUANTITIES.items()} | {
        "total.raw_bytes": (raw, "B"),
        "total.read_per_raw_byte": (chain["bytes_read"] / raw, "ratio"),
        "total.written_per_raw_byte": (chain["bytes_written"] / raw, "ratio"),
        "total.startup_cpu_seconds": (sum(job.startup_cpu_seconds for job in run.jobs), "CPU-s"),
    }


def snakemake_numbers(run: Run, again: Run) -> dict[str, tuple[float, str]]:
    """What Snakemake itself takes; README.md says what each number is."""
    own = run.main.ended["own_cpu"]
    jobs = sum(job.seconds for job in run.jobs)
    return {
        "snakemake.cpu_seconds": (own, "CPU-s"),
        "snakemake.cpu_share": (own / run.main.cpu_seconds, "ratio"),
        "snakemake.plan_seconds": (min(job.started for job in run.jobs) - run.main.started, "s"),
        "snakemake.without_job_seconds": (run.without_job, "s"),
        "snakemake.free_core_seconds": (run.main.seconds * CORES - jobs, "core-s"),
        "snakemake.peak_memory": (run.main.own_peak, "B"),
        "second_run.seconds": (again.main.seconds, "s"),
        "second_run.jobs": (len(again.jobs), "jobs"),
    }


def sums(jobs: list[Process]) -> dict[str, float]:
    """The quantities of several jobs together."""
    return {
        "jobs": len(jobs),
        "seconds": sum(job.seconds for job in jobs),
        "cpu_seconds": sum(job.cpu_seconds for job in jobs),
        "peak_memory": max(job.peak_memory for job in jobs),
        "bytes_read": sum(job.moved("bytes_read") for job in jobs),
        "bytes_written": sum(job.moved("bytes_written") for job in jobs),
    }


def measure_empty_jobs(folder: Path) -> list[report.Row]:
    """The control: jobs whose script does nothing, one after another."""
    folder.mkdir()
    (folder / "empty.py").write_text(
        "open(snakemake.log[0], 'w').close()\nopen(snakemake.output[0], 'w').close()\n"
    )
    (folder / "Snakefile").write_text(
        f"rule all:\n    input: expand('{{n}}.done', n=range({EMPTY_JOBS}))\n    localrule: True\n"
        "rule empty:\n    output: '{n}.done'\n    log: '{n}.log'\n    script: 'empty.py'\n"
    )
    run = run_snakemake(folder, ["--snakefile", "Snakefile", "--cores", "1"])
    first = min(job.started for job in run.jobs)
    last = max(job.ended["clock"] for job in run.jobs)
    return [
        report.row("chain.empty_job.seconds", [(last - first) / len(run.jobs)], "s"),
        report.row("chain.empty_job.script_seconds", [job.seconds for job in run.jobs], "s"),
        report.row("chain.empty_job.script_cpu_seconds", [job.cpu_seconds for job in run.jobs], "CPU-s"),
    ]


def prepare(folder: Path, size: str, seed: int) -> Path:
    """A folder with the demo's settings for a phantom of this size and seed."""
    name, _, scale = size.partition(":")
    folder.mkdir()
    settings = yaml.safe_load((ROOT / "config/demo.yaml").read_text().replace("results/demo", "results"))
    settings |= {
        "phantom": {"size": name, "seed": seed, "scale": float(scale or 1)},
        **SETTINGS.get(name, {}),
    }
    for table in ("images", "registrations"):
        text = (ROOT / settings[table]).read_text()
        (folder / f"{table}.tsv").write_text(text.replace("results/demo/", "results/"))
        settings[table] = f"{table}.tsv"
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def run_chain(folder: Path, kernels: Path) -> Run:
    """Run the workflow in a prepared folder; compiled kernels are kept in ``kernels``."""
    arguments = ["--snakefile", str(ROOT / "Snakefile"), "--workflow-profile", str(ROOT / "profiles/local")]
    arguments += ["--configfile", "config.yaml", "--cores", str(CORES)]
    return run_snakemake(folder, arguments, NUMBA_CACHE_DIR=str(kernels))


def run_snakemake(folder: Path, arguments: list[str], **environment: str) -> Run:
    """Run Snakemake in a folder and gather what its processes recorded.

    Raises
    ------
    RuntimeError
        When it fails; with the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="meter-", dir=folder.parent) as records:
        path = os.pathsep.join(
            [str(ROOT / "benchmarks/meter"), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        environment |= {"PYTHONPATH": path, "METER_FOLDER": records}
        environment |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        with subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=folder, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            said = process.communicate()[0]
        if process.returncode:
            raise RuntimeError(f"snakemake failed in a run of the benchmark:\n{said[-3000:]}")
        found = {int(path.stem): json.loads(path.read_text()) for path in Path(records).glob("*.json")}
    processes = {number: _process(record) for number, record in found.items()}
    return Run(processes[process.pid], [p for p in processes.values() if p.rule])


def _process(record: dict[str, Any]) -> Process:
    script = SCRIPT.search(record["program"])
    return Process(
        rule=script[1] if script else None,
        started=record["started"],
        ready=record["ready"] or record["ended"],
        ended=record["ended"],
        own_peak=record["own_peak"],
        children_peak=record["children_peak"],
    )


def show_size(size: str, rows: list[report.Row]) -> None:
    """Print one line per rule, the total at the end, and below it what is not of a rule."""
    cells: dict[str, dict[str, report.Row]] = {}
    rest = []
    for r in rows:
        part, _, quantity = r.name.removeprefix(f"chain.{size}.").rpartition(".")
        if quantity in QUANTITIES and part not in ("snakemake", "second_run"):
            cells.setdefault(part, {})[quantity] = r
        if part in ("", "snakemake", "second_run") or quantity not in QUANTITIES or r.bar:
            rest.append(r)
    head = [f"chain.{size}", "jobs", "seconds", "CPU-s", "peak MB", "read MB", "written MB"]
    lines = [
        [part, *(report.readable(found[name])[0] for name in QUANTITIES)] for part, found in cells.items()
    ]
    report.show_table(head, lines, "<" + ">" * len(QUANTITIES))
    report.show(rest)


if __name__ == "__main__":
    main()
