"""Suggest the nearest known word for a mistyped one, for all messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CUTOFF = 0.5
"""Least similarity, from 0 to 1, of a word to suggest."""


def nearest(word: str, known: Iterable[str], *, most: int = 1) -> list[str]:
    """Return at most `most` known words similar to `word`, the best first; case and `-_ .` do not count."""
    words: dict[str, str] = {}
    for name in known:
        words.setdefault(_plain(name), name)
    return [words[near] for near in difflib.get_close_matches(_plain(word), words, n=most, cutoff=CUTOFF)]


def did_you_mean(word: str, known: Iterable[str], *, most: int = 1) -> str:
    """Return the suggestion of a message about an unknown word, "; did you mean fast-gru?", or ""."""
    near = nearest(word, known, most=most)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _plain(word: str) -> str:
    """Return the word without case and separators, or unchanged if nothing would remain."""
    return "".join(c for c in word.casefold() if c not in "-_ .") or word
