"""The page's templates: the page is what it was before there were any, tag by tag."""

from __future__ import annotations

import numpy as np
import pytest
from faster.aggregate.evaluation.confusion import ConfusionMatrix
from faster.aggregate.report.page import page
from faster.aggregate.report.rows import ClassGain, Confusion, PaperPoint, ReportMeta, ReportRow, Table
from pages import Page
from places import ROOT

ODD = '<b>bold</b> & "it\'s" {{ 1 + 1 }} {% raw %}'
FIGURE = """<?xml version="1.0"?>
<svg viewBox="0 0 9 9"><metadata>m</metadata><g id="a" style="fill: #1f2328"/><use href="#a"/></svg>
"""


def row(aggregator: str, pattern: str, *top1: float, gflops: float = 1.0, group: str = "") -> ReportRow:
    return ReportRow(
        aggregator=aggregator,
        pattern=pattern,
        clips=8,
        seeds=tuple(range(len(top1))),
        top1=top1,
        gflops_per_video=gflops,
        group=group,
    )


def confusion(classes: int, caption: str) -> Confusion:
    counts = np.arange(classes * classes).reshape(classes, classes) % 5
    counts[1] = 0  # a class without videos
    names = (ODD, *(f"class {number}" for number in range(1, classes)))
    return Confusion(counts=ConfusionMatrix.from_dense(counts), class_names=names, caption=caption)


ROWS = (
    row("average", "all-E", 0.5, gflops=12.3),
    row("fast-gru", "1:7", 0.6, 0.7, gflops=1.234),
    row("gru", "1:7", 0.1, gflops=0.0, group=ODD),
)
FULL = ReportMeta(
    title=ODD,
    lines=("made so", ODD),
    ceilings=((ODD, 1 / 3), ("chance", 0.01)),
    coverage=("9 of 10", ODD),
    confusions=(confusion(3, ODD), confusion(41, "of many classes")),
    tables=(
        Table(title=ODD, headings=("a", ODD, "c"), rows=(("x", ODD, "1"), ("y", "", "")), words=2, note=ODD),
        Table(title="without a note", headings=("a", "b"), rows=(("x", "1"),)),
    ),
    gains=(
        ClassGain(class_names=("a",), base=(0.1,), gained=(0.2,), base_name="average", gained_name=ODD),
        ClassGain(class_names=(), base=(), gained=(), base_name="nothing", gained_name="to draw"),
        ClassGain(class_names=("a",), base=(0.1,), gained=(0.2,), base_name=ODD, gained_name="gru"),
    ),
    failures=("failed", ODD),
    paper=(PaperPoint(name=ODD, gflops_per_video=960.04, top1=0.7215),),
)
FIGURES = dict.fromkeys(("accuracy", "clips", "gain", "gain-2"), FIGURE)
BARE = ReportMeta(title="bare")


@pytest.mark.parametrize(
    ("name", "meta", "figures"), [("full", FULL, FIGURES), ("bare", BARE, {"accuracy": FIGURE})]
)
def test_the_page_is_tag_by_tag_what_it_was(name: str, meta: ReportMeta, figures: dict[str, str]) -> None:
    before = (ROOT / "tests/data" / f"report_{name}.html").read_text(encoding="utf-8")
    assert Page(page(ROWS, meta, figures)).structure == Page(before).structure
