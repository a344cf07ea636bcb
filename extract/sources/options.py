"""Which videos a command works on: the options that every command reading a source shares."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from .read import Source, read_source

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where the videos are and what is known of them; see `read_source`.

    Attributes:
        source: a folder, an annotation file, or video files; None takes `videos/`, or else the current folder.
        annotation_format: name of the source's format, where it cannot be told from the files.
        video_root: where the videos of an annotation file lie.
        allow_missing: go on without listed videos that are not on disk; they are recorded as missing.
        limit: this many videos, spread over the classes.
        follow_links: take what links lead to outside of the source's folder, too.
    """

    source: str | tuple[str, ...] | None = None
    annotation_format: str | None = None
    video_root: str | None = None
    allow_missing: bool = False
    limit: int | None = None
    follow_links: bool = False

    @property
    def place(self) -> str | tuple[str, ...]:
        """The source, settled."""
        if self.source is not None and self.source != ():
            return self.source
        return "videos" if Path("videos").is_dir() else "."

    def read(self) -> Source:
        """Read the source and say what the user should know of it.

        Raises:
            UsageError, SourceError: as `read_source` does.
        """
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
