"""The report as one HTML page: style and figure inside, no script, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ...terminal.text import counted
from .plot import inline_svg
from .rows import (
    HEADINGS,
    LEFT_ALIGNED,
    ClassGain,
    Confusion,
    ReportMeta,
    ReportRow,
    Table,
    cells,
    headed,
    pareto_front,
    significant,
)

MATRIX_CLASSES_MAX = 40  # a larger matrix is unreadable: its most frequent confusions are listed instead
LISTED_CONFUSIONS = 20

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --paper: #fff;
  --card: #f6f8fa; --accent: 66 135 245; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9aa6b2; --line: #30363d; --paper: #0f1419; --card: #161c23; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 1.5rem; text-wrap: balance; }
h2 { font-size: 1.1rem; margin: 2.75rem 0 0.75rem; }
p, ul { margin: 0.5rem 0; } ul { padding-left: 1.2rem; }
.note { color: var(--soft); font-size: 0.875rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
.results { width: 100%; }
th, td { padding: 0.4rem 0.7rem; text-align: right; white-space: nowrap; }
.results th, .results td, .layout th, .layout td { border-bottom: 1px solid var(--line); }
.results thead th, .layout thead th { color: var(--soft); font-weight: 600; font-size: 0.8rem; vertical-align: bottom; }
.layout thead th { white-space: normal; } .word { text-align: left; } details { font-size: 0.875rem; color: var(--soft); }
.results .group th { text-align: left; padding-top: 1.2rem; }
.results .front td { font-weight: 650; background: rgb(var(--accent) / 0.1); }
.results td:last-child { font-weight: 400; color: var(--soft); }
figure { margin: 0; } figure svg { display: block; width: 100%; height: auto; min-width: 34rem; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif !important; }
.matrix th { font-weight: 500; } .matrix td { min-width: 2.6rem; text-align: center; }
.matrix td.right { outline: 1.5px solid var(--soft); outline-offset: -1.5px; }
.made { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 0.2rem 1.25rem 0.9rem;
  margin-top: 2.75rem; overflow-wrap: anywhere; } .made h2 { margin-top: 0.9rem; }
"""


def page(rows: Sequence[ReportRow], meta: ReportMeta, figures: Mapping[str, str]) -> str:
    """Return the whole page: results, figures, tables, confusion, coverage, how it was made; all text escaped.

    `figures` are SVGs: "accuracy", and "clips" where there is anything to draw, and those of `named_gains`.
    """
    title = escape(meta.title)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        _results(rows, meta),
        "<h2>Accuracy and cost</h2>",
        _figure(figures, "accuracy", f"Top-1 accuracy against GFLOPs a video: {title}"),
    ]
    if meta.paper:
        listed = [
            f"{p.name}: {100 * p.top1:.1f} %, {significant(p.gflops_per_video)} GFLOPs" for p in meta.paper
        ]
        parts.append(
            "<details><summary>The open circles: the paper on Kinetics-400 (Zhu et al., AAAI 2020), other data than "
            f"the rows</summary>{_list(listed)}</details>"
        )
    if "clips" in figures:
        parts += [
            "<h2>Accuracy and the number of clips</h2>",
            _figure(figures, "clips", "Top-1 accuracy against clips"),
        ]
    parts += [_table(table) for table in meta.tables]
    for name, gain in named_gains(meta):
        parts += [
            f"<h2>What {escape(gain.gained_name)} gains over {escape(gain.base_name)}, class by class</h2>",
            _figure(figures, name, "Gain of each class, in points"),
            '<p class="note">Filled: gained; outlined: lost. Of more than 40 classes, both ends.</p>',
        ]
    parts += [_confusion(confusion) for confusion in meta.confusions]
    if meta.coverage:
        parts += ["<h2>Coverage</h2>", _list(meta.coverage)]
    if meta.failures:
        parts += ["<h2>Failed and empty cells</h2>", _list(meta.failures)]
    if meta.lines:
        parts.append(f'<section class="made"><h2>How this was made</h2>{_list(meta.lines)}</section>')
    return "\n".join([*parts, "</body></html>", ""])


