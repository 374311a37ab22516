"""Rule judge_phantom: the demo's accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft import receipts
from weft.judge import judge


def judge_phantom(*, phantom: str, about: dict[str, Any], code: str, accuracy: str, **_: Any) -> None:
    """Compare the outputs of the run with the truth of its phantom; the truth is read here alone."""
    root = Path(accuracy).parent
    image = root / "images" / about["moving"]
    registration = root / "registrations" / about["registration"]
    scores = judge(
        Path(phantom).parent,
        poses=image / "poses.tsv",
        gain=image / "illumination.zarr" / "gain",
        transform=registration / "transform.json",
        inverse=registration / "inverse.json",
        labels=registration / "warped" / "inverse" / f"{about['labels']}.ome.zarr",
        points=registration / "points" / f"{about['points']}.parquet",
    )
    receipts.write(accuracy, {name: float(value) for name, value in scores.items()})
