"""The data of a report: rows of accuracy and cost, their means, the Pareto front, the text table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ...terminal.text import counted
from ..evaluation.confusion import ConfusionMatrix

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    """One aggregator on one mixture of clips.

    Attributes:
        aggregator, pattern: by name, such as "fast-gru" and "1:7".
        clips: N, clips per video.
        seeds, top1: the runs, and each run's top-1 accuracy in [0, 1]; of equal length, at least 1.
        gflops_per_video: cost of classifying one video; 0 if unknown.
        group: which videos it is of; only rows of one group are compared. "" is none.
        mixture, setting: clip length and models, and how it was trained, if rows differ in them.
        clip_frames: L, frames per clip; 0 if unknown.
        expensive, cheap: the models in use; "" if the mixture has none of that kind.
    """

    aggregator: str
    pattern: str
    clips: int
    seeds: tuple[int, ...]
    top1: tuple[float, ...]
    gflops_per_video: float
    group: str = ""
    mixture: str = ""
    setting: str = ""
    clip_frames: int = 0
    expensive: str = ""
    cheap: str = ""

    def __post_init__(self) -> None:
        if len(self.seeds) != len(self.top1) or not self.top1:
            raise ValueError(
                f"{counted(len(self.seeds), 'seed')} with {len(self.top1)} accuracies: one each, at least one"
            )
        if not all(0 <= value <= 1 for value in self.top1):
            raise ValueError(f"top1={self.top1}: accuracies lie in [0, 1]")
        if not (math.isfinite(self.gflops_per_video) and self.gflops_per_video >= 0):
            raise ValueError(f"gflops_per_video={self.gflops_per_video}: must be finite and at least 0")

    @property
    def heading(self) -> str:
        """What the rows under one heading share; "" is none."""
        return ", ".join(text for text in (self.group, self.mixture, self.setting) if text)

    @property
    def label(self) -> str:
        """The aggregator, and how it was trained if that differs."""
        return f"{self.aggregator}, {self.setting}" if self.setting else self.aggregator

    def named(self, text: str) -> str:
        """Return `text`, with the row's heading in brackets, if it has one."""
        return f"{text} ({self.heading})" if self.heading else text

    @property
    def mean(self) -> float:
        """Mean top-1 accuracy over the seeds, in [0, 1]."""
        return statistics.fmean(self.top1)

    @property
    def first_only(self) -> bool:
        """Whether only the first of several clips is expensive: 1:(N−1), the paper's Table 3."""
        return self.clips > 1 and self.pattern == f"1:{self.clips - 1}"

    @property
    def standard_error(self) -> float | None:
        """Sample standard deviation over the seeds, divided by √n; None for one seed."""
        if len(self.top1) < 2:
            return None
        return statistics.stdev(self.top1) / math.sqrt(len(self.top1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Confusion:
    """Counts of videos by true class (rows) and predicted class (columns), (K, K), with a caption."""

    counts: ConfusionMatrix
    class_names: tuple[str, ...]
    caption: str = "Confusion"

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        if self.counts.classes != classes:
            raise ValueError(
                f"a confusion of {counted(self.counts.classes, 'class', 'classes')} for "
                f"{counted(classes, 'class name')}"
            )


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table in one of the paper's layouts: texts; the first `words` columns are left-aligned."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ClassGain:
    """Each class's accuracy in [0, 1] under two ways to aggregate the same clips.

    Classes without videos are left out.

    Attributes:
        class_names, base, gained: of equal length: the class, and its accuracy by `base_name` and by
            `gained_name`.
    """

    class_names: tuple[str, ...]
    base: tuple[float, ...]
    gained: tuple[float, ...]
    base_name: str
    gained_name: str


@dataclass(frozen=True, kw_only=True)
class PaperPoint:
    """A published result: its name, its cost and its top-1 accuracy in [0, 1]."""

    name: str
    gflops_per_video: float
    top1: float


@dataclass(frozen=True, kw_only=True)
class ReportMeta:
    """The content of a report besides its rows.

    Attributes:
        title: of page and plot.
        lines: how it was made, as lines of text.
        ceilings: (label, accuracy in [0, 1]), drawn as horizontal lines.
        coverage: which videos the results cover, as lines of text.
        confusions: of the best row of each group.
        tables: the rows again, in the paper's layouts.
        gains: of aggregation over averaging, per class, for the best row of each group.
        failures: cells that failed, and cells that are impossible, as lines of text.
        paper: the paper's own points on Kinetics, drawn behind the rows; they are of other data.
    """

    title: str
    lines: tuple[str, ...] = ()
    ceilings: tuple[tuple[str, float], ...] = ()
    coverage: tuple[str, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    tables: tuple[Table, ...] = ()
    gains: tuple[ClassGain, ...] = ()
    failures: tuple[str, ...] = ()
    paper: tuple[PaperPoint, ...] = ()


def pareto_front(rows: Sequence[ReportRow]) -> list[bool]:
    """Return for each row whether it is on its group's Pareto front, by means.

    No row of the group is then cheaper and as accurate, or as cheap and more accurate. A row of unknown cost,
    0, takes no part.
    """

    def dominates(a: ReportRow, b: ReportRow) -> bool:
        at_least = a.group == b.group and a.gflops_per_video <= b.gflops_per_video and a.mean >= b.mean
        return at_least and (a.gflops_per_video < b.gflops_per_video or a.mean > b.mean)

    known = [row for row in rows if row.gflops_per_video > 0]
    return [row.gflops_per_video > 0 and not any(dominates(other, row) for other in known) for row in rows]


HEADINGS = ("aggregator", "pattern", "clips", "GFLOPs/video", "top-1 %", "± s.e.", "seeds", "each seed %")
LEFT_ALIGNED = 2  # the first columns are text, the others numbers


def cells(row: ReportRow) -> tuple[str, ...]:
    """Return the row's texts under HEADINGS; accuracies in percent."""
    error = row.standard_error
    return (
        row.aggregator,
        row.pattern,
        str(row.clips),
        significant(row.gflops_per_video),
        percent(row.mean),
        "–" if error is None else percent(error),
        str(len(row.seeds)),
        " ".join(map(percent, row.top1)),
    )


def percent(share: float) -> str:
    """Write a share of 0 to 1 in percent, with one decimal and no sign: 71.7."""
    return f"{100 * share:.1f}"


def significant(value: float) -> str:
    """Format a number of at least 0 with three significant digits and no exponent: 0, 0.0123, 4.56, 1234."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{digits}f}"


def table_text(rows: Sequence[ReportRow], meta: ReportMeta) -> str:
    """Format the rows as aligned columns for a terminal; rows on the Pareto front have a star."""
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
    for heading, members in headed(rows):
        if heading:
            lines.append(f"  {heading}")
        lines += [line(texts[number], "*" if front[number] else " ") for number in members]
    lines.append(
        "* no row of the same videos is both cheaper and as accurate; s.e.: "
        "standard error of the mean over the seeds"
    )
    lines += [f"{label}: {percent(value)} %" for label, value in meta.ceilings]
    lines += meta.coverage
    lines += meta.failures
    return "\n".join(lines)


def series(rows: Sequence[ReportRow]) -> dict[str, list[ReportRow]]:
    """Return the rows by the name of the line that joins them, in the order they came, each by cost.

    An aggregator's rows are one line, along the patterns. If it has rows of several N, they are one line per
    pattern, along N; 1:(N−1) counts as one pattern.
    """
    found: dict[str, list[ReportRow]] = {}
    for members in grouped(rows, lambda row: (row.aggregator, row.heading)).values():
        along_clips = len({row.clips for row in members}) > 1
        first_only = [row for row in members if row.first_only]
        varied = len({row.clips for row in first_only}) > 1
        for row in members:
            family = ""
            if along_clips:
                family = " 1:(N−1)" if varied and row.first_only else f" {row.pattern}"
            found.setdefault(row.named(f"{row.aggregator}{family}"), []).append(row)
    return {name: sorted(members, key=lambda row: row.gflops_per_video) for name, members in found.items()}


def headed(rows: Sequence[ReportRow]) -> list[tuple[str, list[int]]]:
    """Return (heading, positions of its rows), headings and rows in the order they came."""
    return list(grouped(range(len(rows)), lambda number: rows[number].heading).items())


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return the items by their key, keys and items in the order they came."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