def named_gains(meta: ReportMeta) -> list[tuple[str, ClassGain]]:
    """The gains that have anything to draw, and what their figures are called: gain, gain-2, …"""
    shown = [gain for gain in meta.gains if gain.class_names]
    return [("gain" if number == 1 else f"gain-{number}", gain) for number, gain in enumerate(shown, 1)]


def _figure(figures: Mapping[str, str], name: str, description: str) -> str:
    return f'<figure class="scroll">{inline_svg(figures[name], description, name)}</figure>'


def _table(table: Table) -> str:
    def line(tag: str, texts: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="word">{escape(text)}</{tag}>'
            if number < table.words
            else f"<{tag}>{escape(text)}</{tag}>"
            for number, text in enumerate(texts)
        )

    body = "".join(f"<tr>{line('td', texts)}</tr>" for texts in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h2>{escape(table.title)}</h2><div class="scroll"><table class="layout"><thead><tr>'
        f"{line('th', table.headings)}</tr></thead><tbody>{body}</tbody></table></div>{note}"
    )


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _results(rows: Sequence[ReportRow], meta: ReportMeta) -> str:
    front = pareto_front(rows)

    def line(tag: str, texts: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="word">{escape(text)}</{tag}>'
            if number < LEFT_ALIGNED
            else f"<{tag}>{escape(text)}</{tag}>"
            for number, text in enumerate(texts)
        )

    body = []
    for heading, members in headed(rows):
        if heading:
            body.append(f'<tr class="group"><th colspan="{len(HEADINGS)}">{escape(heading)}</th></tr>')
        for number in members:
            mark = ' class="front"' if front[number] else ""
            body.append(f"<tr{mark}>{line('td', cells(rows[number]))}</tr>")
    ceilings = "".join(f" · {escape(label)}: <b>{100 * value:.1f} %</b>" for label, value in meta.ceilings)
    return (
        f'<div class="scroll"><table class="results"><thead><tr>{line("th", HEADINGS)}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
        '<p class="note">Shaded: on the Pareto front, no row of the same videos is both cheaper and as accurate. '
        f"s.e.: standard error of the mean over the seeds{ceilings}</p>"
    )


def _confusion(confusion: Confusion) -> str:
    heading = f"<h2>{escape(confusion.caption)}</h2>"
    if len(confusion.class_names) > MATRIX_CLASSES_MAX:
        return heading + _frequent_confusions(confusion)
    columns = "".join(f"<th>{number}</th>" for number in range(1, len(confusion.class_names) + 1))
    lines = []
    for name, (true, counts) in zip(confusion.class_names, enumerate(confusion.counts.dense()), strict=True):
        total = max(int(counts.sum()), 1)
        shaded = "".join(
            _matrix_cell(count, count / total, right=predicted == true)
            for predicted, count in enumerate(counts.tolist())
        )
        lines.append(f'<tr><th class="word">{true + 1} · {escape(name)}</th>{shaded}</tr>')
    return (
        f'{heading}<div class="scroll"><table class="matrix"><thead><tr><th class="word">true \\ predicted</th>'
        f"{columns}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        '<p class="note">Videos; shaded by their share of the row; outlined: right.</p>'
    )


def _matrix_cell(count: int, share: float, *, right: bool) -> str:
    mark = ' class="right"' if right else ""
    return f'<td{mark} style="background: rgb(var(--accent) / {0.8 * share:.2f})">{count}</td>'


def _frequent_confusions(confusion: Confusion) -> str:
    names = confusion.class_names
    lines = [
        f"{names[true]} taken for {names[predicted]}: {counted(videos, 'video')}"
        for true, predicted, videos in confusion.counts.mistakes(LISTED_CONFUSIONS)
    ]
    return f'<p class="note">{counted(len(names), "class", "classes")}; the most frequent confusions.</p>{_list(lines)}'
