"""The decoded videos on disk against the decoder itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from faster.errors import StorageError
from faster.extract.train_backbone.video_cache import (
    CacheEntry,
    ClipCache,
    load_cached_clip,
    load_cached_clips,
)
from faster.extract.video.decode import load_clips, load_random_video, read_scaled
from faster.store import VideoRecord
from log_lines import logged
from videos import frame_number, make_video

SIZE = 56  # the shorter side is drawn from 64 to 80
SHAPE = (1, 8, SIZE, SIZE, 3)


def make_cache(folder: Path) -> ClipCache:
    return ClipCache(folder, clip_frames=8, frame_stride=2, size=SIZE)


def fill(cache: ClipCache, entries: list[CacheEntry]) -> tuple[dict[str, str], list[str]]:
    said: list[str] = []
    with logged(said):
        failed = cache.fill(entries, decoders=1, progress=False)
    return failed, said


def record(name: str, **values: float) -> VideoRecord:
    return VideoRecord(id=name, path=name, label=0, **values)  # type: ignore[arg-type]


def test_what_is_cached_is_what_decoding_gives(tmp_path: Path) -> None:
    """Frames and clips bit for bit, of a turned video and a segment too; what cannot be decoded has a reason."""
    make_video(tmp_path / "a.mp4", frames=40, width=128, height=96)
    make_video(tmp_path / "turned.mp4", frames=30, width=90, height=160, rotation=90)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    videos = [record("a.mp4"), record("turned.mp4"), record("a.mp4", start_seconds=0.4, end_seconds=1.0)]
    cache = make_cache(tmp_path / "cache")
    frames = [cache.entry(video, tmp_path) for video in videos]
    clips = cache.entry(videos[0], tmp_path, clips=3)
    broken = cache.entry(record("broken.mp4"), tmp_path)
    failed, said = fill(cache, [*frames, clips, broken])
    assert list(failed) == ["broken.mp4"] and "video" in failed["broken.mp4"]
    assert not broken.file.exists() and len({entry.file for entry in [*frames, clips]}) == 4

    for entry, count in zip(frames, (40, 30, 15), strict=True):
        shape, pictures = read_scaled(entry.video, short_side=80, **entry.segment)
        stored = np.load(entry.file)
        assert shape[0] == count and stored.shape == (*shape, 3) and stored.dtype == np.uint8
        for own, picture in zip(stored, pictures, strict=True):
            np.testing.assert_array_equal(own, picture)
    assert [frame_number(p) for p in np.load(frames[2].file)] == list(range(10, 25))

    expected = load_clips(tmp_path / "a.mp4", clips=3, clip_frames=8, frame_stride=2, size=SIZE).clips
    out = np.zeros((5, *SHAPE[1:]), np.uint8)
    loaded = load_cached_clips(clips.file, out=out)
    assert len(loaded.starts) == 3
    np.testing.assert_array_equal(out[:3], expected)
    sizes = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    assert said == [
        f"cache: 4 decoded videos take {round(sizes / 1e6, 1)} MB in {tmp_path / 'cache'}; {said[0].split('; ')[1]}"
    ]

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert fill(cache, [*frames, clips]) == ({}, [f"cache: {tmp_path / 'cache'} holds all 4 videos"])
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}


def test_a_random_clip_is_the_decoders_but_for_a_second_scaling(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", frames=60, width=240, height=160)
    cache = make_cache(tmp_path / "cache")
    entry = cache.entry(record("a.mp4"), tmp_path)
    fill(cache, [entry])
    arguments = {"clip_frames": 8, "frame_stride": 2, "size": SIZE}
    flat, starts = [], set()
    for seed in range(30):
        own, other = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
        ours = load_cached_clip(entry.file, out=own, rng=np.random.default_rng(seed), **arguments)
        theirs = load_random_video(entry.video, out=other, rng=np.random.default_rng(seed), **arguments)
        np.testing.assert_array_equal(ours.starts, theirs.starts)
        starts.add(int(ours.starts[0]))
        difference = np.abs(own.astype(float) - other).mean()
        mirrored = np.abs(own[:, :, :, ::-1].astype(float) - other).mean()
        assert difference < mirrored / 2
        flat.append(difference)
    assert len(starts) > 15 and np.mean(flat) < 4


def test_a_short_video_repeats_its_last_frame(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", frames=5, width=128, height=96)
    cache = make_cache(tmp_path / "cache")
    entry = cache.entry(record("a.mp4"), tmp_path)
    fill(cache, [entry])
    out = np.zeros(SHAPE, np.uint8)
    loaded = load_cached_clip(
        entry.file, out=out, rng=np.random.default_rng(0), clip_frames=8, frame_stride=1, size=SIZE
    )
    assert loaded.padded.tolist() == [3]
    np.testing.assert_array_equal(out[0, 4:], np.broadcast_to(out[0, 4], (4, *out.shape[2:])))
    assert not np.array_equal(out[0, 3], out[0, 4])


def test_files_that_are_not_whole_are_made_again(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", frames=10)
    cache = make_cache(tmp_path / "cache")
    entries = [cache.entry(record("a.mp4"), tmp_path, clips=clips) for clips in (0, 2)]
    fill(cache, entries)
    whole = [entry.file.read_bytes() for entry in entries]
    for damaged in (b"", b"no array", whole[0][:40], whole[0][:-1], whole[0] + b"0"):
        entries[0].file.write_bytes(damaged)
        failed, said = fill(cache, entries)
        assert failed == {} and "1 decoded video takes" in said[0] and "1 is there" in said[0]
        assert [entry.file.read_bytes() for entry in entries] == whole


def test_a_file_that_changed_is_cached_anew(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache")
    make_video(tmp_path / "a.mp4", frames=10)
    first = cache.entry(record("a.mp4"), tmp_path)
    assert cache.entry(record("a.mp4"), tmp_path) == first
    os.utime(tmp_path / "a.mp4", ns=(1, 1))
    assert cache.entry(record("a.mp4"), tmp_path).file != first.file


def test_a_disk_without_room_is_refused_with_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(tmp_path / "a.mp4", frames=10, width=128, height=96)
    cache = make_cache(tmp_path / "cache")
    entry = cache.entry(record("a.mp4"), tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=10 * 107 * 80 * 3 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        StorageError, match=r"1 decoded video takes 256\.8 kB in .*; 256\.8 kB are free: free"
    ):
        fill(cache, [entry])
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10 * 107 * 80 * 3))
    assert fill(cache, [entry])[0] == {}


def test_an_error_of_the_disk_is_not_the_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "a.mp4", frames=10)
    (tmp_path / "cache").write_text("a file")
    cache = make_cache(tmp_path / "cache" / "below")
    with pytest.raises(StorageError, match="cache is a file"):
        fill(cache, [cache.entry(record("a.mp4"), tmp_path)])
    monkeypatch.setattr(
        "faster.extract.train_backbone.video_cache.require_folder", lambda *_: None
    )  # it breaks later
    for clips in (0, 2):
        with pytest.raises(StorageError, match="Not a directory; free some space, name another disk"):
            fill(cache, [cache.entry(record("a.mp4"), tmp_path, clips=clips)])


def test_what_a_killed_run_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", frames=10)
    cache = make_cache(tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    old, new = tmp_path / "cache/.x.npy.1-ab.tmp", tmp_path / "cache/.y.npy.2-cd.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    fill(cache, [cache.entry(record("a.mp4"), tmp_path)])
    assert new.exists() and not old.exists()
