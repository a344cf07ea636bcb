"""The report's smaller charts: accuracy against the number of clips, and per-class gain over averaging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .plot import COLOURS, INK, LINES_MAX, PAPER, STYLE, any_script, draw_others, line_styles, svg_of
from .rows import ClassGain, ReportRow, grouped

GAIN_CLASSES_MAX = 40  # with more classes only both ends are shown
GAIN_ENDS = 15


def draw_by_clips(rows: Sequence[ReportRow]) -> str | None:
    """Draw top-1 accuracy (%) against N (log scale) as SVG, one line per aggregator and pattern.

    Returns None if no line has two points. 1:(N−1) is one pattern.
    """
    lines = {
        name: sorted(members, key=lambda row: row.clips)
        for name, members in grouped(rows, _line_name).items()
        if len({row.clips for row in members}) > 1
    }
    if not lines:
        return None
    panels: dict[str, dict[str, list[ReportRow]]] = {"": lines}
    if len(lines) > LINES_MAX:
        panels = {}
        for name, members in lines.items():
            panels.setdefault(members[0].aggregator, {})[name] = members
    figure, grid = _begin(8.4, 4.2 if len(panels) == 1 else 0.3 + 2.5 * -(-len(panels) // 2), len(panels))
    for axes, (title, shown) in zip(grid, panels.items(), strict=True):
        _draw_clips(axes, lines, title, shown)
    return _svg(figure)


def _line_name(row: ReportRow) -> str:
    return row.named(f"{row.aggregator} {'1:(N−1)' if row.first_only else row.pattern}")


def _draw_clips(
    axes: Any, every: dict[str, list[ReportRow]], title: str, lines: dict[str, list[ReportRow]]
) -> None:
    """Draw one panel's lines, and all other points in grey."""
    rows = [row for members in every.values() for row in members]
    draw_others(axes, [(row.clips, 100 * row.mean) for row in rows])
    for (name, members), (colour, marker, line) in zip(lines.items(), line_styles(), strict=False):
        clips, means = [row.clips for row in members], [100 * row.mean for row in members]
        errors = [100 * (row.standard_error or 0) for row in members]
        style = {"color": colour, "marker": marker, "linestyle": line, "markersize": 5.5, "linewidth": 1.3}
        label = name.removeprefix(title).strip()
        axes.errorbar(clips, means, yerr=errors, capsize=3, elinewidth=0.9, label=label, **style)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    counts = sorted({row.clips for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(clips) for clips in counts])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("clips a video, N (log scale)")
    axes.set_ylabel("top-1 accuracy, %")
    axes.grid(axis="y", color=INK, alpha=0.1, linewidth=0.6)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8, handlelength=3.2)


def draw_gain(gain: ClassGain) -> str:
    """Draw each class's gain, in points, as bars from the largest to the smallest, as SVG.

    With more than 40 classes the 15 largest and 15 smallest are shown.
    """
    points = 100 * (np.array(gain.gained) - np.array(gain.base))
    order = np.argsort(-points, kind="stable")
    if len(order) > GAIN_CLASSES_MAX:
        order = np.concatenate([order[:GAIN_ENDS], order[-GAIN_ENDS:]])
    figure, (axes,) = _begin(8.4, 1.1 + 0.2 * len(order))
    shown = points[order]
    places = np.arange(len(order))[::-1]
    losses = shown < 0
    axes.barh(places[~losses], shown[~losses], color=COLOURS[0], height=0.7)
    axes.barh(places[losses], shown[losses], color="none", edgecolor=INK, height=0.7, linewidth=1.0)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(places, [gain.class_names[number] for number in order], fontsize=8)
    axes.set_ylim(-0.8, len(order) - 0.2)
    axes.set_xlabel(f"share right by {gain.gained_name} less that by {gain.base_name}, points")
    return _svg(figure)


def _begin(width: float, height: float, panels: int = 1) -> tuple[Any, Any]:
    """Return a figure and its panels, two per line, with the same limits."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")
        across = min(panels, 2)
        grid = figure.subplots(-(-panels // across), across, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat:
            axes.set_facecolor("none")
            axes.xaxis.set_tick_params(labelbottom=True)
        for axes in grid.flat[panels:]:
            axes.remove()
        return figure, list(grid.flat[:panels])


def _svg(figure: Any) -> str:
    import matplotlib

    with matplotlib.rc_context(STYLE), any_script():
        return svg_of(figure, bbox_inches="tight")
