"""Finished runs as a report: rows, coverage, gains, confusions, and how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import RunError
from ...terminal.text import counted
from ..data.mix import PartCoverage
from .names import RowName, row_names
from .paper import TABLE_1_NAMES, TABLES, Printed
from .rows import ClassGain, Confusion, PaperPoint, ReportMeta, ReportRow
from .runs import Result, Row, read_results, rows_of
from .tables import paper_tables


def report_of(
    paths: Sequence[str | Path], *, title: str | None = None, paper: bool = False
) -> tuple[list[ReportRow], ReportMeta]:
    """Rows and everything beside them of the runs in `paths`; `paper` adds the paper's own points.

    Raises RunError as `read_results` does, and where no run is finished.
    """
    results, failures = read_results(paths)
    if not results:
        raise RunError(f"{', '.join(map(str, paths))}: no cell is finished; run the sweep again, it goes on")
    runs, left_out = rows_of(results)
    rows = [_row(row, name) for row, name in zip(runs, row_names(runs), strict=True)]
    best = _best(rows)
    gains = [_gain(number, rows, runs) for number in best]
    stores = ", ".join(sorted({Path(result.config.store).stem for result in results}))
    counted = [result for row in runs for result in row.runs]
    meta = ReportMeta(
        title=title or f"Accuracy and cost: {stores}",
        lines=tuple(_made(counted)),
        coverage=(*_coverage(counted), *left_out),
        confusions=tuple(_confusion(rows[number], runs[number]) for number in best),
        tables=tuple(paper_tables(rows)),
        gains=tuple(gain for gain in gains if gain is not None),
        failures=tuple(failures),
        paper=paper_points() if paper else (),
    )
    return rows, meta


def _best(rows: Sequence[ReportRow]) -> list[int]:
    """The most accurate row of each group, averaging only where there is nothing else."""
    best: dict[str, int] = {}
    for number, row in enumerate(rows):
        there = rows[best.setdefault(row.group, number)]
        if (row.aggregator != "average", row.mean) > (there.aggregator != "average", there.mean):
            best[row.group] = number
    return list(best.values())


def paper_points() -> tuple[PaperPoint, ...]:
    """The paper's own results on Kinetics-400, each once: Tables 2 and 4 to 7 of Zhu et al., AAAI 2020.

    Table 7's R(2+1)D-34 is not the paper's own and left out.
    """
    points: dict[tuple[float, float], PaperPoint] = {}
    for printed in (printed for cells in TABLES.values() for printed in cells):
        if printed.top1 is not None and printed.setting.expensive in TABLE_1_NAMES:
            gflops = printed.gflops * (printed.setting.clips if printed.per_clip else 1)
            point = PaperPoint(name=_paper_name(printed), gflops_per_video=gflops, top1=printed.top1 / 100)
            points.setdefault((round(gflops), printed.top1), point)
    return tuple(points.values())


def _paper_name(printed: Printed) -> str:
    return f"Table {printed.table}: {printed.label}"


def _row(row: Row, name: RowName) -> ReportRow:
    first = row.first
    return ReportRow(
        aggregator=first.config.aggregator,
        pattern=str(first.config.pattern),
        clips=first.config.clips,
        seeds=tuple(row.top1),
        top1=tuple(row.top1.values()),
        gflops_per_video=first.gflops_per_video,
        group=name.group,
        mixture=name.mixture,
        setting=name.setting,
        clip_frames=first.config.clip_frames,
        expensive=first.config.expensive or "",
        cheap=first.config.cheap or "",
    )


def _confusion(row: ReportRow, of: Row) -> Confusion:
    caption = f"Confusion of {_named(row)}" + (
        f", {counted(len(of.runs), 'run')} added up" if len(of.runs) > 1 else ""
    )
    counts = of.confusion
    occur = np.flatnonzero(counts.labelled + counts.answered)
    names = of.first.config.class_names
    if len(occur) < len(names):
        caption += f", the {len(occur):,} of {counted(len(names), 'class', 'classes')} that occur"
    return Confusion(counts=counts.among(occur), class_names=tuple(names[i] for i in occur), caption=caption)


def _gain(number: int, rows: Sequence[ReportRow], runs: Sequence[Row]) -> ClassGain | None:
    """Against averaging of the same clips, trained alike or not at all; None where that was not run."""
    row, own = rows[number], runs[number]
    if row.aggregator == "average":
        return None
    average = [
        runs[place]
        for place, other in enumerate(rows)
        if (other.aggregator, other.group, other.mixture) == ("average", row.group, row.mixture)
        and runs[place].first.mix == own.first.mix
        and other.setting in (row.setting, "")
    ]
    if not average:
        return None
    shares = []
    for of in (average[0], own):
        total = of.confusion.labelled
        shares.append((total > 0, of.confusion.right / np.maximum(total, 1)))
    both = np.flatnonzero(shares[0][0] & shares[1][0])
    return ClassGain(
        class_names=tuple(own.first.config.class_names[i] for i in both),
        base=tuple(shares[0][1][both].tolist()),
        gained=tuple(shares[1][1][both].tolist()),
        base_name="average",
        gained_name=_named(row),
    )


def _named(row: ReportRow) -> str:
    return f"{row.aggregator} {row.pattern} of {counted(row.clips, 'clip')}" + (
        f" ({row.heading})" if row.heading else ""
    )


def _coverage(results: Sequence[Result]) -> list[str]:
    """Each different coverage once, and what the reader of the figures should know."""
    lines: dict[str, None] = {}
    several = len({result.config.store for result in results}) > 1
    for result in results:
        c, values = result.config, result.result
        models = " and ".join(model for model in (c.expensive, c.cheap) if model)
        coverage = PartCoverage(**values["coverage"])
        of = f" of {c.store}" if several else ""
        lines[
            f"{values['part']} part of {values['split']}{of}, {models} at "
            f"{counted(c.clip_frames, 'frame')}: {coverage}"
        ] = None
    for result in results:
        lines |= {f"note: {note}": None for note in result.result["notes"]}
    return list(lines)


def _made(results: Sequence[Result]) -> list[str]:
    """Stores, weights, settings, versions, and the command that makes one run again."""
    lines: dict[str, None] = {}
    for result in results:
        c = result.config
        fingerprint = c.store_fingerprint[:12]
        videos = ", ".join(f"{c.videos[name]} {name}" for name in ("train", "validation", "report"))
        models = " and ".join(model for model in (c.expensive, c.cheap) if model)
        lines[
            f"store {c.store}, {models} with fingerprint {fingerprint}…; split {c.split}; videos: {videos}"
        ] = None
    for result in results:
        for model, entry in result.config.models.items():
            spec = entry["spec"]
            random = ", random" if spec.get("weights_random") else ""
            lines[
                f"{model}: weights {str(spec['weights_digest'])[:12]}…{random}, transform {spec['transform']}"
            ] = None
    for result in results:
        own = result.settings or {"nothing": "to train"}
        lines["training: " + ", ".join(f"{name} {value}" for name, value in own.items())] = None
        lines[
            "versions: " + ", ".join(f"{name} {value}" for name, value in result.values["versions"].items())
        ] = None
    seeds = sorted({result.seed for result in results})
    runs = len({result.run for result in results})
    lines[f"{counted(runs, 'run')}, seeds {', '.join(map(str, seeds))}"] = None
    shown = next((result for result in results if result.settings), results[0])
    lines[f"one of them alone: {shown.command}"] = None
    return list(lines)
