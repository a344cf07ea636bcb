from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from faster.errors import UsageError, VideoError
from faster.extract.video import packets
from faster.extract.video.containers import open_video
from faster.extract.video.decode import load_clips, load_random_video, probe, read_frames, stream_clips
from faster.extract.video.frames import decode_frames
from faster.extract.video.packets import scan
from faster.extract.video.sampling import plan_clips, random_start
from faster.extract.video.transforms import random_view
from places import SHARED
from videos import SCALING, frame_number, make_video, number_picture, sequential

# Reordered frames, open groups of pictures, gradual refresh, hidden times: name → how the file is made.
KINDS: dict[str, dict[str, Any]] = {
    "b_frames.mp4": {},
    "b_frames.mov": {"width": 50, "height": 70},
    "no_b_frames.mp4": {"options": {"bf": "0"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4_b_frames.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "h264_b_frames.avi": {"options": {"bf": "3", "b-adapt": "0"}},
    "mjpeg.avi": {"codec": "mjpeg"},
    "open_gop.mkv": {"options": {"x264-params": "open-gop=1:keyint=8:min-keyint=8"}, "frames": 60},
    "gradual_refresh.mkv": {"options": {"x264-params": "intra-refresh=1:keyint=20"}, "frames": 60},
    "open_gop_hevc.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "open-gop=1:keyint=8:log-level=none"},
    },
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "mpeg1.mpg": {"codec": "mpeg1video"},
    "variable_rate.mp4": {"timestamps_ms": [0, 7] + [100 + 40 * i + 13 * (i % 3) for i in range(38)]},
    "turned_90.mp4": {"rotation": 90},
    "turned_180.mp4": {"rotation": 180},
    "turned_270.mov": {"rotation": 270},
    "one.mp4": {"frames": 1},
    "seven.mp4": {"frames": 7},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    return {name: make_video(folder / name, **how) for name, how in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
def test_frames_equal_sequential_decoding(videos: dict[str, Path], name: str) -> None:
    path = videos[name]
    wanted = sequential(path)
    found = probe(path)
    assert found.frames == len(wanted) == KINDS[name].get("frames", 40)
    assert (found.height, found.width) == wanted[0].shape[:2]
    assert found.pts_seconds.shape == (found.frames,)
    pictures = dict(read_frames(path, range(found.frames)))
    assert [frame_number(pictures[index]) for index in range(found.frames)] == list(range(found.frames))
    for index, picture in pictures.items():
        np.testing.assert_array_equal(picture, wanted[index])


@pytest.mark.parametrize("name", KINDS)
def test_each_frame_asked_alone_and_scattered_frames_are_the_same(videos: dict[str, Path], name: str) -> None:
    path = videos[name]
    wanted = sequential(path)
    last = len(wanted) - 1
    for asked in [[index] for index in range(0, last + 1, 5)] + [
        [last, 0, last // 2, last],
        [last // 2, 3 % (last + 1)],
    ]:
        found = list(read_frames(path, asked))
        assert [index for index, _ in found] == sorted(set(asked))
        for index, picture in found:
            np.testing.assert_array_equal(picture, wanted[index])


def damage_frames(path: Path, first: int, last: int) -> None:
    """Overwrite the packets from one that is a frame's to another's, in a file without reordering."""
    data = bytearray(path.read_bytes())
    with av.open(path) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.pos is not None]
    data[positions[first] : positions[last]] = bytes(positions[last] - positions[first])
    path.write_bytes(bytes(data))


def test_a_jump_ahead_in_a_long_video_does_not_decode_what_lies_between(tmp_path: Path) -> None:
    path = make_video(tmp_path / "long.mp4", frames=1100, keyframe_interval=20, width=32, height=32)
    damage_frames(path, 60, 80)
    assert [frame_number(picture) for _, picture in read_frames(path, [5, 150])] == [5, 150]
    with pytest.raises(VideoError, match=r"of 1100 frames|damaged"):
        list(read_frames(path, [5, 70, 150]))
    # With clips enough, all of it is decoded, and checked.
    assert load_clips(path, clips=2, clip_frames=8, size=16).frames == 1100
    with pytest.raises(VideoError, match=r"of 1100 frames|damaged"):
        load_clips(path, clips=35, clip_frames=4, size=16)


def test_a_damaged_motion_jpeg_picture_fails_the_video(tmp_path: Path) -> None:
    """FFmpeg would fill the rest of the picture with what the memory held before, and say nothing."""
    path = make_video(tmp_path / "v.avi", codec="mjpeg", frames=10, numbered=False)
    data = bytearray(path.read_bytes())
    with av.open(path) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][4]
        middle = packet.pos + 8 + packet.size * 2 // 3
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(bytes(data))
    with pytest.raises(VideoError, match="decoder gave 4 of 10 frames"):
        load_clips(path, clips=2, clip_frames=4, size=16)


@pytest.mark.parametrize("part", ["between two clips", "behind the last clip"])
def test_damage_where_no_clip_lies_fails_the_video(tmp_path: Path, part: str) -> None:
    """Grids leave frames out: 0 to 7 and 50 to 57 of 100 are asked for."""
    path = make_video(tmp_path / "v.mp4", frames=100, keyframe_interval=10, options={"bf": "0"})
    assert load_clips(path, clips=2, clip_frames=8, size=16).starts.tolist() == [0, 50]
    damage_frames(path, *((30, 32) if part == "between two clips" else (97, 99)))
    with pytest.raises(VideoError, match=r"of 100 frames|damaged"):
        load_clips(path, clips=2, clip_frames=8, size=16)
    # A segment is a video of its own: it is checked, not the rest of the file.
    half = {"start_seconds": 2.0} if part == "between two clips" else {"end_seconds": 2.0}
    assert load_clips(path, clips=2, clip_frames=8, size=16, **half).frames == 50


def test_times_are_the_files(tmp_path: Path) -> None:
    times = [0, 40, 95, 120, 300, 310]
    found = probe(make_video(tmp_path / "v.mp4", frames=6, timestamps_ms=times))
    np.testing.assert_allclose(found.pts_seconds, np.array(times) / 1000, rtol=0, atol=1e-4)
    assert found.fps == pytest.approx(5 / 0.31, abs=0.01)
    later = probe(make_video(tmp_path / "later.ts", codec="mpeg2video", frames=5))
    assert later.pts_seconds[0] > 0
    np.testing.assert_allclose(later.seconds, np.arange(5) / 25, rtol=0, atol=1e-9)


def test_frames_that_a_vp8_stream_hides_do_not_count(tmp_path: Path) -> None:
    shown = make_video(tmp_path / "shown.webm", codec="libvpx", keyframe_interval=10)
    hidden = tmp_path / "hidden.webm"
    with av.open(shown) as source, av.open(hidden, "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            data = bytearray(bytes(packet))
            if not data:
                break
            if number in (15, 25):
                data[0] &= ~0x10 & 0xFF
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, stream
            copy.is_keyframe = packet.is_keyframe
            sink.mux(copy)
    wanted = sequential(hidden)
    assert probe(hidden).frames == len(wanted) == 38
    for index, picture in read_frames(hidden, [14, 15, 24, 37]):
        np.testing.assert_array_equal(picture, wanted[index])


def test_segments_of_a_file_share_one_pass_over_its_packets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "v.mp4", frames=100, keyframe_interval=10)
    passes = []
    read = packets.read_packets
    monkeypatch.setattr(packets, "read_packets", lambda *given: passes.append(1) or read(*given))
    monkeypatch.setattr(packets, "_SETTLED_SECONDS", 0.0)
    for start in range(4):
        video = load_clips(path, clips=2, clip_frames=4, size=16, start_seconds=start, end_seconds=start + 1)
        assert (video.frames, video.starts[0]) == (25, 25 * start)
    assert len(passes) == 1
    make_video(path, frames=50)  # another file under the name
    assert probe(path).frames == 50
    assert len(passes) == 2


def test_indices_outside_the_video_are_refused(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", frames=5)
    for asked in ([-1], [2, 5]):
        with pytest.raises(UsageError, match="it has 0 to 4"):
            list(read_frames(path, asked))
    assert list(read_frames(path, [])) == []


class TestFilesThatAreNoVideo:
    def test_text_empty_missing_folder_and_pipe(self, tmp_path: Path) -> None:
        (tmp_path / "text.mp4").write_text("not a video\n" * 100)
        (tmp_path / "empty.mp4").touch()
        (tmp_path / "folder.mp4").mkdir()
        os.mkfifo(tmp_path / "pipe.mp4")
        reasons = {
            "text.mp4": "no video container",
            "empty.mp4": "empty file",
            "folder.mp4": "not a regular file",
            "pipe.mp4": "not a regular file",
            "missing.mp4": "No such file",
            "concat:a.mp4|b.mp4": "No such file",
        }
        for name, reason in reasons.items():
            with pytest.raises(VideoError, match=reason) as caught:
                probe(tmp_path / name)
            assert "\n" not in str(caught.value)
        with pytest.raises(VideoError, match="not a regular file"):
            probe(Path("/dev/zero"))

    def test_sound_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "sound.mp4"
        with av.open(path, "w") as container:
            stream = container.add_stream("aac", rate=8000)
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with pytest.raises(VideoError, match=r"no video stream \(it holds audio\)"):
            probe(path)

    @pytest.mark.parametrize("front", [True, False])
    def test_a_file_cut_in_half(self, tmp_path: Path, front: bool) -> None:
        path = make_video(tmp_path / "v.mp4", frames=60, width=160, height=120)
        if front:  # the index first: what is there of it would play
            moved = tmp_path / "front.mp4"
            with av.open(path) as source, av.open(moved, "w", options={"movflags": "faststart"}) as sink:
                stream = sink.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        sink.mux(packet)
            path = moved
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 6 // 10])
        with pytest.raises(
            VideoError, match=r"cut short, it holds \d+ of 60 frames" if front else "no video container"
        ):
            list(read_frames(path, [0]))

    def test_damage_names_the_counts(self, tmp_path: Path) -> None:
        path = make_video(tmp_path / "v.mp4", frames=60, width=160, height=120)
        data = bytearray(path.read_bytes())
        at = data.index(b"mdat") + len(data) // 3
        data[at : at + 3000] = bytes(3000)
        path.write_bytes(bytes(data))
        with pytest.raises(VideoError, match=r"decoder gave \d+ of 60 frames|frame \d+ of 60 is damaged"):
            load_clips(path, clips=4, clip_frames=8, size=32)


def test_a_decoder_has_one_thread(tmp_path: Path) -> None:
    with open_video(make_video(tmp_path / "v.mp4", frames=2)) as (_, stream):
        assert stream.codec_context.thread_count == 1


class TestLoadClips:
    def test_clips_are_the_plan_in_the_test_view(self, tmp_path: Path) -> None:
        path = make_video(tmp_path / "v.mp4", frames=50, width=96, height=64)
        video = load_clips(path, clips=5, clip_frames=16, frame_stride=2, size=56)
        plan = plan_clips(50, clips=5, clip_frames=16, frame_stride=2)
        assert video.clips.shape == (5, 16, 56, 56, 3)
        assert video.clips.dtype == np.uint8
        assert (video.frames, video.fps) == (50, 25.0)
        np.testing.assert_array_equal(video.starts, plan.starts)
        np.testing.assert_array_equal(video.times_seconds, plan.starts / 25)
        # The shorter side 64 is scaled to 56·256/224 = 64: what is left is the crop.
        whole = dict(read_frames(path, range(50)))
        for clip, indices in zip(video.clips, plan.indices, strict=True):
            for picture, index in zip(clip, indices.tolist(), strict=True):
                np.testing.assert_array_equal(picture, whole[index][4:60, 20:76])

    def test_scaling_is_ffmpegs(self, tmp_path: Path) -> None:
        path = make_video(tmp_path / "v.mp4", frames=8, width=120, height=90, numbered=False)
        video = load_clips(path, clips=1, clip_frames=8, size=28)
        with av.open(path) as container:
            for picture, frame in zip(video.clips[0], container.decode(video=0), strict=True):
                scaled = VideoReformatter().reformat(frame, 43, 32, "rgb24", interpolation=SCALING, threads=1)
                np.testing.assert_array_equal(picture, scaled.to_ndarray()[2:30, 7:35])

    @pytest.mark.parametrize("rotation", [90, 180, 270])
    def test_turned_videos_give_upright_clips(self, tmp_path: Path, rotation: int) -> None:
        upright = make_video(tmp_path / "upright.mp4", frames=8, width=96, height=64)
        turned = make_video(tmp_path / "turned.mp4", frames=8, width=96, height=64, rotation=rotation)
        found = load_clips(turned, clips=1, clip_frames=8, size=48).clips
        wanted = load_clips(upright, clips=1, clip_frames=8, size=48).clips
        assert [frame_number(picture) for picture in found[0]] == list(range(8))
        assert np.abs(found.astype(int) - wanted).mean() < 6  # encoded twice, not alike to the bit

    def test_short_videos_repeat_their_last_frame(self, tmp_path: Path) -> None:
        path = make_video(tmp_path / "v.mp4", frames=7)
        video = load_clips(path, clips=2, clip_frames=8, size=32)
        assert video.padded.tolist() == [1, 1]
        assert [frame_number(picture) for picture in video.clips[1]] == [0, 1, 2, 3, 4, 5, 6, 6]

    @pytest.mark.parametrize(
        ("start", "end", "numbers"),
        [(None, 0.4, range(10)), (1.0, None, range(25, 40)), (0.4, 0.8, range(10, 20)), (0.41, 0.45, [11])],
    )
    def test_a_segment_is_start_to_before_end(
        self, tmp_path: Path, start: float | None, end: float | None, numbers: range | list[int]
    ) -> None:
        for name in ("v.mp4", "v.ts"):  # the second's times do not begin at 0
            path = make_video(tmp_path / name)
            video = load_clips(path, clips=1, clip_frames=1, size=32, start_seconds=start, end_seconds=end)
            assert video.frames == len(numbers)
            every = load_clips(
                path, clips=len(numbers), clip_frames=1, size=32, start_seconds=start, end_seconds=end
            )
            assert [frame_number(clip[0]) for clip in every.clips] == list(numbers)
            assert every.starts.tolist() == list(numbers)
            np.testing.assert_allclose(every.times_seconds, np.array(numbers) / 25, rtol=0, atol=1e-9)

    def test_a_segment_without_frames_is_an_error(self, tmp_path: Path) -> None:
        path = make_video(tmp_path / "v.mp4")
        with pytest.raises(VideoError, match=r"no frame from 2 s to 3 s; its last frame is at 1.56 s"):
            load_clips(path, clips=1, clip_frames=8, start_seconds=2, end_seconds=3)

    def test_out_is_filled(self, tmp_path: Path) -> None:
        path = make_video(tmp_path / "v.mp4")
        out = np.zeros((2, 8, 32, 32, 3), dtype=np.uint8)
        video = load_clips(path, clips=2, clip_frames=8, size=32, out=out)
        assert np.shares_memory(video.clips, out)
        np.testing.assert_array_equal(out, load_clips(path, clips=2, clip_frames=8, size=32).clips)
        for wrong in (out[:1], out.astype(np.float32), np.zeros((2, 8, 32, 3, 32), np.uint8).swapaxes(3, 4)):
            with pytest.raises(UsageError, match="it must be"):
                load_clips(path, clips=2, clip_frames=8, size=32, out=wrong)

    @pytest.mark.parametrize(
        ("frames", "clips", "stride"),
        [(96, 6, 1), (50, 9, 1), (30, 40, 1), (60, 9, 3), (70, 4, 2), (3, 5, 1), (1, 2, 4)],
    )
    @pytest.mark.parametrize("name", ["v.mp4", "irregular.avi"])
    def test_parts_are_the_same_clips(
        self, tmp_path: Path, frames: int, clips: int, stride: int, name: str
    ) -> None:
        """End to end, overlapping, more clips than frames, strides that interleave, shorter than a clip."""
        path = make_video(tmp_path / name, frames=frames, numbered=False)
        arguments = {"clips": clips, "clip_frames": 8, "frame_stride": stride, "size": 16}
        wanted = load_clips(path, **arguments)
        for sizes in ([1], [2], [3, 1], [clips], [clips + 1]):
            outs = [np.zeros((n, 8, 16, 16, 3), dtype=np.uint8) for n in sizes]
            parts = stream_clips(path, out=outs[0], **arguments)
            part, done, turn = next(parts), 0, 0
            while True:
                here = slice(done, done + len(part.clips))
                assert np.shares_memory(part.clips, outs[turn % len(outs)])
                np.testing.assert_array_equal(part.clips, wanted.clips[here])
                np.testing.assert_array_equal(part.starts, wanted.starts[here])
                np.testing.assert_array_equal(part.times_seconds, wanted.times_seconds[here])
                np.testing.assert_array_equal(part.padded, wanted.padded[here])
                assert (part.frames, part.fps) == (wanted.frames, wanted.fps)
                done, turn = here.stop, turn + 1
                assert part.more == (done < clips)
                if not part.more:
                    break
                part = parts.send(outs[turn % len(outs)])
            assert done == clips

    def test_a_very_thin_picture_is_refused(self, tmp_path: Path) -> None:
        path = make_video(tmp_path / "v.mp4", codec="mpeg4", width=8000, height=16, frames=1, numbered=False)
        with pytest.raises(VideoError, match="long and thin"):
            load_clips(path, clips=1, clip_frames=1, size=512)


class TestLoadRandomClip:
    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("rotation", [0, 90])
    def test_one_clip_in_one_view(self, tmp_path: Path, seed: int, rotation: int) -> None:
        path = make_video(tmp_path / "v.mp4", width=70, height=60, numbered=False, rotation=rotation)
        found = load_random_video(
            path, rng=np.random.default_rng(seed), clip_frames=8, frame_stride=2, size=28
        ).clips[0]
        rng = np.random.default_rng(seed)
        start = random_start(rng, 40, clip_frames=8, frame_stride=2)
        view = random_view(rng, 70, 60, 28)
        stored = (view.height, view.width) if rotation else (view.width, view.height)
        with av.open(path) as container:
            frames = list(container.decode(video=0))[start : start + 15 : 2]
        for picture, frame in zip(found, frames, strict=True):
            scaled = VideoReformatter().reformat(frame, *stored, "rgb24", interpolation=SCALING, threads=1)
            wanted = np.rot90(scaled.to_ndarray(), -rotation // 90)[view.top :, view.left :][:28, :28]
            np.testing.assert_array_equal(picture, wanted[:, ::-1] if view.flip else wanted)

    def test_shorter_than_a_clip(self, tmp_path: Path) -> None:
        path = make_video(tmp_path / "v.mp4", frames=3)
        clip = load_random_video(path, rng=np.random.default_rng(0), clip_frames=8, size=32).clips[0]
        assert clip.shape == (8, 32, 32, 3)
        for picture in clip[3:]:
            np.testing.assert_array_equal(picture, clip[2])


def test_numbers_survive_scaling_and_cropping() -> None:
    for number in (0, 1, 2047, 2730, 4095):
        assert frame_number(number_picture(number, 64, 48)) == number
        assert frame_number(number_picture(number, 96, 64)[8:56, 24:72]) == number


def planes(frame: av.VideoFrame) -> int:
    """A checksum of a decoded frame's samples, without what pads its lines."""
    total = 0
    for plane in frame.planes:
        rows = np.frombuffer(plane, dtype=np.uint8).reshape(plane.height, plane.line_size)
        alone = len(frame.planes) == 1
        sample_bytes = (
            frame.format.padded_bits_per_pixel // 8 if alone else 1 + (frame.format.components[0].bits > 8)
        )
        total = zlib.crc32(np.ascontiguousarray(rows[:, : plane.width * sample_bytes]), total)
    return total


def check_every_frame(path: Path) -> int:
    """Compare each frame and its time, and frames reached by seeking, with plain decoding; return their number.

    Raises:
        VideoError: the file is refused.
    """
    found = scan(path)
    ours = [planes(frame) for _, frame in decode_frames(path, found, range(found.probe.frames))]
    asked = np.random.default_rng(found.probe.frames).permutation(found.probe.frames)[:3].tolist()
    reached = {}
    for index in asked:
        ((at, frame),) = decode_frames(path, found, [index], sparse=True)
        assert at == index
        reached[index] = planes(frame)
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        assert isinstance(stream, av.VideoStream)
        stream.codec_context.thread_count = 1
        untimed = container.format.name == "avi" and stream.codec_context.has_b_frames
        for index, wanted in enumerate(container.decode(stream)):
            assert ours[index] == planes(wanted), (path, index)
            assert reached.get(index, ours[index]) == ours[index], (path, index)
            time = index / stream.average_rate if untimed or wanted.time is None else wanted.time
            assert found.probe.pts_seconds[index] == pytest.approx(float(time), abs=1e-9), (path, index)
    assert index + 1 == len(ours) == found.probe.frames
    return len(ours)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside the repository")
def test_every_frame_of_every_real_file_equals_sequential_decoding_or_the_file_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = sorted(
        path for folder in ("edge", "clips") for path in (SHARED / folder).rglob("*") if path.is_file()
    )
    reasons = {}
    frames = 0
    for path in files:
        try:
            frames += check_every_frame(path)
        except VideoError as error:
            reasons[path.name] = str(error)
    with capsys.disabled():
        print(
            f" {len(files)} real files: {len(files) - len(reasons)} equal, {frames} frames; {len(reasons)} refused",
            end=" ",
        )
    assert all("\n" not in reason and len(reason) < 200 for reason in reasons.values())
    assert len(files) - len(reasons) >= 70
