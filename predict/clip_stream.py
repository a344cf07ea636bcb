"""A video's clips one at a time, decoded in order in a separate process.

Memory holds two clips and the frames that the next clip shares with the last one, for a video of any length.
Only the times of all frames are kept for the complete file. The decoding process imports this module, so it
does not import torch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError, VideoError
from ..extract.sources.folder import require_local, scan_folder
from ..extract.video.decode import LoadedVideo, probe, read_frames
from ..extract.video.decoder_pool import DecodeJob, DecoderPool
from ..extract.video.decoder_process import VideoFailure
from ..extract.video.sampling import plan_clips
from ..runtime.file_names import as_text

SLOTS = 2
"""Clips in memory: one in use, one being decoded."""

Key = tuple[int, int]  # (video, clip number)
DecodeResult = tuple[Key, LoadedVideo | VideoFailure]


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """Clips of a video: those at the increasing `places` of the uniform grid of `grid` clips.

    A clip has `clip_frames` frames, `frame_stride` apart, of `size` × `size` pixels, with the transform of
    testing.
    """

    grid: int
    places: tuple[int, ...]
    clip_frames: int
    frame_stride: int
    size: int


class ClipStream:
    """Clips of videos in order; the next one is decoded while the last one is used.

    Use it in a `with` statement. If a decoder crashes, or hangs for two minutes, only its video is lost.
    """

    def __init__(self, paths: Sequence[Path], request: ClipRequest) -> None:
        self._paths = paths
        self._request = request
        self._video = 0
        self._stack = ExitStack()
        self._pool: DecoderPool | None = None
        self._results: Generator[DecodeResult, None, None] | None = None

    def clip(self, video: int, number: int) -> LoadedVideo:
        """Return the clip at `places[number]` of the video at `paths[video]`, as a `LoadedVideo` of one clip.

        Its pixels are valid until the next call. Calls go forward: they may skip clips and videos, but never
        go back.

        Raises:
            VideoError: the video does not give this clip, or the decoder died.
        """
        self._video = video
        for key, result in self._running():
            if key != (video, number):
                continue  # prefetched, from a video that was given up
            if isinstance(result, LoadedVideo):
                return result
            self._video += 1
            # The prefetched clips are of the same video, and may hang in the same way.
            self._restart()
            raise VideoError(result.reason)
        raise UsageError(f"clip {number} of video {video} is behind the stream, or not in it")

    def __enter__(self) -> Self:
        request = self._request
        shape = (1, request.clip_frames, request.size, request.size, 3)
        self._pool = self._stack.enter_context(DecoderPool(1, shape=shape, slots=SLOTS))
        return self

    def __exit__(self, *error: object) -> None:
        self._restart()
        self._stack.close()

    def _running(self) -> Generator[DecodeResult, None, None]:
        if self._pool is None:
            raise UsageError("a ClipStream is used in a `with` statement")
        if self._results is None:
            self._results = cast("Generator[DecodeResult, None, None]", self._pool.run(self._jobs()))
        return self._results

    def _restart(self) -> None:
        if self._results is not None:
            self._results.close()
            self._results = None

    def _jobs(self) -> Iterator[DecodeJob[Key]]:
        for video in range(self._video, len(self._paths)):
            for number in range(len(self._request.places)):
                if video < self._video:
                    break
                yield DecodeJob(
                    key=(video, number),
                    path=self._paths[video],
                    arguments={"request": self._request, "number": number},
                    load=load_next_clip,
                )


class VideoPass:
    """One pass over one video that fills clip after clip, from number `first` of the request on.

    Raises:
        VideoError: the file has nothing that can be used as a video.
    """

    def __init__(self, path: Path, request: ClipRequest, first: int = 0) -> None:
        self.path, self.request, self.number = path, request, first
        self._probe = probe(path)
        plan = plan_clips(
            self._probe.frames,
            clips=request.grid,
            clip_frames=request.clip_frames,
            frame_stride=request.frame_stride,
        )
        places = list(request.places)
        self._indices, self._starts = plan.indices[places], plan.starts[places]
        self._padded = plan.padded[places]
        self._frames = read_frames(path, np.unique(self._indices[first:]), size=request.size)
        self._kept: dict[int, NDArray[np.uint8]] = {}

    @property
    def kept_frames(self) -> int:
        """Number of frames in memory: those that a later clip needs too."""
        return len(self._kept)

    @property
    def is_over(self) -> bool:
        """Whether all clips were filled."""
        return self.number == len(self._indices)

    def fill(self, out: NDArray[np.uint8]) -> LoadedVideo:
        """Fill `out`, uint8 (1, L, size, size, 3), with the next clip.

        Raises:
            VideoError: the decoder does not give its frames.
        """
        here, number = self._indices[self.number], self.number
        self.number += 1
        later = None if self.is_over else int(self._starts[self.number])
        for place, index in enumerate(here.tolist()):
            while index not in self._kept:
                found, picture = next(self._frames)
                self._kept[found] = picture
            out[0, place] = self._kept[index]
        self._kept = {k: v for k, v in self._kept.items() if later is not None and k >= later}
        if self.is_over:
            # Some damage shows only in the number of frames. Extraction counts them too.
            for _ in self._frames:
                raise AssertionError("frames beyond the last clip were asked for")
        start = self._starts[number : number + 1]
        return LoadedVideo(
            clips=out,
            starts=start,
            times_seconds=self._probe.seconds[start],
            padded=self._padded[number : number + 1],
            frames=self._probe.frames,
            fps=self._probe.fps,
            left_out=self._probe.left_out,
        )


_reader: VideoPass | None = None  # in the decoding process, kept between its jobs


def load_next_clip(path: Path, *, request: ClipRequest, number: int, out: NDArray[np.uint8]) -> LoadedVideo:
    """Run one job of a decoder process: continue with the open video, or open this one.

    Raises:
        VideoError: as `VideoPass`.
    """
    global _reader
    reader, _reader = _reader, None
    if reader is None or (reader.path, reader.request, reader.number) != (path, request, number):
        reader = VideoPass(path, request, number)
    video = reader.fill(out)
    if not reader.is_over:
        _reader = reader
    return video


def list_videos(paths: Iterable[str | Path]) -> list[Path]:
    """Return the named files, and the video files in the named folders, sorted by path in each folder.

    Names that are not UTF-8 are returned with escapes. Such a file cannot be opened, and fails with that
    reason.

    Raises:
        UsageError: a folder holds no video files; a name is empty, or is a URL.
        SourceError: a folder cannot be read.
    """
    found: list[Path] = []
    for path in map(require_local, paths):
        if not path.is_dir():
            found.append(Path(as_text(str(path))))
            continue
        below = sorted(scan_folder(path).files)
        if not below:
            raise UsageError(f"{path} is a folder without video files; give video files, or a folder of them")
        found += [Path(as_text(str(path))) / name for name in below]
    return found
