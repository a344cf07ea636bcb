"""Decoded frames as pictures: turned and mirrored as the file says."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from faster.errors import VideoError
from faster.extract.video.decode import probe, read_frames
from videos import make_video, sequential


def test_a_mirrored_picture_is_mirrored_back(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", frames=2)
    stored = sequential(path)
    data = path.read_bytes()
    at = data.index(b"tkhd") + 44
    path.write_bytes(data[:at] + (-1 << 16).to_bytes(4, "big", signed=True) + data[at + 4 :])
    (_, picture), *_ = read_frames(path, [0, 1])
    np.testing.assert_array_equal(picture, stored[0][:, ::-1])


def test_a_slanted_picture_is_refused(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", frames=2)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    for offset, value in ((0, 46341), (4, 46341), (12, -46341), (16, 46341)):
        data[at + offset : at + offset + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(bytes(data))
    with pytest.raises(VideoError, match="multiples of 90"):
        probe(path)


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (65536, 0, 0, 0), (65536,) * 4, (-(2**31),) * 4])
def test_a_damaged_rotation_is_called_so(tmp_path: Path, matrix: tuple[int, ...]) -> None:
    path = make_video(tmp_path / "v.mp4", frames=2)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    for offset, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[at + offset : at + offset + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(bytes(data))
    with pytest.raises(VideoError, match="the rotation in its header makes no sense"):
        probe(path)


@pytest.mark.parametrize("rotation", [0, 90])
def test_a_rotation_that_is_rounded_is_applied(tmp_path: Path, rotation: int) -> None:
    path = make_video(tmp_path / "v.mp4", frames=2, rotation=rotation)
    wanted = [picture for _, picture in read_frames(path, [0, 1])]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    for offset in (4, 12) if rotation == 0 else (0, 16):
        data[at + offset : at + offset + 4] = (3).to_bytes(4, "big", signed=True)
    path.write_bytes(bytes(data))
    for picture, (_, found) in zip(wanted, read_frames(path, [0, 1]), strict=True):
        np.testing.assert_array_equal(found, picture)


def test_whatever_a_decoder_attaches_to_a_picture_is_no_error(tmp_path: Path) -> None:
    """A camera's remarks (EXIF) in motion JPEG, which this PyAV has no name for; and types still to come."""
    path = make_video(tmp_path / "v.mkv", codec="mjpeg", frames=3)
    remark = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x31\x01\x02\0\x04\0\0\0cam\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(remark) + 2).to_bytes(2, "big") + remark
    with av.open(path) as source, av.open(tmp_path / "attached.mkv", "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                copy = av.Packet(bytes(packet)[:2] + segment + bytes(packet)[2:])
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                sink.mux(copy)
    with av.open(tmp_path / "attached.mkv") as container:
        types = [data.type for frame in container.decode(video=0) for data in frame.side_data]
    assert any(kind.name.startswith("UNKNOWN") for kind in types)
    for (_, wanted), (_, found) in zip(
        read_frames(path, range(3)), read_frames(tmp_path / "attached.mkv", range(3)), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
