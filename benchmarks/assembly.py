"""Assembly: illumination, links and poses, and fusion, on tiles whose truth is known and on real ones."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import fusion_cases
import illumination_cases
import illumination_real
import link_cases
import report

SEEDS = (101, 202, 303, 404, 505)  # settings were chosen on seeds 0 and 1
SIZES = (16, 64)
CASES = illumination_cases.CASES | illumination_real.CASES | link_cases.CASES | fusion_cases.CASES


def main() -> None:
    """Measure, write and print."""
    given = report.options(
        __doc__.splitlines()[0],
        sizes=SIZES,
        quick=[16],
        size=tiles_of,
        explain="tiles of a scan",
        seeds=SEEDS,
        more=add_options,
    )
    print(f"assembly ({report.load()})\n", flush=True)
    report.measure([partial(CASES[name], given) for name in given.cases], given.json)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark alone."""
    report.add_cases(parser, list(CASES))
    parser.add_argument(
        "--mvs-python",
        "--peer-python",
        metavar="PYTHON",
        help="interpreter that has multiview-stitcher, to measure beside; left out without it",
    )
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="the real data sets; without it their cases are left out"
    )


def tiles_of(text: str) -> int:
    """A number of tiles, from the command line."""
    if not text.isdecimal() or int(text) < 4:
        raise argparse.ArgumentTypeError(f"wanted a number of tiles, at least 4; found {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
