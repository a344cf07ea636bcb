"""Decoded videos on disk, memory-mapped, so that training decodes each only once: `--cache uint8`.

A training video is stored as all its complete pictures. Their shorter side is the largest that training draws
(320/224 of the size), so a random clip is a few pictures, cut and scaled down once more. A validation video
is stored as its clips. Each is one `.npy` file of uint8. Its name depends on all that decides its bytes, so
runs and splits share it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from ...errors import StorageError, VideoError
from ...runtime.atomic import TEMPORARY_SUFFIX, replacing
from ...store import VideoRecord
from ...terminal.outputs import require_folder
from ...terminal.progress_bars import tqdm
from ...terminal.text import agreeing, counted, sized
from ..video.decode import LoadedVideo, load_clips, read_scaled
from ..video.decoder_pool import DecodeJob, DecoderPool
from ..video.decoder_process import VideoFailure
from ..video.pictures import SCALING
from ..video.sampling import random_clip
from ..video.transforms import random_view, short_sides

logger = logging.getLogger(__name__)

_VERSION = 1  # of the file content
_PART_FRAMES = 512  # of a long video, between two signs of life
_FIX = "free some space, name another disk with --cache-folder, or leave out --cache"
_ABANDONED_SECONDS = 600.0  # a file being written that has not changed for so long is abandoned


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """One video's file: all pictures of the video or segment, or `clips` clips of it if that is above 0."""

    id: str
    video: Path
    file: Path
    segment: dict[str, float | None]
    geometry: dict[str, int]
    clips: int


class ClipCache:
    """The files of one folder, for clips of `clip_frames` frames of `size` × `size` pixels."""

    def __init__(self, folder: Path, *, clip_frames: int, frame_stride: int, size: int) -> None:
        self.folder = folder
        self._clip_frames, self._frame_stride, self._size = clip_frames, frame_stride, size

    def entry(self, video: VideoRecord, root: Path, *, clips: int = 0) -> CacheEntry:
        """Return the file of a video below `root`, or of a segment of it.

        It is for training, or, with `clips`, holds so many uniform clips.
        """
        path = root / video.path
        segment = {"start_seconds": video.start_seconds, "end_seconds": video.end_seconds}
        geometry = {"short_side": short_sides(self._size)[1]}
        if clips:
            geometry = {"clips": clips, "clip_frames": self._clip_frames, "size": self._size}
            geometry["frame_stride"] = self._frame_stride
        try:
            found = path.stat()
            state = [found.st_size, found.st_mtime_ns]
        except OSError:  # decoding it will fail
            state = []
        # Not the canonical form, but that of existing caches: another name would be another file.
        key = json.dumps([_VERSION, str(path.resolve()), state, segment, geometry], sort_keys=True)
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return CacheEntry(
            id=video.id,
            video=path,
            file=self.folder / f"{name}.npy",
            segment=segment,
            geometry=geometry,
            clips=clips,
        )

    def fill(self, entries: Sequence[CacheEntry], *, decoders: int, progress: bool) -> dict[str, str]:
        """Make the missing and incomplete files; return id → reason for videos without a file.

        Raises:
            StorageError: the disk has too little room (checked before anything is written), or fails.
        """
        missing = [entry for entry in entries if not _is_complete(entry.file)]
        if not missing:
            logger.info(f"cache: {self.folder} holds all {counted(len(entries), 'video')}")
            return {}
        require_folder(self.folder, "--cache-folder")
        self._remove_abandoned()
        failed: dict[str, str] = {}
        with DecoderPool(decoders, shape=(1, 1, 1, 1, 3), slots=2 * decoders) as pool:

            def work(title: str, jobs: Sequence[DecodeJob[int]]) -> Iterator[tuple[int, LoadedVideo]]:
                with tqdm(total=len(jobs), desc=title, unit="video", disable=not progress) as shown:
                    for i, result in pool.run(jobs):
                        if isinstance(result, VideoFailure):
                            failed[missing[i].id] = result.reason
                        else:
                            yield i, result
                        shown.update(not getattr(result, "more", False))

            sizes = {
                i: self._bytes(missing[i], result.starts.tolist())
                for i, result in work("measure", [self._measuring(i, e) for i, e in enumerate(missing)])
            }
            self._require_room(sum(sizes.values()), len(sizes), len(entries) - len(missing))
            for _, result in work("cache", [self._writing(i, missing[i]) for i in sizes]):
                if result.frames < 0:
                    raise StorageError(f"{self.folder}: {os.strerror(-result.frames)}; {_FIX}")
        return failed

    def _measuring(self, key: int, entry: CacheEntry) -> DecodeJob[int]:
        arguments = {**entry.segment, "short_side": short_sides(self._size)[1]}
        return DecodeJob(key=key, path=entry.video, arguments=arguments, load=load_measure)

    def _writing(self, key: int, entry: CacheEntry) -> DecodeJob[int]:
        arguments = {**entry.segment, **entry.geometry, "file": entry.file}
        load = write_clips if entry.clips else write_frames
        return DecodeJob(key=key, path=entry.video, arguments=arguments, load=load)

    def _bytes(self, entry: CacheEntry, shape: Sequence[int]) -> int:
        clip_pixels = self._clip_frames * self._size * self._size
        return 3 * (entry.clips * clip_pixels if entry.clips else prod(shape))

    def _require_room(self, needed: int, videos: int, there: int) -> None:
        if not videos:
            logger.info(f"cache: {self.folder} holds {counted(there, 'video')}")
            return
        parent = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(parent).free
        have = f", {there} {agreeing(there, 'is', 'are')} there" if there else ""
        what = (
            f"cache: {counted(videos, 'decoded video')} {agreeing(videos, 'takes', 'take')} "
            f"{sized(needed)} in {self.folder}{have}; {sized(free)} are free"
        )
        if needed > free:
            raise StorageError(f"{what}: {_FIX}")
        logger.info(what)

    def _remove_abandoned(self) -> None:
        """Remove the unfinished files of killed runs."""
        for left in self.folder.glob(f".*{TEMPORARY_SUFFIX}"):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                left.unlink(missing_ok=True)


