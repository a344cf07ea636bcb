"""The durations of videos, from a packet scan in decoder processes: a broken file fails alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...terminal.progress_bars import tqdm
from ...terminal.text import counted
from .decode import LoadedVideo, probe
from .decoder_pool import DecodeJob, DecoderPool
from .decoder_process import VideoFailure

logger = logging.getLogger(__name__)


def probe_durations(root: Path, paths: Sequence[str], *, progress: bool) -> dict[str, float]:
    """Return the seconds of each video, to the end of its last frame.

    Unreadable videos are left out and reported.

    Args:
        root: folder that the paths are relative to.
        paths: the videos.
        progress: show a progress bar.
    """
    jobs = [DecodeJob(key=path, path=root / path, arguments={}, load=load_duration) for path in paths]
    durations, failures = {}, []
    with DecoderPool(1, shape=(1, 1, 1, 1, 3), slots=4) as pool:
        results = tqdm(pool.run(jobs), total=len(jobs), desc="measure", unit="video", disable=not progress)
        for path, result in results:
            if isinstance(result, VideoFailure):
                failures.append(f"{path} ({result.reason})")
            else:
                durations[path] = float(result.times_seconds[0])
    if failures:
        more = f" and {len(failures) - 3} more" if len(failures) > 3 else ""
        logger.warning(
            f"{counted(len(failures), 'video')} cannot be cut into segments, for their length is unknown: "
            f"{', '.join(failures[:3])}{more}"
        )
    return durations


def load_duration(path: Path, *, out: NDArray[np.uint8]) -> LoadedVideo:
    """Return a video's number of frames and rate, and its duration as its only time; no pixels."""
    found = probe(path)
    frame_seconds = 1 / found.fps if found.fps else 0.0
    zero = np.zeros(1, dtype=np.int64)
    return LoadedVideo(
        clips=out,
        starts=zero,
        times_seconds=found.seconds[-1:] + frame_seconds,
        padded=zero,
        frames=found.frames,
        fps=found.fps,
    )
