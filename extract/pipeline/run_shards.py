"""Shards one after another: decode ‖ forward ‖ write. Runs in the command's process, or in one a device.

Decoding has processes of its own, writing a thread. The forward pass runs in the thread that was called on a CPU, whose
cores it shares with the decoders; for a GPU it has a thread too, so that the next video's pixels are copied there while
it computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ... import store as stores
from ...runtime.signals import raise_if_stopped
from ...runtime.threads import BackgroundWorker, Work
from ..backbones.inference.frozen import FrozenBackbone
from ..backbones.weights.load import WeightsInfo, load_weights
from ..video.decode import LoadedVideo, stream_clips
from ..video.decoder_pool import DecodeJob, DecoderPool
from ..video.decoder_process import VideoFailure
from ..video.shared_memory import fit_slots
from ..video.transforms import ViewDraw, draw_view
from .events import Report
from .stages import ForwardStage, ShardTask, ShardWriters

OpenPool = Callable[..., AbstractContextManager[DecoderPool]]  # as `DecoderPool` itself

# What writing may be behind: single videos' maps of one model.
WRITE_AHEAD = 4


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every process of a run needs to know; see `ExtractConfig`."""

    store: str
    root: str
    models: tuple[str, ...]
    weights: tuple[str | None, ...]
    allow_random: bool
    decoders: int
    batch_clips: int
    precisions: tuple[str, ...]
    compiled: bool


def load_networks(job: Job, device: str) -> list[tuple[FrozenBackbone, WeightsInfo]]:
    """Load each model of the job and make it ready on a device."""
    networks = []
    for model, weights, precision in zip(job.models, job.weights, job.precisions, strict=True):
        backbone, info = load_weights(model, path=weights, allow_random=job.allow_random)
        network = FrozenBackbone(
            backbone,
            device=device,
            batch_clips=job.batch_clips,
            precision=precision,
            compiled=job.compiled,
        )
        networks.append((network, info))
    return networks


def run_shards(
    job: Job,
    specs: Sequence[stores.FeatureSpec],
    manifest: stores.Manifest,
    tasks: Sequence[ShardTask],
    networks: Sequence[FrozenBackbone],
    report: Report,
    *,
    open_pool: OpenPool = DecoderPool,
) -> None:
    """Decode each task's videos once, run the models that lack the shard, and commit it.

    A video that cannot be decoded, or whose maps do not fit float16, is recorded as failed with its reason. `report` is
    called by the writing thread. `open_pool` makes the decoders; who calls often may keep them.
    """
    # One decode serves all models whose clips are the same frames; others get a pass of their own.
    for frames in sorted({_frames_of(spec) for spec in specs}):
        here = {i for i, spec in enumerate(specs) if _frames_of(spec) == frames}
        passes = [_part_of(task, here) for task in tasks]
        passes = [task for task in passes if task.outputs]
        if passes:
            _run_pass(job, specs, manifest, passes, networks, report, specs[min(here)], open_pool)


def count_decodes(specs: Sequence[stores.FeatureSpec], tasks: Sequence[ShardTask]) -> int:
    """How many times a video is decoded in `run_shards`: once for all models that see the same pixels."""
    return sum(
        len(task.rows) * len({_frames_of(specs[model]) for model, _ in task.outputs}) for task in tasks
    )


def _part_of(task: ShardTask, models: set[int]) -> ShardTask:
    return replace(task, outputs=tuple(output for output in task.outputs if output[0] in models))


