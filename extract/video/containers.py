"""Open a video file safely: its container, its video stream, and the stream's packets.

A "video" can be a playlist that names other files or the network. So Python opens the file and passes it to
FFmpeg as a stream of bytes, with no protocol allowed, and only real containers are recognised.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av
import av.container
import av.error
import av.stream
import av.video

from ...errors import VideoError
from ...runtime.file_names import stands_for_other_bytes

MAX_PIXELS = 1 << 25  # a picture of 7680×4320 fits
CONTAINERS = ("mov", "matroska", "avi", "mpegts", "mpeg", "asf", "flv", "ogg", "gif")


@contextmanager
def open_video(path: Path) -> Iterator[tuple[av.container.InputContainer, av.video.VideoStream]]:
    """Open a video file's container and its video stream, with one decoder thread.

    Raises:
        VideoError: not a regular file, not a container, or no video in it.
    """
    with _regular_file(path) as file:
        options = {"protocol_whitelist": "", "format_whitelist": ",".join(CONTAINERS)}
        try:
            # Some real AVI files hold metadata that is not UTF-8.
            container = av.open(
                file, mode="r", options=options, metadata_errors="ignore", buffer_size=1 << 18
            )
        except av.error.FFmpegError as error:
            allowed = ", ".join(CONTAINERS)
            raise VideoError(
                f"{path.name}: no video container that can be read ({error.strerror}): it is cut off, "
                f"damaged, or none of {allowed}"
            ) from error
        with container:
            stream = _video_stream(container, path)
            context = stream.codec_context
            context.thread_count = 1  # frame threads hang forever on some broken files
            context.options = {"max_pixels": str(MAX_PIXELS)}
            if context.codec.canonical_name == "mjpeg":
                # Otherwise the part of a picture after an error holds old memory content.
                context.options |= {"err_detect": "explode"}
            yield container, stream


def read_packets(
    container: av.container.InputContainer, stream: av.video.VideoStream
) -> Iterator[av.Packet[av.video.VideoStream]]:
    """Yield the stream's packets from the container's position to the end.

    Empty packets, which would end a decoder, are included.
    """
    for packet in container.demux(stream):
        # PyAV ends with a packet to flush each stream. If a stream appeared late (in MPEG), this can fail
        # with an IndexError; ours was known from the start and comes earlier.
        if packet.size == 0 and packet.pts is None and packet.dts is None:
            return
        yield packet


def _video_stream(container: av.container.InputContainer, path: Path) -> av.video.VideoStream:
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams})
        raise VideoError(f"{path.name}: no video stream (it holds {', '.join(kinds) or 'no streams at all'})")
    best = container.streams.best("video")
    stream = best if isinstance(best, av.video.VideoStream) and best in streams else streams[0]
    if stream.codec_context is None:
        raise VideoError(f"{path.name}: no decoder for its video codec")
    return stream


@contextmanager
def _regular_file(path: Path) -> Iterator[BinaryIO]:
    try:
        # Without O_NONBLOCK the opening of a FIFO waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOENT and stands_for_other_bytes(path):
            raise VideoError(f"{path.name}: its name is not UTF-8; rename the file, or its folder") from error
        raise VideoError(f"{path.name}: cannot be opened ({error.strerror})") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        os.close(descriptor)
        kind = "an empty file" if stat.S_ISREG(status.st_mode) else "not a regular file"
        raise VideoError(f"{path.name}: {kind}")
    with _File(io.FileIO(descriptor, "rb")) as file:
        yield file


class _File(io.BufferedReader):
    """A file that answers a seek to an impossible place as FFmpeg expects; broken files ask for this."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Seek as any file, but return -1 instead of an OSError."""
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1
