"""The report: its figures against plain sums, and a page that opens from disk and lets nothing in."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from faster.aggregate.evaluation.confusion import ConfusionMatrix
from faster.aggregate.report.assemble import paper_points
from faster.aggregate.report.plot import without_the_usual
from faster.aggregate.report.rows import ClassGain, series
from faster.aggregate.report.tables import paper_tables
from faster.aggregate.report.write import (
    Confusion,
    ReportMeta,
    ReportRow,
    pareto_front,
    table_text,
    write_page,
)
from faster.errors import StorageError
from pages import Page


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
    confusions=(
        Confusion(
            counts=ConfusionMatrix.from_dense([[7, 2], [0, 0]]),
            class_names=("sweep", "grow"),
            caption="Where fast-gru errs",
        ),
    ),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_page(ROWS, META, tmp_path_factory.mktemp("report") / "new" / "folder")


@pytest.fixture(scope="module")
def page(written):
    return Page(written.page.read_text(encoding="utf-8"))


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
* no row of the same videos is both cheaper and as accurate; s.e.: standard error of the mean over the seeds
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
        META.confusions[0].caption,
        "averaging at best: 50.0 %",
    ):
        assert text in page.text
    assert page.tags.index("table") < page.tags.index("svg")


def test_page_loads_nothing_and_runs_nothing(written, page):
    text = written.page.read_text(encoding="utf-8")
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
        confusions=(
            Confusion(
                counts=ConfusionMatrix.from_dense(np.eye(2, dtype=np.int64)),
                class_names=(evil, "b"),
                caption=evil,
            ),
        ),
    )
    files = write_page(rows, meta, tmp_path)
    page = Page(files.page.read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert page.tables[0][1] == [evil]
    assert page.tables[0][2][:2] == [evil, evil]
    assert page.text.count(evil) >= 8
    assert ("svg", "aria-label", f"Top-1 accuracy against GFLOPs a video: {evil}") in page.attributes
    ET.fromstring(files.plot_svg.read_text(encoding="utf-8"))


def test_plot_names_lines_patterns_and_ceilings(written):
    svg = ET.fromstring(written.plot_svg.read_text(encoding="utf-8"))
    texts = ["".join(element.itertext()).strip() for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    expected = [META.title, "average all-E", "fast-gru all-E", "all-C", "1:7", "averaging at best", "chance"]
    expected += ["top-1 accuracy, %", "cost of a video, GFLOPs (multiply-adds, log scale)"]
    for text in expected:
        assert any(text in found for found in texts), (text, texts)
    assert written.plot_png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_same_rows_same_bytes(written, tmp_path):
    again = write_page(ROWS, META, tmp_path)
    assert again.page.read_bytes() == written.page.read_bytes()
    assert again.plot_svg.read_bytes() == written.plot_svg.read_bytes()
    assert again.plot_png.read_bytes() == written.plot_png.read_bytes()


@pytest.mark.parametrize("values", [(0.0,), (1.0, 1.0), (0.5, 0.5, 0.5)])
def test_one_row_alone_and_accuracies_at_the_ends(tmp_path, values):
    files = write_page([row(top1=values)], ReportMeta(title="one"), tmp_path)
    assert len(Page(files.page.read_text(encoding="utf-8")).tables) == 1


def test_many_classes_are_shown_by_their_most_frequent_confusions(tmp_path):
    counts = np.eye(60, dtype=np.int64) * 5
    counts[3, 7], counts[9, 1] = 2, 4
    names = tuple(f"class{number}" for number in range(60))
    meta = ReportMeta(
        title="many", confusions=(Confusion(counts=ConfusionMatrix.from_dense(counts), class_names=names),)
    )
    page = Page(write_page([row()], meta, tmp_path).page.read_text(encoding="utf-8"))
    assert len(page.tables) == 1
    assert re.findall(r"class\d+ taken for class\d+: \d+ videos", page.text) == [
        "class9 taken for class1: 4 videos",
        "class3 taken for class7: 2 videos",
    ]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write the report into"):
        write_page(ROWS, META, tmp_path / "file" / "report")


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
    with pytest.raises(ValueError, match="must be finite and at least 0"):
        row(gflops=-1.0)
    with pytest.raises(ValueError, match="for 3 class names"):
        Confusion(counts=ConfusionMatrix.from_dense(np.eye(2, dtype=np.int64)), class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="at least one row"):
        write_page([], META, tmp_path)


def grid_rows():
    """Two lengths and three patterns of FAST-GRU, averaging, and 1:(N−1) at three N."""
    rows = []
    for aggregator, pattern, clips, frames, top1, gflops in (
        ("average", "all-E", 8, 8, (0.70,), 80.0),
        ("average", "all-C", 8, 8, (0.63,), 8.0),
        ("average", "1:7", 8, 8, (0.64,), 17.0),
        ("fast-gru", "all-E", 8, 8, (0.72, 0.74), 82.0),
        ("fast-gru", "1:3", 8, 8, (0.70, 0.71), 28.0),
        ("fast-gru", "1:7", 8, 8, (0.66, 0.68), 19.0),
        ("fast-gru", "1:1", 2, 8, (0.61, 0.62), 12.0),
        ("fast-gru", "1:3", 4, 8, (0.65, 0.65), 15.0),
        ("gru", "1:3", 4, 8, (0.64, 0.66), 14.0),
        ("gru", "1:7", 8, 8, (0.65, 0.67), 18.0),
        ("fast-gru", "all-E", 4, 16, (0.73, 0.75), 81.0),
        ("fast-gru", "1:3", 4, 16, (0.71, 0.73), 27.0),
    ):
        expensive = "" if pattern == "all-C" else "big"
        cheap = "" if pattern == "all-E" else "small"
        rows.append(
            ReportRow(
                aggregator=aggregator,
                pattern=pattern,
                clips=clips,
                seeds=tuple(range(len(top1))),
                top1=top1,
                gflops_per_video=gflops,
                mixture=f"{frames} frames",
                clip_frames=frames,
                expensive=expensive,
                cheap=cheap,
            )
        )
    return rows


def test_tables_in_the_papers_layouts():
    tables = {table.title.split(",")[0].split(":")[0]: table for table in paper_tables(grid_rows())}
    assert tables["As Table 2"].rows == (
        ("big", "8-frames", "70.0", "10.0 × 8"),
        ("small", "8-frames", "63.0", "1.00 × 8"),
    )
    assert tables["As Table 3"].headings == ("aggregator", "2 clips", "4 clips", "8 clips")
    assert tables["As Table 3"].rows == (
        ("average", "", "", "64.0"),
        ("fast-gru", "61.5 ± 0.5", "65.0 ± 0.0", "67.0 ± 1.0"),
        ("gru", "", "65.0 ± 1.0", "66.0 ± 1.0"),
    )
    of_fast_gru = next(t for t in paper_tables(grid_rows()) if t.title.startswith("As Table 4: fast-gru"))
    assert of_fast_gru.headings[1:] == (
        "8-frames×8-clips",
        "GFLOPs",
        "16-frames×4-clips",
        "GFLOPs",
    )
    assert of_fast_gru.rows == (
        ("all-E", "73.0 ± 1.0", "82.0", "74.0 ± 1.0", "81.0"),
        ("1:3", "70.5 ± 0.5", "28.0", "72.0 ± 1.0", "27.0"),
        ("1:7", "67.0 ± 1.0", "19.0", "", ""),
    )
    assert not any(table.title.startswith("As Table 6") for table in tables.values())


def test_table_6_sets_expensive_models_side_by_side():
    rows = []
    for model, gain in (("r2plus1d50", 0.0), ("r3d50", 0.01)):
        for aggregator, pattern in (("average", "all-E"), ("fast-gru", "1:1"), ("fast-gru", "1:3")):
            rows.append(
                ReportRow(
                    aggregator=aggregator,
                    pattern=pattern,
                    clips=8,
                    seeds=(0,),
                    top1=(0.74 + gain,),
                    gflops_per_video=500.0 + 100 * gain,
                    clip_frames=32,
                    expensive=model,
                    cheap="" if pattern == "all-E" else "r2d26",
                )
            )
    table = next(t for t in paper_tables(rows) if t.title == "As Table 6: 32-frames×8-clips, C = r2d26")
    assert table.headings == ("#E:#C", "r2plus1d50", "GFLOPs", "r3d50", "GFLOPs")
    assert table.rows[0] == ("all-E (average)", "74.0", "500", "75.0", "501")
    assert [line[0] for line in table.rows] == ["all-E (average)", "1:1 (fast-gru)", "1:3 (fast-gru)"]


def test_lines_run_along_patterns_or_along_clips():
    names = {name: [(r.pattern, r.clips) for r in members] for name, members in series(grid_rows()).items()}
    assert names["average (8 frames)"] == [("all-C", 8), ("1:7", 8), ("all-E", 8)]
    assert names["fast-gru 1:(N−1) (8 frames)"] == [("1:1", 2), ("1:3", 4), ("1:7", 8)]
    assert names["fast-gru (16 frames)"] == [("1:3", 4), ("all-E", 4)]
    assert sum(map(len, names.values())) == len(grid_rows())


def test_markers_at_one_place_are_drawn_apart(tmp_path):
    """Equal costs and accuracies: every marker's centre is at least a marker's width from each other's."""
    rows = [row(name, "1:3", (0.9, 0.9), 0.0915 + i / 1e4) for i, name in enumerate("abcd")] + [
        row("e", gflops=2.0)
    ]
    svg = ET.fromstring(
        write_page(rows, ReportMeta(title="t"), tmp_path).plot_svg.read_text(encoding="utf-8")
    )
    centres = []
    for element in svg.iter("{http://www.w3.org/2000/svg}g"):
        if element.get("id", "").startswith("line2d"):
            uses = list(element.iter("{http://www.w3.org/2000/svg}use"))
            path = element.find("{http://www.w3.org/2000/svg}path")
            if (
                len(uses) == 1
                and path is not None
                and element.find("{http://www.w3.org/2000/svg}defs") is not None
            ):
                centres.append((float(uses[0].get("x")), float(uses[0].get("y"))))
    assert len(centres) >= 5
    for i, (x, y) in enumerate(centres):
        for a, b in centres[:i]:
            assert max(abs(x - a), abs(y - b)) > 8


