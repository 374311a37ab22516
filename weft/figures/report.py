"""The plain report of a run: one HTML file that opens anywhere, offline, and asks for nothing."""

from __future__ import annotations

import base64
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

GATE_COLUMNS = ("stage", "subject", "name", "value", "threshold", "where")
WORDS = {"pass": "pass", "fail": "fail", "warn": "warning", "ignore": "ignored"}
MARKS = {"pass": "\u2713", "fail": "\u2715", "warn": "!", "ignore": "\u2013"}


@dataclass(frozen=True)
class Picture:
    """A PNG with its words.

    Parameters
    ----------
    path
        The PNG; its bytes go into the page.
    title
        Above it.
    alt
        What it shows, for those who cannot see it: a sentence.
    caption
        Below it: how to read it.
    """

    path: str | Path
    title: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Parameters
    ----------
    title
        Above it.
    rows
        One mapping per row.
    columns
        Which keys, in which order; default those of the first row.
    bars
        Columns of numbers that get a bar behind them, as long as their share of the column's largest.
    caption
        Below it.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str] | None = None
    bars: Sequence[str] = ()
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the report with its own entry in the contents.

    Parameters
    ----------
    title
        Its heading.
    items
        Pictures and tables, in order.
    text
        A few sentences before them.
    """

    title: str
    items: Sequence[Picture | Table] = ()
    text: str = ""


def render_report(
    items: Iterable[Section],
    path: str | Path,
    *,
    title: str = "weft report",
    subtitle: str = "",
    gates: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write the report as one file, without scripts, fonts or addresses of others.

    Same pictures and numbers in, same bytes out: the page carries no date, no host, no version.

    Parameters
    ----------
    items
        The sections, in order.
    path
        HTML file to write.
    title, subtitle
        Head of the page.
    gates
        Rows of `weft.quality.evaluate`; with them the page starts with a verdict and a table of them.
    facts
        A few words or numbers shown at the top, by name.

    Raises
    ------
    FileNotFoundError
        When a picture is not there.
    ValueError
        When a picture is not a PNG, or has no alternative text.
    """
    sections = list(items)
    if gates:
        sections.insert(0, Section("Quality"))
    names = _anchors([section.title for section in sections])
    contents = "\n".join(
        f'<li><a href="#{name}">{escape(section.title)}</a></li>'
        for name, section in zip(names, sections, strict=True)
    )
    body: list[str] = []
    for number, (name, section) in enumerate(zip(names, sections, strict=True)):
        parts = [f'<h2 id="{name}-heading">{escape(section.title)}</h2>']
        if section.text:
            parts.append(f'<p class="text">{escape(section.text)}</p>')
        if gates and number == 0:
            parts.append(_gates(gates))
        parts += [
            _picture(item, f"{name}-{i}") if isinstance(item, Picture) else _table(item)
            for i, item in enumerate(section.items, 1)
        ]
        body.append(
            f'<section id="{name}" aria-labelledby="{name}-heading">\n' + "\n".join(parts) + "\n</section>"
        )
    page = _PAGE.format(
        title=escape(title),
        subtitle=f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else "",
        style=_STYLE,
        verdict=_verdict(gates) if gates else "",
        facts=_facts(facts or {}),
        contents=contents,
        body="\n".join(body),
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page, encoding="utf-8", newline="\n")


def _anchors(titles: Sequence[str]) -> list[str]:
    seen: Counter[str] = Counter()
    names = []
    for title in titles:
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-no{seen[name]}")
    return names


def _outcome(row: Mapping[str, Any]) -> str:
    return "pass" if row["holds"] else str(row["policy"])