def load_measure(
    path: Path, *, out: NDArray[np.uint8], short_side: int, **segment: float | None
) -> LoadedVideo:
    """Return (T, height, width) of a video's pictures at that shorter side, as `starts`; no pixels."""
    return _told(out, read_scaled(path, short_side=short_side, **segment)[0])


def write_frames(
    path: Path, *, out: NDArray[np.uint8], file: Path, short_side: int, **segment: float | None
) -> Generator[LoadedVideo, NDArray[np.uint8], None]:
    """Write all pictures of a video as one array (T, height, width, 3).

    A negative `frames` in the result reports a disk error.
    """
    shape, pictures = read_scaled(path, short_side=short_side, **segment)
    try:
        with _array_file(file, (*shape, 3)) as opened:
            for done, picture in enumerate(_decoded(path, pictures), 1):
                opened.write(np.ascontiguousarray(picture).data)
                if done % _PART_FRAMES == 0:
                    out = yield _told(out, shape, more=True)
    except OSError as error:
        yield _told(out, shape, frames=-(error.errno or errno.EIO))
    else:
        yield _told(out, shape)


def write_clips(path: Path, *, out: NDArray[np.uint8], file: Path, **arguments: Any) -> LoadedVideo:
    """Write the result of `load_clips`. A negative `frames` in the result reports a disk error."""
    loaded = load_clips(path, **arguments)
    try:
        with _array_file(file, loaded.clips.shape) as opened:
            opened.write(loaded.clips.data)
    except OSError as error:
        return _told(out, (0, 0, 0), frames=-(error.errno or errno.EIO))
    return _told(out, (0, 0, 0))


def load_cached_clip(
    path: Path,
    *,
    out: NDArray[np.uint8],
    rng: np.random.Generator,
    clip_frames: int,
    frame_stride: int,
    size: int,
) -> LoadedVideo:
    """Load one random clip in one random view from a file of `write_frames`, into `out[:1]`.

    It replaces `load_random_video`. The crop is at integer pixels of the cached pictures. They are scaled
    down to `size` × `size` by bilinear interpolation, as decoded ones are.
    """
    began = time.perf_counter()
    pictures = np.load(path, mmap_mode="r")
    frames, height, width, _ = pictures.shape
    plan = random_clip(rng, frames, clip_frames=clip_frames, frame_stride=frame_stride)
    view = random_view(rng, width, height, size)
    scale = height / view.height
    side = min(round(size * scale), height, width)
    top, left = min(round(view.top * scale), height - side), min(round(view.left * scale), width - side)
    scaler = VideoReformatter()
    for i, index in enumerate(plan.indices[0].tolist()):
        cut = np.ascontiguousarray(pictures[index, top : top + side, left : left + side])
        frame = av.VideoFrame.from_ndarray(cut, format="rgb24")
        scaled = scaler.reformat(frame, width=size, height=size, interpolation=SCALING, threads=1)
        picture = scaled.to_ndarray()
        out[0, i] = picture[:, ::-1] if view.flip else picture
    loaded = _told(out, (frames, height, width))
    return replace(loaded, starts=plan.starts, padded=plan.padded, decode_seconds=time.perf_counter() - began)


def load_cached_clips(path: Path, *, out: NDArray[np.uint8]) -> LoadedVideo:
    """Load the clips of a file of `write_clips`."""
    clips = np.load(path, mmap_mode="r")
    out[: len(clips)] = clips
    return _told(out, (0,) * len(clips))


def _is_complete(file: Path) -> bool:
    """Whether a file is as long as its header says: an interrupted copy or a full disk may have cut it."""
    try:
        with file.open("rb") as opened:
            np.lib.format.read_magic(opened)
            shape, _, dtype = np.lib.format.read_array_header_1_0(opened)
            return dtype == np.uint8 and opened.tell() + prod(shape) == file.stat().st_size
    except (OSError, ValueError):
        return False


@contextmanager
def _array_file(file: Path, shape: tuple[int, ...]) -> Iterator[BinaryIO]:
    """Open a `.npy` file of uint8 to write in C order; it gets its name at the end, complete and synced."""
    with replacing(file) as opened:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(opened, header)
        yield opened


def _decoded(path: Path, pictures: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures. A system error while decoding belongs to the video, not to the cache's disk."""
    try:
        yield from pictures
    except OSError as error:
        raise VideoError(f"{path.name}: {error}") from error


def _told(
    out: NDArray[np.uint8], starts: Sequence[int], *, frames: int = 0, more: bool = False
) -> LoadedVideo:
    """Return a result without pixels."""
    zeros = np.zeros(len(starts), dtype=np.int64)
    return LoadedVideo(
        clips=out,
        starts=np.array(starts, dtype=np.int64),
        times_seconds=zeros.astype(np.float64),
        padded=zeros,
        frames=frames,
        fps=0.0,
        more=more,
    )
