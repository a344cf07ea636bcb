"""Streams that were cut out of longer ones, and pictures that are never shown: neither is damage, and damage still is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter
from faster.errors import VideoError
from faster.extract.video.decode import load_clips, probe, read_frames
from faster.extract.video.hidden_frames import lost_frames, shown_frames
from numpy.typing import NDArray
from videos import make_video

SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
X264 = "keyint=16:min-keyint=8:scenecut=0:bframes=3:b-adapt=0"
X265 = "keyint=20:min-keyint=5:scenecut=0:bframes=4:b-adapt=0:repeat-headers=1:log-level=none"

CODECS: dict[str, dict[str, Any]] = {
    "hevc": {"codec": "libx265", "options": {"x265-params": f"open-gop=1:{X265}"}},
    "hevc_radl": {
        "codec": "libx265",
        "options": {"x265-params": f"open-gop=0:radl=2:{X265}:keyint=16:min-keyint=16"},
    },
    "h264": {"options": {"x264-params": f"open-gop=1:{X264}"}},
    "h264_closed": {"options": {"x264-params": f"open-gop=0:{X264}"}},
    "h264_refresh": {"options": {"x264-params": "intra-refresh=1:keyint=20:scenecut=0:bframes=2"}},
    "mpeg1": {"codec": "mpeg1video", "options": {"bf": "2"}},
    "mpeg2": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "mpeg4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "vp9": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "vp8": {"codec": "libvpx"},
}


def make(folder: Path, codec: str, suffix: str) -> Path:
    return make_video(
        folder / f"whole-{codec}{suffix}", frames=64, width=96, height=64, numbered=False, **CODECS[codec]
    )


def packets_of(path: Path) -> list[av.Packet[Any]]:
    with av.open(path) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def remux(source: Path, target: Path, packets: list[av.Packet[Any]]) -> Path:
    with av.open(source) as container, av.open(target, "w") as sink:
        stream = sink.add_stream_from_template(container.streams.video[0])
        for packet in packets:
            packet.stream = stream
            sink.mux(packet)
    return target


def cut_at_key(whole: Path, target: Path, number: int) -> Path:
    """The file from its key packet of this number on, as segmenting without decoding cuts."""
    packets = packets_of(whole)
    keys = [place for place, packet in enumerate(packets) if packet.is_keyframe]
    return remux(whole, target, packets[keys[number] :])


def cut_bytes(whole: Path, target: Path, share: float) -> Path:
    """The rest of a stream behind a share of it, between two packs of the container."""
    data = whole.read_bytes()
    pack = 188 if target.suffix == ".ts" else 2048
    target.write_bytes(data[int(len(data) * share) // pack * pack :])
    return target


def plain(path: Path) -> list[NDArray[np.uint8]]:
    """What decoding packet after packet gives, whatever it refuses."""
    scaler, pictures = VideoReformatter(), []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                stream.codec_context.flush_buffers()
                continue
            pictures += [
                scaler.reformat(frame, format="rgb24", interpolation=SCALING, threads=1).to_ndarray()
                for frame in frames
            ]
    return pictures


def check(path: Path) -> int:
    """Every frame that decoding gives is there, reached in order and by seeking; how many were left out."""
    wanted, found = plain(path), probe(path)
    assert found.frames == len(wanted) > 0
    assert found.seconds[0] == 0 and (np.diff(found.seconds) > 0).all()
    shown = [packet for packet in packets_of(path) if not packet.is_discard]
    assert found.left_out == len(shown) - len(wanted)
    for index, picture in read_frames(path, range(found.frames)):
        np.testing.assert_array_equal(picture, wanted[index])
    for index in (0, found.frames // 2, found.frames - 1):
        ((at, picture),) = read_frames(path, [index])
        assert at == index
        np.testing.assert_array_equal(picture, wanted[index])
    video = load_clips(path, clips=3, clip_frames=4, size=16)
    assert (video.frames, video.left_out) == (found.frames, found.left_out)
    return found.left_out


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("codec", "suffix", "left_out"),
    [
        ("hevc", ".mkv", 4),
        ("hevc_radl", ".mkv", 0),
        ("h264", ".mkv", 3),
        ("h264_closed", ".mkv", 0),
        ("mpeg1", ".mkv", 2),
        ("mpeg2", ".mkv", 2),
        ("mpeg4", ".mkv", 2),
        ("mpeg4", ".avi", 2),
        ("vp9", ".webm", 0),
    ],
)
def test_a_file_may_begin_at_an_open_group_of_pictures(
    tmp_path: Path, codec: str, suffix: str, left_out: int, number: int
) -> None:
    """The pictures that are shown before its key picture and stored behind it need the group before."""
    piece = cut_at_key(make(tmp_path, codec, suffix), tmp_path / f"piece{suffix}", number)
    assert check(piece) == left_out


def test_a_file_may_begin_at_a_gradual_refresh(tmp_path: Path) -> None:
    assert check(cut_at_key(make(tmp_path, "h264_refresh", ".mkv"), tmp_path / "piece.mkv", 1)) > 2


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("hevc", ".ts"),
        ("hevc_radl", ".ts"),
        ("h264", ".ts"),
        ("h264_closed", ".ts"),
        ("h264_refresh", ".ts"),
        ("mpeg2", ".ts"),
        ("mpeg2", ".vob"),
        ("mpeg1", ".mpg"),
    ],
)
def test_a_stream_may_begin_anywhere(tmp_path: Path, codec: str, suffix: str, share: float) -> None:
    assert check(cut_bytes(make(tmp_path, codec, suffix), tmp_path / f"rest{suffix}", share)) > 0


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("h264", ".mkv"), ("h264", ".mp4"), ("hevc", ".mkv"), ("vp8", ".webm"), ("vp9", ".webm")],
)
def test_a_file_may_begin_in_the_midst_of_a_group(tmp_path: Path, codec: str, suffix: str) -> None:
    whole = make(tmp_path, codec, suffix)
    assert check(remux(whole, tmp_path / f"piece{suffix}", packets_of(whole)[5:])) > 0


def damage(path: Path, number: int) -> None:
    """Overwrite what a packet of this number holds."""
    with av.open(path) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
        place, size = path.read_bytes().index(bytes(packet)), packet.size
    data = bytearray(path.read_bytes())
    data[place + 4 : place + size] = bytes(size - 4)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("codec", ["hevc", "hevc_radl", "h264", "mpeg2"])
@pytest.mark.parametrize("where", ["key picture", "in the midst"])
def test_a_picture_that_is_missing_is_damage_still(tmp_path: Path, codec: str, where: str) -> None:
    piece = cut_at_key(make(tmp_path, codec, ".mkv"), tmp_path / "piece.mkv", 1)
    damage(piece, 0 if where == "key picture" else 9)
    with pytest.raises(VideoError, match=r"decoder gave|damaged|can be decoded"):
        load_clips(piece, clips=3, clip_frames=4, size=16)


def test_a_leading_picture_that_can_be_decoded_must_be(tmp_path: Path) -> None:
    """RADL pictures need nothing from before the key picture, unlike RASL ones."""
    piece = cut_at_key(make(tmp_path, "hevc_radl", ".mkv"), tmp_path / "piece.mkv", 1)
    packets = packets_of(piece)
    assert packets[1].pts < packets[0].pts
    damage(piece, 1)
    damage(piece, 2)
    with pytest.raises(VideoError, match="decoder gave"):
        load_clips(piece, clips=3, clip_frames=4, size=16)


def test_a_damaged_start_is_no_start_in_the_midst(tmp_path: Path) -> None:
    """The first key picture is lost, and the index calls it a key picture: eight frames must not vanish."""
    path = make_video(tmp_path / "v.mp4", frames=24, keyframe_interval=8, options={"bf": "0"})
    damage(path, 0)
    with pytest.raises(VideoError):
        load_clips(path, clips=2, clip_frames=4, size=16)


# --- Pictures that are never shown ---------------------------------------------------------------------


def split_superframes(source: Path, target: Path) -> int:
    """Give each frame of VP9's superframes a packet of its own, at one time; the number of packets."""
    pieces = []
    for packet in packets_of(source):
        data = bytes(packet)
        count, width = (data[-1] & 7) + 1, (data[-1] >> 3 & 3) + 1
        index = len(data) - 2 - count * width
        sizes = [len(data)]
        if data[-1] & 0xE0 == 0xC0 and data[index] == data[-1]:
            sizes = [
                int.from_bytes(data[at : at + width], "little")
                for at in range(index + 1, len(data) - 1, width)
            ]
        at = 0
        for size in sizes:
            piece = av.Packet(data[at : at + size])
            piece.pts, piece.dts, piece.time_base = packet.pts, packet.dts, packet.time_base
            piece.is_keyframe = packet.is_keyframe and not at
            pieces.append(piece)
            at += size
    remux(source, target, pieces)
    return len(pieces)


