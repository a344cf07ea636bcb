"""Write a report: one page that works offline, the plot as PNG and SVG, a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import StorageError
from ...runtime.atomic import replacing
from ...runtime.file_names import require_text
from .rows import Confusion, ReportMeta, ReportRow, pareto_front, table_text

__all__ = [
    "Confusion",
    "ReportFiles",
    "ReportMeta",
    "ReportRow",
    "pareto_front",
    "table_text",
    "write_page",
    "write_report",
]


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """The files of `write_page`, and the same table as text; `further` holds figures that had data."""

    page: Path
    plot_png: Path
    plot_svg: Path
    table_text: str
    further: tuple[Path, ...] = ()


def write_page(
    rows: Sequence[ReportRow], meta: ReportMeta, folder: Path, *, page_name: str = "index.html"
) -> ReportFiles:
    """Write a page and its figures into `folder`, replacing those of an earlier report.

    The figures are `accuracy.png` and `accuracy.svg`, and `clips.svg` and `gain.svg` (for further groups
    `gain-2.svg` …) if there is anything to draw. If the page is not named index.html, their names start with
    its stem, as in `report-accuracy.svg`. The page itself contains its figures and style. The same rows give
    the same bytes.

    Raises:
        ValueError: there is no row.
        StorageError: the folder cannot be written.
    """
    if not rows:
        raise ValueError("a report needs at least one row")
    from .charts import draw_by_clips, draw_gain
    from .page import named_gains, page  # here, so that the types above do not import matplotlib
    from .plot import draw

    png, accuracy = draw(rows, meta)
    figures = {"accuracy": accuracy}
    if (by_clips := draw_by_clips(rows)) is not None:
        figures["clips"] = by_clips
    for name, gain in named_gains(meta):
        figures[name] = draw_gain(gain)
    prefix = "" if page_name == "index.html" else f"{Path(page_name).stem}-"
    texts = {folder / f"{prefix}{name}.svg": svg for name, svg in figures.items()}
    files = ReportFiles(
        page=folder / page_name,
        plot_png=folder / f"{prefix}accuracy.png",
        plot_svg=folder / f"{prefix}accuracy.svg",
        table_text=table_text(rows, meta),
        further=tuple(texts)[1:],
    )
    texts[files.page] = page(rows, meta, figures)
    try:
        contents = {files.plot_png: png} | {path: text.encode() for path, text in texts.items()}
        for path, data in contents.items():
            with replacing(path) as file:
                file.write(data)
    except OSError as error:
        raise StorageError(f"cannot write the report into {folder}: {error}") from error
    return files


def write_report(
    paths: Sequence[str | Path],
    *,
    out: str | Path = "report.html",
    title: str | None = None,
    paper: bool = False,
) -> ReportFiles:
    """Write one page about the runs and sweeps in `paths`, and its figures in the same folder.

    `paper` draws the paper's own Kinetics points behind the rows.
    Raises RunError if a path is no finished run or sweep, StorageError if the page cannot be written.
    """
    from .assemble import report_of

    require_text(out, "--out")
    rows, meta = report_of(paths, title=title, paper=paper)
    return write_page(rows, meta, Path(out).parent, page_name=Path(out).name)
