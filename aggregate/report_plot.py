"""Accuracy against cost as one figure: error bars, Pareto front, ceilings, every label beside what it names.

Series differ in marker and line style as well as in colour, so the figure reads in black and white.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .report_rows import ReportMeta, ReportRow, pareto_front

INK, PAPER = "#1f2328", "#ffffff"
COLOURS = ("#1f7fc4", "#d55e00", "#009e73", "#c0609a", "#7a5cc6", "#3f9bd1", "#99772b")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.fonttype": "none",
    "svg.hashsalt": "faster",  # ids, and so the file, are the same each time
}
Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


def draw(rows: Sequence[ReportRow], meta: ReportMeta) -> tuple[bytes, str]:
    """Draw top-1 accuracy (%) against GFLOPs a video (log): (PNG at 200 dpi, SVG), both on white."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 5.0), facecolor=PAPER)
        axes = figure.add_axes((0.08, 0.11, 0.74 if meta.ceilings else 0.89, 0.75), facecolor="none")
        figure.text(0.08, 0.95, meta.title, fontsize=12, fontweight="bold")
        figure.text(
            0.08,
            0.905,
            "mean over seeds ± standard error; small dots: single seeds; grey band: Pareto front",
            fontsize=8,
            alpha=0.75,
        )
        _set_axes(axes, rows, meta)
        _draw_front(axes, rows)
        labels = _draw_series(axes, rows)
        figure.canvas.draw()  # fixes the pixel positions that the labels need
        _draw_ceilings(axes, meta)
        _place_labels(axes, rows, labels)
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=200)
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return png.getvalue(), svg.getvalue()