@pytest.fixture
def alt_ref(tmp_path: Path) -> Path:
    """VP9 with hidden pictures, each packed with one that is shown."""
    return make(tmp_path, "vp9", ".webm")


def test_hidden_pictures_of_vp9_in_packets_of_their_own_do_not_count(alt_ref: Path, tmp_path: Path) -> None:
    assert split_superframes(alt_ref, tmp_path / "split.webm") > 64
    wanted = plain(tmp_path / "split.webm")
    for path in (alt_ref, tmp_path / "split.webm"):
        assert (probe(path).frames, probe(path).left_out) == (64, 0)
        for index, picture in read_frames(path, range(64)):
            np.testing.assert_array_equal(picture, wanted[index])


def test_a_hidden_picture_whose_shown_one_is_lost_is_damage(alt_ref: Path, tmp_path: Path) -> None:
    """A superframe whose index is damaged is a hidden picture to a decoder, and the shown one behind it is gone."""
    packets = packets_of(alt_ref)
    data = alt_ref.read_bytes()
    packed = next(bytes(packet) for packet in packets if bytes(packet)[-1] & 0xE0 == 0xC0)
    place = data.index(packed) + len(packed) - 1
    (tmp_path / "v.webm").write_bytes(data[:place] + b"\0" + data[place + 1 :])
    with pytest.raises(VideoError, match="decoder gave 63 of 64 frames"):
        load_clips(tmp_path / "v.webm", clips=3, clip_frames=4, size=16)


