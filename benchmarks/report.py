"""What all benchmarks share: their options, rows of results, and how these are written and shown."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)
# The library need not be installed: a benchmark that imports this module finds it beside its own folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@dataclass(frozen=True)
class Row:
    """One measured number.

    Parameters
    ----------
    name
        Dotted, from the general to the particular: benchmark, size, part, quantity.
    value, unit
        What was measured.
    bar
        ``"<= 300"`` or ``">= 1"``; None for a number that is only reported.
    holds
        Whether the value meets the bar; None without one.
    """

    name: str
    value: float
    unit: str
    bar: str | None = None
    holds: bool | None = None


def row(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Row:
    """The row of a number measured once per seed: its median, held against at most one bar."""
    value = _round(statistics.median(values))
    if at_most is not None:
        return Row(name, value, unit, f"<= {at_most:g}", value <= at_most)
    if at_least is not None:
        return Row(name, value, unit, f">= {at_least:g}", value >= at_least)
    return Row(name, value, unit)


def options(
    description: str,
    *,
    sizes: Sequence[Any],
    quick: Sequence[Any],
    size: Callable[[str], Any],
    explain: str,
    seeds: Sequence[int] = SEEDS,
    more: Callable[[argparse.ArgumentParser], None] | None = None,
) -> argparse.Namespace:
    """The options that every benchmark takes.

    Parameters
    ----------
    description
        First line of the help.
    sizes, quick
        Sizes measured by default, and with ``--quick`` (one seed).
    size
        Reads a size from the command line; raises argparse.ArgumentTypeError for what is none.
    explain
        What a size is.
    seeds
        Used by default; the first alone with ``--quick``.
    more
        Adds options of the benchmark's own.

    Returns
    -------
    Namespace with ``sizes`` (list), ``seeds`` (list of int), ``quick`` (bool), ``json`` (Path or None) and those
    of ``more``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--sizes", nargs="+", type=size, metavar="SIZE", help=f"{explain} (default: {_words(sizes)})"
    )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help=f"default: {_words(seeds)}")
    parser.add_argument("--quick", action="store_true", help=f"size {_words(quick)} and one seed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to FILE")
    if more:
        more(parser)
    given = parser.parse_args()
    given.sizes = given.sizes or list(quick if given.quick else sizes)
    given.seeds = given.seeds or list(seeds[:1] if given.quick else seeds)
    return given


def add_cases(parser: argparse.ArgumentParser, cases: Sequence[str]) -> None:
    """Add the option ``--cases`` of a benchmark that has several: all of them by default."""
    parser.add_argument(
        "--cases", nargs="+", choices=cases, metavar="CASE", default=cases, help=f"default: {' '.join(cases)}"
    )


def measure(cases: Sequence[Callable[[], list[Row]]], path: Path | None) -> None:
    """Run cases one after the other; each is shown, and what there is so far written, as soon as it ends."""
    rows: list[Row] = []
    for case in cases:
        part = case()
        show(part)
        rows += part
        write(rows, path)


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds, user and system, that a call takes in this process and in children that end within it."""
    before = os.times()
    work()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


def write(rows: Sequence[Row], path: Path | None) -> None:
    """Write the rows, in their order, as a JSON list; nothing without a path."""
    if path:
        path.write_text(json.dumps([dataclasses.asdict(r) for r in rows], indent=1) + "\n")


def show(rows: Sequence[Row]) -> None:
    """Print rows: name, value, unit, and the bar where there is one."""
    verdict = {True: "holds", False: "MISSED", None: ""}
    table = [[r.name, *readable(r), f"{r.bar or ''}", verdict[r.holds]] for r in rows]
    show_table(["name", "value", "unit", "bar", ""], table, "<><<<")


def readable(row: Row) -> tuple[str, str]:
    """Value and unit as a person reads them: megabytes for bytes."""
    if row.unit == "B":
        return f"{row.value / 1e6:,.1f}", "MB"
    return f"{row.value:,.4g}" if abs(row.value) < 1e4 else f"{row.value:,.0f}", row.unit


def show_table(head: Sequence[str], lines: Sequence[Sequence[str]], align: str) -> None:
    """Print a table; ``align`` holds < or > per column."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *lines, strict=True)]
    for line in (head, *lines):
        cells = (f"{cell:{a}{w}}" for cell, a, w in zip(line, align, widths, strict=True))
        print("  ".join(cells).rstrip())
    print()


def load() -> str:
    """How busy the machine is, in words."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def _words(values: Sequence[Any]) -> str:
    return " ".join(map(str, values))


def _round(value: float) -> float:
    """Four significant digits; whole numbers stay whole."""
    if value == 0 or float(value).is_integer():
        return int(value)
    return round(value, 3 - math.floor(math.log10(abs(value))))
