"""Decoded frames by index, equal to those of decoding the complete file.

If every frame has its own timestamp, decoding begins at the key frame before the requested frames; if these
are few and far between, only the parts that hold them are decoded. Any irregularity (a frame missing, out of
order, flagged corrupt) sends the file to the reference method: decode all of it and count. That either gives
every frame, or raises a `VideoError` with the number of frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import av.container
import av.error
import av.video

from ...errors import VideoError
from .containers import open_video, read_packets
from .packets import KeyPacket, PacketScan

# A jump ahead restarts the decoder and loses the frames it holds back: it does not pay off for fewer frames.
_SEEK_FRAMES = 16
# A video is decoded completely, and so checked completely, up to so many frames, or so many times the
# requested frames.
_COMPLETE_FRAMES = 1024
_COMPLETE_TIMES = 8


def decode_frames(
    path: Path, found: PacketScan, wanted: Sequence[int], *, video: range | None = None, sparse: bool = False
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (index, frame) for the wanted indices, which are ascending and distinct.

    `video` are the frames that make up the video, by default all of the file's; `wanted` are among them. If
    the video has up to 1,024 frames, or up to 8 times the wanted ones, the other frames are decoded too, so
    that damage is seen anywhere. In a longer video, or with `sparse`, only the frames needed for the wanted
    ones are decoded.

    Raises:
        VideoError: the decoder does not give these frames, or flags one as damaged.
    """
    if not wanted:
        return
    video = range(found.probe.frames) if video is None else video
    complete = not sparse and len(video) <= max(_COMPLETE_FRAMES, _COMPLETE_TIMES * len(wanted))
    given = 0
    if found.pts is not None:
        try:
            for index, frame in _decode_by_time(path, found, wanted, video if complete else None):
                yield index, frame
                given += 1
            return
        except (_OutOfStepError, av.error.FFmpegError):
            pass  # decoding and counting the complete file decides
    yield from _decode_by_count(path, found, wanted[given:])


class _OutOfStepError(Exception):
    """The decoder did not give the next frame by timestamp."""


def _decode_by_time(
    path: Path, found: PacketScan, wanted: Sequence[int], complete: range | None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode by timestamps: all of `complete`, or only the parts that hold the wanted frames."""
    with open_video(path) as (container, stream):
        for key, run in (
            _runs(found, wanted) if complete is None else [(_begin(found, complete.start), wanted)]
        ):
            if key is not None:
                container.seek(key.seek_to, stream=stream)
            expected = 0 if key is None else key.frame
            stop = run[-1] + 1 if complete is None else complete.stop
            remaining = iter(run)
            target = next(remaining, None)
            for frame in _frames(container, stream, key, found.forgiven):
                index = found.index_of(frame.pts)
                if key is not None and 0 <= index < key.frame:
                    continue  # shown before the key frame, decoded after it
                if (
                    index != expected
                    or frame.is_corrupt
                    or (key and index == key.frame and not frame.key_frame)
                ):
                    raise _OutOfStepError
                expected += 1
                if index == target:
                    yield index, frame
                    target = next(remaining, None)
                if expected == stop < found.probe.frames:  # at the file's end, what the decoder gives decides
                    break
            if expected != stop:
                raise _OutOfStepError


def _decode_by_count(
    path: Path, found: PacketScan, wanted: Sequence[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    promised = found.probe.frames
    given = 0
    remaining = iter(wanted)
    target = next(remaining, None)
    with open_video(path) as (container, stream):
        try:
            for frame in _frames(container, stream, None, found.forgiven):
                if frame.is_corrupt:
                    raise VideoError(f"{path.name}: frame {given} of {promised} is damaged")
                if given == target:
                    yield given, frame
                    target = next(remaining, None)
                given += 1
        except av.error.FFmpegError as error:
            raise VideoError(
                f"{path.name}: decoder gave {given} of {promised} frames ({error.strerror})"
            ) from error
    if given != promised:
        raise VideoError(f"{path.name}: decoder gave {given} of {promised} frames")


def _frames(
    container: av.container.InputContainer, stream: av.video.VideoStream, key: KeyPacket | None, forgiven: int
) -> Iterator[av.VideoFrame]:
    """Decode from the container's position, or from the key packet at or after it, to the end.

    From the start, the decoder may refuse any of the first `forgiven` packets.
    """
    before_key = key is not None
    for number, packet in enumerate(read_packets(container, stream), start=1):
        if before_key and key is not None and packet.pts == key.pts:
            before_key = False
        if not packet.size or before_key:
            continue
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            if key is not None or number > forgiven:
                raise
            stream.codec_context.flush_buffers()
    yield from stream.codec_context.decode(None)


def _runs(found: PacketScan, wanted: Sequence[int]) -> Iterator[tuple[KeyPacket | None, list[int]]]:
    """Group the wanted frames by where decoding begins: at the start (None) or at a key packet."""
    begin: KeyPacket | None = None
    run: list[int] = []
    last = -1
    for index in wanted:
        nearest = _begin(found, index, last)
        if nearest is not None:
            if run:
                yield begin, run
            begin, run = nearest, []
        run.append(index)
        last = index
    yield begin, run


def _begin(found: PacketScan, frame: int, last: int = -1) -> KeyPacket | None:
    """Return the key packet to seek to for a frame, after `last`; None if there is no need to seek."""
    nearest = found.key_before(frame)
    return nearest if nearest is not None and nearest.frame - last > _SEEK_FRAMES else None
