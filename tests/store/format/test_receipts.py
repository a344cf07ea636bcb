"""A receipt's file: what is read back, what is refused, and how failures are counted without parsing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faster.errors import StoreError
from faster.store.format.checksummed_json import decode_checksummed, encode_checksummed
from faster.store.format.receipts import (
    ClipFacts,
    Receipt,
    StoredObject,
    VideoEntry,
    count_failed,
    receipt_path,
)

FACTS = ClipFacts(frames=9, fps=25.0, starts=(0, 4), times_seconds=(0.0, 0.16), padded=(0, 3))
WHOLE = VideoEntry(row=0, facts=FACTS, crc32c=(1, 2**32 - 1), logits_crc32c=7, quantisation_rms=0.01)
REASONS = ("cut off", '"facts":null', r"\"facts\":null", '{"facts":null}', "ü\u2028\x00", "", "null")


def receipt(*videos: VideoEntry) -> Receipt:
    stored = StoredObject(key="maps/c/0/0", size_bytes=3, sha256="0" * 64)
    return Receipt(shard=0, view=0, fingerprint="f", ids_digest="i", objects=(stored,), videos=videos)


def failed(row: int, reason: str) -> VideoEntry:
    return VideoEntry(row=row, reason=reason)


def test_failures_are_counted_as_parsing_counts_them(tmp_path: Path) -> None:
    """Whatever the reasons hold, and the texts of other fields."""
    videos = [WHOLE, *(failed(row, reason) for row, reason in enumerate(REASONS, 1)), replace(WHOLE, row=9)]
    for some in ([WHOLE], videos, videos[1:-1]):
        for one in (
            receipt(*some),
            replace(receipt(*some), fingerprint='"facts":null', source='"facts":null'),
        ):
            path = receipt_path(tmp_path, 0, 0)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(one.to_bytes())
            parsed = Receipt.from_bytes(path.read_bytes(), name="r")
            assert count_failed(tmp_path, 0, 0) == sum(not entry.ok for entry in parsed.videos)
            assert count_failed(tmp_path, 0, 0) == sum(entry.facts is None for entry in some)


def test_a_receipt_is_read_back() -> None:
    whole = receipt(WHOLE, failed(1, "cut off"))
    assert Receipt.from_bytes(whole.to_bytes(), name="r") == whole


def test_a_reason_becomes_one_line() -> None:
    read = Receipt.from_bytes(receipt(WHOLE, failed(1, "two\nlines\x1b[0m")).to_bytes(), name="r")
    assert read.videos[0] == WHOLE
    assert "\n" not in read.videos[1].reason and "\x1b" not in read.videos[1].reason


@pytest.mark.parametrize(
    ("place", "wrong", "told"),
    [
        (("shard",), -1, "shard: Expected `int` >= 0, found -1"),
        (("view",), True, "view: Expected `int`, got `bool`, found True"),
        (("videos", 0, "row"), 1.0, "videos[0].row: Expected `int`, got `float`, found 1.0"),
        (
            ("videos", 0, "crc32c", 1),
            2**32,
            "videos[0].crc32c[1]: Expected `int` <= 4294967295, found 4294967296",
        ),
        (("videos", 0, "facts", "fps"), "x", "videos[0].facts.fps: Expected `float`, got `str`, found 'x'"),
        (("videos", 0, "facts"), {}, "videos[0].facts: Object missing required field `frames`"),
        (("objects",), None, "objects: Expected `array`, got `null`, found None"),
    ],
)
def test_what_is_no_receipt_is_told_by_its_key(place: tuple[Any, ...], wrong: object, told: str) -> None:
    value = decode_checksummed(receipt(WHOLE).to_bytes(), name="r")
    inner = value
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = wrong
    with pytest.raises(StoreError) as caught:
        Receipt.from_bytes(encode_checksummed(value), name="r.json")
    assert str(caught.value) == f"r.json: not a receipt: {told}"
