"""What a run takes from a store: models, clips and videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, UsageError
from ...runtime.flop_counter import MapShape
from ...store import Features, Store
from ...store.format.manifest import PARTS
from ...terminal.suggest import did_you_mean
from ...terminal.text import agreeing, counted
from .pattern import ALL_EXPENSIVE, ANY, Pattern

DEFAULT_PATTERN = Pattern(expensive=1, cheap=7)  # the paper's FASTER16


class AsksForClips(Protocol):  # read-only, so that frozen records fit
    """What is asked of a store's models and clips. None lets the store settle it; `choose_mix` parses text.

    `TrainConfig`, `RunConfig` and a sweep's `Cell` are such records, among others.
    """

    @property
    def pattern(self) -> Pattern | str | None:
        """Which clips are expensive."""

    @property
    def clips(self) -> int | None:
        """N."""

    @property
    def clip_frames(self) -> int | None:
        """L."""

    @property
    def expensive(self) -> str | None:
        """The expensive model."""

    @property
    def cheap(self) -> str | None:
        """The cheap model."""


@dataclass(frozen=True, kw_only=True)
class MixRequest:
    """A record with only the attributes of `AsksForClips`."""

    pattern: Pattern | str | None = None
    clips: int | None = None
    clip_frames: int | None = None
    expensive: str | None = None
    cheap: str | None = None


@dataclass(frozen=True, kw_only=True)
class Mix:
    """N clips of a video, the expensive and the cheap ones in the pattern's order.

    `expensive` and `cheap` are None if the pattern's N clips have none of that kind. With `drawn`, training
    draws N and each video's pattern (`budgets`); `pattern` and `clips` are what the run reports on.
    """

    pattern: Pattern
    clips: int
    clip_frames: int
    expensive: Features | None
    cheap: Features | None
    drawn: bool = False

    @classmethod
    def of_one(cls, features: Features, clips: int) -> Mix:
        """Return a mix of `clips` clips of a video, all of one model."""
        return cls(
            pattern=ALL_EXPENSIVE,
            clips=clips,
            clip_frames=features.clip_frames,
            expensive=features,
            cheap=None,
        )

    @cached_property
    def features(self) -> dict[str, Features]:
        """The models in use by name, the expensive one first."""
        return {f.model: f for f in (self.expensive, self.cheap) if f is not None}

    @cached_property
    def model_of(self) -> NDArray[np.int64]:
        """(N,) the model of each time, an index into `features`."""
        if len(self.features) == 1:
            return np.zeros(self.clips, dtype=np.int64)
        return (~self.pattern.expensive_mask(self.clips)).astype(np.int64)

    @property
    def models(self) -> list[str]:
        """The name of the model at each time."""
        names = list(self.features)
        return [names[index] for index in self.model_of]

    @property
    def grid(self) -> int:
        """M, the clips of a view in the store."""
        return next(iter(self.features.values())).clips

    @property
    def map_shapes(self) -> dict[str, MapShape]:
        """Each model's (l, h, w, c)."""
        return {model: features.map_shape for model, features in self.features.items()}

    @cached_property
    def whole(self) -> NDArray[np.bool_]:
        """(rows, views) bool: whether every model in use has complete maps."""
        views = min(features.views for features in self.features.values())
        complete = np.stack([features.ok[:, :views] for features in self.features.values()])
        return np.asarray(complete.all(axis=0))

    @property
    def backbone_gflops(self) -> float:
        """GFLOPs of the backbones on one video's N clips."""
        return sum(self.features[model].gflops_per_clip for model in self.models)

    def describe(self) -> str:
        """Return one line: how many clips of which model."""
        counts = [f"{self.models.count(model)} {model}" for model in self.features]
        if self.drawn:
            return (
                f"any pattern of up to {counted(self.clips, 'clip')} of {counted(self.clip_frames, 'frame')} "
                f"({' and '.join(self.features)})"
            )
        return (
            f"{self.pattern} of {counted(self.clips, 'clip')} of {counted(self.clip_frames, 'frame')} "
            f"({', '.join(counts)})"
        )


