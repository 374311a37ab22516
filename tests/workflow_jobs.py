"""The jobs that Snakemake plans for a project, and their scripts run one by one in this process."""

from __future__ import annotations

import contextlib
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings

ROOT = Path(__file__).resolve().parents[1]


def plan_jobs(folder: Path, config: str = "my.yaml", *, again: bool = False) -> list[Any]:
    """Snakemake's jobs for a project in ``folder``, in an order in which they can run; ``again`` plans those done too."""
    with contextlib.chdir(folder), SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(configfiles=[Path(config)]),
            snakefile=ROOT / "Snakefile",
        )
        workflow.dag(DAGSettings(forceall=again)).execute_workflow(executor="dryrun")
        dag = workflow._workflow.dag
        order = [job for level in dag.toposorted() for job in sorted(level, key=str)]
        return [job for job in order if job.rule.script]


def run_script(folder: Path, job: Any, **changes: Any) -> None:
    """Run the script of a job in ``folder`` as Snakemake does, with what scripts may read and nothing else.

    ``changes`` replace params.
    """
    with contextlib.chdir(folder):
        if "<TBD>" in map(str, job.resources):
            job._resources = None  # known only now: Snakemake asks again before it starts a job
        resources = job.resources
    params = job.params._clone()
    for name, value in changes.items():
        assert name in params.keys()  # noqa: SIM118 (a list of values that also has names)
        setattr(params, name, value)
    given = SimpleNamespace(
        input=job.input._plainstrings(),
        output=job.output._plainstrings(),
        params=params,
        wildcards=job.wildcards,
        threads=job.threads,
        resources=resources,
        log=job.log._plainstrings(),
    )
    with contextlib.chdir(folder):
        for path in (*given.output, *given.log):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        runpy.run_path(str(ROOT / "scripts" / Path(job.rule.script).name), {"snakemake": given})


def run_jobs(folder: Path, jobs: list[Any]) -> Iterator[Any]:
    """Run the scripts of jobs in order; give each job when it is done."""
    for job in jobs:
        run_script(folder, job)
        yield job
