"""The configuration of `faster extract`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import UsageError
from ..runtime.dask_cluster import LOCAL, cluster_options
from ..runtime.flop_counter import paper_clips
from ..store.options import EncodingOptions
from ..terminal.settings import declare, documented, like, setting
from .backbones.inference.precision import PRECISIONS
from .sources.options import SourceOptions


@documented
@dataclass(frozen=True, kw_only=True)
class ExtractConfig(SourceOptions):
    """What to extract. `faster extract` has an option for each field."""

    models: tuple[str, ...] = field(
        metadata=declare(
            help="A backbone (see: faster models); repeatable.",
            detail="All of them see the same decoded clips.",
            flag="--model",
        )
    )
    store: str | None = setting(
        None, help="The store to write; named after the folder by default.", path=True
    )
    weights: tuple[str, ...] = setting(
        (), help="A file or URL for each --model, in order.", unset="weights/MODEL.*"
    )
    allow_random: bool = setting(
        False, help="Random weights where none are found: smoke tests and timing only."
    )
    clip_frames: int | None = setting(
        None, help="L, frames a clip; the models' own by default, else 8.", least=1
    )
    clips: int | None = setting(None, help="M, clips a video; 256 / clip frames by default.", least=1)
    size: int | None = setting(
        None, help="Pixels of a frame's side; each model's own by default, else 224.", least=1, most=2048
    )
    views: int = setting(
        0,
        help="Augmented passes over each video beside the centre view, for training to draw from.",
        detail="A store is begun with as many as it will have.",
        least=0,
    )
    view_seed: int = setting(
        0,
        help="Of scale, crop, mirroring and time offset of the augmented views.",
        detail="They are drawn from it, the video's id and the view's number.",
        least=0,
        most=2**32 - 1,
    )
    dtype: str = like(EncodingOptions, "dtype")
    codec: str = like(EncodingOptions, "codec")
    every_seconds: float | None = setting(
        None,
        help="Cut files into segments of this many seconds.",
        detail="Each is a row of its own.",
        above=0,
        flag="--every",
    )
    retry_failed: bool = setting(
        False,
        help="Do the shards again that hold failed videos, after mending their files.",
        detail="A shard of which a file is gone keeps its maps.",
    )
    devices: tuple[str, ...] | None = setting(
        None,
        help="For example cuda:0,cuda:1; the GPU if there is one, else the CPU.",
        detail="Several share the work, one process each.",
        listed=True,
    )
    cluster: str | None = setting(
        None,
        help='"local" for dask workers of this machine, one a device, or the address of a scheduler.',
        detail='Workers of a scheduler all take the one device named, "cuda" or "cpu".',
        unset="processes of this machine do the work",
        by=cluster_options,
    )
    decoders: int = setting(1, help="Decoding processes a device.", least=1)
    task: str | None = setting(
        None,
        help="Do only the shards whose number leaves K when divided by N; auto in a Slurm array.",
        metavar="K/N",
    )
    batch_clips: int = setting(
        8,
        help="Clips a forward pass; a store keeps to one number.",
        detail="It is a part of what decides the maps' last bits.",
        least=1,
    )
    precision: str = setting(
        "auto",
        help="What the backbones compute in; auto is bf16 where the device has it in hardware, else float32.",
        choices=PRECISIONS,
    )
    compiled: bool = setting(True, help="Compile the backbones; on a GPU only.", flag="--compile")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models:
            raise UsageError("no model named; see: faster models")
        if len(set(self.models)) < len(self.models):
            raise UsageError("a model is named twice")
        if self.weights and len(self.weights) != len(self.models):
            raise UsageError(
                f"{len(self.weights)} --weights for {len(self.models)} --model; give one each, in order"
            )
        if self.cluster not in (None, LOCAL) and self.devices not in (("cuda",), ("cpu",)):
            raise UsageError(
                "workers of a dask cluster are of one kind: say --devices "
                "cuda or --devices cpu with --scheduler"
            )
        if self.store == "":
            raise UsageError("--store is empty; name the store to write, or leave it out")

    def clips_a_view(self, clip_frames: int) -> int:
        """Return M; by default as many clips as give the paper's 256 frames (§4)."""
        return self.clips or paper_clips(clip_frames)
