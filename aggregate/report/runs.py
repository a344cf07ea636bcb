"""Find, read and check the finished runs of a report, and give the command that repeats a run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from ...errors import RunError, UsageError
from ...runtime.canonical_json import digest
from ...terminal.text import counted
from ...training.run_folder import read_json
from ..all_splits import SPLITS_FILE
from ..config import TrainConfig
from ..data.budgets import BUDGETS_FOLDER, budget_name, drawn_from
from ..data.mix import PartCoverage
from ..data.pattern import ANY, Pattern
from ..evaluation.confusion import ConfusionMatrix
from ..runs import RunConfig, load_config
from ..same_store import one_path_each
from ..sweep.cells import Line
from ..sweep.grid import AGGREGATORS
from ..sweep.results import CELLS_FILE, read_lines
from .rows import grouped

_BESIDE_TRAINING = (
    "dropout",
    "validation_share",
    "label_smoothing",
    "balance_classes",
    "unseen",
    "skip_scores",
)  # in config.json
# For options that older runs do not name.
_DEFAULTS = {field.name: field.default for field in fields(TrainConfig)}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One finished run: its folder, config.json (as `config` and as `values`) and result.json."""

    run: Path
    config: RunConfig
    values: Mapping[str, Any]
    result: Mapping[str, Any]

    @property
    def training(self) -> dict[str, Any]:
        """The training options."""
        return dict(self.values["training"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.values["training"]["seed"])

    @property
    def top1(self) -> float:
        """Top-1 accuracy in [0, 1]."""
        return float(self.result["metrics"]["top1"])

    @property
    def gflops_per_video(self) -> float:
        """Cost of a video; 0 if a model was imported with 0 GFLOPs and nothing else counts."""
        return float(self.result["gflops_per_video"])

    @property
    def mix(self) -> tuple[Any, ...]:
        """The mixture of clips."""
        c = self.config
        return c.pattern, c.clips, c.clip_frames, c.expensive, c.cheap

    @property
    def settings(self) -> dict[str, str]:
        """How it was trained, as texts by name, without seed and device; empty if nothing is trained."""
        if self.config.reads == "logits":
            return {}
        own = {name: value for name, value in self.training.items() if name not in ("seed", "device")}
        own |= {name: self.values.get(name, _DEFAULTS[name]) for name in _BESIDE_TRAINING}
        init = self.values.get("init")
        own["trained on"] = "any pattern" if self.config.drawn else "its pattern"
        own["init"] = None if init is None else f"{Path(init['run']).name} {init['sha256'][:8]}"
        return {name: str(value) for name, value in own.items()}

    @cached_property
    def reported_on(self) -> str:
        """Digest of what is known of the reported videos: manifest, coverage, and videos per class."""
        videos = self.config.videos
        labels = self.confusion.labelled.tolist()
        return digest([videos.get("segments"), videos["report"], dict(self.result["coverage"]), labels])

    @property
    def row_key(self) -> tuple[Any, ...]:
        """What the seeds of one row share: videos, maps, mixture, aggregator, settings."""
        c = self.config
        where = c.store, c.store_fingerprint, self.result["split"], self.result["part"], self.reported_on
        return (*where, c.aggregator, *self.mix, *sorted(self.settings.items()))

    @property
    def kind(self) -> tuple[Any, ...]:
        """What rows share that are averaged over splits: everything except their videos and maps."""
        c, settings = self.config, sorted(self.settings.items())
        return c.class_names, self.result["part"], c.aggregator, *self.mix, self.gflops_per_video, *settings

    @cached_property
    def confusion(self) -> ConfusionMatrix:
        """(K, K), row the label, column the answer."""
        return ConfusionMatrix.from_json(self.result["confusion"], len(self.config.class_names))

    @property
    def command(self) -> str:
        """The train-agg command that repeats the run, with every option that is not the default."""
        c = self.config
        arguments = ["faster", "train-agg", "--store", c.store, "--aggregator", c.aggregator]
        pattern = ANY if c.drawn else str(c.pattern)
        # For a drawn pattern config.json has the largest N and both models, for every result.
        clips = str(self.values["clips"])
        arguments += ["--pattern", pattern, "--clips", clips, "--clip-frames", str(c.clip_frames)]
        arguments += ["--split", c.split]
        for role in ("expensive", "cheap"):
            if (model := self.values[role]) is not None:  # both for a drawn pattern
                arguments += [f"--{role}", model]
        given = {**self.training, **{n: self.values[n] for n in _BESIDE_TRAINING if n in self.values}}
        if (init := self.values.get("init")) is not None:
            given["init"] = init["run"]
        for name, default in _DEFAULTS.items():
            value = given.get(name, default)
            if name in given and value != default and value is not None:
                option = "--" + name.replace("_", "-")
                arguments += [option] if value is True else [option, str(value)]
        return shlex.join(arguments)


def read_results(paths: Sequence[str | Path]) -> tuple[list[Result], list[str]]:
    """Return the finished runs in the paths, each once, and a line for each cell without results.

    Paths are run folders, folders of all splits, and sweeps. A run is the same under another path or link,
    and so is a store that moved or was copied. Raises RunError if a path is none of these, is not finished,
    or is damaged.
    """
    named: list[Path] = []
    failures: list[str] = []
    for path in _once(map(Path, paths)):
        if (path / CELLS_FILE).exists():
            lines = sorted(read_lines(path / CELLS_FILE), key=_paper_order)
            named += [path / line["run"] for line in lines if "metrics" in line]
            failures += _why_missing(lines)
        elif (path / SPLITS_FILE).exists():
            splits = read_json(path / SPLITS_FILE)
            if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits):
                raise RunError(f"{path / SPLITS_FILE} is damaged: it should list names of splits; {_AGAIN}")
            named += [path / split for split in splits]
        else:
            named.append(path)
    results = [result for folder in _once(named) for result in _read(folder)]
    configs = one_path_each([result.config for result in results])
    return [replace(result, config=own) for result, own in zip(results, configs, strict=True)], failures


