"""The middle of a clip's way: through the networks, shard by shard, and on to the writing thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ... import store as stores
from ...errors import VideoError
from ...runtime.threads import BackgroundWorker, Work
from ..backbones.inference.frozen import FrozenBackbone
from ..video.decode import LoadedVideo
from ..video.decoder_process import VideoFailure
from .batching import HostMapsAndLogits, VideoBatches
from .events import Report, StageTimes, VideoEvent
from .job import Output, ShardTask
from .writing import ShardWriters


@dataclass(kw_only=True, eq=False)
class _Video:
    """The facts of a video of the shard, and the outputs whose maps are pending."""

    pending: set[Output]
    clips: list[int]
    parts: dict[int, list[stores.ClipFacts]] = field(default_factory=dict)  # by view
    reason: str = ""
    decode_seconds: float | None = None
    left_out: int = 0


class ForwardStage:
    """Run the networks over videos' clips, shard by shard, and pass the maps to the writing thread.

    `decode_wait` returns the seconds so far in which the stage had no pixels. The time before the first
    video, while decoders start, does not count.
    """

    def __init__(
        self,
        networks: Sequence[FrozenBackbone],
        manifest: stores.Manifest,
        *,
        writers: ShardWriters,
        writing: BackgroundWorker,
        report: Report,
        decode_wait: Callable[[], float],
    ) -> None:
        self._networks, self._manifest = networks, manifest
        self._writers, self._writing, self._report = writers, writing, report
        self._decode_wait = decode_wait
        self._worked = self._write_wait = 0.0
        self._began: float | None = None  # start of the current work
        self._said: tuple[float, float, float] | None = None
        self._task: ShardTask
        self._batches: dict[Output, VideoBatches] = {}
        self._videos: dict[int, _Video] = {}

    def begin(self, task: ShardTask) -> None:
        """Begin a shard."""
        self._task = task
        self._batches = {
            output: VideoBatches(self._networks[output[0]], partial(self._deliver, output))
            for output in task.outputs
        }
        self._write(partial(self._writers.open, task))

    def add(self, row: int, part: LoadedVideo | VideoFailure, pixels: Tensor | None) -> None:
        """Add a video's next clips, with `pixels` on the networks' device, or its failure."""
        if self._said is None:
            self._said = (self._decode_wait(), 0.0, self._write_wait)
        if row not in self._videos:
            self._videos[row] = _Video(pending=set(self._task.outputs), clips=[0] * len(self._networks))
        with self._working():
            if isinstance(part, LoadedVideo) and pixels is not None:
                self._add_clips(row, part, pixels)
            elif isinstance(part, VideoFailure):
                for batches in self._batches.values():
                    batches.fail(row, VideoError(part.reason))

    def commit(self) -> None:
        """Compute the shard's last batches; let the writing thread write and commit them."""
        with self._working():
            for batches in self._batches.values():
                batches.flush()
        for output in self._task.outputs:
            self._write(partial(self._writers.drop if self._task.trial else self._writers.commit, output))

    def _add_clips(self, row: int, part: LoadedVideo, pixels: Tensor) -> None:
        video = self._videos[row]
        video.decode_seconds, video.left_out = part.decode_seconds, part.left_out
        views = np.zeros(len(pixels), dtype=np.int64) if part.views is None else part.views
        for view in {view for _, view in self._batches}:
            mine = np.flatnonzero(views == view)
            if not len(mine):
                continue
            video.parts.setdefault(view, []).append(_facts(part, mine))
            clips = pixels if len(mine) == len(views) else pixels[torch.from_numpy(mine)]
            for output, batches in self._batches.items():
                if output[1] == view:
                    batches.add(row, clips)
        if not part.more:
            for batches in self._batches.values():
                batches.end(row)

    def _deliver(self, output: Output, row: int, result: HostMapsAndLogits | VideoError) -> None:
        video = self._videos[row]
        if isinstance(result, VideoError):
            # Without the file's name, so that equal reasons can be counted; the row identifies the file.
            name = Path(self._manifest.paths[row]).name
            video.reason = str(result).removeprefix(f"{name}: ")
            self._write(partial(self._writers.fail, output, row, video.reason))
        else:
            video.clips[output[0]] += len(result[0])
            self._write(partial(self._writers.add, output, row, result, _joined(video.parts[output[1]])))
        video.pending.discard(output)
        if not video.pending:
            del self._videos[row]
            self._write(partial(self._report, self._event(row, video)))

    def _event(self, row: int, video: _Video) -> VideoEvent:
        in_hand = 0.0 if self._began is None else time.perf_counter() - self._began
        now = (self._decode_wait(), self._worked + in_hand, self._write_wait)
        decode, forward, write = (a - b for a, b in zip(now, self._said or now, strict=True))
        self._said = now
        return VideoEvent(
            video=self._manifest.ids[row],
            row=row,
            shard=self._task.shard,
            reason=video.reason,
            clips=tuple(video.clips),
            decode_seconds=video.decode_seconds,
            times=StageTimes(decode_wait_seconds=decode, forward_seconds=forward, write_wait_seconds=write),
            left_out=video.left_out,
        )

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._began = time.perf_counter()
        yield
        self._worked += time.perf_counter() - self._began
        self._began = None

    def _write(self, work: Work) -> None:
        began = time.perf_counter()
        self._writing.do(work)
        waited = time.perf_counter() - began
        self._write_wait += waited
        if self._began is not None:
            self._began += waited  # waiting is not work


def _facts(part: LoadedVideo, clips: Iterable[int]) -> stores.ClipFacts:
    chosen = list(clips)
    return stores.ClipFacts(
        frames=part.frames,
        fps=part.fps,
        starts=tuple(part.starts[chosen].tolist()),
        times_seconds=tuple(part.times_seconds[chosen].tolist()),
        padded=tuple(part.padded[chosen].tolist()),
    )


def _joined(parts: Sequence[stores.ClipFacts]) -> stores.ClipFacts:
    return stores.ClipFacts(
        frames=parts[0].frames,
        fps=parts[0].fps,
        starts=tuple(start for part in parts for start in part.starts),
        times_seconds=tuple(seconds for part in parts for seconds in part.times_seconds),
        padded=tuple(padded for part in parts for padded in part.padded),
    )
