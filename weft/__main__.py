"""What is not a rule: ``python -m weft verify | clean | accuracy | overrides | docs | warm``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

MEND = "snakemake --workflow-profile profiles/local --configfile my.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; give its exit status: 0 all is well, 1 something is not, 2 it could not be done."""
    parser = argparse.ArgumentParser(prog="python -m weft", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser(
        "verify", help="compare every store with its digests; free what differs, so that a rerun mends it"
    )
    clean = commands.add_parser(
        "clean", help="remove partial stores and results that nobody refers to any more"
    )
    for command in (verify, clean):
        command.add_argument("--results", type=Path, default=Path("results"), help="folder of the results")
        command.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    verify.add_argument("--threads", type=int, default=4, help="shards that are read at once")
    accuracy = commands.add_parser("accuracy", help="print what the judge of the phantom found")
    accuracy.add_argument("file", type=Path, help="accuracy.json of a run")
    overrides = commands.add_parser(
        "overrides", help="print a table of overrides that forces the displacements of a TeraStitcher project"
    )
    overrides.add_argument("project", type=Path, help="XML file of the project")
    overrides.add_argument("--image", required=True, help="name of the image in images.tsv")
    overrides.add_argument(
        "--threshold", type=float, default=0.7, help="least reliability, along each axis, that is taken over"
    )
    commands.add_parser("docs", help="write the reference of all settings anew")
    commands.add_parser("warm", help="compile the kernels of the registration, once per machine")
    options = parser.parse_args(arguments)
    try:
        return _COMMANDS[options.command](options)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


def _verify(options: argparse.Namespace) -> int:
    from weft.recovery import verify_results

    checked, damaged = verify_results(options.results, dry_run=options.dry_run, threads=options.threads)
    if not damaged:
        print(f"all {checked} stores and kept results below {options.results} are whole")
        return 0
    for damage in damaged:
        print(f"{damage.path}: {damage.what}")
        for path in damage.removed:
            print(f"  {'would remove' if options.dry_run else 'removed'} {path}")
    print(f"{len(damaged)} of {checked} stores and kept results are damaged")
    if any(damage.mends for damage in damaged):
        print(
            f"Mend with the command of your run{' after verify without --dry-run' * options.dry_run}: {MEND}"
        )
    for damage in damaged:
        if not damage.mends:
            print(f"No rerun mends {damage.path}, which is not weft's own")
    return 1


def _clean(options: argparse.Namespace) -> int:
    from weft.recovery import clean_results

    removed = clean_results(options.results, dry_run=options.dry_run)
    verb = "would remove" if options.dry_run else "removed"
    for path, size in removed:
        print(f"{verb} {path} ({size:,} bytes)")
    print(f"{verb} {len(removed)} things, {sum(size for _, size in removed):,} bytes")
    return 0


def _accuracy(options: argparse.Namespace) -> int:
    from weft import receipts
    from weft.judge import print_table

    figures = receipts.read(options.file)
    return 0 if print_table({k: v for k, v in figures.items() if isinstance(v, int | float)}) else 1


def _overrides(options: argparse.Namespace) -> int:
    from weft.readers.terastitcher_project import override_rows, read_project

    rows = override_rows(read_project(options.project), options.image, options.threshold)
    print("\n".join("\t".join(row) for row in rows))
    return 0


def _docs(options: argparse.Namespace) -> int:
    from weft.reference import write_reference

    write_reference(Path("."))
    return 0


def _warm(options: argparse.Namespace) -> int:
    from weft.registration.warm import warm

    print(f"the kernels of the registration are compiled and work ({warm():.1f} s)")
    return 0


_COMMANDS = {
    "verify": _verify,
    "clean": _clean,
    "accuracy": _accuracy,
    "overrides": _overrides,
    "docs": _docs,
    "warm": _warm,
}

if __name__ == "__main__":
    sys.exit(main())