def inline_svg(svg: str, description: str) -> str:
    """Return `svg` made to stand in a page: no prologue, ink in the page's text colour, no background.

    `description` is what a screen reader says; already escaped.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor").replace(PAPER, "none")
    return svg.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)


def _set_axes(axes: Any, rows: Sequence[ReportRow], meta: ReportMeta) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    costs = [row.gflops_per_video for row in rows]
    span = max(max(costs) / min(costs), 2.0)
    axes.set_xlim(min(costs) / span**0.1, max(costs) * span**0.25)  # room at the right for the lines' names
    # Less than a decade of costs needs finer ticks, or there would be one.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span > 10 else (1, 1.5, *range(2, 10))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("cost of a video, GFLOPs (multiply-adds, log scale)")

    heights = [100 * value for row in rows for value in row.top1]
    for row in rows:
        heights += [100 * (row.mean + sign * (row.standard_error or 0)) for sign in (-1, 1)]
    heights += [100 * value for _, value in meta.ceilings]
    pad = 0.08 * max(max(heights) - min(heights), 5)
    axes.set_ylim(max(min(heights) - pad, -2), min(max(heights) + pad, 102))
    axes.set_ylabel("top-1 accuracy, %")
    axes.grid(axis="y", color=INK, alpha=0.1, linewidth=0.6)


def _draw_front(axes: Any, rows: Sequence[ReportRow]) -> None:
    front = sorted(
        {
            (row.gflops_per_video, 100 * row.mean)
            for row, on in zip(rows, pareto_front(rows), strict=True)
            if on
        }
    )
    x = [cost for cost, _ in front] + [max(row.gflops_per_video for row in rows)]
    y = [accuracy for _, accuracy in front] + [front[-1][1]]
    axes.plot(
        x, y, drawstyle="steps-post", color=INK, alpha=0.15, linewidth=5, solid_capstyle="butt", zorder=1
    )


def _series(rows: Sequence[ReportRow]) -> dict[str, list[ReportRow]]:
    """Return the rows by the name of their line, in the order they came, each by cost."""
    found: dict[str, list[ReportRow]] = {}
    for row in rows:
        name = f"{row.aggregator} ({row.group})" if row.group else row.aggregator
        found.setdefault(name, []).append(row)
    return {name: sorted(members, key=lambda row: row.gflops_per_video) for name, members in found.items()}


def _draw_series(axes: Any, rows: Sequence[ReportRow]) -> list[tuple[ReportRow, str, str, bool]]:
    """Draw lines, markers, error bars and seeds; return (row, text, colour, names its line) for the labels."""
    one_n = len({row.clips for row in rows}) == 1
    labels = []
    styles = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), itertools.cycle(LINES), strict=True)
    for (name, members), (colour, marker, line) in zip(_series(rows).items(), styles, strict=False):
        x, y = [row.gflops_per_video for row in members], [100 * row.mean for row in members]
        axes.plot(x, y, color=colour, linestyle=line, linewidth=1.3, marker=marker, markersize=6.5, zorder=4)
        for row in members:
            cost, error = row.gflops_per_video, row.standard_error
            if error is not None:
                axes.errorbar(
                    cost, 100 * row.mean, yerr=100 * error, color=colour, capsize=3.5, linewidth=1.1, zorder=3
                )
                seeds = [100 * value for value in row.top1]
                axes.plot([cost] * len(seeds), seeds, ".", color=colour, alpha=0.45, markersize=3.5, zorder=2)
            text = row.pattern if one_n else f"{row.pattern} ×{row.clips}"
            last = row is members[-1]
            labels.append((row, f"{name} {text}" if last else text, colour, last))
    return labels


def _draw_ceilings(axes: Any, meta: ReportMeta) -> None:
    """Draw the ceilings as dotted lines, named at the right edge, their names kept from overlapping."""
    names = []
    for label, value in sorted(meta.ceilings, key=lambda ceiling: ceiling[1]):
        axes.axhline(100 * value, color=INK, linestyle=(0, (1, 2)), linewidth=1.0, alpha=0.8, zorder=2)
        names.append(
            axes.annotate(
                f"{label}\n{100 * value:.1f} %",
                (1.0, 100 * value),
                xycoords=axes.get_yaxis_transform(),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                linespacing=1.1,
            )
        )
    top = -np.inf
    for name in names:
        box = name.get_window_extent()
        lift = max(0.0, top + 2 - box.y0)
        name.set_position((5, lift * 72 / axes.figure.dpi))
        top = box.y1 + lift


def _place_labels(
    axes: Any, rows: Sequence[ReportRow], labels: Sequence[tuple[ReportRow, str, str, bool]]
) -> None:
    """Put each label by its point, where it covers nothing; names of lines come first and are never left out.

    A pattern's label that finds no free place is left out: the table has it.
    """
    taken = _taken(axes, rows)
    scale = axes.figure.dpi / 72
    for row, text, colour, names_line in sorted(labels, key=lambda label: not label[3]):
        note = axes.annotate(
            text,
            (row.gflops_per_video, 100 * row.mean),
            textcoords="offset points",
            xytext=(0, 0),
            ha="center",
            va="center",
            fontsize=8.5 if names_line else 7.5,
            fontweight="bold" if names_line else "normal",
            color=colour,
            zorder=6,
        )
        start = note.get_window_extent()
        width, height = start.width / scale, start.height / scale
        best, least, lead = (0.0, 0.0), np.inf, 0.0
        for away in (5.0, 12.0, 22.0, 36.0, 52.0)[: 5 if names_line else 2]:
            for right, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
                offset = (right * (width / 2 + away), up * (height / 2 + away))
                covered = _overlap(_moved(start, offset, scale), taken, axes.bbox)
                if covered < least:
                    best, least, lead = offset, covered, away
            if least == 0:
                break
        if least > 0 and not names_line:
            note.remove()
            continue
        note.set_position(best)
        taken.append(_moved(start, best, scale))
        if lead > 12:
            _draw_leader(axes, row, best, (width, height), colour)


def _draw_leader(
    axes: Any, row: ReportRow, offset: tuple[float, float], size: tuple[float, float], colour: str
) -> None:
    """Draw a thin line from a point to the near edge of its label, sizes in points."""
    end = [shift - np.sign(shift) * extent / 2 for shift, extent in zip(offset, size, strict=True)]
    axes.annotate(
        "",
        (row.gflops_per_video, 100 * row.mean),
        textcoords="offset points",
        xytext=end,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
    )


def _taken(axes: Any, rows: Sequence[ReportRow]) -> list[Box]:
    """Return small boxes over everything drawn: markers, error bars, seeds, the lines between, the ceilings."""

    def pixels(row: ReportRow, accuracy: float) -> npt.NDArray[np.float64]:
        at: npt.NDArray[np.float64] = axes.transData.transform((row.gflops_per_video, 100 * accuracy))
        return at

    boxes = []
    for row in rows:
        error = row.standard_error or 0.0
        ends = [pixels(row, value) for value in (row.mean - error, row.mean + error, *row.top1)]
        low, high = min(end[1] for end in ends), max(end[1] for end in ends)
        x, y = pixels(row, row.mean)
        boxes += [(x - 5, y - 5, x + 5, y + 5), (x - 3, low - 1, x + 3, high + 1)]
    for members in _series(rows).values():
        for a, b in itertools.pairwise(members):
            for x, y in np.linspace(pixels(a, a.mean), pixels(b, b.mean), 60):
                boxes.append((x - 1, y - 1, x + 1, y + 1))
    for line in axes.lines:
        if line.get_transform() == axes.get_yaxis_transform():  # a ceiling, right across
            y = axes.transData.transform((axes.get_xlim()[0], line.get_ydata()[0]))[1]
            boxes.append((axes.bbox.x0, y - 1, axes.bbox.x1, y + 1))
    return boxes


def _moved(box: Any, offset: tuple[float, float], scale: float) -> Box:
    x, y = offset[0] * scale, offset[1] * scale
    return box.x0 + x, box.y0 + y, box.x1 + x, box.y1 + y


def _overlap(box: Box, taken: Sequence[Box], frame: Any) -> float:
    """Return the area of `box`, in pixels, that covers something or leaves the axes' frame."""
    left, bottom, right, top = np.array(taken).T
    wide = np.minimum(box[2], right) - np.maximum(box[0], left)
    high = np.minimum(box[3], top) - np.maximum(box[1], bottom)
    covered = float((np.maximum(wide, 0) * np.maximum(high, 0)).sum())
    inside_x = max(0.0, min(box[2], frame.x1) - max(box[0], frame.x0))
    inside_y = max(0.0, min(box[3], frame.y1) - max(box[1], frame.y0))
    outside: float = (box[2] - box[0]) * (box[3] - box[1]) - inside_x * inside_y
    return covered + 10 * outside
