"""The report of a comparison: one page that needs no network, the plot as PNG and SVG, a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import StorageError
from .report_rows import Confusion, ReportMeta, ReportRow, pareto_front, table_text

__all__ = [
    "Confusion",
    "ReportFiles",
    "ReportMeta",
    "ReportRow",
    "pareto_front",
    "table_text",
    "write_report",
]


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """What `write_report` wrote, and the same table as text."""

    page: Path
    plot_png: Path
    plot_svg: Path
    table_text: str


def write_report(rows: Sequence[ReportRow], meta: ReportMeta, folder: Path) -> ReportFiles:
    """Write `index.html`, `accuracy.png` and `accuracy.svg` into `folder`, replacing those of an earlier report.

    The page holds its figure and style in itself. The same rows give the same bytes.

    Raises:
        ValueError: there is no row.
        StorageError: the folder cannot be written.
    """
    if not rows:
        raise ValueError("a report needs at least one row")
    from .report_page import page  # here, so that the types above cost no import of matplotlib
    from .report_plot import draw

    png, svg = draw(rows, meta)
    text = page(rows, meta, svg)
    files = ReportFiles(
        page=folder / "index.html",
        plot_png=folder / "accuracy.png",
        plot_svg=folder / "accuracy.svg",
        table_text=table_text(rows, meta),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.plot_png.write_bytes(png)
        files.plot_svg.write_text(svg, encoding="utf-8")
        files.page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write the report into {folder}: {error}") from error
    return files
