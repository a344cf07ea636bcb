"""Rows in the layouts of the paper's Tables 2, 3, 4 and 6; a cell that is not there stays empty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ...terminal.text import counted
from ..data.pattern import Pattern
from .rows import ReportRow, Table, percent, significant

PERCENT = "top-1, %, mean ± standard error over the seeds"


def paper_tables(rows: Sequence[ReportRow]) -> list[Table]:
    """Every layout that the rows of a group fill with at least two figures, a table a group."""
    tables = []
    for layout in (_table_2, _table_3, _table_4, _table_6):
        for group in dict.fromkeys(row.group for row in rows):
            found = layout([row for row in rows if row.group == group])
            tables += [replace(t, title=f"{t.title}; {group}") if group else t for t in found]
    return tables


def accuracy(row: ReportRow | None) -> str:
    """Mean ± standard error in percent; "" where there is no row."""
    if row is None:
        return ""
    error = row.standard_error
    return percent(row.mean) + ("" if error is None else f" ± {percent(error)}")


def _table_2(rows: Sequence[ReportRow]) -> list[Table]:
    """One backbone on every clip, scores averaged: model, clip length, accuracy, GFLOPs × clips."""
    alone = [row for row in rows if row.aggregator == "average" and row.pattern in ("all-E", "all-C")]
    found = {(row.expensive or row.cheap, row.setting, row.clip_frames, row.clips): row for row in alone}
    if len(found) < 2:
        return []
    texts = [
        (
            f"{model}, {setting}" if setting else model,
            f"{frames}-frames",
            accuracy(row),
            f"{significant(row.gflops_per_video / clips)} × {clips}",
        )
        for (model, setting, frames, clips), row in found.items()
    ]
    return [
        Table(
            title="As Table 2: one backbone on every clip, scores averaged",
            headings=("model", "input", "top-1 %", "GFLOPs × clips"),
            rows=tuple(sorted(texts, key=lambda text: text[0])),
            words=2,
            note=PERCENT,
        )
    ]


def _table_3(rows: Sequence[ReportRow]) -> list[Table]:
    """Only the first clip expensive: aggregators by number of clips."""
    tables = []
    for key, members in _by_models(row for row in rows if row.first_only):
        clips = sorted({row.clips for row in members})
        if len(clips) < 2:
            continue
        names = list(dict.fromkeys(row.label for row in members))
        at = {(row.label, row.clips): row for row in members}
        tables.append(
            Table(
                title=f"As Table 3: only the first clip expensive, {key}",
                headings=("aggregator", *(counted(n, "clip") for n in clips)),
                rows=tuple((name, *(accuracy(at.get((name, n))) for n in clips)) for name in names),
                note=PERCENT,
            )
        )
    return tables


def _table_4(rows: Sequence[ReportRow]) -> list[Table]:
    """Patterns by clip length, N fixed: accuracy and GFLOPs."""
    tables = []
    pairs = {(row.expensive, row.cheap) for row in rows if row.expensive and row.cheap}
    for label in dict.fromkeys(row.label for row in rows):
        for expensive, cheap in sorted(pairs):
            members = [
                row
                for row in rows
                if row.label == label and row.expensive in ("", expensive) and row.cheap in ("", cheap)
            ]
            columns = sorted({(row.clip_frames, row.clips) for row in members})
            columns = [c for c in columns if sum((row.clip_frames, row.clips) == c for row in members) > 1]
            at = {(row.pattern, row.clip_frames, row.clips): row for row in members}
            patterns = {row.pattern for row in members if (row.clip_frames, row.clips) in columns}
            if len(patterns) < 2:
                continue
            headings = ["#E:#C"]
            for frames, clips in columns:
                headings += [f"{frames}-frames×{clips}-clips", "GFLOPs"]
            lines = []
            for pattern in sorted(patterns, key=_share, reverse=True):
                found = [at.get((pattern, *column)) for column in columns]
                texts = [t for row in found for t in (accuracy(row), _cost(row))]
                lines.append((pattern, *texts))
            tables.append(
                Table(
                    title=f"As Table 4: {label}, E = {expensive}, C = {cheap}",
                    headings=tuple(headings),
                    rows=tuple(lines),
                    note=f"{PERCENT}; GFLOPs of a video, backbones and aggregator; empty cells cannot be or were not asked",
                )
            )
    return tables


def _table_6(rows: Sequence[ReportRow]) -> list[Table]:
    """Expensive backbones beside each other: averaged all-E, then FAST-GRU's patterns."""
    wanted = [
        row
        for row in rows
        if row.expensive
        and (
            (row.aggregator, row.pattern) == ("average", "all-E")
            or (row.aggregator == "fast-gru" and row.cheap)
        )
    ]
    tables = []
    settled = sorted({(row.clip_frames, row.clips, row.cheap) for row in wanted if row.cheap})
    for frames, clips, cheap in settled:
        members = [
            row
            for row in wanted
            if (row.clip_frames, row.clips) == (frames, clips) and row.cheap in ("", cheap)
        ]
        models = sorted({row.expensive for row in members if row.cheap})
        if len(models) < 2:
            continue
        at = {(f"{row.pattern} ({row.label})", row.expensive): row for row in members}
        names = sorted({name for name, _ in at}, key=lambda name: -_share(name.split(" ")[0]))
        headings = [t for model in models for t in (model, "GFLOPs")]
        tables.append(
            Table(
                title=f"As Table 6: {frames}-frames×{clips}-clips, C = {cheap}",
                headings=("#E:#C", *headings),
                rows=tuple(
                    (
                        name,
                        *(t for m in models for t in (accuracy(at.get((name, m))), _cost(at.get((name, m))))),
                    )
                    for name in names
                ),
                note=f"{PERCENT}; GFLOPs of a video, backbones and aggregator",
            )
        )
    return tables


def _by_models(rows: Iterable[ReportRow]) -> list[tuple[str, list[ReportRow]]]:
    found: dict[str, list[ReportRow]] = {}
    for row in rows:
        length = f"{counted(row.clip_frames, 'frame')} a clip, " if row.clip_frames else ""
        found.setdefault(f"{length}E = {row.expensive}, C = {row.cheap}", []).append(row)
    return list(found.items())


def _share(pattern: str) -> float:
    """The expensive clips' share, which orders the paper's rows."""
    parsed = Pattern.parse(pattern)
    return parsed.expensive / (parsed.expensive + parsed.cheap)


def _cost(row: ReportRow | None) -> str:
    return "" if row is None else significant(row.gflops_per_video)
