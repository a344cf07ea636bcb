"""Clips one at a time are the clips that extraction decodes, and memory does not grow with the video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from faster.errors import UsageError, VideoError
from faster.extract.video.decode import load_clips
from faster.extract.video.decoder_pool import DecoderPool
from faster.predict import clip_stream as streaming
from faster.predict.clip_stream import SLOTS, ClipRequest, ClipStream, VideoPass, list_videos
from videos import make_video

SIZE = 24


def make_request(grid: int, places: Sequence[int] | None = None, *, stride: int = 1) -> ClipRequest:
    wanted = tuple(places if places is not None else range(grid))
    return ClipRequest(grid=grid, places=wanted, clip_frames=8, frame_stride=stride, size=SIZE)


@pytest.mark.parametrize(
    ("frames", "request_"),
    [
        (64, make_request(8)),  # end to end
        (30, make_request(8)),  # overlapping
        (30, make_request(8, stride=3)),  # overlapping, with gaps
        (5, make_request(4)),  # shorter than a clip
        (1, make_request(2)),
        (90, make_request(8, [0, 3, 6])),  # some of the grid, with seeking
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "irregular.avi"])
def test_the_clips_are_those_of_the_whole_video(
    frames: int, request_: ClipRequest, name: str, tmp_path: Path
) -> None:
    path = make_video(tmp_path / name, frames=frames, numbered=False)
    whole = load_clips(
        path, clips=request_.grid, clip_frames=8, frame_stride=request_.frame_stride, size=SIZE
    )
    reader = VideoPass(path, request_)
    for place in request_.places:
        out = np.zeros((1, 8, SIZE, SIZE, 3), dtype=np.uint8)
        clip = reader.fill(out)
        assert clip.clips is out
        np.testing.assert_array_equal(out[0], whole.clips[place])
        assert clip.times_seconds.tolist() == [whole.times_seconds[place]]
        assert (clip.starts.tolist(), clip.padded.tolist()) == (
            [whole.starts[place]],
            [whole.padded[place]],
        )
        assert (clip.frames, clip.fps) == (whole.frames, whole.fps)
    assert reader.is_over and reader.kept_frames == 0


@pytest.mark.parametrize("frames", [60, 240])
def test_memory_is_two_clips_and_what_they_share(
    frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted: the clips that the processes share, and the frames kept between two clips."""
    path = make_video(tmp_path / "long.mp4", frames=frames)
    request = make_request(frames // 6)  # each clip shares 2 frames with the next
    pools: list[tuple[tuple[int, ...], int]] = []

    class Counted(DecoderPool):
        def __init__(self, workers: int, *, shape: tuple[int, int, int, int, int], slots: int) -> None:
            pools.append((shape, slots))
            super().__init__(workers, shape=shape, slots=slots)

    monkeypatch.setattr(streaming, "DecoderPool", Counted)
    with ClipStream([path], request) as stream:
        starts = [int(stream.clip(0, number).starts[0]) for number in range(request.grid)]
    assert starts == sorted(set(starts)) and len(starts) == frames // 6
    assert pools == [((1, 8, SIZE, SIZE, 3), SLOTS)]
    reader = VideoPass(path, request)
    out = np.empty(pools[0][0], dtype=np.uint8)
    kept = {reader.fill(out) and reader.kept_frames for _ in starts}
    assert kept == {0, 2, 4}  # the last clip ends with the video, so it shares more


def test_videos_can_be_left_at_any_clip_and_broken_ones_cost_only_themselves(tmp_path: Path) -> None:
    good = [make_video(tmp_path / "a.mp4", frames=40, numbered=False), tmp_path / "b.mp4"]
    good[1].write_bytes(good[0].read_bytes())  # encoded twice it need not be the same
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    paths = [good[0], tmp_path / "broken.mp4", good[1], tmp_path / "absent.mp4", good[0]]
    expected = load_clips(good[0], clips=5, clip_frames=8, size=SIZE).clips
    with ClipStream(paths, make_request(5)) as stream:
        np.testing.assert_array_equal(stream.clip(0, 0).clips[0], expected[0])  # left after one clip
        with pytest.raises(VideoError, match=r"broken\.mp4: no video container"):
            stream.clip(1, 0)
        for number in (0, 1, 3):  # one left out
            np.testing.assert_array_equal(stream.clip(2, number).clips[0], expected[number])
        with pytest.raises(VideoError, match="cannot be opened"):
            stream.clip(3, 0)
        for number in range(5):
            np.testing.assert_array_equal(stream.clip(4, number).clips[0], expected[number])
        with pytest.raises(UsageError, match="behind the stream"):
            stream.clip(4, 0)
    with pytest.raises(UsageError, match="with"):
        ClipStream(paths, make_request(5)).clip(0, 0)


def test_damage_behind_the_last_clip_is_seen_as_extraction_sees_it(tmp_path: Path) -> None:
    """An AVI of reordered frames is decoded whole and counted; its last picture is cut out."""
    path = make_video(tmp_path / "a.avi", frames=60, numbered=False)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"00dc", 0, data.rindex(b"idx1"))
    data[at + 8 : data.rindex(b"idx1") - 8] = bytes(data.rindex(b"idx1") - 8 - at - 8)
    path.write_bytes(data)
    request = make_request(6, [0, 1])
    with pytest.raises(VideoError) as whole:
        load_clips(path, clips=6, clip_frames=8, size=SIZE)
    reader = VideoPass(path, request)
    out = np.empty((1, 8, SIZE, SIZE, 3), dtype=np.uint8)
    reader.fill(out)
    with pytest.raises(VideoError) as live:
        reader.fill(out)
    assert str(live.value) == str(whole.value)


def test_a_folder_means_its_videos_in_order(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MKV", "sub/c.webm", "notes.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "none").mkdir()
    named = tmp_path / "in/notes.txt"  # a file named is taken at its word, and fails by itself
    found = list_videos([named, tmp_path / "in"])
    assert found == [named, *(tmp_path / "in" / name for name in ("a.MKV", "b.mp4", "sub/c.webm"))]
    with pytest.raises(UsageError, match="is a folder without video files"):
        list_videos([tmp_path / "none"])
