"""The number of frames that a decoder gives for a packet of VP8, VP9 or AV1.

These codecs have pictures that are decoded and never shown: later ones refer to them. Usually such a picture
is in one packet with the next shown one (VP9's superframes, AV1's temporal units), but some writers give it
its own packet. Unreadable data counts as one frame: the decoder then decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# AV1's types of units (AV1 6.2.2)
_SEQUENCE_HEADER, _DELIMITER, _FRAME_HEADER, _METADATA, _FRAME, _PADDING = 1, 2, 3, 5, 6, 15
_BESIDE = (_SEQUENCE_HEADER, _DELIMITER, _METADATA, _PADDING)


class ShownFrames(Protocol):
    """A counter of one stream's frames, packet by packet."""

    def count(self, data: bytes) -> int:
        """Return the number of frames that the next packet gives; `data` is not empty."""


def shown_frames(codec: str, extradata: bytes) -> ShownFrames | None:
    """Return the counter for a stream; None for a codec without hidden pictures.

    `codec` is FFmpeg's canonical name; `extradata` is the container's data for the decoder.
    """
    if codec == "vp8":
        return _Vp8()
    if codec == "vp9":
        return _Vp9()
    return _Av1(extradata) if codec == "av1" else None


def lost_frames(hidden: NDArray[np.int64], shown: NDArray[np.int64]) -> int:
    """Return how many of the packets that show nothing lost a picture to damage.

    Both arrays are timestamps, ascending. A hidden picture takes no time: the next packet's picture is shown
    at its time. A lost picture leaves a gap, for example one packed behind a hidden picture in a damaged
    packet.
    """
    followed = hidden[np.searchsorted(shown, hidden) < len(shown)]
    if not len(followed):
        return len(hidden)
    spacing = np.median(np.diff(shown)) if len(shown) > 1 else 0
    gaps = shown[np.searchsorted(shown, followed)] - followed
    return len(hidden) - len(followed) + int((gaps * 2 > spacing).sum())


class _Vp8:
    def count(self, data: bytes) -> int:
        return data[0] >> 4 & 1  # the frame tag's show_frame bit (RFC 6386, 9.1)


class _Vp9:
    def count(self, data: bytes) -> int:
        return sum(_vp9_is_shown(data[at]) for at in _vp9_begins(data))


def _vp9_begins(data: bytes) -> list[int]:
    """Return where the frames of a packet begin; a superframe lists their sizes at its end (VP9, annex B)."""
    mark = data[-1]
    if mark & 0xE0 == 0xC0:
        count, width = (mark & 7) + 1, (mark >> 3 & 3) + 1
        index = len(data) - 2 - count * width
        if index > 0 and data[index] == mark:
            begins, at = [], 0
            for place in range(index + 1, len(data) - 1, width):
                size = int.from_bytes(data[place : place + width], "little")
                if not size or at + size > index:
                    return [0]  # damaged
                begins.append(at)
                at += size
            return begins
    return [0]


def _vp9_is_shown(first: int) -> bool:
    """Read a frame's first byte: marker, profile, show_existing_frame, frame_type, show_frame (VP9 6.2)."""
    if first >> 6 != 2:
        return True
    if first & 0x30 == 0x30:  # profile 3 has one bit more; its show_frame is bit 0
        return bool(first & 0x04) or bool(first & 0x01)
    return bool(first & 0x08) or bool(first & 0x02)


class _Av1:
    """A counter of an AV1 stream's frames; of the spatial layers, one counts."""

    def __init__(self, extradata: bytes) -> None:
        self._always_shown = False
        for kind, _, body in _av1_units(extradata[4:]):  # after four bytes of the container
            self._note(kind, body)

    def count(self, data: bytes) -> int:
        shown: dict[int, int] = {}
        read = 0
        for kind, layer, body in (units := list(_av1_units(data))):
            self._note(kind, body)
            if kind in (_FRAME_HEADER, _FRAME) and body:
                # show_existing_frame, frame_type (2), show_frame (AV1 5.9.2)
                is_shown = self._always_shown or bool(body[0] & 0x90)
                shown[layer] = shown.get(layer, 0) + is_shown
            elif kind in _BESIDE and not (kind == _DELIMITER and body):
                read += 1
        return max(shown.values()) if shown else int(read < len(units) or not units)

    def _note(self, kind: int, body: bytes) -> None:
        if kind == _SEQUENCE_HEADER and body:
            self._always_shown = bool(body[0] & 0x08)  # reduced_still_picture_header (5.5.1)


def _av1_units(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the units of a packet: type, spatial layer, the beginning of the content (AV1 5.3)."""
    at = 0
    while at < len(data):
        head, at = data[at], at + 1
        layer = 0
        if head & 0x04:
            if at == len(data):
                return
            layer, at = data[at] >> 3 & 3, at + 1
        size = len(data) - at
        if head & 0x02:
            size, at = _leb128(data, at)
        if at + size > len(data):
            return
        yield head >> 3 & 15, layer, data[at : at + 4]
        at += size


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """Return a number in groups of seven bits, and where it ends; a far too large one if it is cut off."""
    value = 0
    for place in range(8):
        if at == len(data):
            break
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return value, at
    return len(data) + 1, at