def choose_mix(store: Store, asked: AsksForClips) -> Mix:
    """Settle which models and clips to use, from the contents of the store.

    With two models, the one with more GFLOPs is the expensive one. With more than two, the models in use must
    be named. The default pattern is 1:7, or all-E if the store has one model; "any" is drawn in training and
    reported on as 1:7. The default N is all M clips.

    Raises DataError if the store does not have what is asked, UsageError if the request is ambiguous.
    """
    if not store.models:
        raise DataError(
            f"{store.path} holds no maps; make them: faster extract --store {store.path} --model …"
        )
    length = _choose_length(store, asked.clip_frames)
    known = {name: store.features(name, length) for name, frames in store.models if frames == length}
    pattern = asked.pattern or (DEFAULT_PATTERN if len(known) > 1 or asked.cheap else ALL_EXPENSIVE)
    if isinstance(pattern, str):
        pattern = Pattern.parse(pattern, ANY)
    drawn = pattern.drawn
    if drawn:
        pattern = DEFAULT_PATTERN
    named = {"expensive": asked.expensive, "cheap": asked.cheap}
    if asked.expensive is not None and asked.expensive == asked.cheap:
        raise UsageError(
            f"--expensive and --cheap are both {asked.cheap}; name one of them, and --pattern all-E"
        )
    for name in named.values():
        if name is not None:
            store.features(name, length)  # StoreError, with the known names
    total = asked.clips or max(features.clips for features in known.values())
    chosen: dict[str, Features | None] = {}
    for role, needed in zip(("expensive", "cheap"), pattern.counts(total), strict=True):
        chosen[role] = known[_choose_model(store, role, known, pattern, named)] if needed else None
    grids = {features.model: features.clips for features in chosen.values() if features is not None}
    if len(set(grids.values())) > 1:
        listed = ", ".join(f"{model} {grid}" for model, grid in grids.items())
        raise DataError(
            f"{store.path}: the models differ in clips a video ({listed}); extract both with the same"
        )
    grid = min(grids.values())
    total = asked.clips or grid
    if total > grid:
        raise DataError(
            f"{store.path} holds {counted(grid, 'clip')} a video, {total} {agreeing(total, 'is', 'are')} "
            f"asked; use --clips {grid} or fewer, or extract into a new store with --clips {total}"
        )
    if drawn and None in chosen.values():
        raise UsageError(f"pattern {ANY} mixes two models' clips, and --clips {total} leaves one; at least 2")
    return Mix(
        pattern=pattern,
        clips=total,
        clip_frames=length,
        expensive=chosen["expensive"],
        cheap=chosen["cheap"],
        drawn=drawn,
    )


def _choose_length(store: Store, clip_frames: int | None) -> int:
    lengths = sorted({frames for _, frames in store.models})
    listed = ", ".join(map(str, lengths))
    if clip_frames is None:
        if len(lengths) > 1:
            raise UsageError(f"{store.path} has clips of {listed} frames; name one with --clip-frames")
        return lengths[0]
    if clip_frames not in lengths:
        raise DataError(
            f"{store.path} has clips of {listed} frames, none of {clip_frames}; make them: "
            f"faster extract --store {store.path} --clip-frames {clip_frames}"
        )
    return clip_frames


def _choose_model(
    store: Store, role: str, known: Mapping[str, Features], pattern: Pattern, named: Mapping[str, str | None]
) -> str:
    """Return the model for a role that the pattern needs: the named one, or the only possible one."""
    if (name := named[role]) is not None:
        return name
    other = named["cheap" if role == "expensive" else "expensive"]
    mixed = pattern.expensive > 0 and pattern.cheap > 0
    left = sorted((m for m in known if m != other or not mixed), key=lambda m: -known[m].gflops_per_clip)
    listed = ", ".join(f"{m} ({known[m].gflops_per_clip:.4g} GFLOPs a clip)" for m in left)
    if len(known) > 2 and len(left) > 1:
        raise UsageError(f"{store.path} has {counted(len(known), 'model')}, {listed}; name one with --{role}")
    if mixed and len(known) < 2:
        raise DataError(
            f"{store.path} has one model, {listed}, and pattern {pattern} needs two; add one: "
            f"faster extract --store {store.path} --model …, or use --pattern all-E"
        )
    return left[0] if role == "expensive" else left[-1]


@dataclass(frozen=True, kw_only=True)
class PartCoverage:
    """The state of the videos that one part of a split lists.

    listed = whole + failed + waiting + missing; `waiting` have no maps yet, `missing` were not on disk.
    `unlabelled` counts the whole ones that are left out because they have no label.
    """

    listed: int
    whole: int
    failed: int
    waiting: int
    missing: int
    unlabelled: int

    def __str__(self) -> str:
        names = ("failed", "waiting", "missing", "unlabelled")
        rest = [f"{getattr(self, name)} {name}" for name in names if getattr(self, name)]
        return f"{self.listed} listed, {self.whole} whole" + "".join(f", {text}" for text in rest)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)


