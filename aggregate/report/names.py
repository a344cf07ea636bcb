"""Names of a report's rows: only what distinguishes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...runtime.canonical_json import digest
from ...terminal.text import counted
from ..runs import RunConfig
from .rows import grouped
from .runs import Result, Row

_SKIP = "skip_scores"
SHOWN_DIGITS = 8  # of a digest


@dataclass(frozen=True, kw_only=True)
class RowName:
    """What distinguishes a row from others besides aggregator, pattern and N; "" if nothing does.

    Attributes:
        group: which videos: store, split, part. Only rows of one group are compared.
        mixture: clip length and models.
        setting: how it was trained.
    """

    group: str
    mixture: str
    setting: str


def row_names(rows: Sequence[Row]) -> list[RowName]:
    """Return the name of each row, from what differs between the rows; no two rows look alike."""
    firsts = [row.first for row in rows]
    settings = _differing_settings(firsts)
    names = [
        RowName(group=group, mixture=mixture, setting=setting)
        for group, mixture, setting in zip(_groups(rows), _mixtures(firsts), settings, strict=True)
    ]
    return _make_distinct(names, firsts)


def _groups(rows: Sequence[Row]) -> list[str]:
    runs = [run for row in rows for run in row.runs]
    stores = {run.config.store for run in runs}
    stems = {Path(store).stem for store in stores}
    manifests = {(run.config.store, _manifest(run.config)) for run in runs}

    def store(run: Result) -> str:
        return Path(run.config.store).stem if len(stems) == len(stores) else run.config.store

    columns = [
        (
            ", ".join(dict.fromkeys(store(run) for run in row.runs)),
            f"manifest {_manifest(row.first.config)}" if len(manifests) > len(stores) else "",
            ("mean of " if len(row.splits) > 1 else "") + ", ".join(row.splits),
            f"{row.first.result['part']} part",
        )
        for row in rows
    ]
    return _differing(columns)


def _manifest(config: RunConfig) -> str:
    return digest(config.videos.get("segments"))[:SHOWN_DIGITS]


def _mixtures(firsts: Sequence[Result]) -> list[str]:
    pairs = {(r.config.expensive, r.config.cheap) for r in firsts if r.config.expensive and r.config.cheap}
    pair = pairs.pop() if len(pairs) == 1 else (None, None)

    def models(config: RunConfig) -> str:
        if config.expensive in (None, pair[0]) and config.cheap in (None, pair[1]):
            return ""
        return " + ".join(model for model in (config.expensive, config.cheap) if model)

    return _differing([(counted(r.config.clip_frames, "frame"), models(r.config)) for r in firsts])


def _differing_settings(firsts: Sequence[Result]) -> list[str]:
    trained = [r.settings for r in firsts if r.settings]
    names = dict.fromkeys(name for settings in trained for name in settings)
    differ = [name for name in names if len({settings.get(name) for settings in trained}) > 1]
    # An aggregator that is not the paper's is marked even if nothing differs.
    shown = [name for name in differ if name != _SKIP]
    return [
        ", ".join(
            [f"{name.replace('_', ' ')} {r.settings.get(name)}" for name in shown]
            + ["with averaged scores"] * r.config.skip_scores
        )
        if r.settings
        else ""
        for r in firsts
    ]


def _differing(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return each row's texts of those columns that differ."""
    shown = [len(set(column)) > 1 for column in zip(*rows, strict=True)]
    return [", ".join(t for t, show in zip(row, shown, strict=True) if show and t) for row in rows]


def _make_distinct(names: Sequence[RowName], firsts: Sequence[Result]) -> list[RowName]:
    """Give groups of their own to rows that still look alike: their maps or reported videos differ."""
    alike = grouped(range(len(names)), lambda n: (names[n], firsts[n].config.aggregator, firsts[n].mix))
    distinct = list(names)
    for numbers in alike.values():
        texts = _differing(
            [
                (
                    f"maps {firsts[n].config.store_fingerprint[:SHOWN_DIGITS]}",
                    f"{counted(firsts[n].config.videos['report'], 'video')} reported",
                    f"coverage {firsts[n].reported_on[:SHOWN_DIGITS]}",
                )
                for n in numbers
            ]
        )
        for number, text in zip(numbers, texts, strict=True):
            group = ", ".join(part for part in (names[number].group, text) if part)
            distinct[number] = replace(names[number], group=group)
    return distinct
