"""One of a thing is said as one: what the commands print about one video of one clip, in one shard."""

from __future__ import annotations

import re
from pathlib import Path

from commands import run_commands
from faster.extract.progress import Estimate, ExtractSummary
from stores import make_spec, make_store, make_videos
from videos import make_video

THINGS = "video|clip|frame|shard|model|class|cell|seed|group|split|view|task|run|row|core|process|decoder|label|file"
# Not "0.1 clips/s", "2.1 shards an hour", "1:1 clips".
WRONG = re.compile(
    rf"(?<![\d.,:×])1 (?:(?:train|listed|decoded|sampled) )?(?:(?:{THINGS})(?:s|es)\b(?!/)|(?:{THINGS}) (?:are|were|take|have)\b)"
)


def wrong(text: str) -> list[str]:
    return WRONG.findall(text)


def test_the_search_finds_what_it_is_for() -> None:
    assert wrong("1 videos take 3 kB; 1 of 1 videos are whole, 1 clips of 8 frames; 1 classes") != []
    assert (
        wrong("1 video takes 3 kB, 21 videos are whole, 0.1 clips/s, 2.1 GFLOP/s; 1 class of 1 process") == []
    )


def test_one_video_of_one_clip(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos" / "a.mp4", frames=10)
    extract = [
        "extract",
        "videos",
        "--format",
        "files",
        "--store",
        "s.zarr",
        "--model",
        "r2d14-w4",
        "--allow-random",
    ]
    extract += ["--size", "32", "--clips", "1", "--devices", "cpu"]
    commands = [
        [*extract, "--dry-run"],
        extract,
        extract,
        ["status", "s.zarr"],
        ["inspect", "s.zarr"],
        ["verify", "s.zarr"],
    ]
    for command, ended in zip(
        commands, run_commands(commands, cwd=tmp_path, memory_bytes=8 << 30), strict=True
    ):
        assert ended.code == 0, ended.output
        assert wrong(ended.output) == [], command


def test_a_run_on_one_clip_in_a_store_of_one_model(tmp_path: Path) -> None:
    spec = make_spec("cheap", clips=1)
    make_store(tmp_path / "s.zarr", [spec], make_videos(24), signal=True)
    train = ["train-agg", "--store", "s.zarr", "--out", "r", "--aggregator", "average", "--device", "cpu"]
    sweep = [
        "sweep",
        "--store",
        "s.zarr",
        "--out",
        "w",
        "--aggregators",
        "average",
        "--seeds",
        "1",
        "--device",
        "cpu",
    ]
    commands = [
        train,
        ["evaluate", "r"],
        sweep,
        ["report", "w"],
        ["train-agg", "--store", "s.zarr", "--clips", "2"],
    ]
    for command, ended in zip(
        commands, run_commands(commands, cwd=tmp_path, memory_bytes=8 << 30), strict=True
    ):
        assert wrong(ended.output) == [], command


def test_a_summary_of_one_video() -> None:
    estimate = Estimate(videos=1, store_bytes=1, compressed=False, free_bytes=1)
    assert estimate.line.startswith("1 video takes ")
    summary = ExtractSummary(
        store="s.zarr", models=("m",), videos=1, missing=1, extracted=1, already_whole=1, whole=1, labelled=False,
        failed={}, seconds=1.0, clips=1, clips_per_second=1.0, gflops_spent=1.0, written_bytes=1, store_bytes=1,
        slowest=(), time_shares={}, bound_by="forward", advice="", cut_videos=1, left_out_frames=1,
    )  # fmt: skip
    assert wrong("\n".join(summary.lines)) == []
    assert "1 was whole already, 1 is missing on disk" in summary.lines[0]
    assert "1 of 1 video is whole" in summary.lines[1]
