"""Rule make_phantom: raw tiles, an atlas, and the truth beside them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from weft import receipts
from weft.logs import log
from weft.phantom import make_phantom as make


def make_phantom(*, settings: dict[str, Any], code: str, receipt: str) -> None:
    """Make the phantom below the receipt's folder; one that is there, made alike, is left alone."""
    folder = Path(receipt).parent
    key = receipts.digest([settings, code, receipts.environment("numba")])[:16]
    done = folder / receipts.RECORDS / f"{key}.json"
    if not done.exists():
        for part in ("atlas", "sample", "truth", receipts.RECORDS):
            shutil.rmtree(folder / part, ignore_errors=True)
        options = {name: value for name, value in settings.items() if value is not None and name != "seed"}
        make(folder, options, settings["seed"], progress=_tell)
        receipts.write(done, receipts.read(receipt))
    receipts.write(receipt, receipts.read(done))
    receipts.write_provenance(receipt, settings=settings, code=code)


def _tell(done: int, total: int) -> None:
    if done % max(total // 20, 1) == 0:
        log.info("make_phantom: %d of %d planes", done, total)
