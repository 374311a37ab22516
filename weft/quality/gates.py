"""Quality gates: the numbers a stage measured against the thresholds of the config."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("stage", "subject", "name", "value", "threshold", "policy", "holds", "where", "look_at")
POLICIES = ("fail", "warn", "ignore")
BOUNDS = {"max": "<=", "min": ">="}

# Where to look when a gate does not hold, below the folder of results, by the gate's name.
_LINKS = "images/{name}/links.tsv and images/{name}/figures/positions.png"
_BLOCKS = "registrations/{name}/stages/{stage}/ledger.tsv and registrations/{name}/figures/blocks_{stage}.png"
_FIGURE = "registrations/{name}/figures/"
_TABLE = "registrations/{name}/quality/"
LOOK_AT = {
    "bad_tiles": "images/{name}/illumination.json and images/{name}/figures/flat_field.png",
    "links_failed_fraction": _LINKS,
    "link_residual_p95_voxel": _LINKS,
    "clipped_fraction": "images/{name}/quality/fusion.json",
    "affine_verdict": f"{_FIGURE}affine_candidates.png and {_TABLE}affine.json",
    "voxel_size_doubts": "the table of images",
    "blocks_failed_fraction": _BLOCKS,
    "folded_fraction": _BLOCKS,
    "seam_ratio": _BLOCKS,
    "round_trip_p95_voxel": f"{_TABLE}transform.json and {_FIGURE}deformation.png",
    "round_trip_max_voxel": f"{_TABLE}blocks.tsv and {_FIGURE}deformation.png",
    "inverse_unsolved_fraction": f"{_TABLE}transform.json and {_FIGURE}deformation.png",
    "round_trip_outside_fraction": f"{_TABLE}transform.json and {_FIGURE}deformation.png",
    "ncc_gain": f"{_FIGURE}overlay.png and {_FIGURE}checkerboard.png",
    "mutual_information_gain": f"{_FIGURE}overlay.png and {_FIGURE}checkerboard.png",
    "local_ncc_worse_fraction": f"{_FIGURE}local_ncc.png and {_TABLE}worst_regions.tsv",
    "jacobian_p1": f"{_FIGURE}deformation.png and {_TABLE}blocks.tsv",
    "jacobian_p99": f"{_FIGURE}deformation.png and {_TABLE}blocks.tsv",
    "jacobian_folded_fraction": f"{_FIGURE}deformation.png and {_TABLE}blocks.tsv",
    "disagreement_p95_voxel": f"{_TABLE}blocks.tsv and the block map of the last stage",
    "tre_gain_um": f"{_TABLE}landmarks.tsv and {_FIGURE}landmarks.png",
    "rtre_median": f"{_TABLE}landmarks.tsv and {_FIGURE}landmarks.png",
    "dice_mean": f"{_TABLE}labels.tsv and {_FIGURE}labels.png",
    "dice_gain": f"{_TABLE}labels.tsv and {_FIGURE}labels.png",
}

Row = dict[str, Any]


class QualityError(ValueError):
    """A gate of policy ``fail`` does not hold.

    Attributes
    ----------
    rows
        Every row of the stage, those that hold included, so that they can still be written down.
    """

    def __init__(self, message: str, rows: Sequence[Row]) -> None:
        super().__init__(message)
        self.rows = list(rows)


def evaluate(
    stage: str,
    values: Mapping[str, float | Mapping[str, float]],
    gates: Mapping[str, Mapping[str, Any]],
    subject: str,
) -> list[Row]:
    """Hold the numbers of one stage against its gates.

    Parameters
    ----------
    stage
        The step that measured, e.g. ``solve_poses``.
    values
        Number by name; or, for what is measured tile by tile, section by section or block by block, a
        mapping of place to number, e.g. ``{"residual_um": {"tile LOC004": 1.5}}``: the worst place is
        gated, and named.
    gates
        By name: ``{"max": threshold}`` or ``{"min": threshold}`` (or both) and ``"policy"``: ``fail`` (default),
        ``warn`` or ``ignore``.
    subject
        Name of the image or registration.

    Returns
    -------
    list of dict
        One row per bound, in the order of the gates' names, with the keys of `COLUMNS`. ``threshold`` is text with its
        direction (``<= 0.5``); ``where`` is empty for a number of the whole stage; ``look_at`` names files below the
        results. A value that is not a number (NaN), or was measured nowhere, holds no gate.

    Raises
    ------
    QualityError
        When a gate of policy ``fail`` does not hold: one sentence with the first such gate and its place.
    ValueError
        When a gate has no bound, an unknown policy or key, or names a number that was not measured.
    """
    rows: list[Row] = []
    for name in sorted(gates):
        gate = gates[name]
        _check_gate(stage, name, gate, values)
        for bound, sign in BOUNDS.items():
            if gate.get(bound) is None:
                continue
            value, where = _worst(values[name], bound)
            limit = float(gate[bound])
            rows.append(
                {
                    "stage": stage,
                    "subject": subject,
                    "name": name,
                    "value": value,
                    "threshold": f"{sign} {limit:.10g}",
                    "policy": gate.get("policy", "fail"),
                    "holds": value <= limit if bound == "max" else value >= limit,
                    "where": where,
                    "look_at": LOOK_AT.get(name, "").format(
                        name=subject.partition("/")[0], stage=subject.partition("/")[2]
                    ),
                }
            )
    broken = [row for row in rows if row["policy"] == "fail" and not row["holds"]]
    if broken:
        raise QualityError(_sentence(broken), rows)
    return rows


def write_quality_table(rows: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Write rows of `evaluate` as a tab-separated table, in an order of their own: same rows, same bytes."""
    lines = sorted([_text(row[column]) for column in COLUMNS] for row in rows)
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([list(COLUMNS), *lines])


