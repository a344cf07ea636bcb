"""The source options that every command reading a source shares."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...terminal.settings import check, documented, setting

if TYPE_CHECKING:
    from .read import Source

logger = logging.getLogger(__name__)


def _one_or_several(
    _context: object, _parameter: object, source: tuple[str, ...]
) -> str | tuple[str, ...] | None:
    """Return the SOURCE argument as the configuration takes it."""
    return source if len(source) > 1 else (source[0] if source else None)


@documented
@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where the videos are, and how to read them; see `read_source`."""

    source: str | tuple[str, ...] | None = setting(
        None,
        help="A folder, an annotation file, or video files.",
        unset="videos/, or the current folder where there is none",
        argument=True,
        path=True,
        callback=_one_or_several,
    )
    annotation_format: str | None = setting(
        None,
        help="class-folders, kinetics, mmaction, csv, ucf101, hmdb51 or files; told from the files by "
        "default.",
        flag="--format",
    )
    video_root: str | None = setting(None, help="Where the videos of an annotation file lie.", path=True)
    allow_missing: bool = setting(
        False,
        help="Go on without listed videos that are not on disk.",
        detail="They are recorded as missing.",
    )
    limit: int | None = setting(None, help="Take this many videos, spread over the classes.", least=1)
    follow_links: bool = setting(False, help="Take what links lead to outside of the folder, too.")

    def __post_init__(self) -> None:
        check(self)

    @property
    def place(self) -> str | tuple[str, ...]:
        """Return the source, or its default."""
        if self.source is not None and self.source != ():
            return self.source
        return "videos" if Path("videos").is_dir() else "."

    def read(self) -> Source:
        """Read the source and print its notes.

        Raises:
            UsageError, SourceError: as `read_source` does.
        """
        from .read import read_source  # slow to import, and not needed for a command's help

        source = read_source(
            self.place,
            format=self.annotation_format,
            video_root=self.video_root,
            allow_missing=self.allow_missing,
            limit=self.limit,
            follow_links=self.follow_links,
        )
        for note in source.notes:
            logger.info(note)
        return source
