"""What every gathering job does with its numbers: write them, hold them against the gates."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from weft import receipts
from weft.logs import warn
from weft.quality.gates import QualityError, Row, evaluate


def write_quality(
    path: str | Path, stage: str, subject: str, values: dict[str, Any], gates: dict[str, Any], **facts: Any
) -> None:
    """Write a stage's numbers and gates to ``path``; a gate of policy ``fail`` stops what would build on it.

    One of policy ``warn`` is told in the log and on the terminal.

    Raises
    ------
    QualityError
        When such a gate does not hold. The numbers are written beside ``path`` (``.failed.json``).
    """
    try:
        rows = evaluate(
            stage, values, {name: gate for name, gate in gates.items() if name in values}, subject
        )
    except QualityError as error:
        receipts.write(
            f"{path}.failed.json", {"values": _numbers(values), "gates": _rows(error.rows), **facts}
        )
        raise
    for row in rows:
        if not row["holds"] and row["policy"] == "warn":
            place = f": {row['where']}" if row["where"] else ""
            look = f"; look at {row['look_at']}" if row["look_at"] else ""
            warn(f"{subject}: {row['name']} is {row['value']:.4g}, wanted {row['threshold']}{place}{look}")
    receipts.write(path, {"values": _numbers(values), "gates": _rows(rows), **facts})


def collect_quality(parts: list[str]) -> dict[str, Any]:
    """Numbers and gates of several stages in one; those of a registration's stages carry the stage's name."""
    collected: dict[str, Any] = {"values": {}, "gates": []}
    for path in parts:
        part = receipts.read(path)
        stage = Path(path).parent.name if Path(path).name == "quality.json" else ""
        prefix = f"{stage}." if stage else ""
        collected["values"].update({f"{prefix}{name}": value for name, value in part["values"].items()})
        collected["gates"] += part["gates"]
    return collected


def _rows(rows: Iterable[Row]) -> list[Row]:
    """Rows of gates as JSON."""
    return [{**row, **_numbers({"value": row["value"]})} for row in rows]


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Values as JSON: what is not finite becomes null."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            plain[name] = _numbers(value)
        else:
            number = float(value)
            plain[name] = number if abs(number) < float("inf") else None
    return plain
