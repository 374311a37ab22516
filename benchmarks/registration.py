"""Registration: error, cost and plausibility of weft's engine on synthetic and real pairs, with peers beside it."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import known_truth
import peers
import random_pairs
import real_pairs
import report
import weak_scaling
from trials import Trials

SEEDS = (101, 202, 303)  # settings were chosen on seeds 0 and 1
SIZES = (128, 256, 384)
CASES = known_truth.CASES | random_pairs.CASES | weak_scaling.CASES | real_pairs.CASES


def main() -> None:
    """Measure, write and print."""
    given = report.options(
        __doc__.splitlines()[0],
        sizes=SIZES,
        quick=[64],
        size=edge_of,
        explain="edge of the synthetic volumes, voxels",
        seeds=SEEDS,
        more=add_options,
    )
    print(f"registration ({report.load()})\n", flush=True)
    trials = Trials(given.out / "results", given.peers, given.ants_python)
    report.measure([partial(CASES[name], given, trials) for name in given.cases], given.json)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark alone."""
    programs = list(peers.PACKAGES)
    report.add_cases(parser, list(CASES))
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=programs,
        metavar="PEER",
        default=programs,
        help=f"measured beside weft where they are installed (default: {' '.join(programs)})",
    )
    parser.add_argument(
        "--ants-python", metavar="PATH", help="a Python interpreter whose environment holds antspyx"
    )
    parser.add_argument(
        "--repeats", type=int, default=1, metavar="N", help="measure weft's CPU so often (default: 1)"
    )
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="the real data sets; without it their cases are left out"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("registration-trials"),
        metavar="FOLDER",
        help="keeps pairs and results: a run that was cut goes on from there (default: %(default)s)",
    )


def edge_of(text: str) -> int:
    """The edge of a volume, from the command line."""
    if not text.isdecimal() or int(text) < 32 or int(text) % 16:
        raise argparse.ArgumentTypeError(f"wanted a multiple of 16 voxels, at least 32; found {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
