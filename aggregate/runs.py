"""A trained aggregator's run: its config, and how to load it from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from msgspec import Struct
from safetensors.torch import load_file

from ..errors import RunError, UsageError
from ..runtime.canonical_json import Positive, as_json_types, digest, read_as
from ..runtime.file_names import require_text
from ..runtime.flop_counter import MapShape
from ..store import FeatureSpec, Store
from ..terminal.text import agreeing, counted
from ..training.run_folder import read_json
from .data.mix import Mix
from .data.pattern import Pattern
from .models.base import Aggregator
from .models.registry import build


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a run settled, as its config.json holds it besides the training options.

    Attributes:
        store, store_fingerprint: the store's absolute path, and a digest of its contents.
        split, report_part: the named split, and its part that is reported on: "test" or "val".
        aggregator, dropout, reads, map_shapes: what `registry.build` takes.
        pattern, clips, clip_frames, expensive, cheap: what `choose_mix` takes; a model not in use is None.
        skip_scores: whether the backbones' averaged scores are added (`ScoreSkip`).
        drawn: whether training drew the pattern and N (`--pattern any`); `pattern` and `clips` are then the
            first that are reported on.
        class_names: the class of each output.
        models: for each model in use its "spec" (what decided its maps), and what else was "recorded".
        validation_share: share of the train part that chose the best epoch.
        videos: the numbers of videos for training, validation and report, a digest of their rows, the number
            of videos in the store ("store") and the identity of its manifest ("segments").
    """

    store: str
    store_fingerprint: str
    split: str
    report_part: str
    aggregator: str
    dropout: float
    reads: str
    map_shapes: Mapping[str, MapShape]
    pattern: Pattern
    clips: int
    clip_frames: int
    expensive: str | None
    cheap: str | None
    class_names: tuple[str, ...]
    models: Mapping[str, Mapping[str, Any]]
    validation_share: float
    videos: Mapping[str, Any]
    drawn: bool = False  # older runs do not have the last two
    skip_scores: bool = False

    def build(self) -> Aggregator[Any]:
        """Return the aggregator, with fresh weights."""
        return build(
            self.aggregator,
            map_shapes=self.map_shapes,
            num_classes=len(self.class_names),
            dropout=self.dropout,
            reads=self.reads,
            skip_scores=self.skip_scores,
        )

    def on(self, pattern: str | None = None, clips: int | None = None) -> RunConfig:
        """Return the same run on another mixture of its models' clips; an unused model is None.

        Raises UsageError if the pattern is invalid, or needs a model that the run was not trained on.
        """
        asked, count = Pattern.parse(pattern) if pattern else self.pattern, clips or self.clips
        roles: dict[str, str | None] = {}
        for role, needed in zip(("expensive", "cheap"), asked.counts(count), strict=True):
            if needed and getattr(self, role) is None:
                raise UsageError(
                    f"pattern {asked} takes two models, and the run was trained on "
                    f"{' and '.join(self.models)} alone; "
                    "train one for every pattern: faster train-agg --pattern any"
                )
            roles[role] = getattr(self, role) if needed else None
        return replace(self, pattern=asked, clips=count, expensive=roles["expensive"], cheap=roles["cheap"])

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        values: dict[str, Any] = as_json_types({**asdict(self), "pattern": str(self.pattern)})
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Read back what `to_dict` gave. Raises ValueError, UsageError for its pattern.

        Other keys are ignored.
        """
        pattern = Pattern.parse(read_as(_PatternText, values).pattern)
        return read_as(cls, {**values, "pattern": asdict(pattern)})


class _PatternText(Struct):
    """The pattern in a run's config.json, as text."""

    pattern: str


def store_fingerprint(store: Store, mix: Mix) -> str:
    """Return a SHA-256 over what a run depends on: the manifest, and the provenance of the models in use."""
    specs = [mix.features[model].spec.fingerprint for model in sorted(mix.features)]
    return digest([list(store.videos.segments), specs])