def _once(paths: Iterable[Path]) -> list[Path]:
    """Return the paths as named; of several to one place, only the first."""
    found: dict[Path, Path] = {}
    for path in paths:
        found.setdefault(path.resolve(), path)
    return list(found.values())


@dataclass(frozen=True)
class Row:
    """The runs of one row in a report: its seeds, on one split or, averaged, on several."""

    runs: tuple[Result, ...]

    @property
    def first(self) -> Result:
        """The run that represents all of them."""
        return self.runs[0]

    @property
    def splits(self) -> tuple[str, ...]:
        """The named splits that the results are means over; one if nothing is averaged."""
        return tuple(dict.fromkeys(run.result["split"] for run in self.runs))

    @property
    def top1(self) -> dict[int, float]:
        """Each seed's top-1 accuracy in [0, 1], its mean over the splits."""
        seeds = dict.fromkeys(run.seed for run in self.runs)
        return {seed: fmean(run.top1 for run in self.runs if run.seed == seed) for seed in seeds}

    @cached_property
    def confusion(self) -> ConfusionMatrix:
        """(K, K) of all runs added up, row the label, column the answer."""
        return ConfusionMatrix.added([run.confusion for run in self.runs])


def rows_of(results: Sequence[Result]) -> tuple[list[Row], list[str]]:
    """Return the results of each row, every seed once, and a line for each run that is left out.

    A run is left out if its row has another run of the same seed. Rows that differ only in their split, and
    its store and maps, become one row, their mean.
    """
    rows: dict[tuple[Any, ...], dict[int, Result]] = {}
    notes = []
    for result in results:
        row = rows.setdefault(result.row_key, {})
        first = row.setdefault(result.seed, result)
        if first is not result:
            notes.append(f"note: {result.run} is left out: {_seed(result)} is counted once, from {first.run}")
    averaged, lines = _over_splits([list(row.values()) for row in rows.values()])
    return averaged, [*notes, *lines]


def _over_splits(rows: Sequence[Sequence[Result]]) -> tuple[list[Row], list[str]]:
    """Merge rows of several splits; each row is one run per seed."""
    found: list[Row] = []
    lines: dict[str, None] = {}
    for alike in grouped(rows, lambda row: row[0].kind).values():
        alike = sorted(alike, key=lambda row: str(row[0].result["split"]))
        names = [row[0].result["split"] for row in alike]
        everywhere = set.intersection(*({run.seed for run in row} for row in alike))
        if len(alike) == 1 or len(set(names)) < len(names) or not everywhere:
            found += [Row(tuple(row)) for row in alike]
            continue
        seeds = [run.seed for run in alike[0] if run.seed in everywhere]
        found.append(Row(tuple(run for row in alike for seed in seeds for run in row if run.seed == seed)))
        lines[f"note: the figures are means over {', '.join(names)}"] = None
        for run in (run for row in alike for run in row if run.seed not in everywhere):
            lines[f"note: {_seed(run)} is left out: not every split has it"] = None
    return found, list(lines)


def _seed(run: Result) -> str:
    c = run.config
    return f"seed {run.seed} of {c.aggregator} {c.pattern} of {counted(c.clips, 'clip')}"


