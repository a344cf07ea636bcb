"""Which commands make a store's shards again, once they were removed: told from what the store knows of their making."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from ...runtime.flop_counter import paper_clips
from ..format.spec import FeatureSpec
from ..read.features import Features
from ..read.store import Store


def remaking_commands(store: Store, models: Iterable[tuple[str, int]]) -> tuple[str, ...]:
    """The commands that make the removed shards of some models again, one for all models that one command made.

    A store does not tell everything: an annotation file that was the source, or options such as `--limit`, are not in
    them, and the store that maps were converted from stands as SOURCE.

    Args:
        store: the store.
        models: (name, clip frames) of the models.

    Raises:
        StoreError: the store does not hold such a model.
    """
    commands: list[list[str]] = []
    together: dict[tuple[str, ...], list[Features]] = {}
    for key in sorted(set(models)):
        features = store.features(*key)
        recorded, spec = features.provenance, features.spec
        encoding = _options({"--dtype": (spec.dtype, "float16"), "--codec": (spec.codec, "none")})
        if "converted_from" in recorded:
            commands.append(
                ["faster", "convert", "SOURCE", str(store.path), "--model", spec.model, *encoding]
            )
        elif isinstance(imported := recorded.get("imported"), Mapping):
            commands.append([*_import(store, features, imported), *encoding])
        else:
            together.setdefault((*_extraction(spec), *encoding), []).append(features)
    for options, extracted in together.items():
        commands.append(_extract(store, extracted, options))
    return tuple(shlex.join(command) for command in commands)


def _import(store: Store, features: Features, imported: Mapping[str, Any]) -> list[str]:
    spec = features.spec
    told = (
        ["--gflops", f"{features.gflops_per_clip:g}", "--clip-frames", str(spec.clip_frames)]
        if imported.get("of_export") is None  # an export says these itself
        else []
    )
    source = str(imported.get("source", "SOURCE"))
    model = ["--model", spec.model, "--clips", str(spec.clips)]
    return ["faster", "import", source, "--store", str(store.path), *model, *told]


def _extraction(spec: FeatureSpec) -> list[str]:
    """The options that models of one extraction share."""
    transform = spec.transform
    return [
        *(["--allow-random"] if spec.weights_random else []),
        *_options(
            {
                "--clip-frames": (spec.clip_frames, None),  # the default is the model's own
                "--clips": (spec.clips, paper_clips(spec.clip_frames)),
                "--size": (transform.get("size"), None),
                "--precision": ("bf16" if spec.precision == "bf16" else "float32", None),
                "--batch-clips": (spec.batch_clips, 8),
                "--views": (spec.views - 1, 0),
                "--view-seed": (transform.get("view_seed", 0), 0),
            }
        ),
    ]


def _extract(store: Store, extracted: list[Features], options: Iterable[str]) -> list[str]:
    videos = store.videos
    command = ["faster", "extract", videos.root, "--store", str(store.path)]
    for features in extracted:
        command += ["--model", features.model]
    weights = [features.provenance.get("weights_path") for features in extracted]
    if all(weights):  # one for each model, or none
        for path in weights:
            command += ["--weights", str(path)]
    command += options
    segments = [row for row, name in enumerate(videos.ids) if "#t=" in name]
    if segments:  # the second one of a file starts where the first one ends, after exactly so many seconds
        starts = videos.start_seconds[segments]
        seconds = starts[starts > 0].min() if (starts > 0).any() else videos.end_seconds[segments].max()
        command += ["--every", f"{seconds:.10g}"]
    if videos.missing:
        command.append("--allow-missing")
    return command


def _options(values: Mapping[str, tuple[object, object]]) -> list[str]:
    """Those whose value is not the default."""
    return [
        text for name, (value, default) in values.items() if value != default for text in (name, str(value))
    ]
