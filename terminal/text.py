"""Numbers in the sentences that commands print."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number of things: "1 shard", "240,000 videos", "2 classes"; the default plural adds an s."""
    return f"{count:,} {agreeing(count, noun, plural or f'{noun}s')}"


def agreeing(count: int, one: str, many: str) -> str:
    """Return the word that agrees with a number: "is" or "are", "takes" or "take"."""
    return one if count == 1 else many


def sized(size_bytes: float) -> str:
    """Return a size in decimal units: "524.3 kB", "6.4 MB", "3,082.1 GB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:,.1f} {unit}"
    return f"{size_bytes / 1e3:,.1f} kB"