def read_quality_table(path: str | Path) -> list[Row]:
    """The rows that `write_quality_table` wrote.

    Raises
    ------
    ValueError
        When the file has other columns.
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} has the columns {reader.fieldnames}; wanted {', '.join(COLUMNS)}")
        return [{**row, "value": float(row["value"]), "holds": row["holds"] == "true"} for row in reader]


def _check_gate(stage: str, name: str, gate: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    unknown = sorted(set(gate) - {*BOUNDS, "policy"})
    if unknown:
        raise ValueError(f"gate {name} of {stage} has the key {unknown[0]!r}; wanted max, min or policy")
    if gate.get("policy", "fail") not in POLICIES:
        raise ValueError(
            f"gate {name} of {stage} has the policy {gate['policy']!r}; wanted {', '.join(POLICIES)}"
        )
    if all(gate.get(bound) is None for bound in BOUNDS):
        raise ValueError(f"gate {name} of {stage} has no threshold; wanted max or min")
    if name not in values:
        known = ", ".join(sorted(values)) or "nothing"
        raise ValueError(f"gate {name} of {stage} names a number that was not measured; measured: {known}")


def _worst(value: float | Mapping[str, float], bound: str) -> tuple[float, str]:
    """The number farthest on the wrong side, and its place; NaN is worse than any number."""
    if not isinstance(value, Mapping):
        return float(value), ""
    sign = 1 if bound == "max" else -1
    places = sorted(value, key=lambda place: (_badness(sign * float(value[place])), place))
    return (float(value[places[-1]]), str(places[-1])) if places else (math.nan, "")


def _badness(value: float) -> tuple[bool, float]:
    return math.isnan(value), 0.0 if math.isnan(value) else value


def _sentence(broken: Sequence[Row]) -> str:
    row = broken[0]
    place = f" ({row['where']})" if row["where"] else ""
    found = "could not be measured" if math.isnan(row["value"]) else f"is {row['value']:.6g}"
    look = f"; look at {row['look_at']}" if row["look_at"] else ""
    more = f" ({len(broken) - 1} more gates do not hold either)" if len(broken) > 1 else ""
    return (
        f"{row['stage']} of {row['subject']}: {row['name']} {found}{place}; "
        f"wanted {row['threshold']}{look}{more}"
    )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:  # as JSON holds what could not be measured
        return "nan"
    return f"{value:.10g}" if isinstance(value, float) else str(value)
