"""What a report is about: the finished runs of run folders and sweeps, as rows, coverage, gains and how they were made."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RunError
from ..paper import TABLE_1_NAMES, TABLES, Printed
from ..run_folder import read_json
from .pattern import Pattern
from .report_rows import ClassGain, Confusion, PaperPoint, ReportMeta, ReportRow
from .report_tables import paper_tables
from .runs import RunConfig, load_config
from .selection import PartCoverage
from .splits import SPLITS_FILE
from .sweep_cells import Line
from .sweep_grid import AGGREGATORS
from .sweep_lines import CELLS_FILE, read_lines
from .train_config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Result:
    """One finished run: its folder, config.json and result.json."""

    run: Path
    config: RunConfig
    training: dict[str, Any]
    versions: dict[str, str]
    values: dict[str, Any]

    @property
    def row_key(self) -> tuple[Any, ...]:
        """What the seeds of one row share."""
        c = self.config
        where = c.store, self.values["split"], self.values["part"]
        return (*where, c.aggregator, c.pattern, c.clips, c.clip_frames, c.expensive, c.cheap)

    @property
    def mix_key(self) -> tuple[Any, ...]:
        """The same without the aggregator."""
        return tuple(value for place, value in enumerate(self.row_key) if place != 3)

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(K, K), row the label, column the answer."""
        return np.array(self.values["confusion"], dtype=np.int64)


def read_results(paths: Sequence[str | Path]) -> tuple[list[Result], list[str]]:
    """The finished runs of run folders, folders of all splits and sweeps, each once; and a line for each that is none.

    Raises RunError where a path is none of these, is not finished, or is damaged.
    """
    folders: dict[Path, None] = {}
    failures: list[str] = []
    for path in map(Path, paths):
        if (path / CELLS_FILE).exists():
            lines = sorted(read_lines(path / CELLS_FILE), key=_paper_order)
            folders |= {path / line["run"]: None for line in lines if "metrics" in line}
            failures += _not_there(lines)
        elif (path / SPLITS_FILE).exists():
            folders |= {path / split: None for split in read_json(path / SPLITS_FILE)}
        else:
            folders[path] = None
    return [_read(folder) for folder in folders], failures


def report_of(
    paths: Sequence[str | Path], *, title: str | None = None, paper: bool = False
) -> tuple[list[ReportRow], ReportMeta]:
    """Rows and everything beside them of the runs in `paths`; `paper` adds the paper's own points.

    Raises RunError as `read_results` does, and where no run is finished.
    """
    results, failures = read_results(paths)
    if not results:
        raise RunError(f"{', '.join(map(str, paths))}: no cell is finished; run the sweep again, it goes on")
    grouped: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        grouped.setdefault(result.row_key, []).append(result)
    groups = _group_names([members[0] for members in grouped.values()])
    rows = [_row(members, group) for members, group in zip(grouped.values(), groups, strict=True)]
    keys = list(grouped)
    best = max(range(len(rows)), key=lambda i: (rows[i].aggregator != "average", rows[i].mean))
    stores = ", ".join(sorted({Path(result.config.store).stem for result in results}))
    meta = ReportMeta(
        title=title or f"Accuracy and cost: {stores}",
        lines=tuple(_made(results)),
        coverage=tuple(_coverage(results)),
        confusion=_confusion(rows[best], grouped[keys[best]]),
        tables=tuple(paper_tables(rows)),
        gain=_gain(rows[best], grouped[keys[best]], results),
        failures=tuple(failures),
        paper=paper_points() if paper else (),
    )
    return rows, meta


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


def _paper_order(line: Line) -> tuple[Any, ...]:
    """Aggregators as in Table 3, then others by name; within one N up, then the patterns as in Table 4."""
    name, pattern = line["aggregator"], Pattern.parse(line["pattern"])
    rank = AGGREGATORS.index(name) if name in AGGREGATORS else len(AGGREGATORS)
    cheap = pattern.cheap / (pattern.expensive + pattern.cheap)
    return line["clip_frames"], rank, name, line["clips"], cheap, line["seed"]


def _not_there(lines: Sequence[Line]) -> list[str]:
    """Why cells have no figures, a line for all the aggregators that share a reason."""
    reasons: dict[str, dict[str, None]] = {}
    for line in lines:
        what = "failed" if "failed" in line else "empty"
        if what in line:
            seed = f", seed {line['seed']}" if what == "failed" else ""
            mix = f"{line['pattern']} of {line['clips']} clips of {line['clip_frames']} frames"
            reasons.setdefault(f"{what}: {mix}{seed}: {line[what]}", {})[line["aggregator"]] = None
    return [f"{reason} ({', '.join(names)})" for reason, names in reasons.items()]


