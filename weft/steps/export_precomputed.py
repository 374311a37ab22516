"""Rule export_precomputed: an image for Neuroglancer."""

from __future__ import annotations

import shutil
from pathlib import Path

from weft import receipts
from weft.logs import log
from weft.steps.sources import open_received
from weft.stores.precomputed import write_precomputed


def export_precomputed(*, image: str, code: str, receipt: str) -> None:
    """Write an image or segmentation as a precomputed volume beside it."""
    opened, facts = open_received(image)
    key = receipts.digest([facts["data"], code, receipts.environment("cloud-volume")])
    store = receipts.KeyedStore(Path(receipt).with_name("precomputed"), key)
    with receipts.job_lock(receipt):
        if not store.done("all"):
            shutil.rmtree(store.partial, ignore_errors=True)
            write_precomputed(opened, store.partial, segmentation=opened.labels, progress=_tell)
            store.start()
            store.finish("all", {"precomputed": facts["data"]})
        store.publish()
    receipts.write(receipt, {"store": "precomputed", "mips": len(opened.levels), "data": facts["data"]})
    receipts.write_provenance(receipt, key=store.key, code=code)


def _tell(done: int, total: int) -> None:
    log.info("export_precomputed: %d of %d batches", done, total)