def test_many_lines_get_a_panel_an_aggregator(tmp_path):
    rows = [
        row(f"gru{i}", pattern, (0.5 + i / 50, 0.6), 2.0**n, clips=n)
        for i in range(5)
        for pattern, n in (("all-E", 2), ("all-E", 4), ("all-C", 2), ("all-C", 4))
    ]
    write_page(rows, ReportMeta(title="t"), tmp_path)
    for name, each in (("accuracy", 2), ("clips", 2)):
        svg = ET.fromstring((tmp_path / f"{name}.svg").read_text(encoding="utf-8"))
        texts = ["".join(e.itertext()).strip() for e in svg.iter("{http://www.w3.org/2000/svg}text")]
        assert [text for text in texts if text.startswith("gru")] == [f"gru{i}" for i in range(5)], name
        assert sum(text.startswith(("all-E", "all-C")) for text in texts) == 5 * each, name


def test_class_gain_and_paper_points_are_drawn(tmp_path):
    gain = ClassGain(
        class_names=("jump", "run", "sit"),
        base=(0.5, 0.9, 0.4),
        gained=(0.75, 0.8, 0.4),
        base_name="average",
        gained_name="fast-gru 1:7 of 8 clips",
    )
    meta = ReportMeta(title="t", gains=(gain,), paper=paper_points(), failures=("failed: gru: why",))
    files = write_page(grid_rows(), meta, tmp_path, page_name="r.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "r-accuracy.png",
        "r-accuracy.svg",
        "r-clips.svg",
        "r-gain.svg",
        "r.html",
    ]
    page = Page(files.page.read_text(encoding="utf-8"))
    for text in (
        "class by class",
        "jump",
        "points",
        "clips a video, N",
        "failed: gru: why",
        "Table 4: 16-frames×16-clips, 1:7: 71.7 %",
    ):
        assert text in page.text, text
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for _, name, value in page.attributes if name == "xlink:href"}
    assert targets <= set(ids)


