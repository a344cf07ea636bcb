"""The `faster extract` commands that make a store's maps again, derived from the store's records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..runtime.flop_counter import paper_clips
from ..store import FeatureSpec, Store
from ..store.maintain.remake import changed_options, encoding_arguments
from ..store.read.features import Features
from .config import ExtractConfig


def extract_commands(store: Store, models: Sequence[Features]) -> list[list[str]]:
    """Return the commands that extract the maps of some models again; models of one command share one."""
    together: dict[tuple[str, ...], list[Features]] = {}
    for features in models:
        options = (*_extraction(features.spec), *encoding_arguments(features.spec))
        together.setdefault(options, []).append(features)
    return [_extract(store, extracted, options) for options, extracted in together.items()]


def _extraction(spec: FeatureSpec) -> list[str]:
    """Return the options that the models of one extraction share."""
    transform = spec.transform
    return [
        *(["--allow-random"] if spec.weights_random else []),
        *changed_options(
            {
                "--clip-frames": (spec.clip_frames, None),  # the default is the model's own
                "--clips": (spec.clips, paper_clips(spec.clip_frames)),
                "--size": (transform.get("size"), None),
                "--precision": ("bf16" if spec.precision == "bf16" else "float32", None),
                "--batch-clips": (spec.batch_clips, ExtractConfig.batch_clips),
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
    if segments:  # the second segment of a file starts after exactly one segment's seconds
        starts = videos.start_seconds[segments]
        seconds = starts[starts > 0].min() if (starts > 0).any() else videos.end_seconds[segments].max()
        command += ["--every", f"{seconds:.10g}"]
    if videos.missing:
        command.append("--allow-missing")
    return command
