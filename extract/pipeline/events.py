"""What happens in an extraction, for people (`progress`) and for machines (`faster extract --json`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ...terminal.text import agreeing, counted

# Waiting for more than this share of the time is a sign of what bounds a run.
BOUND_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """How a device's forward stage spent some time, in seconds.

    Attributes:
        decode_wait_seconds: it had no pixels, because decoding was not done.
        forward_seconds: it computed.
        write_wait_seconds: it had results, and writing was too far behind to take them.
    """

    decode_wait_seconds: float = 0.0
    forward_seconds: float = 0.0
    write_wait_seconds: float = 0.0

    def __add__(self, other: StageTimes) -> StageTimes:
        return StageTimes(
            decode_wait_seconds=self.decode_wait_seconds + other.decode_wait_seconds,
            forward_seconds=self.forward_seconds + other.forward_seconds,
            write_wait_seconds=self.write_wait_seconds + other.write_wait_seconds,
        )

    @property
    def shares(self) -> dict[str, float]:
        """What part of the time went to each: "decode wait", "forward" and "write wait"; zeros where none is known."""
        spent = {
            "decode wait": self.decode_wait_seconds,
            "forward": self.forward_seconds,
            "write wait": self.write_wait_seconds,
        }
        total = sum(spent.values())
        return {name: seconds / total if total else 0.0 for name, seconds in spent.items()}

    @property
    def bound_by(self) -> str:
        """ "decode" or "write" where the forward stage waits for it a tenth of the time or more, else "forward"."""
        shares = self.shares
        waits = {"decode": shares["decode wait"], "write": shares["write wait"]}
        longest = max(waits, key=lambda name: waits[name])
        return longest if waits[longest] >= BOUND_SHARE else "forward"

    def advice(
        self, *, decoders: int, forward: Callable[[], str], dtype: str = "float16", codec: str = "none"
    ) -> str:
        """One line for a person: what bounds the run, and what to change.

        `forward` says what helps where the forward pass does, and is asked only then; `dtype` and `codec` are
        the store's.
        """
        shares, cores = self.shares, len(os.sched_getaffinity(0))
        if self.bound_by == "decode":
            found = f"decoding bounds this run (the forward pass waited for it {shares['decode wait']:.0%} of the time)"
            if decoders < cores:
                return f"{found}: raise --decoders (now {decoders}; {counted(cores, 'core')} here)"
            return f"{found}, and {'the one core' if cores == 1 else f'all {cores} cores'} {agreeing(cores, 'decodes', 'decode')}: use a machine with more cores, or videos of fewer pixels"
        if self.bound_by == "write":
            found = f"writing bounds this run (the forward pass waited for it {shares['write wait']:.0%} of the time)"
            if codec != "none":
                return (
                    f"{found}: --codec none, into another --store, spares compressing; or use a faster disk"
                )
            smaller = (
                ", or --dtype uint8, into another --store, for half the bytes" if dtype == "float16" else ""
            )
            return f"{found}: use a faster disk{smaller}"
        found = f"the forward pass bounds this run (it computed {shares['forward']:.0%} of the time)"
        return f"{found}: {forward()}"


@dataclass(frozen=True, kw_only=True)
class StartEvent:
    """The run knows what it will do.

    Attributes:
        videos: of the source; to_do: those in shards that are not whole yet; shards: how many of those.
        clips: M a view; views: the centre view and the augmented ones.
        gflops_per_clip: of each model. store_bytes: of all the source's maps, at most.
    """

    store: str
    models: tuple[str, ...]
    videos: int
    to_do: int
    shards: int
    clips: int
    views: int
    clip_frames: int
    gflops_per_clip: tuple[float, ...]
    devices: tuple[str, ...]
    decoders: int
    store_bytes: int


@dataclass(frozen=True, kw_only=True)
class VideoEvent:
    """A video's maps are written (into a shard that is not whole yet), or it failed.

    Attributes:
        video: its id; row: its place in the store.
        reason: why it failed, "" where it did not. (One model may fail where another does not.)
        clips: computed by each model of the run, all views.
        decode_seconds: that its decoder took, None where it gave up.
        times: of the device's forward stage since its last event.
        left_out: frames at the file's start that need pictures from before it; frames and times count from
            the one behind them.
    """

    video: str
    row: int
    shard: int
    reason: str
    clips: tuple[int, ...]
    decode_seconds: float | None
    times: StageTimes
    left_out: int = 0


@dataclass(frozen=True, kw_only=True)
class ShardEvent:
    """A shard of one model and view has its receipt: killed now, a rerun would not do it again."""

    model: str
    shard: int
    view: int
    videos: int
    failed: int
    size_bytes: int


Event = StartEvent | VideoEvent | ShardEvent
Report = Callable[[VideoEvent | ShardEvent], None]


def event_dict(event: Event) -> dict[str, Any]:
    """The event as JSON types: its kind under "event", and its fields."""
    kind = type(event).__name__.removesuffix("Event").lower()
    return {"event": kind, **rounded(asdict(event))}


def rounded(value: Any) -> Any:
    """Seconds and shares to six digits after the point, in whatever holds them."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return round(value, 6) if isinstance(value, float) else value
