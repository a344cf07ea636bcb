"""Results of prediction: an answer after each clip, and one for each video."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.atomic import replace

TOP = 5
CONFIDENT, BUDGET = "confident", "budget"
"""Why a video was stopped before its last clip."""


@dataclass(frozen=True, kw_only=True)
class ClipAnswer:
    """The answer after a clip: any-time prediction (FASTER §3.1).

    Attributes:
        path: the video as it was named.
        clip: the number of the clip, from 0 to N − 1.
        clips: N.
        time_seconds: start of the clip's first frame, since the video's first frame.
        model: the backbone that ran on it.
        class_names: the class of each probability.
        probabilities: (classes,) float64, sums to 1.
        gflops: spent on the video so far, backbones and aggregator, in multiply-adds / 1e9.
        last: whether it is the video's last answer.
    """

    path: str
    clip: int
    clips: int
    time_seconds: float
    model: str
    class_names: tuple[str, ...]
    probabilities: NDArray[np.float64]
    gflops: float
    last: bool

    def top(self, count: int = TOP) -> list[tuple[str, float]]:
        """Return the most probable classes and their probabilities, the best first."""
        return _top(self.class_names, self.probabilities, count)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types, with the best five classes."""
        return {
            "path": self.path,
            "clip": self.clip,
            "clips": self.clips,
            "time_seconds": self.time_seconds,
            "model": self.model,
            "top": _named(self.top()),
            "gflops": self.gflops,
            "last": self.last,
        }


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One video's answer, or the reason why there is none.

    Attributes:
        path: the video as it was named.
        class_names: the class of each probability.
        probabilities: (classes,) float64, sums to 1; None if the video failed.
        gflops: spent on it, backbones and aggregator, in multiply-adds / 1e9.
        clips_of: model → number of clips that it ran on.
        whole_gflops, whole_clips: the cost of all clips of the run's pattern, and their number N.
        stopped_by: why later clips were skipped: "confident", "budget", or "" if none was.
        reason: why there is no answer, else "".
        left_out: frames at the file's start that need pictures from before it.
    """

    path: str
    class_names: tuple[str, ...]
    probabilities: NDArray[np.float64] | None = None
    gflops: float = 0.0
    clips_of: Mapping[str, int]
    whole_gflops: float
    whole_clips: int
    stopped_by: str = ""
    reason: str = ""
    left_out: int = 0

    @property
    def saved_gflops(self) -> float:
        """GFLOPs saved by stopping early."""
        return self.whole_gflops - self.gflops if self.stopped_by else 0.0

    @property
    def saved_clips(self) -> int:
        """Number of clips that stopping early skipped."""
        return self.whole_clips - sum(self.clips_of.values()) if self.stopped_by else 0

    def top(self, count: int = TOP) -> list[tuple[str, float]]:
        """Return the most probable classes and their probabilities, best first; empty if the video failed."""
        return [] if self.probabilities is None else _top(self.class_names, self.probabilities, count)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types, with the best five classes."""
        return {
            "path": self.path,
            "top": _named(self.top()),
            "gflops": self.gflops,
            "clips": dict(self.clips_of),
            "stopped_by": self.stopped_by,
            "saved": {"gflops": self.saved_gflops, "clips": self.saved_clips},
            "reason": self.reason,
            "left_out_frames": self.left_out,
        }


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions.csv: per video the best five classes, cost, and why it stopped early or failed."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    ranks = [f"{what}{k}" for k in range(1, TOP + 1) for what in ("class", "probability")]
    rows.writerow(["path", "predicted", *ranks, "gflops", "clips", "stopped_by", "reason"])
    for prediction in predictions:
        best = [value for name, p in prediction.top() for value in (name, f"{p:.6f}")]
        best += [""] * (2 * TOP - len(best))
        cost = [f"{prediction.gflops:.4f}", sum(prediction.clips_of.values())]
        rows.writerow([prediction.path, best[0], *best, *cost, prediction.stopped_by, prediction.reason])
    replace(path, text.getvalue().encode())


def _top(
    class_names: tuple[str, ...], probabilities: NDArray[np.float64], count: int
) -> list[tuple[str, float]]:
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(class_names[i], float(probabilities[i])) for i in order]


def _named(best: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"class": name, "probability": probability} for name, probability in best]
