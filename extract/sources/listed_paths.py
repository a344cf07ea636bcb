"""From a path in a list to the file that it means.

Lists are used with copies of the videos that differ: other extensions (videos were encoded again), other
folders above the videos, absolute paths of another machine, backslashes, and other Unicode composition. An
exact match is always taken first. The rest is looked up by stem, and taken only if exactly one file fits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from .folder import VideoFolder, composed, stem_of


class PathLookup:
    """Find listed paths among the files of one folder.

    folder: where the videos are. lists: the folder of the lists; paths with ".." may be relative to it.
    """

    def __init__(self, folder: VideoFolder, lists: Path | None) -> None:
        self._folder = folder
        self._lists = lists
        self._real_parents: dict[str, str] = {}

    def relative(self, path: str) -> str | None:
        r"""Return the path relative to the root, posix, without "." and ".."; None if it leaves the root."""
        if path.lower().startswith("file://"):
            path = unquote(path[len("file://") :])
        if "\\" in path:
            path = path.replace("\\", "/")
        if path.startswith("/"):
            return self._inside(path) or (None if os.path.lexists(path) else self._of_another_machine(path))
        if path[1:3] == ":/":
            return self._of_another_machine(path[2:])
        if ".." in path.split("/"):
            inner = os.path.normpath(path)
            if inner.startswith("..") and self._lists is not None:
                return self._inside(os.path.normpath(self._lists.absolute() / path))
            return None if inner.startswith("..") else inner
        return "/".join(step for step in path.split("/") if step not in ("", "."))

    def _inside(self, path: str) -> str | None:
        """Return an absolute path relative to the root; links on the way to the root may differ."""
        path = os.path.normpath(path)
        parent, _, name = path.rpartition("/")
        root = str(self._folder.root)
        if not (parent + "/").startswith(root + "/"):
            if parent not in self._real_parents:
                self._real_parents[parent] = os.path.realpath(parent)
            parent = self._real_parents[parent]
        inside = (parent + "/").startswith(root.rstrip("/") + "/")
        return f"{parent}/{name}"[len(root.rstrip("/")) + 1 :] if inside else None

    def _of_another_machine(self, path: str) -> str | None:
        """Return the listed path if one file here matches its end; its start is another machine's folder."""
        steps = [step for step in path.split("/") if step]
        return "/".join(steps) if ".." not in steps and self.find(path.lstrip("/"), anywhere=False) else None

    def find(self, path: str, *, anywhere: bool) -> list[str]:
        """Return the files that best fit a path without an exact match; several if they fit equally.

        A file fits with the same stem in the same folder, or if one of the two folders is the end of the
        other. With `anywhere` it fits in any folder: for data sets whose stems are unique. Of the files that
        fit, those with the most folders in common are kept, and of these the ones with the same extension. If
        nothing fits, upper and lower case and address escapes such as %20 are ignored.
        """
        fits = self._alike(path, self._folder.by_stem, str, anywhere=anywhere)
        if not fits:
            fits = self._alike(path, self._by_folded_stem, str.casefold, anywhere=anywhere)
        if not fits and "%" in path and (plain := unquote(path)) != path:
            return [plain] if plain in self._folder.files else self.find(plain, anywhere=anywhere)
        return fits

    @cached_property
    def _by_folded_stem(self) -> dict[str, list[str]]:
        folded: dict[str, list[str]] = {}
        for stem, paths in self._folder.by_stem.items():
            folded.setdefault(stem.casefold(), []).extend(paths)
        return folded

    @staticmethod
    def _alike(
        path: str, by_stem: Mapping[str, list[str]], fold: Callable[[str], str], *, anywhere: bool
    ) -> list[str]:
        found = by_stem.get(fold(stem_of(path)), [])
        if not found:
            return []
        own = _folders(fold(path))
        common = {each: _common(own, _folders(fold(each))) for each in found}
        fits = [each for each in found if anywhere or common[each] >= min(len(own), len(_folders(each)))]
        best = _best(fits, [common[each] for each in fits])
        extension = path.rpartition(".")[2].lower()
        return _best(best, [each.rpartition(".")[2].lower() == extension for each in best])


def _folders(path: str) -> list[str]:
    return [step for step in composed(path).split("/")[:-1] if step != "."]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many folders, counted from the file up, are equal."""
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count


def _best(paths: Sequence[str], fits: Sequence[int]) -> list[str]:
    most = max(fits, default=0)
    return [path for path, fit in zip(paths, fits, strict=True) if fit == most]


def shown(names: Collection[str]) -> str:
    """Format up to three names for a message: 'a', 'b', 'c', …

    Names that look alike are shown with their codes.
    """
    first = list(names)[:3]
    alike = len({composed(name) for name in first}) < len(first)
    return ", ".join(map(ascii if alike else repr, first)) + (", …" if len(names) > 3 else "")
