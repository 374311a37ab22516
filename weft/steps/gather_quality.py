"""Rules check_tiles and gather_quality: the numbers of an image, and the gates of a run, in one place."""

from __future__ import annotations

from weft import receipts
from weft.quality.gates import write_quality_table
from weft.steps.quality import collect_quality


def check_tiles(*, parts: list[str], code: str, quality: str) -> None:
    """Collect the numbers and gates of an image's stages."""
    receipts.write(quality, collect_quality(parts))


def gather_quality(*, parts: list[str], code: str, table: str) -> None:
    """Write every gate of the run as one table."""
    write_quality_table((row for path in parts for row in receipts.read(path)["gates"]), table)
