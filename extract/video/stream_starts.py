"""The start of a stream: the first frames that a decoder leaves out because they need earlier pictures.

A file cut out of another one, or out of a broadcast, can begin in three ways. First, at a picture with
others, shown before it and stored behind it, that refer past it (HEVC's CRA with its RASL pictures, an open
group of pictures of H.264, MPEG-1, MPEG-2 and MPEG-4). Second, at a picture from which the others are
repaired step by step (H.264's gradual refresh). Third, in the middle of a group. A decoder gives nothing
until it has what a picture needs. That is no damage: the video begins at the first picture that is given. A
picture that the decoder should have given and did not is damage, here as elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import av
import av.video

_RASL = (8, 9)  # HEVC's pictures that are skipped if decoding begins at the key picture before them
_IRAP = range(16, 22)  # HEVC's pictures at which decoding can begin
_IDR = 5  # H.264's
_RECOVERY_POINT = 6  # the kind of message (SEI) in H.264
_SEI = 6


class StreamStart:
    """The facts of a stream's start, from its packets up to the one that gives the first picture."""

    def __init__(self, codec: str, extradata: bytes, *, marked: bool) -> None:
        """Prepare for a stream. `marked`: the container's index calls the first picture a key picture."""
        self._codec, self._marked = codec, marked
        # Units begin with their length in MP4 and Matroska, else with a start code.
        at = {"h264": 4, "hevc": 21}.get(codec, 0)
        in_lengths = at > 0 and len(extradata) > at and extradata[0] == 1
        self._length_bytes = (extradata[at] & 3) + 1 if in_lengths else 0
        self._begun = False
        self.is_late = False
        """Whether it begins in the middle of a group: with pictures before any key picture."""
        self._key: int | None = None  # pts of the first key picture
        self._limit: int | None = None  # pts from which each picture is given
        self._refreshes = False  # from the first key picture to the next

    def add(self, packet: av.Packet[av.video.VideoStream]) -> None:
        """Add the next packet, in the order of the file."""
        if not packet.size:
            return
        is_key = packet.is_keyframe
        if not self._begun:
            # The damaged rest of a key picture is not a start in the middle of a group.
            is_key = is_key or self._marked or self._is_key(bytes(packet))
            self._begun, self.is_late = True, not is_key
        if packet.pts is None:
            return
        if is_key and self._key is None:
            self._key = self._limit = packet.pts
            if self._codec == "h264" and self._recovery_frames(bytes(packet)):
                self._refreshes, self._limit = True, None
        elif is_key and self._refreshes:
            self._refreshes, self._limit = False, packet.pts
        elif (
            self._codec == "hevc"
            and self._limit is not None
            and packet.pts < self._limit
            and self._hevc_kind(bytes(packet)) not in _RASL
        ):
            self._limit = packet.pts  # RADL: decoding from the key picture gives it

    @property
    def may_refuse(self) -> bool:
        """Whether the decoder of an undamaged file can fail at a packet before the first key picture."""
        # If the container holds the headers, the decoder skips such packets without an error.
        return self.is_late and not self._length_bytes

    def may_lack(self, pts: int) -> bool:
        """Whether an undamaged file's decoder can leave out this timestamp's picture, and all before it."""
        return self._limit is None or pts < self._limit

    def _is_key(self, data: bytes) -> bool:
        """Whether a packet itself says that nothing before it is needed."""
        if self._codec == "h264":
            return any(unit[0] & 31 == _IDR for unit in self._units(data))
        if self._codec == "hevc":
            return self._hevc_kind(data) in _IRAP
        if self._codec == "vp8":
            return not data[0] & 1
        if self._codec == "vp9":
            return data[0] & 0x0C == 0  # neither shown again nor referring to others
        return False

    def _hevc_kind(self, data: bytes) -> int:
        """Return the type of a packet's first slice."""
        return next((unit[0] >> 1 & 63 for unit in self._units(data) if unit[0] >> 1 & 63 < 32), -1)

    def _recovery_frames(self, data: bytes) -> int:
        """Return after how many frames H.264's pictures are right if decoding begins here; 0 for at once."""
        for unit in self._units(data):
            if unit[0] & 31 == _SEI:
                found = _recovery_count(unit[1:].replace(b"\0\0\3", b"\0\0"))
                if found is not None:
                    return found
        return 0

    def _units(self, data: bytes) -> Iterator[bytes]:
        """Yield the beginnings of a packet's units, without start codes or lengths; none is empty."""
        if self._length_bytes:
            at = 0
            while (begin := at + self._length_bytes) < len(data):
                at = begin + int.from_bytes(data[at:begin], "big")
                if at > begin:
                    yield data[begin : min(at, begin + 256)]
            return
        at = data.find(b"\0\0\1") + 3
        while 3 <= at < len(data):
            end = data.find(b"\0\0\1", at)
            yield data[at : min(end, at + 256) if end > at else at + 256]
            at = end + 3


def _recovery_count(messages: bytes) -> int | None:
    """Return the recovery point's count among H.264's messages; None without (ITU-T H.264, D.1.8)."""
    at = 0
    while at + 2 < len(messages):
        numbers = []
        for _ in range(2):  # the kind and the size, each as bytes of 255 and a last smaller one
            number = 0
            while at < len(messages) and messages[at] == 255:
                number, at = number + 255, at + 1
            if at == len(messages):
                return None
            numbers.append(number + messages[at])
            at += 1
        kind, size = numbers
        if kind == _RECOVERY_POINT:
            bits = int.from_bytes(messages[at : at + 8].ljust(8, b"\0"), "big")
            zeros = 64 - bits.bit_length()  # an Exp-Golomb number: as many zeros as bits after the first one
            return (bits >> (63 - 2 * zeros)) - 1 if zeros < 32 else None
        at += size
    return None
