"""Rows in the layouts of the paper's Tables 2, 3, 4 and 6; a missing cell stays empty."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ...terminal.text import counted
from ..data.pattern import Pattern
from .rows import ReportRow, Table, grouped, percent, significant

PERCENT = "top-1, %, mean ± standard error over the seeds"


def paper_tables(rows: Sequence[ReportRow]) -> list[Table]:
    """Return every layout that a group's rows fill with at least two numbers, one table per group."""
    tables = []
    for layout in (_table_2, _table_3, _table_4, _table_6):
        for group, members in grouped(rows, lambda row: row.group).items():
            found = layout(members)
            tables += [replace(t, title=f"{t.title}; {group}") if group else t for t in found]
    return tables


def _accuracy(row: ReportRow | None) -> str:
    """Format mean ± standard error in percent; "" if there is no row."""
    if row is None:
        return ""
    error = row.standard_error
    return percent(row.mean) + ("" if error is None else f" ± {percent(error)}")


def _accuracy_and_cost(rows: Iterable[ReportRow | None]) -> Iterator[str]:
    """Yield two cells per row; "" if there is no row."""
    for row in rows:
        yield _accuracy(row)
        yield "" if row is None else significant(row.gflops_per_video)


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
            _accuracy(row),
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
    """Only the first clip is expensive: aggregators by number of clips."""
    tables = []
    for key, members in grouped((row for row in rows if row.first_only), _length_and_models).items():
        clips = sorted({row.clips for row in members})
        if len(clips) < 2:
            continue
        names = list(dict.fromkeys(row.label for row in members))
        at = {(row.label, row.clips): row for row in members}
        tables.append(
            Table(
                title=f"As Table 3: only the first clip expensive, {key}",
                headings=("aggregator", *(counted(n, "clip") for n in clips)),
                rows=tuple((name, *(_accuracy(at.get((name, n))) for n in clips)) for name in names),
                note=PERCENT,
            )
        )
    return tables


def _table_4(rows: Sequence[ReportRow]) -> list[Table]:
    """Patterns by clip length, N fixed: accuracy and GFLOPs."""
    tables = []
    pairs = sorted({(row.expensive, row.cheap) for row in rows if row.expensive and row.cheap})
    for label in dict.fromkeys(row.label for row in rows):
        for expensive, cheap in pairs:
            members = [
                row
                for row in rows
                if row.label == label and row.expensive in ("", expensive) and row.cheap in ("", cheap)
            ]
            columns = {
                column: {row.pattern: row for row in rows_there}
                for column, rows_there in sorted(grouped(members, _frames_and_clips).items())
                if len(rows_there) > 1
            }
            patterns = {pattern for column in columns.values() for pattern in column}
            if len(patterns) < 2:
                continue
            headings = [(f"{frames}-frames×{clips}-clips", "GFLOPs") for frames, clips in columns]
            tables.append(
                Table(
                    title=f"As Table 4: {label}, E = {expensive}, C = {cheap}",
                    headings=("#E:#C", *itertools.chain(*headings)),
                    rows=tuple(
                        (pattern, *_accuracy_and_cost(column.get(pattern) for column in columns.values()))
                        for pattern in sorted(patterns, key=_share, reverse=True)
                    ),
                    note=(
                        f"{PERCENT}; GFLOPs of a video, backbones and aggregator; "
                        "empty cells cannot be or were not asked"
                    ),
                )
            )
    return tables


def _table_6(rows: Sequence[ReportRow]) -> list[Table]:
    """Expensive backbones compared: averaged all-E, then FAST-GRU's patterns."""
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
    settled = sorted({(*_frames_and_clips(row), row.cheap) for row in wanted if row.cheap})
    for frames, clips, cheap in settled:
        members = [
            row for row in wanted if _frames_and_clips(row) == (frames, clips) and row.cheap in ("", cheap)
        ]
        models = sorted({row.expensive for row in members if row.cheap})
        if len(models) < 2:
            continue
        at = {(f"{row.pattern} ({row.label})", row.expensive): row for row in members}
        names = sorted({name for name, _ in at}, key=lambda name: -_share(name.split(" ")[0]))
        tables.append(
            Table(
                title=f"As Table 6: {frames}-frames×{clips}-clips, C = {cheap}",
                headings=("#E:#C", *itertools.chain(*((model, "GFLOPs") for model in models))),
                rows=tuple(
                    (name, *_accuracy_and_cost(at.get((name, model)) for model in models)) for name in names
                ),
                note=f"{PERCENT}; GFLOPs of a video, backbones and aggregator",
            )
        )
    return tables


def _length_and_models(row: ReportRow) -> str:
    length = f"{counted(row.clip_frames, 'frame')} a clip, " if row.clip_frames else ""
    return f"{length}E = {row.expensive}, C = {row.cheap}"


def _frames_and_clips(row: ReportRow) -> tuple[int, int]:
    return row.clip_frames, row.clips


def _share(pattern: str) -> float:
    """Return the share of expensive clips, which orders the paper's rows."""
    parsed = Pattern.parse(pattern)
    return parsed.expensive / (parsed.expensive + parsed.cheap)
