"""What an extraction will take, and what it did: for a person and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..terminal.text import agreeing, counted


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What an extraction would take on disk.

    Attributes:
        videos: of the source; those that are in the store already are counted too.
        store_bytes: all their maps and scores; compressed: this is the most that it can be.
        free_bytes: on the store's file system now.
    """

    videos: int
    store_bytes: int
    compressed: bool
    free_bytes: int

    @property
    def line(self) -> str:
        """For a person."""
        most = "at most " if self.compressed else ""
        return (
            f"{counted(self.videos, 'video')} {agreeing(self.videos, 'takes', 'take')} "
            f"{most}{size_text(self.store_bytes)} in the store; "
            f"{size_text(self.free_bytes)} are free there"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ExtractSummary:
    """What a run of `extract` did and what the store now holds.

    Attributes:
        videos: rows of the store that the source names; missing: listed and not on disk.
        extracted: videos decoded in this run; already_whole: those it had no need to; whole: with all maps now.
        labelled: whether there are labels of two classes or more to train an aggregator on.
        failed: videos of the source that the store records as failed, in this run or before, by reason.
        cut_videos: of this run, those that begin with frames that need pictures from before the start;
            left_out_frames: how many such frames they have. The events of the run say which.
        seconds: of decoding, forward passes and writing; clips and clips_per_second count each model's clips.
        written_bytes: of the shards that this run committed; store_bytes: of all the source's maps, at most.
        slowest: videos of this run that took longest to decode: id, seconds.
        time_shares: what part of the time the forward stage waited for decoding, computed, and waited for writing.
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
        """As JSON types."""
        return asdict(self)

    @property
    def lines(self) -> list[str]:
        """For a person."""
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
                f"  {self.whole:,} of {counted(self.videos, 'video')} {agreeing(self.whole, 'is', 'are')} "
                f"whole; {size_text(self.written_bytes)} written"
                + (f"; slowest to decode: {slow}" if slow else "")
            )
            lines.append(f"  {self.advice}")
        if self.cut_videos:
            lines.append(
                f"  {counted(self.cut_videos, 'video')} cut out of longer ones: {counted(self.left_out_frames, 'frame')} at "
                "the start, which need pictures from before it, are left out"
            )
        for reason, count in list(self.failed.items())[:10]:
            lines.append(f"  failed {count}: {reason}")
        if self.failed:
            lines.append(
                f"  all failures with their reasons: {self.store}/failures.jsonl; after mending the files: --retry-failed"
            )
        if self.whole:
            verb = "train-agg --store" if self.labelled else "inspect"
            lines.append(f"next: faster {verb} {self.store}")
        return lines


def size_text(size_bytes: int) -> str:
    """A size for a person, as "1.2 GB" or "3.4 MB"."""
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.1f} MB"