def store_changes(config: RunConfig, store: Store, mix: Mix) -> list[str]:
    """Return what has changed in the store since the run began; empty if nothing has."""
    if store_fingerprint(store, mix) == config.store_fingerprint:
        return []
    changes = []
    then, now = list(config.videos.get("segments", [])), list(store.videos.segments)
    if then != now:
        added = int(store.videos.exists.sum()) - config.videos.get("store", 0)
        grown = then and now[: len(then)] == then
        changes.append(
            f"{counted(added, 'video')} {agreeing(added, 'was', 'were')} added"
            if grown
            else "it lists other videos"
        )
    for model, features in mix.features.items():
        if model not in config.models:
            continue  # another model was named: the configs differ in that
        spec, trained = features.spec, FeatureSpec.from_dict(config.models[model]["spec"])
        names = [
            field.name for field in fields(spec) if getattr(spec, field.name) != getattr(trained, field.name)
        ]
        if names:
            changes.append(f"the maps of {model} were made again with another {' and '.join(names)}")
    return changes


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: its config, its aggregator with the best weights (eval mode, CPU), the ids it saw.

    `batch_size` is the number of videos per batch in its validation and its report.
    """

    path: Path
    config: RunConfig
    aggregator: Aggregator[Any]
    trained_on: frozenset[str]
    batch_size: int = 32


class _Training(Struct):
    batch_size: Positive


class _BatchSizes(Struct):
    """What decides the batch in a run's config.json; a run of one process may not have `ranks`."""

    training: _Training
    ranks: Positive = 1


def scoring_batch(batch_size: int, ranks: int) -> int:
    """Return the videos per batch of validation, report and `evaluate`.

    It is each process's share of a training step, one number for all, because the last bits of a product
    depend on the number of rows and on a video's row.
    """
    return -(-batch_size // ranks)


def load_run(path: str | Path) -> Run:
    """Load a run folder of `faster train-agg`. Raises RunError if it is not complete."""
    path = Path(path)
    config = load_config(path)
    aggregator = config.build().eval()
    load_best(path, aggregator)
    if not (path / "trained_on.json").exists():  # written at the end of training
        raise RunError(f"{path} is not finished; run its train-agg command again, it goes on where it was")
    trained_on = read_json(path / "trained_on.json")
    expected = config.videos["train"] + config.videos["validation"]
    if not isinstance(trained_on, list) or len(trained_on) < expected:  # more, if it began from another run
        raise RunError(f"{path}/trained_on.json is damaged: it should list {counted(expected, 'video')}")
    return Run(
        path=path,
        config=config,
        aggregator=aggregator,
        trained_on=frozenset(trained_on),
        batch_size=_batch_size(path),
    )


def load_config(path: Path) -> RunConfig:
    """Load the run's config.json. Raises RunError if it is missing or describes something else."""
    require_text(path, "the run")
    if (path / "splits.json").exists():
        splits = ", ".join(sorted(str(found.parent) for found in path.glob("*/config.json")))
        raise RunError(f"{path} holds a run of each split; name one of them: {splits}")
    try:
        return RunConfig.from_dict(read_json(path / "config.json"))
    except (ValueError, UsageError) as error:  # UsageError: of its pattern
        if (path / "cells.jsonl").exists():
            raise RunError(f"{path} is a sweep's folder; name one of its runs, in {path / 'cells'}") from None
        raise RunError(
            f"{path}/config.json is damaged, or not of an aggregator's run ({error}); make it again: faster "
            "train-agg with its settings"
        ) from error


def _batch_size(path: Path) -> int:
    """Return the run's own batch size, from its config.json. Raises RunError if that does not say it."""
    try:
        sizes = read_as(_BatchSizes, read_json(path / "config.json"))
    except ValueError as error:
        raise RunError(f"{path}/config.json is not of an aggregator's run ({error})") from error
    return scoring_batch(sizes.training.batch_size, sizes.ranks)


def load_best(path: Path, aggregator: Aggregator[Any]) -> None:
    """Load the run's best weights into the aggregator. Raises RunError if they are missing or do not fit."""
    weights = path / "best.safetensors"
    if not weights.exists():
        raise RunError(
            f"{weights} is missing: run its train-agg command again; where that cannot go on, "
            f"delete {path} first"
        )
    try:
        aggregator.load_state_dict(load_file(weights))
    except Exception as error:  # safetensors' own type, or torch's RuntimeError
        raise RunError(
            f"{weights} does not fit the run's config.json: {error}; delete {path} and train again"
        ) from error
