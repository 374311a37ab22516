"""The block table: what became of every block of a stage."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# What can become of a block. `unchanged`: the stage before cannot be improved upon. `skipped`: the stage's `only`
# names others. `timeout` and `error` depend on the machine and are never kept as results.
STATUSES = (
    "ok",
    "unchanged",
    "skipped",
    "empty",
    "outside_moving",
    "no_overlap",
    "low_information",
    "diverged",
    "folded",
    "metric_worse",
    "disagrees",
    "timeout",
    "error",
)
MACHINE_DEPENDENT = ("timeout", "error")
FAILED = ("diverged", "folded", "metric_worse", "disagrees", "timeout", "error")
NOT_TRIED = ("empty", "skipped")
COLUMNS = (
    "block",
    "status",
    "used",
    "metric_before",
    "metric_after",
    "largest_displacement_um",
    "smallest_jacobian",
    "disagreement_um",
    "iterations",
    "seed",
    "tries",
)
# Seconds of all tries: of the job's own thread (`cpu_seconds`), and by the clock. An engine that runs in a process of
# its own shows in the latter only.
COST_COLUMNS = ("block", "cpu_seconds", "seconds", "peak_memory_mb")


def write_ledger(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the block table (TSV), one row per block in the order given; the same records give the same bytes."""
    _write(path, COLUMNS, records)


def write_costs(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write what each block cost; no rule reads it."""
    _write(path, COST_COLUMNS, records)


def read_ledger(path: str | Path) -> list[dict[str, str]]:
    """Rows of a block table."""
    with Path(path).open(newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def _write(path: str | Path, columns: tuple[str, ...], records: Iterable[Mapping[str, Any]]) -> None:
    with Path(path).open("w", newline="") as handle:
        table = csv.writer(handle, delimiter="\t", lineterminator="\n")
        table.writerow(columns)
        for record in records:
            table.writerow([_text(record[column]) for column in columns])


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
