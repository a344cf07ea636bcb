"""The progress of an extraction: the estimate, the progress bar and the summary, as text and as JSON."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from ..terminal.progress_bars import tqdm
from ..terminal.streams import is_terminal
from ..terminal.text import agreeing, counted
from .pipeline.events import Event, ShardEvent, StageTimes, VideoEvent

SLOWEST = 3
LOG_SECONDS = 30.0  # between two lines of the bar in a file; otherwise a job of days would fill its log


class Progress:
    """Count events, show them as a progress bar, and pass them on. Use it in a `with` statement.

    Attributes:
        clips_by_model: clips computed; failed: videos that failed.
        written_bytes: size of the shards that were completed.
        left_out: number of frames left out at the start, per video that was cut out of a longer one and did
            not fail.
        times: sum over the forward stages of all devices.
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
        """Clips computed so far, over all models."""
        return sum(self.clips_by_model)

    @property
    def gflops(self) -> float:
        """GFLOPs spent so far."""
        return sum(n * cost for n, cost in zip(self.clips_by_model, self._gflops_per_clip, strict=True))

    @property
    def slowest(self) -> tuple[tuple[str, float], ...]:
        """The videos that took longest to decode, with their seconds, the slowest first."""
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


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The disk space that an extraction would take.

    Attributes:
        videos: videos of the source, including those that are in the store already.
        store_bytes: all their maps and logits; with compression this is an upper bound.
        free_bytes: free on the store's file system now.
    """

    videos: int
    store_bytes: int
    compressed: bool
    free_bytes: int

    @property
    def line(self) -> str:
        """Return the text for a person."""
        most = "at most " if self.compressed else ""
        return (
            f"{counted(self.videos, 'video')} {agreeing(self.videos, 'takes', 'take')} "
            f"{most}{size_text(self.store_bytes)} in the store; "
            f"{size_text(self.free_bytes)} are free there"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ExtractSummary:
    """What a run of `extract` did, and what the store holds now.

    Attributes:
        videos: rows of the store that the source names; missing: listed, but not on disk.
        extracted: videos decoded in this run; already_whole: videos that were complete before; whole: videos
            that have all their maps now.
        labelled: whether there are labels of at least two classes to train an aggregator on.
        failed: number of the source's videos that the store records as failed, in this run or before, by
            reason.
        cut_videos: videos of this run whose first frames need pictures from before the start;
            left_out_frames: the number of such frames. The events of the run give them per video.
        seconds: time of decoding, forward passes and writing; clips and clips_per_second count each model's
            clips.
        written_bytes: size of the shards that this run committed; store_bytes: upper bound for all the
            source's maps.
        slowest: videos of this run that took longest to decode: id, seconds.
        time_shares: shares of the time in which the forward stage waited for decoding, computed, and waited
            for writing.
        bound_by: "decode", "forward" or "write"; advice: one line on what to change.
    """

    store: str
    models: tuple[str, ...]
    videos: int
    missing: int
    extracted: int
    already_whole: int
    whole: int
    labelled: bool
    failed: dict[str, int]
    cut_videos: int
    left_out_frames: int
    seconds: float
    clips: int
    clips_per_second: float
    gflops_spent: float
    written_bytes: int
    store_bytes: int
    slowest: tuple[tuple[str, float], ...]
    time_shares: dict[str, float]
    bound_by: str
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self)

    @property
    def lines(self) -> list[str]:
        """Return the lines for a person."""
        gflops_per_second = self.gflops_spent / self.seconds if self.seconds else 0.0
        lines = [
            f"{self.store}: {counted(self.extracted, 'video')} extracted in {self.seconds:.1f} s "
            f"({self.clips_per_second:.1f} clips/s, {gflops_per_second:,.4g} GFLOP/s), "
            f"{self.already_whole:,} {agreeing(self.already_whole, 'was', 'were')} whole already, "
            f"{self.missing:,} {agreeing(self.missing, 'is', 'are')} missing on disk"
        ]
        if self.extracted:
            slow = ", ".join(f"{video} {seconds:.2f} s" for video, seconds in self.slowest)
            lines.append(
                f"  {self.whole:,} of {counted(self.videos, 'video')} {agreeing(self.videos, 'is', 'are')} "
                f"whole; {size_text(self.written_bytes)} written"
                + (f"; slowest to decode: {slow}" if slow else "")
            )
            if self.whole:
                lines.append(f"  {self.advice}")
        if self.cut_videos:
            lines.append(
                f"  {counted(self.cut_videos, 'video')} cut out of longer ones: "
                f"{counted(self.left_out_frames, 'frame')} at "
                "the start, which need pictures from before it, are left out"
            )
        for reason, count in list(self.failed.items())[:10]:
            lines.append(f"  failed {count}: {reason}")
        if self.failed:
            lines.append(
                "  all failures with their reasons: "
                f"{self.store}/failures.jsonl; after mending the files: --retry-failed"
            )
        if self.whole:
            verb = "train-agg --store" if self.labelled else "inspect"
            lines.append(f"next: faster {verb} {self.store}")
        return lines


def size_text(size_bytes: int) -> str:
    """Return a size for a person, as "1.2 GB" or "3.4 MB"."""
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.1f} MB"
