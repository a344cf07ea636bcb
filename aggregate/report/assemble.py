"""Assemble a report from finished runs: rows, coverage, gains, confusions, and how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...errors import RunError
from ...terminal.text import counted
from ..data.mix import PartCoverage
from .names import RowName, row_names
from .paper import TABLE_1_NAMES, TABLES
from .rows import ClassGain, Confusion, PaperPoint, ReportMeta, ReportRow, grouped
from .runs import Result, Row, read_results, rows_of
from .tables import paper_tables


def report_of(
    paths: Sequence[str | Path], *, title: str | None = None, paper: bool = False
) -> tuple[list[ReportRow], ReportMeta]:
    """Return the rows of the runs in `paths`, and all other report data; `paper` adds the paper's points.

    Raises RunError as `read_results` does, and if no run is finished.
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
    """Return the most accurate row of each group; averaging only if there is nothing else."""
    groups = grouped(range(len(rows)), lambda number: rows[number].group)
    return [
        max(numbers, key=lambda number: (rows[number].aggregator != "average", rows[number].mean))
        for numbers in groups.values()
    ]


def paper_points() -> tuple[PaperPoint, ...]:
    """Return the paper's results on Kinetics-400, each once: Tables 2 and 4 to 7 of Zhu et al., AAAI 2020.

    Table 7's R(2+1)D-34 is not the paper's own and is left out.
    """
    points: dict[tuple[float, float], PaperPoint] = {}
    for printed in (printed for cells in TABLES.values() for printed in cells):
        if printed.top1 is not None and printed.setting.expensive in TABLE_1_NAMES:
            gflops = printed.gflops * (printed.setting.clips if printed.per_clip else 1)
            name = f"Table {printed.table}: {printed.label}"
            point = PaperPoint(name=name, gflops_per_video=gflops, top1=printed.top1 / 100)
            points.setdefault((round(gflops), printed.top1), point)
    return tuple(points.values())


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
    """Compare with averaging of the same clips, trained alike or not trained; None without that run."""
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
    return row.named(f"{row.aggregator} {row.pattern} of {counted(row.clips, 'clip')}")


def _coverage(results: Sequence[Result]) -> list[str]:
    """Return each different coverage once, and notes for the reader of the results."""
    several = len({result.config.store for result in results}) > 1
    lines = []
    for result in results:
        c, values = result.config, result.result
        coverage = PartCoverage(**values["coverage"])
        of = f" of {c.store}" if several else ""
        lines.append(
            f"{values['part']} part of {values['split']}{of}, {_models(result)} at "
            f"{counted(c.clip_frames, 'frame')}: {coverage}"
        )
    lines += [f"note: {note}" for result in results for note in result.result["notes"]]
    return list(dict.fromkeys(lines))


def _models(result: Result) -> str:
    return " and ".join(model for model in (result.config.expensive, result.config.cheap) if model)


def _made(results: Sequence[Result]) -> list[str]:
    """Return stores, weights, settings, versions, and the command that repeats one run."""
    lines = []
    for result in results:
        c = result.config
        videos = ", ".join(f"{c.videos[name]} {name}" for name in ("train", "validation", "report"))
        lines.append(
            f"store {c.store}, {_models(result)} with fingerprint {c.store_fingerprint[:12]}…; "
            f"split {c.split}; videos: {videos}"
        )
    for result in results:
        for model, entry in result.config.models.items():
            spec = entry["spec"]
            random = ", random" if spec.get("weights_random") else ""
            digest = str(spec["weights_digest"])[:12]
            lines.append(f"{model}: weights {digest}…{random}, transform {spec['transform']}")
    for result in results:
        lines.append(f"training: {_listed(result.settings or {'nothing': 'to train'})}")
        lines.append(f"versions: {_listed(result.values['versions'])}")
    seeds = sorted({result.seed for result in results})
    runs = len({result.run for result in results})
    lines.append(f"{counted(runs, 'run')}, seeds {', '.join(map(str, seeds))}")
    shown = next((result for result in results if result.settings), results[0])
    lines.append(f"one of them alone: {shown.command}")
    return list(dict.fromkeys(lines))


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
