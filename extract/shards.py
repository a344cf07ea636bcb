"""Shards one after another: decode ‖ forward ‖ write. Runs in the command's process, or in one a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from tqdm import tqdm

from .. import store as stores
from ..errors import VideoError
from ..stopping import raise_if_stopped
from .decode import LoadedVideo
from .decoders import DecodeJob, DecoderPool, VideoFailure
from .frozen import FrozenBackbone
from .weights import WeightsInfo, load_weights

# Called once a video: clips computed by each model of the job, and whether the video failed.
Report = Callable[[list[int], bool], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every process of a run needs to know; see `ExtractConfig`."""

    store: str
    root: str
    models: tuple[str, ...]
    weights: tuple[str | None, ...]
    allow_random: bool
    clip_frames: int
    clips: int
    size: int
    decoders: int


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to do: its rows, and the models (by place in the job) that have no receipt for it."""

    shard: int
    rows: tuple[int, ...]
    models: tuple[int, ...]
    shard_videos: int


class Progress:
    """The run's progress bar and counts, fed once a video."""

    def __init__(self, *, total: int, models: int, shown: bool) -> None:
        self.clips_by_model = [0] * models
        self.failed = 0
        self._bar = tqdm(total=total, unit="video", desc="extract", disable=not shown, dynamic_ncols=True)

    @property
    def clips(self) -> int:
        """Clips computed so far, of all models."""
        return sum(self.clips_by_model)

    def report(self, clips: list[int], failed: bool) -> None:
        """Count one video."""
        self.clips_by_model = [a + b for a, b in zip(self.clips_by_model, clips, strict=True)]
        self.failed += failed
        elapsed = self._bar.format_dict["elapsed"]
        self._bar.set_postfix(
            {"clips/s": f"{self.clips / elapsed:.1f}" if elapsed else "", "failed": self.failed},
            refresh=False,
        )
        self._bar.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


def load_networks(job: Job, device: str) -> list[tuple[FrozenBackbone, WeightsInfo]]:
    """Load each model of the job and make it ready on a device."""
    networks = []
    for model, weights in zip(job.models, job.weights, strict=True):
        backbone, info = load_weights(model, path=weights, allow_random=job.allow_random)
        networks.append((FrozenBackbone(backbone, device=device), info))
    return networks


def run_shards(
    job: Job,
    specs: Sequence[stores.FeatureSpec],
    manifest: stores.Manifest,
    tasks: Sequence[ShardTask],
    networks: Sequence[FrozenBackbone],
    report: Report,
) -> None:
    """Decode each task's videos once, run the models that lack the shard, and commit it.

    A video that cannot be decoded, or whose maps do not fit float16, is recorded as failed with its reason.
    """
    # One decode serves all models whose clips are the same frames; others get a pass of their own.
    for stride in sorted({spec.frame_stride for spec in specs}):
        here = [i for i, spec in enumerate(specs) if spec.frame_stride == stride]
        passes = [(task, [i for i in task.models if i in here]) for task in tasks]
        passes = [(task, models) for task, models in passes if models]
        shape = (job.clips, job.clip_frames, job.size, job.size, 3)
        with DecoderPool(job.decoders, shape=shape, slots=job.decoders + 2) as pool:
            videos = pool.run(_decode_jobs(job, manifest, [task for task, _ in passes], stride))
            for task, models in passes:
                _run_shard(job, specs, manifest, task, models, networks, videos, report)


def _decode_jobs(
    job: Job, manifest: stores.Manifest, tasks: Sequence[ShardTask], stride: int
) -> Iterator[DecodeJob[int]]:
    for task in tasks:
        for row in task.rows:
            start, end = float(manifest.start_seconds[row]), float(manifest.end_seconds[row])
            arguments = {
                "clips": job.clips,
                "clip_frames": job.clip_frames,
                "frame_stride": stride,
                "size": job.size,
                "start_seconds": None if np.isnan(start) else start,
                "end_seconds": None if np.isnan(end) else end,
            }
            yield DecodeJob(key=row, path=Path(job.root) / manifest.paths[row], arguments=arguments)


def _run_shard(
    job: Job,
    specs: Sequence[stores.FeatureSpec],
    manifest: stores.Manifest,
    task: ShardTask,
    models: Sequence[int],
    networks: Sequence[FrozenBackbone],
    videos: Iterator[tuple[int, LoadedVideo | VideoFailure]],
    report: Report,
) -> None:
    with ExitStack() as stack:
        writers = {
            i: stack.enter_context(
                stores.ShardWriter(
                    Path(job.store),
                    specs[i],
                    manifest=manifest,
                    shard=task.shard,
                    view=0,
                    shard_videos=task.shard_videos,
                )
            )
            for i in models
        }
        for row in task.rows:
            raise_if_stopped()
            key, video = next(videos)
            assert key == row
            clips, failed = [0] * len(specs), False
            for i in models:
                try:
                    if isinstance(video, VideoFailure):
                        raise VideoError(video.reason)
                    maps, logits = networks[i](video.clips)
                except VideoError as error:
                    # Without the file's name, so that equal reasons can be counted; the row tells which file.
                    writers[i].fail(row, str(error).removeprefix(f"{Path(manifest.paths[row]).name}: "))
                    failed = True
                else:
                    writers[i].add(row, maps, logits if specs[i].num_classes else None, _facts(video))
                    clips[i] = len(maps)
            report(clips, failed)
        for i in models:
            writers[i].commit()


def _facts(video: LoadedVideo) -> stores.ClipFacts:
    return stores.ClipFacts(
        frames=video.frames,
        fps=video.fps,
        starts=tuple(int(n) for n in video.starts),
        times_seconds=tuple(float(t) for t in video.times_seconds),
        padded=tuple(int(n) for n in video.padded),
    )
