"""Numbers in the sentences that commands print."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number of things: "1 shard", "240,000 videos", "2 classes"; the plural adds an s where none is given."""
    return f"{count:,} {agreeing(count, noun, plural or f'{noun}s')}"


def agreeing(count: int, one: str, many: str) -> str:
    """The word that goes with a number: "is" or "are", "takes" or "take"."""
    return one if count == 1 else many


def sized(size_bytes: float) -> str:
    """A size in decimal units: "524.3 kB", "6.4 MB", "3,082.1 GB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:,.1f} {unit}"
    return f"{size_bytes / 1e3:,.1f} kB"