def _verdict(gates: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(_outcome(row) for row in gates)
    chips = [
        f'<li class="chip {word}"><span aria-hidden="true">{MARKS[word]}</span> {counts[word]} {text}</li>'
        for word, text in (
            ("fail", "failed"),
            ("warn", "warned"),
            ("pass", "passed"),
            ("ignore", "ignored"),
        )
        if counts[word]
    ]
    return f'<ul class="chips" aria-label="Quality gates">{"".join(chips)}</ul>'


def _gates(gates: Sequence[Mapping[str, Any]]) -> str:
    """The table of gates: what does not hold comes first, otherwise in the order given."""
    order = {"fail": 0, "warn": 1, "ignore": 2, "pass": 3}
    rows = []
    for row in sorted(gates, key=lambda row: order[_outcome(row)]):
        word = _outcome(row)
        badge = (
            f'<span class="badge {word}"><span aria-hidden="true">{MARKS[word]}</span> {WORDS[word]}</span>'
        )
        cells = "".join(_cell(row.get(column, "")) for column in GATE_COLUMNS)
        rows.append(f'<tr class="{word}"><td>{badge}</td>{cells}</tr>')
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("gate", *GATE_COLUMNS))
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _facts(facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    entries = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(_text(value))}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">{entries}</dl>'


def _table(table: Table) -> str:
    columns = list(table.columns if table.columns is not None else (table.rows[0] if table.rows else ()))
    largest = {
        name: max((float(row[name]) for row in table.rows if _is_number(row.get(name))), default=0.0)
        for name in table.bars
    }
    heads = "".join(f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in columns)
    rows = "".join(
        f"<tr>{''.join(_cell(row.get(name, ''), largest.get(name, 0.0)) for name in columns)}</tr>"
        for row in table.rows
    )
    caption = f'<p class="caption">{escape(table.caption)}</p>' if table.caption else ""
    return (
        f'<h3>{escape(table.title)}</h3>\n<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{caption}"
    )


