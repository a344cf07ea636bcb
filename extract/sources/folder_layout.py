"""The meaning of folder names: classes, parts of a split, and folders without videos."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .folder import CONTAINER_FOLDERS, VideoFolder, composed, scan_folder
from .listed_paths import shown

# The names of parts in file names, folder names and columns of data sets.
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validate", "validation"), "val"
)
_PART_FOLDER = re.compile(
    rf"({'|'.join(PARTS)})[_\- ]?(set|videos?|clips|data|split|split_?\d+|\d+p?|\d+x\d+)?"
)


def part_of_folder(name: str) -> str:
    """Return the part for a folder of this name ("train", "val_256", "test_videos"), or ""."""
    found = _PART_FOLDER.fullmatch(name.lower())
    return PARTS[found[1]] if found else ""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The steps of a path that are the class and the part of a split; None without such a step."""

    class_step: int
    part_step: int | None

    def part(self, steps: Sequence[str]) -> str:
        """Return the part of a video in these folders; "" without one."""
        at = self.part_step
        return "" if at is None or len(steps) <= at + 1 else part_of_folder(steps[at])


def layout_of(paths: Iterable[str]) -> Layout:
    """Return the layout of class folders: `class/…`, `part/class/…` or `class/part/…`.

    A folder that holds all videos of each part (`train/videos/class/…`) is not a class. Nor are `videos` and
    similar names at the top, if loose videos are beside them.
    """
    folders = {path.rpartition("/")[0] for path in paths if "/" in path}
    in_steps = [folder.split("/") for folder in sorted(folders)]
    tops = {steps[0] for steps in in_steps}
    plain = bool(tops) and all(top.lower() in PARTS for top in tops)
    longer = bool(tops) and all(map(part_of_folder, tops)) and all(len(steps) > 1 for steps in in_steps)
    if plain or longer:
        step = 1
        while all(len(steps) > step and steps[step].lower() in CONTAINER_FOLDERS for steps in in_steps):
            step += 1
        return Layout(class_step=step, part_step=0)
    if tops and all(top.lower() in CONTAINER_FOLDERS for top in tops):
        return Layout(class_step=1, part_step=None)
    seconds = {steps[1] if len(steps) > 1 else "" for steps in in_steps}
    if len(seconds) > 1 and all(part_of_folder(second) for second in seconds):
        return Layout(class_step=0, part_step=1)
    return Layout(class_step=0, part_step=None)


def below_the_container(
    folder: Path, videos: VideoFolder, *, follow_links: bool
) -> tuple[VideoFolder, list[str]]:
    """Return the videos of the folder in which the classes begin, and notes.

    A note says if this is not the named folder. A folder that contains all videos is not a class if it holds
    only two or more folders of videos, or if its name is `videos` or equal to the name of the folder above.
    """
    inner = _container(videos)
    if not inner:
        return videos, []
    videos = scan_folder(videos.root / inner, follow_links=follow_links)
    return videos, [
        f"all videos of {str(folder)!r} lie in one folder, which is read as the source: {str(videos.root)!r}"
    ]


def _container(videos: VideoFolder) -> str:
    """Return the folder of all videos if it is not a class, or ""; also a link to such a folder elsewhere."""
    if not videos.files:
        links = [path for path in videos.outside if path.lower() in CONTAINER_FOLDERS]
        return links[0] if len(links) == len(videos.outside) == 1 else ""
    folders = {path.rpartition("/")[0] + "/" for path in (*videos.files, *videos.outside)}
    shared = 0
    lowest, highest = (folder.split("/")[:-1] for folder in (min(folders), max(folders)))
    for one, other in zip(lowest, highest, strict=False):
        if one != other or not one or part_of_folder(one):
            break
        shared += 1
    common = lowest[:shared]
    below = {folder[len("/".join((*common, ""))) :].rstrip("/") for folder in folders}
    if "" not in below and not all(map(part_of_folder, below)):
        return "/".join(common)
    names = [composed(name).lower() for name in (videos.root.name, *common)]
    containers = [
        at for at in range(shared) if names[at + 1] in CONTAINER_FOLDERS or names[at + 1] == names[at]
    ]
    return "/".join(common[: containers[-1] + 1]) if containers else ""


def classes_without_videos(videos: VideoFolder, layout: Layout) -> list[str]:
    """Return a line with the class folders that hold no video at any depth; empty if all hold some."""
    depth = max(layout.class_step, layout.part_step or 0) + 1
    holding = {"", *(folder for path in (*videos.files, *videos.outside) for folder in _above(path))}
    bare = [
        folder
        for folder in videos.folders
        if folder.count("/") < depth and folder not in holding and folder.rpartition("/")[0] in holding
    ]
    return [f"folders without videos, so no classes: {len(bare):,}, {shown(bare)}"] if bare else []


def _above(path: str) -> Iterable[str]:
    """Yield every folder that contains the path."""
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def left_out(videos: VideoFolder) -> list[str]:
    """Return a line with the number of files that are not videos by their extension; empty without any."""
    if not videos.left_out:
        return []
    counts = sorted(videos.left_out.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{count:,} .{extension}" for extension, count in counts[:8])
    rest = sum(count for _, count in counts[8:])
    return [
        f"files left out, no videos by their extension: {named}" + (f" and {rest:,} others" if rest else "")
    ]


def parts_among_others(paths: Iterable[str]) -> str:
    """Return the error if only some of the folders at the top are parts of a split, or ""."""
    folders = [path.split("/") for path in {path.rpartition("/")[0] for path in paths if "/" in path}]
    tops = {steps[0] for steps in folders}
    parts = {top for top in tops if part_of_folder(top)}
    nested = all(len(steps) > 1 for steps in folders if steps[0] in parts)
    if not nested or len({part_of_folder(top) for top in parts}) < 2 or parts == tops:
        return ""
    return (
        f"the folders {shown(sorted(parts))} are parts of a split, and beside them lie others that are none: "
        f"{shown(sorted(tops - parts))}; move those away, or read all "
        "videos without labels with --format files"
    )


def same_names(names: Collection[str]) -> dict[str, str]:
    """Map each name to its common form: the first of the names that differ only in Unicode composition."""
    first: dict[str, str] = {}
    return {name: first.setdefault(composed(name), name) for name in sorted(names)}
