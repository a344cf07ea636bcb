"""Memory: opening leaves nothing behind, and neither a video's length nor the number of its clips makes it grow."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from faster.extract.video.decode import stream_clips
from faster.extract.video.packets import scan
from mutated_media import make_parents, mutate
from places import SUPPORT
from videos import make_video


def test_two_thousand_opens_leak_less_than_20_mb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sound files of four kinds, damaged ones of each, and text."""
    for name, data in make_parents(tmp_path).items():
        for seed in range(3):
            (tmp_path / f"{seed}-{name}").write_bytes(mutate(data, np.random.default_rng([seed, len(data)])))
        (tmp_path / f"half-{name}").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    files = sorted(tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "open_often.py"), "2000", *map(str, files)],
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        check=True,
    )
    grown = int(done.stdout)
    with capsys.disabled():
        print(f" 2,000 opens of {len(files)} files: {grown / 1e6:+.1f} MB", end=" ")
    assert grown < 20e6


def peak_bytes(path: Path, *, clips: int, part: int) -> int:
    """The most memory that streaming a video takes at once, beside the part itself and FFmpeg's own."""
    out = np.empty((part, 8, 32, 32, 3), dtype=np.uint8)
    tracemalloc.start()
    parts = stream_clips(path, out=out, clips=clips, clip_frames=8, size=32)
    video, done = next(parts), 0
    while True:
        done += len(video.clips)
        if not video.more:
            break
        video = parts.send(out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert done == clips
    return peak


def test_pixels_in_memory_do_not_grow_with_clips_or_frames(tmp_path: Path) -> None:
    short = make_video(tmp_path / "short.mp4", frames=60, width=32, height=32)
    long = make_video(tmp_path / "long.mp4", frames=1200, width=32, height=32)
    few = peak_bytes(short, clips=4, part=4)
    clip_bytes = 8 * 32 * 32 * 3
    for path, clips in ((short, 1000), (long, 1000), (long, 4)):
        # What grows are numbers, some 200 bytes a clip; pixels would be 24,576 a clip.
        assert peak_bytes(path, clips=clips, part=4) < few + 8 * clip_bytes + 300 * clips + 200 * 1200


def test_a_scan_keeps_a_few_numbers_a_frame(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.avi", codec="mjpeg", frames=2000, width=16, height=16, number=0)
    scan(path)
    tracemalloc.start()
    found = scan(path)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.probe.frames == len(found.keys) == 2000
    assert kept < 2000 * 5 * 8 + 20_000