def choose_split(store: Store, name: str | None) -> str:
    """Return the named split, or the only one, or the first by name. Raises DataError if there is none."""
    names = store.videos.split_names
    if not names:
        no_labels = "" if store.class_names else " and no labels"
        raise DataError(
            f"{store.path} names no split{no_labels}; extract from a source that does (an annotation file, "
            "or folders train/ and test/ of class folders)"
            + (f", or give it labels as `faster inspect {store.path}` says" if no_labels else "")
        )
    if name is not None and name not in names:
        raise DataError(
            f"{store.path} has no split {name!r}; it has {', '.join(names)}: "
            f"name one with --split{did_you_mean(name, names)}"
        )
    return name or names[0]


def subset_rows(store: Store, mix: Mix, split: str, part: str) -> tuple[NDArray[np.int64], PartCoverage]:
    """Return a part's labelled rows with complete maps, increasing, and the part's coverage."""
    if part not in PARTS:
        raise UsageError(f"no part is called {part!r}; allowed: {', '.join(PARTS)}")
    videos = store.videos
    listed = (videos.split(split) == PARTS[part]) & videos.exists
    complete = listed & mix.whole[:, 0]
    failed = np.logical_or.reduce([f.coverage.failed[:, 0] for f in mix.features.values()]) & listed
    labelled = complete & (videos.labels >= 0)
    missing = videos.missing_in(split, part)
    coverage = PartCoverage(
        listed=int(listed.sum()) + missing,
        whole=int(complete.sum()),
        failed=int(failed.sum()),
        waiting=int((listed & ~complete & ~failed).sum()),
        missing=missing,
        unlabelled=int((complete & ~labelled).sum()),
    )
    return np.flatnonzero(labelled).astype(np.int64), coverage


def no_videos(store: Store, mix: Mix, split: str, part: str, *, options: str = "--split") -> str:
    """Return why a part of a split has no usable video, and which command fixes it, for an error message.

    `options` are those that name another part or split.
    """
    listed = (store.videos.split(split) == PARTS[part]) & store.videos.exists
    start = f"{store.path}: no labelled {part} video of {split} has maps"
    _, coverage = subset_rows(store, mix, split, part)
    if not coverage.listed:
        has = [name for name in PARTS if subset_rows(store, mix, split, name)[1].listed]
        return (
            f"{start}: it lists only {' and '.join(has)} videos; name another with {options} (splits: "
            f"{', '.join(store.videos.split_names)}), or add some: faster extract SOURCE --store {store.path}"
        )
    pending = [
        f"{features.model} has {int((listed & features.ok[:, 0]).sum())} of {coverage.listed}"
        for features in mix.features.values()
        if (listed & ~features.ok[:, 0] & ~features.coverage.failed[:, 0]).any()
    ]
    if pending:
        models = " ".join(f"--model {model}" for model in mix.features)
        return f"{start} ({', '.join(pending)}); go on with: faster extract --store {store.path} {models}"
    return f"{start} ({coverage}); see: faster inspect {store.path}"


def shared_groups(store: Store, split: str, part: str) -> list[str]:
    """Return the groups with videos in both the train part and another part of a split, sorted."""
    part_of, groups = store.videos.split(split), store.videos.groups
    inside = [{groups[row] for row in np.flatnonzero(part_of == PARTS[name])} for name in ("train", part)]
    return sorted(set.intersection(*inside) - {""}) if part != "train" else []


def training_is_known(features: Features) -> bool:
    """Whether the store says which videos trained the weights; random weights saw none.

    It is unknown for imported features, and for weights without a list of their videos.
    """
    return bool(features.trained_on) or features.spec.weights_random


def require_unseen(store: Store, mix: Mix, rows: NDArray[np.int64], split: str, part: str) -> None:
    """Refuse to evaluate on videos that a backbone was trained on. Raises DataError."""
    ids = [store.videos.ids[row] for row in rows]
    for model, features in mix.features.items():
        seen = features.seen_in_training(ids)
        if seen:
            raise DataError(
                f"{len(seen)} of the {len(ids)} {part} videos of {split} "
                f"{agreeing(len(seen), 'was', 'were')} in the training of {model} ({seen[0]}, …), so "
                "the figures would not be of unseen videos; name another --split, "
                "or extract with other weights"
            )
