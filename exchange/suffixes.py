"""Several kinds of features of one video, `v0_rgb.npy` and `v0_flow.npy`: detect them, and select one kind.

If they counted as separate videos, one could be in training and the other in test.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .feature_files import FeatureSource

# A number, as of a clip (c01) or a camera, distinguishes videos; a word tells what was computed.
_WORD = re.compile(r"[_\-./](?![A-Za-z]{0,3}[0-9]+$)[A-Za-z][A-Za-z0-9]*$")
_FOLDERS = frozenset(["rgb", "flow", "optical_flow", "opticalflow", "audio"])
_COMMON = ("rgb", "flow", "audio")  # in suffixes that mean kinds even if there is only one video


class KindOfFeatures:
    """The features of a source whose names end in a suffix, named without it; all others are left out."""

    def __init__(self, source: FeatureSource, suffix: str) -> None:
        self._source, self._suffix = source, suffix
        self.names: Sequence[str] = [
            name.removesuffix(suffix) for name in source.names if name.endswith(suffix) and name != suffix
        ]
        if not self.names:
            kinds = suffixes_of(source.names)
            found = f"their kinds are {_listed(kinds)}" if kinds else f"the first is {source.names[0]!r}"
            raise UsageError(f"--suffix is {suffix!r}, and no feature's name ends so; {found}")

    def describe(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Describe the source's array."""
        return self._source.describe(name + self._suffix)

    def read(self, name: str, first: int, last: int) -> NDArray[Any]:
        """Read from the source's array."""
        return self._source.read(name + self._suffix, first, last)


def suffixes_of(names: Sequence[str]) -> dict[str, int]:
    """Return the suffixes of several kinds of features of one video, with counts; empty if there are none.

    Such a suffix is "" or one to three words, each after `_`, `-`, `.` or `/`. It follows several names that
    another such suffix follows too; if there is only one such name, the suffixes must contain common words.
    """
    for words in (1, 2, 3):
        bases: dict[str, set[str]] = {}
        for name in names:
            for base, suffix in _splits(name, words):
                bases.setdefault(base, set()).add(suffix)
        several = [of for of in bases.values() if len(of) > 1]
        counts = Counter(suffix for of in several for suffix in of)
        often = {suffix for suffix, count in counts.items() if count > 1}
        if len(several) == 1 and any(word in suffix.lower() for suffix in counts for word in _COMMON):
            often = set(counts)
        # Groups of an HDF5 file hold the same datasets; other names with / are class folders and videos.
        groups = {frozenset(of) for base, of in bases.items() if any(end[:1] == "/" for end in of)}
        if len(groups) > 1 or not all("/" in name for name in names):
            often = {suffix for suffix in often if suffix[:1] != "/"}
        if len(often) > 1:
            kinds = Counter(
                max((end for _, end in _splits(name, words) if end in often), key=len, default=None)
                for name in names
            )
            found = {suffix: kinds[suffix] for suffix in sorted(often)}
            return found if sum(found.values()) * 2 >= len(names) else {}  # a few matches are coincidence
    return {}


def _splits(name: str, words: int) -> Iterator[tuple[str, str]]:
    """Yield the name split before each of its last words, as (before, from there); first the unsplit name."""
    yield name, ""
    end = len(name)
    for _ in range(words):
        found = _WORD.search(name, 0, end)
        if found is None or not found.start():
            return
        end = found.start()
        yield name[:end], name[end:]


def require_one_kind(names: Sequence[str]) -> None:
    """Refuse features of several kinds of the same videos if no kind was selected.

    Raises:
        UsageError: the message names the kinds, and how to take one.
    """
    if kinds := suffixes_of(names):
        raise UsageError(
            "these are features of several kinds of the same videos, by the ends of their names "
            f"{_listed(kinds)}: take one, --suffix {max(kinds)}, and each further one as another --model of "
            "the same store; if each is of a video of its own: --suffix ''"
        )
    by_folder: dict[str, set[str]] = {}
    for name in names:
        folder, _, rest = name.partition("/")
        by_folder.setdefault(folder.lower(), set()).add(rest)
    if len(by_folder) > 1 and by_folder.keys() <= _FOLDERS:
        first, *others = by_folder.values()
        if any(first & other for other in others):
            raise UsageError(
                f"the folders {' and '.join(sorted(by_folder))} hold features of the same videos: "
                "import one, and each further one as another --model of the same store"
            )


def _listed(kinds: dict[str, int]) -> str:
    return " and ".join(f"{suffix or 'none'} ({count:,})" for suffix, count in kinds.items())
