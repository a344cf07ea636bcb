"""The report as one HTML page with inline style and figures: no script, and nothing loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ...terminal.text import counted
from .plot import INK, PAPER
from .rows import (
    HEADINGS,
    LEFT_ALIGNED,
    ClassGain,
    ReportMeta,
    ReportRow,
    cells,
    headed,
    pareto_front,
    percent,
    significant,
)

TEMPLATES = Path(__file__).with_name("templates")
MATRIX_CLASSES_MAX = 40  # a larger matrix is unreadable: its most frequent confusions are listed instead
LISTED_CONFUSIONS = 20


def page(rows: Sequence[ReportRow], meta: ReportMeta, figures: Mapping[str, str]) -> str:
    """Return the page: results, figures, tables, confusion, coverage, provenance; all text is escaped.

    `figures` are SVGs: "accuracy", "clips" if there is anything to draw, and those of `named_gains`.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"counted": counted, "percent": percent, "significant": significant}
    front = pareto_front(rows)
    return environment.get_template("page.html").render(
        meta=meta,
        headings=HEADINGS,
        words=LEFT_ALIGNED,
        groups=[
            (heading, [(front[number], cells(rows[number])) for number in members])
            for heading, members in headed(rows)
        ],
        drawings={name: _inline(svg, name) for name, svg in figures.items()},
        gains=named_gains(meta),
        matrix_classes_max=MATRIX_CLASSES_MAX,
        listed_confusions=LISTED_CONFUSIONS,
    )


def named_gains(meta: ReportMeta) -> list[tuple[str, ClassGain]]:
    """Return the gains that have anything to draw, with the names of their figures: gain, gain-2, …"""
    shown = [gain for gain in meta.gains if gain.class_names]
    return [("gain" if number == 1 else f"gain-{number}", gain) for number, gain in enumerate(shown, 1)]


def _inline(svg: str, name: str) -> str:
    """Return the text after `<svg` of a figure for a page: no background, ink in the page's text colour.

    `name` is prefixed to every id, so that figures of one page do not share ids.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg.partition("<svg")[2], flags=re.DOTALL)
    svg = re.sub(r'(id="|="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace(INK, "currentColor").replace(PAPER, "none")
