"""Rule export_precomputed: an image for Neuroglancer."""

from __future__ import annotations

from pathlib import Path

from weft import receipts
from weft.logs import log
from weft.steps.sources import open_received
from weft.stores.precomputed import write_precomputed


def export_precomputed(*, image: str, code: str, receipt: str) -> None:
    """Write an image or segmentation as a precomputed volume beside it."""
    opened, facts = open_received(image)
    made_of = [facts["data"], facts["grid"], facts["metadata"], code]
    key = receipts.digest([made_of, receipts.environment("cloud-volume")])
    store = receipts.KeyedStore(Path(receipt).with_name("precomputed"), key)
    with receipts.job_lock(receipt):
        if not store.done("all"):
            store.restart()
            write_precomputed(opened, store.partial, segmentation=opened.labels, progress=_tell)
            store.finish("all", {}, files=receipts.file_digests(store.partial))
        records = store.records(["all"])
        store.publish(receipt)
        receipts.write_provenance(receipt, key=store.key, code=code)
        receipts.write(
            receipt,
            {"store": store.public.name, "mips": len(opened.levels), "data": store.data_digest(records)},
        )


def _tell(done: int, total: int) -> None:
    log.info("export_precomputed: %d of %d batches", done, total)
