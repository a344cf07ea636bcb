"""Accuracy against cost as one figure: error bars, Pareto front, ceilings, and a label at each item.

Series differ in marker, line style and colour, so the figure is readable in black and white.
"""

from __future__ import annotations

import io
import itertools
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from .labels import place_labels
from .rows import ReportMeta, ReportRow, grouped, pareto_front, percent, series

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
    "svg.hashsalt": "faster",  # the same ids each time, and so the same file
}
LINES_MAX = 8  # with more lines each aggregator gets a panel
SIDE_BY_SIDE_MAX = 4
MARKER_POINTS = 8.5  # closer markers cover each other


@contextmanager
def any_script() -> Iterator[None]:
    """Suppress warnings about letters missing from the font: an SVG's viewer uses its own fonts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def draw(rows: Sequence[ReportRow], meta: ReportMeta) -> tuple[bytes, str]:
    """Draw top-1 accuracy (%) against GFLOPs per video (log): (PNG at 200 dpi, SVG), both on white."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), any_script():
        figure = Figure(figsize=(8.4, 5.0), facecolor=PAPER)
        unknown = [row for row in rows if row.gflops_per_video == 0]
        rows = [row for row in rows if row.gflops_per_video > 0]
        if not rows:
            figure.text(0.5, 0.45, "no row has a known cost", ha="center")
        elif len(series(rows)) > LINES_MAX:
            _draw_panels(figure, rows, meta)
        else:
            axes = figure.add_axes((0.08, 0.11, 0.74 if meta.ceilings else 0.89, 0.73), facecolor="none")
            _draw_rows(axes, rows, rows, meta)
            _draw_ceilings(axes, meta)
        height = figure.get_figheight()
        figure.text(0.08, 1 - 0.25 / height, meta.title, fontsize=12, fontweight="bold")
        figure.text(0.08, 1 - 0.575 / height, _legend(meta, unknown), linespacing=1.3, fontsize=8, alpha=0.75)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=200)
        return png.getvalue(), svg_of(figure)


def svg_of(figure: Any, **options: Any) -> str:
    """Return a figure as SVG, the same text each time."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, **options)
    return text.getvalue()


def line_styles() -> Iterator[tuple[str, str, Any]]:
    """Yield (colour, marker, line) for one line after the other."""
    return zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), itertools.cycle(LINES), strict=True)


def draw_others(axes: Any, points: Sequence[tuple[float, float]]) -> None:
    """Draw the other panels' points, as small grey dots behind a panel's own."""
    x, y = [x for x, _ in points], [y for _, y in points]
    axes.plot(x, y, linestyle="none", marker=".", markersize=3.5, color=INK, alpha=0.22, zorder=1)


def _legend(meta: ReportMeta, unknown: Sequence[ReportRow]) -> str:
    return (
        "mean over seeds ± standard error; small dots: single seeds; grey band: "
        "Pareto front of one set of videos; markers\n"
        "that would cover each other stand side by side"
        + ("; open circles: the paper, on Kinetics-400" if meta.paper else "")
        + (f"; left out: {len(unknown)} of 0 GFLOPs, cost unknown" if unknown else "")
    )


def _draw_panels(figure: Any, rows: Sequence[ReportRow], meta: ReportMeta) -> None:
    """Draw one panel per aggregator, all on the same axes; ceilings are only in the table."""
    rows, usual = without_the_usual(rows)
    panels = grouped(rows, lambda row: row.aggregator)
    lines = -(-len(panels) // 2)
    figure.set_size_inches(8.4, 1.05 + 2.75 * lines)
    height = figure.get_figheight()
    grid = figure.subplots(lines, 2, squeeze=False)
    figure.subplots_adjust(
        left=0.08, right=0.985, bottom=0.5 / height, top=1 - 1.15 / height, wspace=0.14, hspace=0.32
    )
    without_ceilings = replace(meta, ceilings=())
    others = [(row.gflops_per_video, 100 * row.mean) for row in rows]
    for place, (name, members) in enumerate(panels.items()):
        axes = grid[place // 2][place % 2]
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
        draw_others(axes, others)
        _draw_rows(axes, members, rows, without_ceilings)
        if place % 2:
            axes.set_ylabel("")
        if place + 2 < len(panels):
            axes.set_xlabel("")
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    if usual:
        figure.text(0.08, 1 - 0.74 / height, f"where nothing else is said: {usual}", fontsize=8, alpha=0.75)


def without_the_usual(rows: Sequence[ReportRow]) -> tuple[list[ReportRow], str]:
    """Return the rows without the most common mixture and setting, and these two as text.

    This keeps names short. A row keeps its own if it would otherwise look like another of its aggregator.
    """
    said = []
    rows = list(rows)
    for name in ("mixture", "setting"):
        counts = Counter(value for row in rows if (value := getattr(row, name)))
        if len(counts) < 2:
            continue
        usual, _ = counts.most_common(1)[0]
        nothing: dict[str, Any] = {name: ""}
        without = {row.aggregator for row in rows if not getattr(row, name)}
        rows = [
            replace(row, **nothing) if getattr(row, name) == usual and row.aggregator not in without else row
            for row in rows
        ]
        said.append(usual)
    return rows, ", ".join(said)


def _draw_rows(axes: Any, rows: Sequence[ReportRow], every: Sequence[ReportRow], meta: ReportMeta) -> None:
    """Draw some rows, on axes with room for every row, with the front of every row."""
    _set_axes(axes, every, meta)
    _draw_front(axes, every)
    _draw_paper(axes, meta)
    drawn = _side_by_side(axes, rows)
    labels = _draw_series(axes, rows, drawn, alone=len(rows) < len(every))
    axes.figure.canvas.draw()  # fixes the pixel positions that the labels need
    place_labels(axes, rows, labels, drawn)


def _set_axes(axes: Any, rows: Sequence[ReportRow], meta: ReportMeta) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    costs = [row.gflops_per_video for row in rows] + [point.gflops_per_video for point in meta.paper]
    span = max(max(costs) / min(costs), 2.0)
    axes.set_xlim(min(costs) / span**0.1, max(costs) * span**0.25)  # room at the right for the lines' names
    # Less than a decade of costs needs finer ticks, or there would be only one.
    subs = (1,) if span > 300 else (1, 2, 5) if span > 10 else (1, 1.5, *range(2, 10))
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("cost of a video, GFLOPs (multiply-adds, log scale)")

    heights = [100 * value for row in rows for value in row.top1]
    for row in rows:
        heights += [100 * (row.mean + sign * (row.standard_error or 0)) for sign in (-1, 1)]
    heights += [100 * value for _, value in meta.ceilings] + [100 * point.top1 for point in meta.paper]
    pad = 0.08 * max(max(heights) - min(heights), 5)
    axes.set_ylim(max(min(heights) - pad, -2), min(max(heights) + pad, 102))
    axes.set_ylabel("top-1 accuracy, %")
    axes.grid(axis="y", color=INK, alpha=0.1, linewidth=0.6)


def _draw_front(axes: Any, rows: Sequence[ReportRow]) -> None:
    """Draw each group's front, extended to the most expensive row."""
    on_front = [row for row, on in zip(rows, pareto_front(rows), strict=True) if on]
    for group in dict.fromkeys(row.group for row in rows):
        front = sorted({(row.gflops_per_video, 100 * row.mean) for row in on_front if row.group == group})
        x = [cost for cost, _ in front] + [max(row.gflops_per_video for row in rows)]
        y = [accuracy for _, accuracy in front] + [front[-1][1]]
        axes.plot(
            x, y, drawstyle="steps-post", color=INK, alpha=0.15, linewidth=5, solid_capstyle="butt", zorder=1
        )


