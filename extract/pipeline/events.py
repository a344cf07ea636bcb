"""The events of an extraction, for people (`progress`) and for machines (`faster extract --json`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ...terminal.text import agreeing, counted

# A stage that waits for more than this share of the time shows what bounds the run.
BOUND_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """How a device's forward stage spent its time, in seconds.

    Attributes:
        decode_wait_seconds: it waited for pixels from decoding.
        forward_seconds: it computed.
        write_wait_seconds: it waited because writing was too far behind.
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
        """Return the shares "decode wait", "forward" and "write wait" of the time; zeros if not known."""
        spent = {
            "decode wait": self.decode_wait_seconds,
            "forward": self.forward_seconds,
            "write wait": self.write_wait_seconds,
        }
        total = sum(spent.values())
        return {name: seconds / total if total else 0.0 for name, seconds in spent.items()}

    @property
    def bound_by(self) -> str:
        """What bounds the run: "decode" or "write" if the forward stage waits for it, else "forward".

        The forward stage waits for it if that takes a tenth of the time or more.
        """
        shares = self.shares
        waits = {"decode": shares["decode wait"], "write": shares["write wait"]}
        longest = max(waits, key=lambda name: waits[name])
        return longest if waits[longest] >= BOUND_SHARE else "forward"

    def advice(
        self, *, decoders: int, forward: Callable[[], str], dtype: str = "float16", codec: str = "none"
    ) -> str:
        """Return one line for a person: what bounds the run, and what to change.

        `forward` returns what helps if the forward pass is the bound; it is called only then. `dtype` and
        `codec` are the store's.
        """
        shares, cores = self.shares, len(os.sched_getaffinity(0))
        if self.bound_by == "decode":
            found = (
                "decoding bounds this run (the forward pass waited for it "
                f"{shares['decode wait']:.0%} of the time)"
            )
            if decoders < cores:
                return f"{found}: raise --decoders (now {decoders}; {counted(cores, 'core')} here)"
            return (
                f"{found}, and {'the one core' if cores == 1 else f'all {cores} cores'} "
                f"{agreeing(cores, 'decodes', 'decode')}: use a machine with "
                "more cores, or videos of fewer pixels"
            )
        if self.bound_by == "write":
            found = (
                "writing bounds this run (the forward pass waited for it "
                f"{shares['write wait']:.0%} of the time)"
            )
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
    """The plan of the run.

    Attributes:
        videos: of the source; to_do: those in shards that are not complete; shards: the number of those
            shards.
        clips: M per view; views: the centre view and the augmented ones.
        gflops_per_clip: of each model. store_bytes: upper bound for all the source's maps.
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
    """A video's maps are written (into a shard that is not complete yet), or it failed.

    Attributes:
        video: its id; row: its place in the store.
        reason: why it failed, else "". (One model may fail on it and another not.)
        clips: computed by each model of the run, over all views.
        decode_seconds: decoding time; None if the decoder gave up.
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
    """A shard of one model and view has its receipt: if the run is killed now, it is not made again."""

    model: str
    shard: int
    view: int
    videos: int
    failed: int
    size_bytes: int


Event = StartEvent | VideoEvent | ShardEvent
Report = Callable[[VideoEvent | ShardEvent], None]


def event_dict(event: Event) -> dict[str, Any]:
    """Return the event as JSON types: its kind under "event", and its fields."""
    kind = type(event).__name__.removesuffix("Event").lower()
    return {"event": kind, **rounded(asdict(event))}


def rounded(value: Any) -> Any:
    """Round seconds and shares to six decimal digits, in nested containers too."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return round(value, 6) if isinstance(value, float) else value
