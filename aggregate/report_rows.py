"""What a report is made of: rows of accuracy and cost, their means, the Pareto front, the text table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    """One aggregator on one mixture of clips.

    Attributes:
        aggregator, pattern: by name, such as "fast-gru" and "1:7".
        clips: N, clips a video.
        seeds, top1: the runs, and each run's top-1 accuracy in [0, 1]; of one length, at least 1.
        gflops_per_video: cost of classifying one video, positive.
        group: rows of one group stand together, under this heading; "" is none.
    """

    aggregator: str
    pattern: str
    clips: int
    seeds: tuple[int, ...]
    top1: tuple[float, ...]
    gflops_per_video: float
    group: str = ""

    def __post_init__(self) -> None:
        if len(self.seeds) != len(self.top1) or not self.top1:
            raise ValueError(
                f"{len(self.seeds)} seeds with {len(self.top1)} accuracies: one each, at least one"
            )
        if not all(0 <= value <= 1 for value in self.top1):
            raise ValueError(f"top1={self.top1}: accuracies lie in [0, 1]")
        if not (math.isfinite(self.gflops_per_video) and self.gflops_per_video > 0):
            raise ValueError(f"gflops_per_video={self.gflops_per_video}: must be positive and finite")

    @property
    def mean(self) -> float:
        """Mean top-1 accuracy over the seeds, in [0, 1]."""
        return statistics.fmean(self.top1)

    @property
    def standard_error(self) -> float | None:
        """Sample standard deviation over the seeds, divided by √n; None for one seed."""
        if len(self.top1) < 2:
            return None
        return statistics.stdev(self.top1) / math.sqrt(len(self.top1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Confusion:
    """Counts of videos by true class (rows) and predicted class (columns), int (K, K); `caption` says of what."""

    counts: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    caption: str = "Confusion"

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        if self.counts.shape != (classes, classes):
            raise ValueError(f"confusion of shape {self.counts.shape} for {classes} class names")


@dataclass(frozen=True, kw_only=True)
class ReportMeta:
    """What a report says beside its rows.

    Attributes:
        title: of page and plot.
        lines: how it was made, a line each.
        ceilings: (label, accuracy in [0, 1]), drawn as horizontal lines.
        coverage: which videos the figures cover, a line each.
        confusion: of one of the rows.
    """

    title: str
    lines: tuple[str, ...] = ()
    ceilings: tuple[tuple[str, float], ...] = ()
    coverage: tuple[str, ...] = ()
    confusion: Confusion | None = None


def pareto_front(rows: Sequence[ReportRow]) -> list[bool]:
    """Say for each row whether none is cheaper and as accurate, or as cheap and more accurate (by means)."""

    def dominates(a: ReportRow, b: ReportRow) -> bool:
        at_least = a.gflops_per_video <= b.gflops_per_video and a.mean >= b.mean
        return at_least and (a.gflops_per_video < b.gflops_per_video or a.mean > b.mean)

    return [not any(dominates(other, row) for other in rows) for row in rows]


HEADINGS = ("aggregator", "pattern", "clips", "GFLOPs/video", "top-1 %", "± s.e.", "seeds", "each seed %")
LEFT_ALIGNED = 2  # the first columns are words, the others figures


def cells(row: ReportRow) -> tuple[str, ...]:
    """Return the row's texts under HEADINGS; accuracies in percent."""
    error = row.standard_error
    return (
        row.aggregator,
        row.pattern,
        str(row.clips),
        significant(row.gflops_per_video),
        f"{100 * row.mean:.1f}",
        "–" if error is None else f"{100 * error:.1f}",
        str(len(row.seeds)),
        " ".join(f"{100 * value:.1f}" for value in row.top1),
    )


def significant(value: float) -> str:
    """Write a positive figure with three significant digits, without an exponent: 0.0123, 4.56, 1234."""
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{digits}f}"


def table_text(rows: Sequence[ReportRow], meta: ReportMeta) -> str:
    """Lay the rows out in aligned columns for a terminal; rows on the Pareto front carry a star."""
    if not rows:
        return "no results"
    front = pareto_front(rows)
    texts = [cells(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *texts, strict=True)]

    def line(texts: Sequence[str], mark: str = " ") -> str:
        aligned = [
            text.ljust(width) if number < LEFT_ALIGNED else text.rjust(width)
            for number, (text, width) in enumerate(zip(texts, widths, strict=True))
        ]
        return f"{mark} {'  '.join(aligned)}".rstrip()

    lines = [line(HEADINGS), line(["─" * width for width in widths])]
    for group, members in groups(rows):
        if group:
            lines.append(f"  {group}")
        lines += [line(texts[number], "*" if front[number] else " ") for number in members]
    lines.append("* no row is both cheaper and as accurate; s.e.: standard error of the mean over the seeds")
    lines += [f"{label}: {100 * value:.1f} %" for label, value in meta.ceilings]
    lines += meta.coverage
    return "\n".join(lines)


def groups(rows: Sequence[ReportRow]) -> list[tuple[str, list[int]]]:
    """Return (group, positions of its rows), groups and rows in the order they came."""
    found: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        found.setdefault(row.group, []).append(number)
    return list(found.items())
