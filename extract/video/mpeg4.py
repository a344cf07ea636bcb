"""The number of frames that a decoder gives for a packet of MPEG-4 part 2.

Old AVI files "pack" two pictures (VOPs) into one packet and put a placeholder, a VOP that is not coded or a
single byte, where the second belongs. A decoder keeps the second until the next packet, so one at the very
end is never given. A VOP that is not coded never gives a frame (ISO/IEC 14496-2, 6.2.3 and 6.2.5). It is
short: a long packet that seems to hold no picture is damaged, and counts.
"""

from __future__ import annotations

from collections.abc import Iterator

_START = b"\x00\x00\x01"
_VOP = 0xB6
_VOL = range(0x20, 0x30)
_I, _B = 0, 2
_PLACEHOLDER_BYTES = 64


class Mpeg4Pictures:
    """A counter of one stream's frames, packet by packet; headers may be in the extradata or in a packet."""

    def __init__(self, extradata: bytes) -> None:
        self._time_bits: int | None = None
        self._kept = 0
        self._references = 0
        self.leading = 0
        """B pictures behind the first picture: shown before it, they need one from before the stream."""
        self._coded(extradata)

    def count(self, data: bytes) -> int:
        """Return the number of frames that the next packet gives."""
        coded = self._coded(data) or int(len(data) > _PLACEHOLDER_BYTES)
        frames = self._kept + min(coded, 1)
        self._kept = max(coded - 1, 0)
        return frames

    def _coded(self, data: bytes) -> int:
        # A VOP before any header counts as coded: the decoder then decides.
        pictures = 0
        for code, payload in _units(data):
            if code in _VOL:
                self._time_bits = _time_increment_bits(_Bits(payload))
            elif code == _VOP:
                coded = self._time_bits is None or _is_coded(_Bits(payload), self._time_bits)
                pictures += coded
                if coded and self._references < 2:
                    kind = payload[0] >> 6 if payload else _I
                    self.leading += kind == _B and self._references == 1
                    if kind != _B:  # a stream with another beginning has no such pictures
                        self._references += 1 if kind == _I or self._references else 2
        return pictures


class _Bits:
    """A reader of a header's bits; zeros follow its end."""

    def __init__(self, data: bytes) -> None:
        head = data[:64]
        self._value = int.from_bytes(head, "big") << 512
        self._left = 8 * len(head) + 512

    def read(self, count: int) -> int:
        self._left = max(self._left - count, 0)
        return self._value >> self._left & ((1 << count) - 1)


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = data.find(_START)
    while 0 <= at < len(data) - 3:
        yield data[at + 3], data[at + 4 : at + 4 + 64]
        at = data.find(_START, at + 3)


def _time_increment_bits(bits: _Bits) -> int:
    """Return the length of a VOP's time field, from a video object layer's header."""
    bits.read(1 + 8)
    version = 1
    if bits.read(1):
        version = bits.read(4)
        bits.read(3)
    if bits.read(4) == 15:  # the pixel aspect ratio is explicit
        bits.read(8 + 8)
    if bits.read(1):
        bits.read(2 + 1)
        if bits.read(1):  # parameters of the rate buffer
            bits.read(79)
    shape = bits.read(2)
    if shape == 3 and version != 1:
        bits.read(4)
    bits.read(1)
    resolution = bits.read(16)
    return max((resolution - 1).bit_length(), 1) if resolution else 1


def _is_coded(bits: _Bits, time_bits: int) -> bool:
    bits.read(2)
    seconds = 0
    while bits.read(1) and seconds < 64:
        seconds += 1
    bits.read(1 + time_bits + 1)
    return bits.read(1) == 1
