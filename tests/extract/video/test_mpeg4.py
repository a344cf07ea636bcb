from __future__ import annotations

import pytest
from faster.extract.video.mpeg4 import Mpeg4Pictures


def unit(code: int, bits: str) -> bytes:
    """A start code and its payload, from the bits written out."""
    padded = bits + "0" * (-len(bits) % 8)
    return bytes([0, 0, 1, code]) + bytes(int(padded[at : at + 8], 2) for at in range(0, len(padded), 8))


def layer(resolution: int, *, versioned: bool = False, buffered: bool = False, aspect: bool = False) -> bytes:
    """A video object layer: rectangular, with `resolution` ticks a second."""
    bits = "0" + "00000001" + ("1" + "0010" + "001" if versioned else "0")
    bits += "1111" + "00000100" + "00000011" if aspect else "0001"
    bits += "1" + "01" + "0" + "1" + "1" * 79 if buffered else "0"
    return unit(0x20, bits + "00" + "1" + f"{resolution:016b}" + "1")


def picture(coded: bool, *, time_bits: int, seconds: int = 0) -> bytes:
    return unit(0xB6, "01" + "1" * seconds + "0" + "1" + "0" * time_bits + "1" + str(int(coded)) + "1" * 64)


@pytest.mark.parametrize(
    ("resolution", "time_bits"), [(1, 1), (2, 1), (25, 5), (30, 5), (32, 5), (33, 6), (30000, 15)]
)
@pytest.mark.parametrize(
    "layout", [{}, {"versioned": True}, {"buffered": True}, {"aspect": True, "buffered": True}]
)
@pytest.mark.parametrize("seconds", [0, 3])
def test_only_coded_pictures_count(
    resolution: int, time_bits: int, layout: dict[str, bool], seconds: int
) -> None:
    pictures = Mpeg4Pictures(layer(resolution, **layout))
    assert pictures.count(picture(True, time_bits=time_bits, seconds=seconds)) == 1
    assert pictures.count(picture(False, time_bits=time_bits, seconds=seconds)) == 0


def test_a_packed_picture_counts_with_the_packet_after_it() -> None:
    pictures = Mpeg4Pictures(layer(25))
    coded, empty = picture(True, time_bits=5), picture(False, time_bits=5)
    packets = [coded, b"\x7f", coded + coded, empty, coded, coded + coded]
    assert [pictures.count(packet) for packet in packets] == [1, 0, 1, 1, 1, 1]


def test_headers_may_come_with_the_first_packet() -> None:
    pictures = Mpeg4Pictures(b"")
    assert pictures.count(layer(25) + picture(True, time_bits=5)) == 1
    assert pictures.count(picture(False, time_bits=5)) == 0


def test_a_long_packet_without_a_picture_counts_as_one_that_is_damaged() -> None:
    pictures = Mpeg4Pictures(layer(25))
    empty = picture(False, time_bits=5)
    assert [pictures.count(data) for data in (empty, empty + bytes(100), bytes(8), bytes(100))] == [
        0,
        1,
        0,
        1,
    ]


@pytest.mark.parametrize("rubbish", [b"", b"\0\0\1", b"\0\0\1\xb6", b"\0\0\1\x20", bytes(1000)])
def test_rubbish_does_not_raise(rubbish: bytes) -> None:
    Mpeg4Pictures(rubbish).count(rubbish)