def _paper_order(line: Line) -> tuple[Any, ...]:
    """Sort key: aggregators as in Table 3, then others by name; N ascending; patterns as in Table 4."""
    name, cheap = line["aggregator"], 2.0  # any pattern comes last
    rank = AGGREGATORS.index(name) if name in AGGREGATORS else len(AGGREGATORS)
    if line["pattern"] != ANY:
        pattern = Pattern.parse(line["pattern"])
        cheap = pattern.cheap / (pattern.expensive + pattern.cheap)
    return line["clip_frames"], rank, name, line["clips"], cheap, line["seed"]


def _why_missing(lines: Sequence[Line]) -> list[str]:
    """Return why cells have no results: one line for all aggregators that share a reason."""
    reasons: dict[str, dict[str, None]] = {}
    for line in lines:
        what = "failed" if "failed" in line else "empty"
        if what in line:
            seed = f", seed {line['seed']}" if what == "failed" else ""
            mix = (
                f"{line['pattern']} of {counted(line['clips'], 'clip')} of "
                f"{counted(line['clip_frames'], 'frame')}"
            )
            reasons.setdefault(f"{what}: {mix}{seed}: {line[what]}", {})[line["aggregator"]] = None
    return [f"{reason} ({', '.join(names)})" for reason, names in reasons.items()]


_AGAIN = "make it again: faster train-agg with its settings"


def _read(folder: Path) -> list[Result]:
    """Return a run's result; for a run that drew its pattern, one for each mixture."""
    config, path = load_config(folder), folder / "result.json"
    values = read_json(folder / "config.json")
    if not path.exists():
        raise RunError(f"{folder} is not finished; run its train-agg command again, it goes on where it was")
    results, reading = [], folder / "config.json"
    try:
        _check_config(config, values)
        paths = [path]
        if config.drawn:
            names = [budget_name(pattern, clips) for pattern, clips in drawn_from(config.clips)]
            paths = [folder / BUDGETS_FOLDER / f"{name}.json" for name in names]
        for reading in paths:
            if not reading.exists():
                raise RunError(f"{reading} is missing; run its train-agg command again, it reports anew")
            loaded = read_json(reading)
            _check_result(loaded, len(config.class_names))
            own = config
            if config.drawn:
                _require(loaded["clips"], int, "clips")
                own = config.on(loaded["pattern"], loaded["clips"])
            results.append(Result(run=folder, config=own, values=values, result=loaded))
    except KeyError as error:
        raise RunError(f"{reading} is damaged: {error} is missing; {_AGAIN}") from None
    except (TypeError, ValueError, AttributeError, OverflowError, UsageError) as error:
        raise RunError(f"{reading} is damaged ({error}); {_AGAIN}") from None
    return sorted(results, key=lambda result: (result.config.clips, -result.gflops_per_video))


def _check_config(config: RunConfig, values: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError if config.json is not valid for a report."""
    _require(values["training"]["seed"], int, "training.seed")
    for name in ("train", "validation", "report"):
        _require(config.videos[name], int, f"videos.{name}")
    for name in ("store", "store_fingerprint", "split", "aggregator", "reads"):
        _require(getattr(config, name), str, name)
    for name in ("clips", "clip_frames"):
        _require(getattr(config, name), int, name)
    for name in ("expensive", "cheap"):
        _require(getattr(config, name), str | None, name)
    _require(values["versions"], dict, "versions")
    for class_name in config.class_names:
        _require(class_name, str, "a class name")
    for model, entry in config.models.items():
        _require(entry["spec"]["weights_digest"], str | None, f"models.{model}.spec.weights_digest")
        entry["spec"]["transform"]
    if (init := values.get("init")) is not None:
        _require(init["run"], str, "init.run")
        _require(init["sha256"], str, "init.sha256")


def _check_result(loaded: Mapping[str, Any], classes: int) -> None:
    """Raise KeyError, TypeError or ValueError if result.json is not valid for a report."""
    PartCoverage(**loaded["coverage"])
    for name in ("split", "part"):
        _require(loaded[name], str, name)
    _require(loaded["notes"], list, "notes")
    top1, gflops = loaded["metrics"]["top1"], loaded["gflops_per_video"]
    _require(top1, int | float, "metrics.top1")
    _require(gflops, int | float, "gflops_per_video")
    if not 0 <= top1 <= 1:
        raise ValueError(f"metrics.top1 is {top1}; it lies in [0, 1]")
    if not (math.isfinite(gflops) and gflops >= 0):
        raise ValueError(f"gflops_per_video is {gflops}; it is finite and at least 0")
    ConfusionMatrix.from_json(loaded["confusion"], classes)


def _require(value: Any, kind: Any, name: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} is {value!r}")
