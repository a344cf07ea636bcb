"""A video file's frames, counted from its packets.

The number of frames in headers can be wrong, so every packet is read (not decoded) once. A frame's index is
the rank of its timestamp. Packets that show nothing do not count: packets that an edit list discards, the
hidden reference frames of VP8, VP9 and AV1, MPEG-4's placeholders. Frames at the start that need pictures
from before it do not count either. Files are opened safely, see `containers`.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.error
import av.stream
import av.video
import numpy as np
from numpy.typing import NDArray

from ...errors import VideoError
from .containers import open_video, read_packets
from .hidden_frames import lost_frames, shown_frames
from .mpeg4 import Mpeg4Pictures
from .pictures import orientation
from .stream_starts import StreamStart

_TRIAL_FRAMES = 32  # a decoder's order shows within so many frames
_SETTLED_SECONDS = 0.1  # clocks of file systems are finer

_State = tuple[int, int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The facts of a video: number of frames, mean rate, size as shown (after rotation), frame times.

    `pts_seconds` is float64 (frames,), ascending, from the file; it need not begin at 0. `fps` is the mean
    over the timestamps; with one frame, the header's, or 0.0 without one. If a container has no usable
    presentation times (AVI with reordered frames), both follow from the header's rate. `left_out` frames at
    the file's start cannot be decoded, because they need pictures from before it; the others count from 0.
    """

    frames: int
    fps: float
    width: int
    height: int
    pts_seconds: NDArray[np.float64]
    left_out: int = 0

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Return the frames' times since the first frame: float64 (frames,), to the nanosecond."""
        seconds: NDArray[np.float64] = np.round(self.pts_seconds - self.pts_seconds[0], 9)
        return seconds


@dataclass(frozen=True, kw_only=True)
class KeyPacket:
    """A packet at which decoding can begin: index and pts of the frame it shows, and where to seek."""

    frame: int
    pts: int
    seek_to: int


@dataclass(frozen=True, kw_only=True)
class PacketScan:
    """A probe, and the data that decoding needs.

    `pts` are the frames' timestamps, int64 (frames,), ascending, if every frame has its own; else None, and
    seeking is not possible. `keys` are the key packets, int64 (keys, 3): frame, pts, seek_to, sorted by
    frame; see `KeyPacket`. The decoder may refuse any of the file's first `forgiven` packets, which come
    before the first picture.
    """

    probe: Probe
    pts: NDArray[np.int64] | None
    keys: NDArray[np.int64]
    forgiven: int = 0

    def index_of(self, pts: int | None) -> int:
        """Return the index of the frame with this timestamp, -1 without one."""
        if self.pts is None or pts is None:
            return -1
        index = int(np.searchsorted(self.pts, pts))
        return index if index < len(self.pts) and self.pts[index] == pts else -1

    def key_before(self, frame: int) -> KeyPacket | None:
        """Return the last key packet that shows `frame` or an earlier frame."""
        row = int(np.searchsorted(self.keys[:, 0], frame, side="right")) - 1
        if row < 0:
            return None
        index, pts, seek_to = self.keys[row].tolist()
        return KeyPacket(frame=index, pts=pts, seek_to=seek_to)


def scan(path: Path) -> PacketScan:
    """Read all packets of a video and decode its first picture.

    The last file's result is kept: its segments share it.

    Raises:
        VideoError: nothing in the file can be used as a video, or it ends before its own index does.
    """
    global _last
    state = _state_of(path)
    if state is not None and _last is not None and _last[0] == state:
        return _last[1]
    found = _scan(path)
    # A file written a moment ago can be written again without a newer time; the change would not be seen.
    if (
        state is not None
        and time.time() - max(state[-2:]) / 1e9 > _SETTLED_SECONDS
        and state == _state_of(path)
    ):
        _last = state, found
    return found


_last: tuple[_State, PacketScan] | None = None


