"""The report: its figures against plain sums, and a page that opens from disk and lets nothing in."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from faster.aggregate.report import (
    Confusion,
    ReportMeta,
    ReportRow,
    pareto_front,
    table_text,
    write_report,
)
from faster.errors import StorageError


def row(aggregator="fast-gru", pattern="1:7", top1=(0.5,), gflops=1.0, group="", clips=16):
    return ReportRow(
        aggregator=aggregator,
        pattern=pattern,
        clips=clips,
        seeds=tuple(range(len(top1))),
        top1=tuple(top1),
        gflops_per_video=gflops,
        group=group,
    )


ROWS = (
    row("average", "all-C", (0.425,), 0.0123),
    row("average", "all-E", (0.505,), 12.3),
    row("fast-gru", "1:7", (0.601, 0.632, 0.587), 1.234),
    row("fast-gru", "all-E", (0.7, 0.72, 0.74), 1234.5),
)
META = ReportMeta(
    title="A comparison",
    lines=("made by: faster sweep",),
    ceilings=(("averaging at best", 0.5), ("chance", 1 / 6)),
    coverage=("90 of 91 test videos, 1 missing",),
    confusion=Confusion(
        counts=np.array([[7, 2], [0, 0]]), class_names=("sweep", "grow"), caption="Where fast-gru errs"
    ),
)
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a page strictly: every tag closed in order; keeps its tables' texts, its text and its attributes."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text, self.tables = [], [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(ROWS, META, tmp_path_factory.mktemp("report") / "new" / "folder")


@pytest.fixture(scope="module")
def page(report):
    return Page(report.page.read_text(encoding="utf-8"))


def test_mean_and_standard_error_against_the_formula():
    values = (0.601, 0.632, 0.587)
    mean = sum(values) / 3
    spread = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
    assert row(top1=values).mean == pytest.approx(mean)
    assert row(top1=values).standard_error == pytest.approx(spread / 3**0.5)
    assert row(top1=(0.6,)).standard_error is None


def test_pareto_front_against_every_pair():
    rng = np.random.default_rng(0)
    rows = [row(top1=(a / 10,), gflops=float(c)) for a, c in rng.integers(1, 9, (60, 2))]
    for candidate, on_front in zip(rows, pareto_front(rows), strict=True):
        beaten = False
        for other in rows:
            cheaper, better = (
                other.gflops_per_video - candidate.gflops_per_video,
                other.mean - candidate.mean,
            )
            if (cheaper < 0 and better >= 0) or (cheaper <= 0 and better > 0):
                beaten = True
        assert on_front == (not beaten)
    assert 0 < sum(pareto_front(rows)) < len(rows)


def test_text_table():
    assert (
        table_text(ROWS, META)
        == """\
  aggregator  pattern  clips  GFLOPs/video  top-1 %  ± s.e.  seeds     each seed %
  ──────────  ───────  ─────  ────────────  ───────  ──────  ─────  ──────────────
* average     all-C       16        0.0123     42.5       –      1            42.5
  average     all-E       16          12.3     50.5       –      1            50.5
