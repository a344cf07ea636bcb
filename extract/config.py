"""What to extract: the configuration behind `faster extract`."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError
from ..runtime.dask_cluster import LOCAL
from ..runtime.flop_counter import paper_clips
from ..store.format.encoding import CODECS, DTYPES
from ..terminal.suggest import did_you_mean
from .backbones.inference.precision import PRECISIONS
from .sources.options import SourceOptions


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(SourceOptions):
    """What to extract; `faster extract` has an option for each field.

    Attributes:
        models: names of backbones; all of them see the same decoded clips.
        store: the store to write; None names it after the source's folder, in the current one.
        weights: a file for each model, in the models' order; empty looks for `weights/<model>.*`.
        allow_random: go on with random weights where none are found.
        clip_frames: L; None takes what the models were made for or trained with, else 8.
        clips: M a video, None for 256 / L as in the paper.
        size: pixels of a frame's side; None takes each model's own, else 224.
        views: augmented passes over each video beside the centre view, as training saw them: random scale, crop,
            mirroring and time offset, drawn from `view_seed`, the video's id and the view's number. A store is
            begun with as many as it will have.
        dtype: of the stored maps, "float16" or "uint8". codec: "none" or "zstd".
        limit: as of any source; run again without it to add the others.
        every_seconds: cut files into segments of this many seconds, each a row of its own.
        retry_failed: do the shards again that hold failed videos, for files that were mended since; but those of which
            a file is gone, whose maps are kept.
        devices: where the backbones run; several share the work, one process each. None takes the first GPU, or
            the CPU.
        cluster: dask workers of this machine ("local"), one a device, or of the scheduler at this address, which all take
            the one device named, "cuda" or "cpu"; None does without dask.
        decoders: decoding processes for each device.
        task: this task's share of the shards, as `TaskShare.parse` reads it; None does all.
        batch_clips: clips a forward pass; a part of what decides the maps' last bits.
        precision: what the backbones compute in, one of `precision.PRECISIONS`.
        compiled: on a GPU, compile the backbones.
    """

    models: tuple[str, ...]
    store: str | None = None
    weights: tuple[str, ...] = ()
    allow_random: bool = False
    clip_frames: int | None = None
    clips: int | None = None
    size: int | None = None
    views: int = 0
    view_seed: int = 0
    dtype: str = "float16"
    codec: str = "none"
    every_seconds: float | None = None
    retry_failed: bool = False
    devices: tuple[str, ...] | None = None
    cluster: str | None = None
    decoders: int = 1
    task: str | None = None
    batch_clips: int = 8
    precision: str = "auto"
    compiled: bool = True

    def __post_init__(self) -> None:
        if not self.models:
            raise UsageError("no model named; see: faster models")
        if len(set(self.models)) < len(self.models):
            raise UsageError("a model is named twice")
        if self.weights and len(self.weights) != len(self.models):
            raise UsageError(
                f"{len(self.weights)} --weights for {len(self.models)} --model; give one each, in order"
            )
        for name in ("clip_frames", "size", "decoders", "batch_clips"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}; 1 is the least")
        for name, known in (("dtype", DTYPES), ("codec", CODECS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                hint = did_you_mean(str(value), known)
                raise UsageError(f"--{name} is {value}; allowed: {', '.join(known)}{hint}")
        for name in ("views", "view_seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}; 0 is the least")
        if self.cluster not in (None, LOCAL) and self.devices not in (("cuda",), ("cpu",)):
            raise UsageError(
                "workers of a dask cluster are of one kind: say --devices cuda or --devices cpu with --scheduler"
            )
        if self.store == "":
            raise UsageError("--store is empty; name the store to write, or leave it out")
        if self.clips is not None and self.clips < 1:
            raise UsageError(f"--clips is {self.clips}; 1 is the least")

    def clips_a_view(self, clip_frames: int) -> int:
        """M, by default as many clips as give the paper's 256 frames (§4)."""
        return self.clips or paper_clips(clip_frames)
