"""The nearest of the words that are known, for whoever mistyped one: the one place where all messages get theirs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CUTOFF = 0.5
"""Least likeness, from 0 to 1, of a word that is worth naming."""


def nearest(word: str, known: Iterable[str], *, most: int = 1) -> list[str]:
    """The `most` known words that `word` may have been meant for, the likeliest first; case and `-_ .` do not count."""
    words: dict[str, str] = {}
    for name in known:
        words.setdefault(_plain(name), name)
    return [words[near] for near in difflib.get_close_matches(_plain(word), words, n=most, cutoff=CUTOFF)]


def did_you_mean(word: str, known: Iterable[str], *, most: int = 1) -> str:
    """What a message about an unknown `word` adds: "; did you mean fast-gru?", or nothing where nothing is near."""
    near = nearest(word, known, most=most)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _plain(word: str) -> str:
    """What counts of a word; all of it, where nothing would be left."""
    return "".join(c for c in word.casefold() if c not in "-_ .") or word
