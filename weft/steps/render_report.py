"""Rule render_report: the pictures of a run and the page that shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft import receipts
from weft.figures.report import Section, Table
from weft.figures.report import render_report as render
from weft.quality.gates import read_quality_table
from weft.steps.report_image import image_section
from weft.steps.report_registration import overview_section, registration_section


def render_report(
    *,
    parts: list[str],
    table: str,
    contents: dict[str, Any],
    code: str,
    html: str,
    **_: Any,
) -> None:
    """Draw every picture, then the page. What it shows is named in ``contents``."""
    root = Path(html).parent
    gates = read_quality_table(table)
    sections = [overview_section(root, contents["registrations"], gates)] if contents["registrations"] else []
    sections += [image_section(root / "images" / name, name) for name in contents["images"]]
    sections += [registration_section(root, name, facts) for name, facts in contents["registrations"].items()]
    sections.append(_cost_section(root))
    render(
        sections,
        html,
        title="weft report",
        subtitle=", ".join(
            f"{len(contents[kind])} {words if len(contents[kind]) != 1 else words[:-1]}"
            for kind, words in (("images", "stitched images"), ("registrations", "registrations"))
        ),
        gates=gates,
    )


def _cost_section(root: Path) -> Section:
    """Wall time and peak memory of each rule, from the benchmarks."""
    rows = []
    for folder in sorted((root / "benchmarks").glob("*")):
        paths = [folder] if folder.is_file() else sorted(folder.rglob("*.jsonl"))
        jobs = [receipts.read(path) for path in paths if path.suffix == ".jsonl" and path.stat().st_size]
        if jobs:
            seconds = [float(job["s"]) for job in jobs]
            memory = [float(job["max_rss"]) for job in jobs if job.get("max_rss") not in (None, "NA", "-")]
            rows.append(
                {
                    "rule": folder.stem,
                    "jobs": len(jobs),
                    "seconds": round(sum(seconds), 1),
                    "peak memory (MB)": round(max(memory), 0) if memory else "",
                }
            )
    return Section(
        "Costs",
        [
            Table(
                "Rules",
                rows,
                bars=("seconds",),
                caption="Wall seconds of all jobs of a rule, and the largest of their memories.",
            )
        ]
        if rows
        else [],
    )