def _state_of(path: Path) -> _State | None:
    """Return the identity of the file and its time of change."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _scan(path: Path) -> PacketScan:
    with open_video(path) as (container, stream):
        packets = _Packets(stream)
        try:
            for packet in read_packets(container, stream):
                packets.add(packet)
            first = packets.finish()
        except av.error.FFmpegError as error:
            raise VideoError(
                f"{path.name}: reading stopped after {packets.read} packets ({error.strerror})"
            ) from error
        if packets.pictures == 0:
            raise VideoError(f"{path.name}: its video stream holds no frames")
        if first is None:
            raise VideoError(f"{path.name}: no picture of its {packets.pictures} frames can be decoded")
        listed = len(stream.index_entries)
        # MP4 and MOV list every sample in advance; fewer could be read.
        if container.format.name.startswith("mov") and packets.read < listed:
            raise VideoError(f"{path.name}: cut short, it holds {packets.read} of {listed} frames")
        return packets.scan(first, reorders_untimed=container.format.name == "avi", path=path)


def probe(path: Path) -> Probe:
    """Count a video's frames and read their times, from its packets.

    Raises:
        VideoError: nothing in the file can be used as a video.
    """
    return scan(path).probe


class _Packets:
    """Collects what the packets of one stream say about its frames."""

    def __init__(self, stream: av.video.VideoStream) -> None:
        self.stream = stream
        self.read = 0
        self.pictures = 0
        # Eight bytes per number: a long video has many packets.
        self._pts = array("q")
        self._hidden = array("q")
        self._keys = array("q")  # pts, seek_to, pts, seek_to, …
        self._one_each = True
        codec, extradata = stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b""
        self._mpeg4 = Mpeg4Pictures(extradata) if codec == "mpeg4" else None
        self._shown = shown_frames(codec, extradata)
        self._hides_in_time = codec in ("vp9", "av1")  # for VP8, damage cannot be recognised
        is_mov = stream.container.format.name.startswith("mov")
        marked = is_mov and len(stream.index_entries) > 0 and stream.index_entries[0].is_keyframe
        self._start = StreamStart(codec, extradata, marked=marked)
        self._first: av.VideoFrame | None = None
        self._given = self._forgiven = 0
        self._trying = self._in_order = True

    def add(self, packet: av.Packet[av.video.VideoStream]) -> None:
        """Add the next packet; it is decoded too until the stream's start is clear."""
        self.read += 1
        if self._first is None:
            self._start.add(packet)
        pictures = self._pictures(packet)
        self.pictures += pictures
        self._one_each &= pictures <= 1
        if not pictures and self._hides_in_time and packet.size and packet.pts is not None:
            self._hidden.append(packet.pts)
        elif pictures and packet.pts is not None:
            self._pts.append(packet.pts)
            if packet.is_keyframe:
                self._keys.extend((packet.pts, packet.pts if packet.dts is None else packet.dts))
        if self._trying and packet.size:
            try:
                self._take(packet.decode())
            except av.error.FFmpegError:
                self._trying = self._first is None and self._start.may_refuse
                if self._trying:
                    self._forgiven = self.read
                    self.stream.codec_context.flush_buffers()  # it may hold part of the packet

    def finish(self) -> av.VideoFrame | None:
        """Return the first picture, after the last packet; None if no picture can be decoded."""
        if self._trying and self._first is None:
            self._take(self.stream.codec_context.decode(None))
        return self._first

    def _take(self, frames: Iterable[av.VideoFrame]) -> None:
        for frame in frames:
            if self._first is None:
                self._first = frame
            self._given += 1
            if frame.pts is not None and self._first.pts is not None:
                self._in_order &= frame.pts >= self._first.pts
        if self._first is not None:
            # Frames before the first picture: are they left out, or does their turn come later?
            has_missing = self._first.pts is not None and min(self._pts, default=0) < self._first.pts
            self._trying = has_missing and self._in_order and self._given < _TRIAL_FRAMES

    def scan(self, first: av.VideoFrame, *, reorders_untimed: bool, path: Path) -> PacketScan:
        context = self.stream.codec_context
        pts = np.unique(np.array(self._pts, dtype=np.int64))
        self.pictures += lost_frames(np.array(self._hidden, dtype=np.int64), pts)
        # AVI has no presentation times; those that FFmpeg makes up are wrong if frames are reordered.
        timed = (
            self._one_each and len(pts) == self.pictures and not (reorders_untimed and context.has_b_frames)
        )
        left_out = 0
        if timed and self._in_order and first.pts is not None:
            left_out = int(np.searchsorted(pts, first.pts))
            if not left_out or not self._start.may_lack(int(pts[left_out - 1])):
                left_out = 0
        elif not timed and self._mpeg4 is not None:
            left_out = self._mpeg4.leading
        left_out = left_out if left_out < self.pictures else 0
        pts = pts[left_out:]
        frames = self.pictures - left_out
        rate = self.stream.average_rate or self.stream.guessed_rate
        fps = float(rate) if rate else 0.0
        if timed:
            base = self.stream.time_base or Fraction(1)
            seconds = pts.astype(np.float64) * base.numerator / base.denominator
            if len(pts) > 1:
                fps = (len(pts) - 1) * base.denominator / ((int(pts[-1]) - int(pts[0])) * base.numerator)
        elif fps:
            seconds = np.arange(frames) / fps
        else:
            raise VideoError(f"{path.name}: its frames have no timestamps and it names no frame rate")
        keys = np.empty((0, 3), dtype=np.int64)
        if timed and self._keys:
            rows = np.array(self._keys, dtype=np.int64).reshape(-1, 2)
            rows = rows[rows[:, 0] >= pts[0]]
            keys = np.column_stack([np.searchsorted(pts, rows[:, 0]), rows])
            keys = keys[np.argsort(keys[:, 0], kind="stable")]
        try:
            transposed = orientation(first)[0]
        except VideoError as error:
            raise VideoError(f"{path.name}: {error}") from error
        width, height = (first.height, first.width) if transposed else (first.width, first.height)
        return PacketScan(
            probe=Probe(
                frames=frames, fps=fps, width=width, height=height, pts_seconds=seconds, left_out=left_out
            ),
            pts=pts if timed else None,
            keys=keys,
            forgiven=self._forgiven,
        )

    def _pictures(self, packet: av.Packet[av.video.VideoStream]) -> int:
        if packet.is_discard or packet.size == 0:
            return 0
        if self._shown is not None:
            return self._shown.count(bytes(packet))
        return 1 if self._mpeg4 is None else self._mpeg4.count(bytes(packet))
