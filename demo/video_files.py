"""The demo's video files: list, render and encode them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from ..errors import DataError, StorageError
from ..runtime.atomic import temporary_beside
from ..terminal.progress_bars import tqdm
from ..terminal.text import agreeing, counted
from .events import EventSet, FrameArray, render_frames, render_single
from .shapes import KINDS

Render = Callable[["EventSet", int, int], FrameArray]


@dataclass(frozen=True, kw_only=True)
class PlannedVideo:
    """One file of the set: `path` is relative to the set's folder, train|test/<class>/<name>.mp4."""

    path: Path
    label: int
    index: int


def planned_videos(config: EventSet) -> tuple[PlannedVideo, ...]:
    """List the files of the set, with the same number of each class in train and in test.

    A file's name is a digest of its number and of the set's values: it does not reveal the class, and another
    set has other names.
    """
    classes = len(config.class_names)
    planned = []
    for index in range(classes * config.videos_per_class):
        label, number = index % classes, index // classes
        subset = "test" if number < config.test_videos_per_class else "train"
        name = hashlib.blake2s(f"{config} {index}".encode(), digest_size=6).hexdigest()
        path = Path(subset, config.class_names[label], f"{name}.mp4")
        planned.append(PlannedVideo(path=path, label=label, index=index))
    return tuple(planned)


def planned_singles(config: EventSet) -> tuple[PlannedVideo, ...]:
    """List the videos of one event, train|test/<kind>/<name>.mp4, numbered after the videos of pairs."""
    first = len(config.class_names) * config.videos_per_class
    planned = []
    for index in range(config.events * config.singles_per_kind):
        label, number = index % config.events, index // config.events
        subset = "test" if number < config.test_singles_per_kind else "train"
        name = hashlib.blake2s(f"{config} {first + index}".encode(), digest_size=6).hexdigest()
        planned.append(
            PlannedVideo(path=Path(subset, KINDS[label], f"{name}.mp4"), label=label, index=first + index)
        )
    return tuple(planned)


def write_set(config: EventSet, folder: Path, *, progress: bool = False) -> tuple[Path, ...]:
    """Write the set's videos of pairs below `folder` and return their paths; existing files are kept.

    A file is written under a hidden name and then renamed, so a file with its final name is complete.
    `progress` shows a bar. Raises DataError if `folder` holds videos of another set, StorageError if the disk
    fails.
    """
    return _write(config, planned_videos(config), render_frames, folder, progress)


def write_singles(config: EventSet, folder: Path, *, progress: bool = False) -> tuple[Path, ...]:
    """Write the set's videos of one event, in the same way as `write_set`."""
    return _write(config, planned_singles(config), render_single, folder, progress)


def _write(
    config: EventSet, planned: Sequence[PlannedVideo], render: Render, folder: Path, progress: bool
) -> tuple[Path, ...]:
    paths = tuple(folder / video.path for video in planned)
    foreign = set(folder.rglob("*.mp4")) - set(paths)
    if foreign:
        raise DataError(
            f"{folder} holds {counted(len(foreign), 'video')} that {agreeing(len(foreign), 'is', 'are')} "
            f"not of this set, such as {min(foreign)}: choose another folder or remove it"
        )
    pending = [(video, path) for video, path in zip(planned, paths, strict=True) if not path.exists()]
    bar = tqdm(total=len(pending), desc="rendering videos", unit="video", disable=not progress)
    try:
        for parent in {path.parent for path in paths}:
            parent.mkdir(parents=True, exist_ok=True)
        # Threads are enough: numpy and the encoder release the GIL for almost all of the work.
        with bar, ThreadPoolExecutor(max_workers=2) as pool:
            for _ in pool.map(lambda item: _write_video(config, render, *item), pending):
                bar.update()
    except OSError as error:
        raise StorageError(f"cannot write videos below {folder}: {error}") from error
    return paths


def _write_video(config: EventSet, render: Render, video: PlannedVideo, path: Path) -> None:
    with temporary_beside(path) as (_, partial):
        encode(render(config, video.label, video.index), partial, fps=config.fps)
        partial.replace(path)


def encode(frames: FrameArray, path: Path, *, fps: int) -> None:
    """Write uint8 RGB frames (T, H, W, 3) as H.264 in mp4, each frame coded independently.

    With key frames only and a fixed quantiser, a decoded frame depends only on that frame, so the codec
    leaves no trace of the time. Raises OSError (av.FFmpegError) if the file cannot be written.
    """
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": "1", "qp": "24", "preset": "superfast"}
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
