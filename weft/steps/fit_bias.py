"""Rule fit_bias: what varies slowly over a whole image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft import receipts
from weft.bias import fit_bias as fit
from weft.bias import save_biases
from weft.corrections import tell
from weft.steps.sources import open_received

_SEEN = "seen.txt"


def fit_bias(*, image: str, settings: dict[str, Any], code: str, receipt: str) -> None:
    """Find the bias of every channel and write a receipt that later steps take for the image's, seen through it.

    The digest of the image's voxels lies in the store, so that it counts in the store's own.
    """
    opened, facts = open_received(image)
    key = receipts.digest([facts["data"], facts["grid"], settings, code, receipts.environment("SimpleITK")])
    store = receipts.KeyedStore(Path(receipt).with_name("bias.zarr"), key)
    with receipts.job_lock(receipt):
        if not store.done("all"):
            store.restart()
            found = [
                fit(opened, settings["spacing"], c, policy=settings["policy"])
                for c in range(len(opened.channels))
            ]
            shards = save_biases(store.path, found)
            (store.path / _SEEN).write_text(f"{facts['data']}\n")
            files = {_SEEN: receipts.file_digest(store.path / _SEEN)}
            store.finish("all", shards, files=files, reports=[bias.report for bias in found])
        records = store.records(["all"])
        reports = records["all"]["reports"]
        for channel, report in zip(opened.channels, reports, strict=True):
            tell(Path(image).parent.name, channel, "bias", report)
        accepted = any(report["accepted"] for report in reports)
        store.publish(receipt)
        receipts.write_provenance(receipt, key=store.key, settings=settings, code=code)
        about = ("shape", "grid", "levels", "channels", "orientation", "labels")
        receipts.write(
            receipt,
            {
                **{name: facts[name] for name in about},
                "dtype": "float32" if accepted else facts["dtype"],
                "seen": {
                    "store": facts["store"],
                    "metadata": facts["metadata"],
                    "bias": store.public.name if accepted else None,
                },
                "reports": reports,
                "store": store.public.name,
                "data": store.data_digest(records),
            },
        )
