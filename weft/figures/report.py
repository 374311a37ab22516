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

from weft.figures.page import PAGE, STYLE
from weft.figures.style import number_text

GATE_COLUMNS = ("stage", "subject", "name", "value", "threshold", "where")
WORDS = {"pass": "pass", "fail": "fail", "warn": "warning", "ignore": "ignored"}
MARKS = {"pass": "\u2713", "fail": "\u2715", "warn": "!", "ignore": "\u2013"}


class Verdict(str):
    """A cell of a table that is drawn as a badge: ``pass``, ``warn``, ``fail`` or ``ignore``."""


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
            parts.append(_findings(gates) + _gates(gates))
        parts += [
            _picture(item, f"{name}-{i}") if isinstance(item, Picture) else _table(item)
            for i, item in enumerate(section.items, 1)
        ]
        body.append(
            f'<section id="{name}" aria-labelledby="{name}-heading">\n' + "\n".join(parts) + "\n</section>"
        )
    page = PAGE.format(
        title=escape(title),
        subtitle=f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else "",
        style=STYLE,
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


def verdict_of(gates: Iterable[Mapping[str, Any]]) -> Verdict:
    """The worst that came of some gates; what is ignored counts as passed."""
    outcomes = {_outcome(row) for row in gates}
    return Verdict(next((word for word in ("fail", "warn") if word in outcomes), "pass"))


def _badge(word: str) -> str:
    return f'<span class="badge {word}"><span aria-hidden="true">{MARKS[word]}</span> {WORDS[word]}</span>'


def _findings(gates: Sequence[Mapping[str, Any]]) -> str:
    """A sentence for each gate that does not hold: what was found, and where to look."""
    items = []
    for word in ("fail", "warn"):
        for row in gates:
            if _outcome(row) != word:
                continue
            place = f": {row['where']}" if row["where"] else ""
            found = "could not be measured" if math.isnan(row["value"]) else f"is {_text(row['value'])}"
            sentence = f"{row['subject']}: {row['name']} {found} (wanted {row['threshold']}){place}."
            look = f" Look at <code>{escape(str(row['look_at']))}</code>." if row.get("look_at") else ""
            items.append(f"<li>{_badge(word)} {escape(sentence)}{look}</li>")
    return f'<ul class="findings">{"".join(items)}</ul>' if items else ""


def _gates(gates: Sequence[Mapping[str, Any]]) -> str:
    """The table of gates: what does not hold comes first, otherwise in the order given."""
    order = {"fail": 0, "warn": 1, "ignore": 2, "pass": 3}
    rows = []
    for row in sorted(gates, key=lambda row: order[_outcome(row)]):
        word = _outcome(row)
        cells = "".join(_cell(row.get(column, "")) for column in GATE_COLUMNS)
        rows.append(f'<tr class="{word}"><td>{_badge(word)}</td>{cells}</tr>')
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
    if isinstance(value, Verdict):
        return f"<td>{_badge(value)}</td>"
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
    return number_text(value, 4) if isinstance(value, float) and math.isfinite(value) else str(value)


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