def test_av1_in_units_of_any_kind(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "v.mkv", codec="libsvtav1", frames=24, width=96, height=64, options={"preset": "10"}
    )
    assert probe(path).frames == 24 == sum(1 for _ in read_frames(path, range(24)))
    counter = shown_frames("av1", b"")
    assert counter is not None
    frame, header, delimiter = 6 << 3 | 2, 3 << 3 | 2, bytes([2 << 3 | 2, 0])
    hidden, shown, again = b"\x00\0", b"\x10\0", b"\x80"
    for data, frames in (
        (delimiter + bytes([frame, 2]) + hidden, 0),
        (delimiter + bytes([frame, 2]) + shown, 1),
        (bytes([frame, 2]) + hidden + bytes([frame, 2]) + shown, 1),
        (bytes([header, 1]) + again, 1),
        (delimiter, 0),
        (bytes([frame | 4, 0 << 3, 2]) + shown + bytes([frame | 4, 1 << 3, 2]) + shown, 1),  # layers of one
        (bytes([frame, 200]) + hidden, 1),  # cut: the decoder has the last word
    ):
        assert counter.count(data) == frames, data


def test_a_hidden_picture_takes_no_time() -> None:
    shown = np.arange(0, 400, 40)
    for hidden, lost in (([], 0), ([119, 160], 1), ([119, 120], 0), ([400], 1), ([81, 359], 1)):
        kept = np.setdiff1d(shown, [] if 160 not in hidden else [160])
        assert lost_frames(np.array(hidden, dtype=np.int64), kept) == lost, hidden
