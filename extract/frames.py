"""Decoded frames by index, equal to those of decoding the whole file.

Where every frame has a timestamp of its own, only the parts that are asked for are decoded, from the key frame
before each. Whatever looks irregular on the way (a frame missing, out of order, flagged corrupt) sends the file
to the plain way: decode all of it and count. That either gives every frame, or it is a `VideoError` that says
how many came.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import av.container
import av.error
import av.video
import numpy as np

from ..errors import VideoError
from .packets import KeyPacket, PacketScan, open_video, read_packets

# A jump ahead restarts the decoder, which costs it the frames it holds back: not worth it for fewer frames.
_SEEK_FRAMES = 16


def decode_frames(
    path: Path, found: PacketScan, wanted: Sequence[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (index, frame) for the wanted indices, which are ascending and distinct.

    Raises:
        VideoError: the decoder does not give these frames, or flags one as damaged.
    """
    given = 0
    if found.index_of is not None:
        try:
            for index, frame in _decode_by_time(path, found, found.index_of, wanted):
                yield index, frame
                given += 1
            return
        except (_OutOfStepError, av.error.FFmpegError):
            pass  # the whole file, counted, has the last word
    yield from _decode_by_count(path, found, wanted[given:])


class _OutOfStepError(Exception):
    """The decoder did not give the frame that the timestamps promised next."""


def _decode_by_time(
    path: Path, found: PacketScan, index_of: dict[int, int], wanted: Sequence[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    with open_video(path) as (container, stream):
        for key, run in _runs(found.keys, wanted):
            if key is not None:
                container.seek(key.seek_to, stream=stream)
            expected = 0 if key is None else key.frame
            remaining = iter(run)
            target = next(remaining, None)
            for frame in _frames(container, stream, key):
                index = -1 if frame.pts is None else index_of.get(frame.pts, -1)
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
                    if target is None:
                        break
            if target is not None:
                raise _OutOfStepError


def _decode_by_count(
    path: Path, found: PacketScan, wanted: Sequence[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    if not wanted:
        return
    promised = found.probe.frames
    given = 0
    remaining = iter(wanted)
    target = next(remaining, None)
    with open_video(path) as (container, stream):
        try:
            for frame in _frames(container, stream, None):
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
    container: av.container.InputContainer, stream: av.video.VideoStream, key: KeyPacket | None
) -> Iterator[av.VideoFrame]:
    """Decode from the container's position, or from the key packet, which comes at or after it, to the end."""
    waiting = key is not None
    for packet in read_packets(container, stream):
        if waiting and key is not None and packet.pts == key.pts:
            waiting = False
        if packet.size and not waiting:
            yield from packet.decode()
    yield from stream.codec_context.decode(None)


def _runs(keys: Sequence[KeyPacket], wanted: Sequence[int]) -> Iterator[tuple[KeyPacket | None, list[int]]]:
    """Group the wanted frames by where decoding begins: at the start (None) or at a key packet."""
    starts = [key.frame for key in keys]
    begin: KeyPacket | None = None
    run: list[int] = []
    last = -1
    for index in wanted:
        nearest = int(np.searchsorted(starts, index, side="right")) - 1
        if nearest >= 0 and starts[nearest] - last > _SEEK_FRAMES:
            if run:
                yield begin, run
            begin, run = keys[nearest], []
        run.append(index)
        last = index
    if run:
        yield begin, run
