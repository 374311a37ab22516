"""The page of the report without its content: markup and style."""

PAGE = """<!DOCTYPE html>
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

STYLE = """
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
.findings { padding: 0; margin: 0.4rem 0 1.2rem; list-style: none; max-width: 85ch; }
.findings li { margin: 0.45rem 0; }
.findings code { font-size: 0.86rem; overflow-wrap: anywhere; }
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
th { color: var(--muted); font-weight: 600; position: sticky; top: 0; background: var(--card); vertical-align: bottom; }
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