def _read(folder: Path) -> Result:
    config = load_config(folder)
    values, result = read_json(folder / "config.json"), folder / "result.json"
    if not result.exists():
        raise RunError(f"{folder} is not finished; run its train-agg command again, it goes on where it was")
    loaded = read_json(result)
    try:
        PartCoverage(**loaded["coverage"])
        float(loaded["metrics"]["top1"]), float(loaded["gflops_per_video"]), loaded["confusion"]
        training, versions = dict(values["training"]), dict(values["versions"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{result} is damaged ({error!r}); make it again: faster train-agg with its settings"
        ) from None
    return Result(run=folder, config=config, training=training, versions=versions, values=loaded)


def _row(members: Sequence[Result], group: str) -> ReportRow:
    first = members[0]
    return ReportRow(
        aggregator=first.config.aggregator,
        pattern=first.config.pattern,
        clips=first.config.clips,
        seeds=tuple(member.training["seed"] for member in members),
        top1=tuple(float(member.values["metrics"]["top1"]) for member in members),
        gflops_per_video=float(first.values["gflops_per_video"]),
        group=group,
        clip_frames=first.config.clip_frames,
        expensive=first.config.expensive or "",
        cheap=first.config.cheap or "",
    )


def _group_names(firsts: Sequence[Result]) -> list[str]:
    """What tells the rows apart beside aggregator, pattern and N: store, split, clip length and models, where they differ."""
    pairs = {(r.config.expensive, r.config.cheap) for r in firsts if r.config.expensive and r.config.cheap}
    pair = pairs.pop() if len(pairs) == 1 else (None, None)

    def models(config: RunConfig) -> str:
        if config.expensive in (None, pair[0]) and config.cheap in (None, pair[1]):
            return ""
        return " + ".join(model for model in (config.expensive, config.cheap) if model)

    parts = [
        (Path(r.config.store).stem, r.values["split"], f"{r.config.clip_frames} frames", models(r.config))
        for r in firsts
    ]
    differ = [len(set(column)) > 1 for column in zip(*parts, strict=True)]
    return [", ".join(t for t, shown in zip(part, differ, strict=True) if shown and t) for part in parts]


def _confusion(row: ReportRow, members: Sequence[Result]) -> Confusion:
    caption = f"Confusion of {_named(row)}" + (f", {len(members)} seeds added up" if len(members) > 1 else "")
    counts = np.sum([member.confusion for member in members], axis=0)
    occur = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    names = members[0].config.class_names
    if len(occur) < len(names):
        caption += f", the {len(occur)} of {len(names)} classes that occur"
    return Confusion(
        counts=counts[np.ix_(occur, occur)], class_names=tuple(names[i] for i in occur), caption=caption
    )


def _gain(row: ReportRow, members: Sequence[Result], results: Sequence[Result]) -> ClassGain | None:
    """Against averaging of the same clips; None where that was not run."""
    average = [r for r in results if r.config.aggregator == "average" and r.mix_key == members[0].mix_key]
    if not average or row.aggregator == "average":
        return None
    shares = []
    for runs in (average, members):
        counts = np.sum([run.confusion for run in runs], axis=0)
        total = counts.sum(axis=1)
        shares.append((total > 0, counts.diagonal() / np.maximum(total, 1)))
    both = np.flatnonzero(shares[0][0] & shares[1][0])
    return ClassGain(
        class_names=tuple(members[0].config.class_names[i] for i in both),
        base=tuple(shares[0][1][both].tolist()),
        gained=tuple(shares[1][1][both].tolist()),
        base_name="average",
        gained_name=_named(row),
    )


def _named(row: ReportRow) -> str:
    return f"{row.aggregator} {row.pattern} of {row.clips} clips"


def _coverage(results: Sequence[Result]) -> list[str]:
    """Each different coverage once, and what the reader of the figures should know."""
    lines: dict[str, None] = {}
    for result in results:
        c, values = result.config, result.values
        models = " and ".join(model for model in (c.expensive, c.cheap) if model)
        coverage = PartCoverage(**values["coverage"])
        lines[
            f"{values['part']} part of {values['split']}, {models} at {c.clip_frames} frames: {coverage}"
        ] = None
    for result in results:
        lines |= {f"note: {note}": None for note in result.values["notes"]}
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
        own = {name: value for name, value in result.training.items() if name not in ("seed", "device")}
        lines["training: " + ", ".join(f"{name} {value}" for name, value in own.items())] = None
        lines["versions: " + ", ".join(f"{name} {value}" for name, value in result.versions.items())] = None
    seeds = sorted({result.training["seed"] for result in results})
    lines[f"{len(results)} runs, seeds {', '.join(map(str, seeds))}"] = None
    lines[f"one of them alone: {_command(results[0])}"] = None
    return list(lines)


def _command(result: Result) -> str:
    """The train-agg command of a run, with every option that is not the default."""
    c = result.config
    words = ["faster", "train-agg", "--store", c.store, "--aggregator", c.aggregator, "--pattern", c.pattern]
    words += ["--clips", str(c.clips), "--clip-frames", str(c.clip_frames), "--split", c.split]
    for role in ("expensive", "cheap"):
        if (model := getattr(c, role)) is not None:
            words += [f"--{role}", model]
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    settled = {"store", "aggregator", "pattern", "clips", "clip_frames", "split", "expensive", "cheap"}
    for name, default in defaults.items():
        value = result.training.get(name, getattr(c, name, default))
        if name not in settled and name not in ("out", "init") and value != default and value is not None:
            option = "--" + name.replace("_", "-")
            words += [option] if value is True else [option, str(value)]
    return shlex.join(words)