def _side_by_side(axes: Any, rows: Sequence[ReportRow]) -> dict[ReportRow, float]:
    """Return the x position of each row: its cost, or side by side if markers would cover each other.

    A cluster of more than four stays in place: its last marker would be too far from its cost.
    """
    at = np.array([axes.transData.transform((row.gflops_per_video, 100 * row.mean)) for row in rows])
    apart = MARKER_POINTS * axes.figure.dpi / 72
    clusters: list[list[int]] = []
    for number in range(len(rows)):
        near = [c for c in clusters if (np.abs(at[c] - at[number]) < apart).all(axis=1).any()]
        clusters = [c for c in clusters if c not in near] + [[number, *itertools.chain(*near)]]
    drawn = {row: row.gflops_per_video for row in rows}
    for cluster in clusters:
        if 1 < len(cluster) <= SIDE_BY_SIDE_MAX:
            cluster.sort(key=lambda number: (at[number][0], number))
            centre = at[cluster].mean(axis=0)
            for place, number in enumerate(cluster):
                x = centre[0] + (place - (len(cluster) - 1) / 2) * apart
                drawn[rows[number]] = float(axes.transData.inverted().transform((x, centre[1]))[0])
    return drawn


def _draw_paper(axes: Any, meta: ReportMeta) -> None:
    """Draw the paper's points as small open grey circles; their names are only in the table."""
    if meta.paper:
        axes.plot(
            [point.gflops_per_video for point in meta.paper],
            [100 * point.top1 for point in meta.paper],
            linestyle="none",
            marker="o",
            markersize=4.5,
            markerfacecolor="none",
            markeredgecolor=INK,
            alpha=0.45,
            zorder=1.5,
        )


def _draw_series(
    axes: Any, rows: Sequence[ReportRow], drawn: Mapping[ReportRow, float], *, alone: bool
) -> list[tuple[ReportRow, str, str, bool]]:
    """Draw lines, markers, error bars and seeds; return (row, text, colour, names its line) for the labels.

    `alone` leaves out the aggregator's name, because the panel has it.
    """
    one_n = len({row.clips for row in rows}) == 1
    labels = []
    for (name, members), (colour, marker, line) in zip(series(rows).items(), line_styles(), strict=False):
        x, y = [drawn[row] for row in members], [100 * row.mean for row in members]
        axes.plot(x, y, color=colour, linestyle=line, linewidth=1.3, marker=marker, markersize=6.5, zorder=4)
        for row in members:
            cost, error = drawn[row], row.standard_error
            if error is not None:
                axes.errorbar(
                    cost, 100 * row.mean, yerr=100 * error, color=colour, capsize=3.5, linewidth=1.1, zorder=3
                )
                seeds = [100 * value for value in row.top1]
                axes.plot([cost] * len(seeds), seeds, ".", color=colour, alpha=0.45, markersize=3.5, zorder=2)
            along_clips = name.split(" (")[0] != row.aggregator
            text = f"×{row.clips}" if along_clips else row.pattern if one_n else f"{row.pattern} ×{row.clips}"
            last = row is members[-1]
            shown = name.removeprefix(row.aggregator).strip() if alone else name
            labels.append((row, f"{shown} {text}".strip() if last else text, colour, last))
    return labels


def _draw_ceilings(axes: Any, meta: ReportMeta) -> None:
    """Draw the ceilings as dotted lines, named at the right edge without overlap."""
    names = []
    for label, value in sorted(meta.ceilings, key=lambda ceiling: ceiling[1]):
        axes.axhline(100 * value, color=INK, linestyle=(0, (1, 2)), linewidth=1.0, alpha=0.8, zorder=2)
        names.append(
            axes.annotate(
                f"{label}\n{percent(value)} %",
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
