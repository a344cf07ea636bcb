"""The progress bar, and the counts that the run's summary is made of."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from ..terminal.progress_bars import tqdm
from ..terminal.streams import is_terminal
from ..terminal.text import counted
from .pipeline.events import Event, ShardEvent, StageTimes, VideoEvent

SLOWEST = 3
LOG_SECONDS = 30.0  # between two pictures of the bar in a file: a job of days would fill its log


class Progress:
    """Counts events, shows them as a bar, and hands them on. Use it in a `with` statement.

    Attributes:
        clips_by_model: clips computed; failed: videos that failed.
        written_bytes: of the shards that became whole.
        left_out: frames at the start of videos that were cut out of others, by video, of those that did not fail.
        times: of all devices' forward stages together.
    """

    def __init__(
        self,
        *,
        total: int,
        gflops_per_clip: Sequence[float],
        shown: bool,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.clips_by_model = [0] * len(gflops_per_clip)
        self.failed = 0
        self.written_bytes = 0
        self.left_out: dict[str, int] = {}
        self.times = StageTimes()
        self._gflops_per_clip = gflops_per_clip
        self._on_event = on_event
        self._slowest: list[tuple[float, str]] = []
        self._bar = tqdm(
            total=total,
            unit="video",
            desc="extract",
            disable=not shown,
            dynamic_ncols=True,
            mininterval=0.1 if is_terminal(sys.stderr) else LOG_SECONDS,
        )

    @property
    def clips(self) -> int:
        """Clips computed so far, of all models."""
        return sum(self.clips_by_model)

    @property
    def gflops(self) -> float:
        """GFLOPs spent on them."""
        return sum(n * cost for n, cost in zip(self.clips_by_model, self._gflops_per_clip, strict=True))

    @property
    def slowest(self) -> tuple[tuple[str, float], ...]:
        """The videos that took longest to decode, with the seconds, the slowest first."""
        return tuple((video, seconds) for seconds, video in sorted(self._slowest, reverse=True))

    def report(self, event: VideoEvent | ShardEvent) -> None:
        """Count one event."""
        if isinstance(event, VideoEvent):
            self._count(event)
        else:
            self.written_bytes += event.size_bytes
        if self._on_event is not None:
            self._on_event(event)

    def _count(self, event: VideoEvent) -> None:
        self.clips_by_model = [a + b for a, b in zip(self.clips_by_model, event.clips, strict=True)]
        self.failed += bool(event.reason)
        self.times += event.times
        if event.left_out and not event.reason:
            self.left_out[event.video.partition("#t=")[0]] = (
                event.left_out
            )  # segments share their file's start
        if event.decode_seconds is not None:
            heapq.heappush(self._slowest, (event.decode_seconds, event.video))
            if len(self._slowest) > SLOWEST:
                heapq.heappop(self._slowest)
        if elapsed := self._bar.format_dict["elapsed"]:
            self._bar.set_postfix_str(
                f"{counted(self.clips, 'clip')}, {self.clips / elapsed:.1f} clips/s, "
                f"{self.gflops / elapsed:.4g} GFLOP/s, "
                f"bound by {self.times.bound_by}, {self.failed} failed",
                refresh=False,
            )
        self._bar.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