def _cell(value: Any, largest: float = 0.0) -> str:
    if not _is_number(value):
        return f"<td>{escape(_text(value))}</td>"
    if largest > 0:
        share = 100 * max(0.0, float(value)) / largest
        return f'<td class="number bar" style="--share: {share:.1f}%">{escape(_text(value))}</td>'
    return f'<td class="number">{escape(_text(value))}</td>'


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, bool | str) and math.isfinite(float(value))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "\u2013"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _picture(picture: Picture, name: str) -> str:
    """A figure that a click shows as large as the window (by its address alone, without a script)."""
    path = Path(picture.path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the report's picture {picture.title!r} is not there")
    data = path.read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"{path} is not a PNG; wanted one for the report's picture {picture.title!r}")
    if not picture.alt.strip():
        raise ValueError(f"{path} has no alternative text; wanted a sentence that says what it shows")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    encoded = base64.b64encode(data).decode("ascii")
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    return (
        f'<h3>{escape(picture.title)}</h3>\n<figure id="{name}"><div class="large" id="{name}-large">'
        f'<a class="open" href="#{name}-large" aria-label="Enlarge: {escape(picture.title)}">'
        f'<img src="data:image/png;base64,{encoded}" width="{width}" height="{height}" alt="{escape(picture.alt)}"></a>'
        f'<a class="close" href="#{name}">Close</a></div>{caption}</figure>'
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<h1>{title}</h1>
{subtitle}
{verdict}
{facts}
</header>
<div class="columns">
<nav aria-label="Contents"><ol>
{contents}
</ol></nav>
<main id="main">
{body}
</main>
</div>
</body>
</html>
"""

_STYLE = """
:root {
  --ink: #1f2933; --muted: #5b6875; --paper: #f6f8fa; --card: #ffffff; --line: #dde3e9; --accent: #1d6fa5;
  --pass: #17684b; --pass-back: #dff3ea; --warn: #7a4d00; --warn-back: #fdeecb; --fail: #a3101c; --fail-back: #fde2e2;
  --ignore: #55616d; --ignore-back: #e9edf1; --bar: #d6e8f5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6ebf0; --muted: #9fadba; --paper: #12171c; --card: #1b2229; --line: #2f3a45; --accent: #6bb8ea;
    --pass: #86dcb7; --pass-back: #143528; --warn: #f5cd7b; --warn-back: #3c2e0c; --fail: #ff9c9c; --fail-back: #47171b;
    --ignore: #aab6c1; --ignore-back: #2a333c; --bar: #1f3f55;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
header, .columns { max-width: 78rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 2.2rem; padding-bottom: 1.2rem; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.01em; }
h2 { margin: 0 0 0.6rem; font-size: 1.3rem; }
h3 { margin: 1.4rem 0 0.5rem; font-size: 1rem; }
a { color: var(--accent); }
a:focus-visible, .scroll:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 4px; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: 1rem; background: var(--card); padding: 0.5rem 1rem; }
.subtitle, .caption, figcaption { color: var(--muted); }
.subtitle { margin: 0.3rem 0 0; }
.text { max-width: 65ch; margin: 0 0 0.5rem; }
.caption, figcaption { font-size: 0.9rem; margin: 0.5rem 0 0; max-width: 75ch; }
.chips { display: flex; flex-wrap: wrap; gap: 0.5rem; padding: 0; margin: 1rem 0 0; list-style: none; }
.chip, .badge { border-radius: 999px; font-weight: 600; white-space: nowrap; }
.chip { padding: 0.3rem 0.9rem; }
.badge { padding: 0.1rem 0.6rem; font-size: 0.85rem; }
.chip.pass, .badge.pass { color: var(--pass); background: var(--pass-back); }
.chip.warn, .badge.warn { color: var(--warn); background: var(--warn-back); }
.chip.fail, .badge.fail { color: var(--fail); background: var(--fail-back); }
.chip.ignore, .badge.ignore { color: var(--ignore); background: var(--ignore-back); }
.facts { display: flex; flex-wrap: wrap; gap: 0.8rem 2.2rem; margin: 1.2rem 0 0; }
.facts dt { color: var(--muted); font-size: 0.82rem; }
.facts dd { margin: 0; font-weight: 600; }
.columns { display: grid; grid-template-columns: 12.5rem minmax(0, 1fr); gap: 2rem; padding-bottom: 4rem; }
nav { position: sticky; top: 1rem; align-self: start; max-height: calc(100vh - 2rem); overflow: auto; }
nav ol { list-style: none; margin: 0; padding: 0; border-left: 2px solid var(--line); }
nav a { display: block; padding: 0.25rem 0 0.25rem 0.9rem; color: var(--muted); text-decoration: none; font-size: 0.92rem; }
nav a:hover { color: var(--accent); }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.4rem 1.6rem 1.6rem;
  margin-bottom: 1.4rem;
}
.scroll { overflow-x: auto; max-height: 36rem; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { text-align: left; padding: 0.4rem 0.8rem 0.4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--muted); font-weight: 600; position: sticky; top: 0; background: var(--card); white-space: nowrap; }
td:first-child, td.number { white-space: nowrap; }
td.number { font-variant-numeric: tabular-nums; }
td.bar { background: linear-gradient(var(--bar), var(--bar)) no-repeat 0 50% / calc(var(--share) * 0.92) 70%; padding-left: 0.4rem; }
figure { margin: 0; }
figure img {
  display: block; width: auto; max-width: 100%; height: auto; margin: 0 auto; background: #fff; border-radius: 8px;
  border: 1px solid var(--line);
}
.open { cursor: zoom-in; display: block; }
.close { display: none; }
.large:target { position: fixed; inset: 0; z-index: 9; background: rgba(8, 12, 16, 0.94); padding: 3.2rem 1rem 1rem; overflow: auto; }
.large:target img { max-width: none; margin: auto; }
.large:target .open { cursor: default; width: max-content; margin: auto; }
.large:target .close {
  display: block; position: fixed; top: 0.7rem; right: 1.2rem; color: #fff; background: #2f3a45; padding: 0.35rem 1rem;
  border-radius: 999px; text-decoration: none; font-weight: 600;
}
@media (max-width: 56rem) {
  .columns { grid-template-columns: minmax(0, 1fr); gap: 1rem; }
  nav { position: static; max-height: none; }
  nav ol { display: flex; flex-wrap: wrap; border: 0; gap: 0 0.3rem; }
  nav a { padding: 0.2rem 0.6rem; border: 1px solid var(--line); border-radius: 999px; }
  header, .columns { padding-left: 0.9rem; padding-right: 0.9rem; }
  section { padding: 1rem; }
}
@media print {
  nav, .skip { display: none; }
  .columns { display: block; }
  .scroll { max-height: none; overflow: visible; }
  section { border: 0; padding: 0; break-inside: auto; }
  figure, tr { break-inside: avoid; }
}
"""