def _run_pass(
    job: Job,
    specs: Sequence[stores.FeatureSpec],
    manifest: stores.Manifest,
    tasks: Sequence[ShardTask],
    networks: Sequence[FrozenBackbone],
    report: Report,
    spec: stores.FeatureSpec,
    open_pool: OpenPool,
) -> None:
    """The shards of models that see the same pixels, those that `spec` says."""
    size = _frames_of(spec)[1]
    shape, slots = fit_slots(
        (spec.clip_frames, size, size, 3),
        clips=spec.clips * spec.views,
        workers=job.decoders,
        batch_clips=job.batch_clips,
    )
    device = networks[0].device
    waited = 0.0
    with ExitStack() as stack:
        pool = stack.enter_context(open_pool(job.decoders, shape=shape, slots=slots))
        writers = stack.enter_context(ShardWriters(Path(job.store), specs, manifest, report))
        writing = stack.enter_context(BackgroundWorker("write", ahead=WRITE_AHEAD))
        computing = stack.enter_context(BackgroundWorker("forward", ahead=1)) if _has_own_cores(device) else None
        stage = ForwardStage(
            networks,
            manifest,
            writers=writers,
            writing=writing,
            report=report,
            decode_wait=lambda: computing.idle_seconds if computing else waited,
        )

        def do(work: Work) -> None:
            if computing is None:
                work()
            else:
                computing.do(work)

        for i in {model for task in tasks for model, _ in task.outputs}:
            do(partial(networks[i].require_clips_apart, spec.clip_frames, size))
            if computing is not None:  # compiling takes long, and so does the decoders' start
                do(partial(networks[i].warm_up, spec.clip_frames, size))
        videos = stack.enter_context(closing(pool.run(_decode_jobs(job, manifest, tasks, spec))))
        for task in tasks:
            do(partial(stage.begin, task))
            given_up = dict(task.given_up)
            for row in task.rows:
                if row in given_up:
                    do(partial(stage.add, row, VideoFailure(reason=given_up[row]), None))
                    continue
                more = True
                while more:
                    raise_if_stopped()
                    began = time.perf_counter()
                    key, part = next(videos)
                    waited += time.perf_counter() - began
                    assert key == row
                    more = isinstance(part, LoadedVideo) and part.more
                    pixels = _on_device(part, device) if isinstance(part, LoadedVideo) else None
                    do(partial(stage.add, row, part, pixels))
            do(stage.commit)


def _has_own_cores(device: torch.device) -> bool:
    """Whether the forward pass leaves this machine's cores free, to decode and copy meanwhile."""
    return device.type == "cuda"


def _on_device(part: LoadedVideo, device: torch.device) -> Tensor:
    """A part's pixels where the networks are; for a GPU a copy, which is there on return."""
    pixels = torch.from_numpy(part.clips)
    if device.type != "cuda":
        return pixels
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # beside that of the forward pass
    with torch.cuda.stream(stream):
        copied = pixels.pin_memory().to(device, non_blocking=True)
    stream.synchronize()
    copied.record_stream(torch.cuda.default_stream(device))
    return copied


def _frames_of(spec: stores.FeatureSpec) -> tuple[int, int]:
    """(frame stride, size): what decides which pixels a model sees; clips are as many and as long for all."""
    return spec.frame_stride, int(spec.transform["size"])


def _decode_jobs(
    job: Job, manifest: stores.Manifest, tasks: Sequence[ShardTask], spec: stores.FeatureSpec
) -> Iterator[DecodeJob[int]]:
    for task in tasks:
        given_up = dict(task.given_up)
        for row in task.rows:
            if row in given_up:
                continue
            start, end = float(manifest.start_seconds[row]), float(manifest.end_seconds[row])
            arguments = {
                "clips": spec.clips,
                "clip_frames": spec.clip_frames,
                "frame_stride": spec.frame_stride,
                "size": _frames_of(spec)[1],
                "start_seconds": None if np.isnan(start) else start,
                "end_seconds": None if np.isnan(end) else end,
                "views": _draws(manifest.ids[row], spec),
            }
            path = Path(job.root) / manifest.paths[row]
            yield DecodeJob(key=row, path=path, arguments=arguments, load=stream_clips)


def _draws(video: str, spec: stores.FeatureSpec) -> tuple[ViewDraw, ...]:
    """All views, whichever are lacking: what becomes of a video must not depend on where a run was stopped."""
    size, seed = _frames_of(spec)[1], int(spec.transform.get("view_seed", 0))
    return tuple(draw_view(video, view, seed=seed, size=size) for view in range(spec.views))