def test_the_papers_points_are_those_it_prints():
    points = {(round(point.gflops_per_video, 1), round(100 * point.top1, 1)) for point in paper_points()}
    assert {
        (960.0, 70.1),
        (982.4, 70.6),
        (230.4, 71.7),
        (550.4, 74.6),
        (542.1, 75.3),
        (150.4, 67.2),
    } <= points
    assert len(points) == len(paper_points())


def test_panels_leave_out_what_most_rows_are_and_say_it():
    named = [
        replace(row(), mixture="a + b", setting="its pattern"),
        replace(row(pattern="1:3"), mixture="a + b", setting="its pattern"),
        replace(row(), mixture="a + b", setting="any pattern"),
        replace(row(aggregator="average"), mixture="c"),
        replace(row(aggregator="gru"), mixture="a + b", setting="its pattern"),
        replace(row(aggregator="gru"), mixture="a + b"),  # which the one before would look like
    ]
    shown, said = without_the_usual(named)
    assert said == "a + b, its pattern"
    assert [(each.mixture, each.setting) for each in shown] == [
        ("", ""),
        ("", ""),
        ("", "any pattern"),
        ("c", ""),
        ("", "its pattern"),
        ("", ""),
    ]
    assert without_the_usual(named[:2]) == (named[:2], "")
