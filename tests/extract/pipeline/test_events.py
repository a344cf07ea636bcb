"""What a run tells of itself: events, counts, what bounds it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from faster import store as stores
from faster.cli import group
from faster.extract.pipeline.events import ShardEvent, StageTimes, VideoEvent, event_dict
from faster.extract.progress import Progress
from sets import make_bright_set


def video_event(row: int, *, seconds: float | None, reason: str = "") -> VideoEvent:
    return VideoEvent(
        video=f"v{row}",
        row=row,
        shard=0,
        reason=reason,
        clips=(0, 0) if reason else (4, 2),
        decode_seconds=seconds,
        times=StageTimes(decode_wait_seconds=0.1, forward_seconds=0.25, write_wait_seconds=0.05),
    )


@pytest.mark.parametrize(
    ("times", "bound_by", "advice"),
    [
        ((5.0, 5.0, 0.0), "decode", "raise --decoders"),
        ((0.0, 9.5, 0.5), "forward", "forward pass bounds this run (it computed 95% of the time)"),
        ((0.2, 6.0, 4.0), "write", "--dtype uint8"),
        ((0.0, 0.0, 0.0), "forward", "it computed 0%"),
    ],
)
def test_what_bounds_a_run(times: tuple[float, float, float], bound_by: str, advice: str) -> None:
    decode, forward, write = times
    spent = StageTimes(decode_wait_seconds=decode, forward_seconds=forward, write_wait_seconds=write)
    assert spent.bound_by == bound_by
    assert advice in spent.advice(decoders=0, forward=lambda: "use a GPU")
    assert sum(spent.shares.values()) == pytest.approx(1.0 if any(times) else 0.0)


def test_more_decoders_than_cores_are_not_advised() -> None:
    spent = StageTimes(decode_wait_seconds=1.0)
    cores = len(os.sched_getaffinity(0))
    assert "--decoders" not in spent.advice(decoders=cores, forward=unasked)
    assert "--batch" in StageTimes(forward_seconds=1.0).advice(
        decoders=1, forward=lambda: "try --batch-clips"
    )


def unasked() -> str:
    raise AssertionError("the forward pass does not bound this run")


def test_what_a_store_is_already_is_not_advised() -> None:
    """A store of uint8 is not made smaller by it, and one of zstd may wait for the compressing."""
    spent = StageTimes(forward_seconds=1.0, write_wait_seconds=1.0)
    assert "--dtype" not in spent.advice(decoders=1, forward=unasked, dtype="uint8")
    told = spent.advice(decoders=1, forward=unasked, dtype="uint8", codec="zstd")
    assert "--codec none" in told and "--dtype" not in told


def test_progress_counts_and_hands_on() -> None:
    seen: list[object] = []
    seconds = [0.5, 0.1, 2.0, None, 0.7]
    with Progress(total=5, gflops_per_clip=(2.0, 0.5), shown=False, on_event=seen.append) as progress:
        for row, spent in enumerate(seconds):
            progress.report(video_event(row, seconds=spent, reason="" if spent else "not a video"))
        progress.report(ShardEvent(model="m", shard=0, view=0, videos=5, failed=1, size_bytes=70))
        progress.report(ShardEvent(model="n", shard=0, view=0, videos=5, failed=1, size_bytes=30))
    assert progress.clips_by_model == [16, 8] and progress.clips == 24 and progress.gflops == 36.0
    assert progress.failed == 1 and progress.written_bytes == 100 and len(seen) == 7
    assert progress.slowest == (("v2", 2.0), ("v4", 0.7), ("v0", 0.5))
    assert progress.times.shares["forward"] == pytest.approx(0.25 / 0.4)


def test_json_is_one_event_a_line_from_the_start_to_the_summary(tmp_path: Path) -> None:
    root = make_bright_set(tmp_path / "videos", per_class=2, tests=1)
    (root / "train/dark/broken.mp4").write_bytes(b"not a video at all")
    arguments = ["extract", str(root), "--store", str(tmp_path / "s.zarr"), "--model", "r2d14-w4"]
    arguments += [
        "--allow-random",
        "--clips",
        "3",
        "--size",
        "32",
        "--views",
        "1",
        "--devices",
        "cpu",
        "--json",
    ]
    ended = CliRunner().invoke(group, [*arguments, "--max-failed", "1"])
    assert ended.exit_code == 0, ended.output
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [event["event"] for event in events] == ["start", *["video"] * 5, *["shard"] * 2, "summary"]
    start, summary = events[0], events[-1]
    assert (start["to_do"], start["shards"], start["clips"], start["views"]) == (5, 1, 3, 2)
    videos = {event["video"]: event for event in events[1:6]}
    assert len(videos) == 5
    broken = videos.pop("train/dark/broken.mp4")
    assert broken["clips"] == [0] and "container" in broken["reason"] and broken["decode_seconds"] is None
    for event in videos.values():
        assert event["clips"] == [6] and event["reason"] == "" and event["decode_seconds"] > 0
        assert all(seconds >= 0 for seconds in event["times"].values())
    for view, event in enumerate(events[6:8]):
        assert (event["view"], event["videos"], event["failed"]) == (view, 5, 1)
        name = tmp_path / f"s.zarr/features/r2d14-w4/L8/maps/c/0/{view}/0/0/0/0/0"
        assert event["size_bytes"] == name.stat().st_size
    assert summary["clips"] == 24 and summary["whole"] == 4 and sum(summary["failed"].values()) == 1
    assert summary["written_bytes"] == sum(event["size_bytes"] for event in events[6:8])
    assert {video for video, _ in summary["slowest"]} <= videos.keys() and len(summary["slowest"]) == 3
    assert sum(summary["time_shares"].values()) == pytest.approx(1.0, abs=2e-6) and summary["advice"]
    assert stores.open(tmp_path / "s.zarr").features("r2d14-w4", 8).ok.sum() == 8
    again = CliRunner().invoke(group, [*arguments, "--max-failed", "1"])
    events = [json.loads(line) for line in again.stdout.splitlines()]
    assert [event["event"] for event in events] == ["start", "summary"] and events[0]["to_do"] == 0


def test_an_event_is_json_types() -> None:
    event = event_dict(video_event(3, seconds=0.25))
    assert json.loads(json.dumps(event)) == event and event["clips"] == [4, 2] and event["event"] == "video"