* fast-gru    1:7         16          1.23     60.7     1.3      3  60.1 63.2 58.7
* fast-gru    all-E       16          1234     72.0     1.2      3  70.0 72.0 74.0
* no row is both cheaper and as accurate; s.e.: standard error of the mean over the seeds
averaging at best: 50.0 %
chance: 16.7 %
90 of 91 test videos, 1 missing"""
    )


def test_groups_stand_together_in_the_order_they_came():
    rows = [row(group="16 frames"), row("gru", group="8 frames"), row("lstm", group="16 frames")]
    words = [line.strip(" *").split("  ")[0] for line in table_text(rows, ReportMeta(title="")).splitlines()]
    assert words[2:-1] == ["16 frames", "fast-gru", "lstm", "8 frames", "gru"]


def test_page_shows_every_figure(page):
    results, matrix = page.tables
    assert results[1:] == [
        ["average", "all-C", "16", "0.0123", "42.5", "–", "1", "42.5"],
        ["average", "all-E", "16", "12.3", "50.5", "–", "1", "50.5"],
        ["fast-gru", "1:7", "16", "1.23", "60.7", "1.3", "3", "60.1 63.2 58.7"],
        ["fast-gru", "all-E", "16", "1234", "72.0", "1.2", "3", "70.0 72.0 74.0"],
    ]
    assert matrix == [
        ["true \\ predicted", "1", "2"],
        ["1 · sweep", "7", "2"],
        ["2 · grow", "0", "0"],
    ]
    for text in (
        META.title,
        *META.lines,
        *META.coverage,
        META.confusion.caption,
        "averaging at best: 50.0 %",
    ):
        assert text in page.text
    assert page.tags.index("table") < page.tags.index("svg")


def test_page_loads_nothing_and_runs_nothing(report, page):
    text = report.page.read_text(encoding="utf-8")
    assert not {"script", "link", "iframe", "img", "object", "embed", "base", "form", "image"} & set(
        page.tags
    )
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
            assert value.startswith("#"), (tag, name, value)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", text))


def test_all_text_is_escaped(tmp_path):
    evil = '<script>alert(1)</script> & "it\'s" $x_1$'
    rows = [row(evil, evil, (0.5, 0.6), 1.0, group=evil)]
    meta = ReportMeta(
        title=evil,
        lines=(evil,),
        ceilings=((evil, 0.5),),
        coverage=(evil,),
        confusion=Confusion(counts=np.eye(2, dtype=np.int64), class_names=(evil, "b"), caption=evil),
    )
    files = write_report(rows, meta, tmp_path)
    page = Page(files.page.read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert page.tables[0][1] == [evil]
    assert page.tables[0][2][:2] == [evil, evil]
    assert page.text.count(evil) >= 8
    assert ("svg", "aria-label", f"Top-1 accuracy against GFLOPs a video: {evil}") in page.attributes
    ET.fromstring(files.plot_svg.read_text(encoding="utf-8"))


def test_plot_names_lines_patterns_and_ceilings(report):
    svg = ET.fromstring(report.plot_svg.read_text(encoding="utf-8"))
    texts = ["".join(element.itertext()).strip() for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    expected = [META.title, "average all-E", "fast-gru all-E", "all-C", "1:7", "averaging at best", "chance"]
    expected += ["top-1 accuracy, %", "cost of a video, GFLOPs (multiply-adds, log scale)"]
    for text in expected:
        assert any(text in found for found in texts), (text, texts)
    assert report.plot_png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_same_rows_same_bytes(report, tmp_path):
    again = write_report(ROWS, META, tmp_path)
    assert again.page.read_bytes() == report.page.read_bytes()
    assert again.plot_svg.read_bytes() == report.plot_svg.read_bytes()
    assert again.plot_png.read_bytes() == report.plot_png.read_bytes()


@pytest.mark.parametrize("values", [(0.0,), (1.0, 1.0), (0.5, 0.5, 0.5)])
def test_one_row_alone_and_accuracies_at_the_ends(tmp_path, values):
    files = write_report([row(top1=values)], ReportMeta(title="one"), tmp_path)
    assert len(Page(files.page.read_text(encoding="utf-8")).tables) == 1


def test_many_classes_are_shown_by_their_most_frequent_confusions(tmp_path):
    counts = np.eye(60, dtype=np.int64) * 5
    counts[3, 7], counts[9, 1] = 2, 4
    names = tuple(f"class{number}" for number in range(60))
    meta = ReportMeta(title="many", confusion=Confusion(counts=counts, class_names=names))
    page = Page(write_report([row()], meta, tmp_path).page.read_text(encoding="utf-8"))
    assert len(page.tables) == 1
    assert re.findall(r"class\d+ taken for class\d+: \d+ videos", page.text) == [
        "class9 taken for class1: 4 videos",
        "class3 taken for class7: 2 videos",
    ]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write the report into"):
        write_report(ROWS, META, tmp_path / "file" / "report")


def test_rows_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="3 seeds with 2 accuracies"):
        ReportRow(
            aggregator="gru",
            pattern="1:1",
            clips=2,
            seeds=(0, 1, 2),
            top1=(0.1, 0.2),
            gflops_per_video=1.0,
        )
    with pytest.raises(ValueError, match="accuracies lie in"):
        row(top1=(71.2,))
    with pytest.raises(ValueError, match="must be positive"):
        row(gflops=0.0)
    with pytest.raises(ValueError, match="for 3 class names"):
        Confusion(counts=np.eye(2, dtype=np.int64), class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="at least one row"):
        write_report([], META, tmp_path)
