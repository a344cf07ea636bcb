"""Place labels next to their points without covering anything: each is tried at several places."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .rows import ReportRow, series

Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


def place_labels(
    axes: Any,
    rows: Sequence[ReportRow],
    labels: Sequence[tuple[ReportRow, str, str, bool]],
    drawn: Mapping[ReportRow, float],
) -> None:
    """Put each label next to its point, where it covers nothing.

    Names of lines come first and are never left out. A pattern's label without a free place is left out: the
    table has it.
    """
    taken = _taken(axes, rows, drawn)
    scale = axes.figure.dpi / 72
    for row, text, colour, names_line in sorted(labels, key=lambda label: not label[3]):
        note = axes.annotate(
            text,
            (drawn[row], 100 * row.mean),
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
            _draw_leader(axes, (drawn[row], 100 * row.mean), best, (width, height), colour)


def _draw_leader(
    axes: Any, point: tuple[float, float], offset: tuple[float, float], size: tuple[float, float], colour: str
) -> None:
    """Draw a thin line from a point to the near edge of its label; sizes in points."""
    end = [shift - np.sign(shift) * extent / 2 for shift, extent in zip(offset, size, strict=True)]
    axes.annotate(
        "",
        point,
        textcoords="offset points",
        xytext=end,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
    )


def _taken(axes: Any, rows: Sequence[ReportRow], drawn: Mapping[ReportRow, float]) -> list[Box]:
    """Return small boxes over all that is drawn: markers, error bars, seeds, connecting lines, ceilings."""

    def pixels(row: ReportRow, accuracy: float) -> npt.NDArray[np.float64]:
        at: npt.NDArray[np.float64] = axes.transData.transform((drawn[row], 100 * accuracy))
        return at

    boxes = []
    for row in rows:
        error = row.standard_error or 0.0
        ends = [pixels(row, value) for value in (row.mean - error, row.mean + error, *row.top1)]
        low, high = min(end[1] for end in ends), max(end[1] for end in ends)
        x, y = pixels(row, row.mean)
        boxes += [(x - 5, y - 5, x + 5, y + 5), (x - 3, low - 1, x + 3, high + 1)]
    for members in series(rows).values():
        for a, b in itertools.pairwise(members):
            for x, y in np.linspace(pixels(a, a.mean), pixels(b, b.mean), 60):
                boxes.append((x - 1, y - 1, x + 1, y + 1))
    for line in axes.lines:
        if line.get_transform() == axes.get_yaxis_transform():  # a ceiling, across all axes
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
