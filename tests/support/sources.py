"""Small sources: empty files with the right names, and lists of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from faster.extract.sources.read import Source

KINETICS_HEADER = "label,youtube_id,time_start,time_end,split"


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def write(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return file


def labels(source: Source) -> dict[str, str]:
    """Path → name of the class."""
    return {v.path: source.class_names[v.label] if v.label >= 0 else "-" for v in source.videos}


def splits(source: Source) -> dict[str, Mapping[str, str]]:
    return {v.path: v.splits for v in source.videos}
