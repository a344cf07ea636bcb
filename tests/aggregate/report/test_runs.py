"""Which runs make a row, what rows are called and compared with, and what is said of damaged runs."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from faster.aggregate.commands import train_agg_command
from faster.aggregate.report.assemble import report_of
from faster.aggregate.report.rows import ReportRow, pareto_front
from faster.aggregate.report.tables import paper_tables
from faster.aggregate.report.write import write_report
from faster.aggregate.sweep.grid import Grid
from faster.aggregate.sweep.run import SweepConfig, run_sweep
from faster.aggregate.train import TrainConfig, train_agg
from faster.errors import RunError
from stores import make_spec, make_store, make_videos

GRU = "gru-1-1-n2-l8-dear-cheap-s"


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The finished runs of averaging and of two seeds of gru, on one small store."""
    folder = tmp_path_factory.mktemp("swept")
    specs = [make_spec("dear", clips=2), make_spec("cheap", clips=2)]
    make_store(folder / "small.zarr", specs, make_videos(36), gflops={"dear": 9.0, "cheap": 1.0})
    config = SweepConfig(
        training=TrainConfig(store=folder / "small.zarr", epochs=1, batch_size=16, device="cpu"),
        grid=Grid(aggregators=("average", "gru"), patterns=("1:1",), clips=(2,), seeds=2),
        out=folder / "sweep",
    )
    return run_sweep(config, progress=False).folder / "cells"


def put(values, path, value):
    """Set what stands at a dotted path, or remove it where `value` is ..."""
    *way, last = path.split(".")
    for name in way:
        values = values[name]
    if value is ...:
        del values[last]
    else:
        values[last] = value


def copied(run, to, *, config=(), result=()):
    """A copy of a finished run with some values changed."""
    shutil.copytree(run, to)
    for name, changes in (("config.json", dict(config)), ("result.json", dict(result))):
        values = json.loads((to / name).read_text(encoding="utf-8"))
        for path, value in changes.items():
            put(values, path, value)
        (to / name).write_text(json.dumps(values), encoding="utf-8")
    return to


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("training.learning_rate", 0.5, "learning rate 0.5"),
        ("training.epochs", 7, "epochs 7"),
        ("label_smoothing", 0.1, "label smoothing 0.1"),
        ("balance_classes", True, "balance classes True"),
        ("dropout", 0.3, "dropout 0.3"),
        ("validation_share", 0.4, "validation share 0.4"),
        ("init", {"run": "/a/before", "sha256": "12" * 32}, "init before 12121212"),
    ],
)
def test_runs_of_different_settings_are_rows_of_their_own(cells, tmp_path, path, value, words):
    other = copied(cells / f"{GRU}1", tmp_path / "other", config={path: value})
    rows, _ = report_of([cells / f"{GRU}0", other])
    assert [row.seeds for row in rows] == [(0,), (1,)]
    assert rows[1].setting == words and rows[0].setting not in ("", words)
    assert [row.group for row in rows] == ["", ""]  # the same videos: still compared
    rows, _ = report_of([cells / f"{GRU}0", cells / f"{GRU}1"])
    assert [(row.seeds, row.setting) for row in rows] == [((0, 1), "")]


def test_averaging_that_trains_nothing_is_the_same_under_all_settings(cells, tmp_path):
    average = next(cells.glob("average-*"))
    other = copied(cells / f"{GRU}1", tmp_path / "other", config={"training.epochs": 7})
    rows, meta = report_of([average, cells / f"{GRU}0", other])
    assert [row.setting for row in rows] == ["", "epochs 1", "epochs 7"]
    assert [gain.base_name for gain in meta.gains] == ["average"]


@pytest.mark.parametrize(
    ("config", "result"),
    [
        ({"store_fingerprint": "f" * 64}, {}),
        ({"videos.segments": ["other"]}, {}),
        ({"videos.report": 8}, {}),
        ({}, {"coverage.whole": 8}),
        ({}, {"confusion": [[9, 0, 0], [0, 0, 0], [0, 0, 0]]}),
        ({}, {"part": "val"}),
    ],
)
def test_seeds_of_different_videos_are_not_averaged(cells, tmp_path, config, result):
    other = copied(cells / f"{GRU}1", tmp_path / "other", config=config, result=result)
    rows, meta = report_of([cells / f"{GRU}0", other])
    assert [row.seeds for row in rows] == [(0,), (1,)]
    assert rows[0].group != rows[1].group and rows[0].setting == rows[1].setting == ""
    assert len(meta.confusions) == 2


def test_a_run_counts_once_however_it_is_named(cells, tmp_path, monkeypatch):
    first = cells / f"{GRU}0"
    (tmp_path / "link").symlink_to(first)
    monkeypatch.chdir(cells)
    rows, meta = report_of([first, cells / f"{GRU}1", tmp_path / "link", Path(f"{GRU}0"), cells.parent])
    assert [row.seeds for row in rows if row.aggregator == "gru"] == [(0, 1)]
    assert not any("left out" in line for line in meta.coverage)
    copy = copied(first, tmp_path / "copy")
    rows, meta = report_of([first, cells / f"{GRU}1", copy])
    assert [row.seeds for row in rows] == [(0, 1)]
    (line,) = [line for line in meta.coverage if "left out" in line]
    assert line == f"note: {copy} is left out: seed 0 of gru 1:1 of 2 clips is counted once, from {first}"
    assert meta.confusions[0].counts.total == 2 * 9


def test_stores_of_one_name_and_parts_are_told_apart(cells, tmp_path):
    first = cells / f"{GRU}0"
    own = json.loads((first / "config.json").read_text(encoding="utf-8"))["store"]
    other = {"store": "/elsewhere/small.zarr", "videos.segments": ["other"]}
    rows, meta = report_of([first, copied(first, tmp_path / "other", config=other)])
    assert [row.group for row in rows] == [own, "/elsewhere/small.zarr"]
    covered = [line for line in meta.coverage if line.startswith("test part of split1 of ")]
    assert [line.split(" of ")[2].split(",")[0] for line in covered] == [own, "/elsewhere/small.zarr"]
    validated = copied(first, tmp_path / "validated", result={"part": "val"})
    rows, _ = report_of([first, validated])
    assert [row.group for row in rows] == ["test part", "val part"]


def test_a_store_that_moved_is_the_same_in_a_report(cells, tmp_path):
    """Its path only says where to look: what it holds says which store it is."""
    first = cells / f"{GRU}0"
    own = json.loads((first / "config.json").read_text(encoding="utf-8"))["store"]
    gone = "/elsewhere/renamed.zarr"
    moved = copied(cells / f"{GRU}1", tmp_path / "moved", config={"store": gone})
    for paths in ([first, moved], [moved, first]):
        (row,), meta = report_of(paths)
        assert row.group == "" and sorted(row.seeds) == [0, 1]
        assert gone not in str(meta) and own in str(meta)  # the place that is still there
    unknown = {"store": gone, "videos.segments": []}  # of older runs the manifest is not known
    rows, _ = report_of([first, copied(moved, tmp_path / "older", config=unknown)])
    assert len(rows) == 2
    remade = {"store": gone, "models.dear.spec.weights_digest": "1" * 64, "store_fingerprint": "2" * 64}
    rows, _ = report_of([first, copied(moved, tmp_path / "remade", config=remade)])
    assert len(rows) == 2


def grid_row(aggregator, pattern, clips, top1, gflops, **names):
    expensive = "" if pattern == "all-C" else "big"
    cheap = "" if pattern == "all-E" else "small"
    return ReportRow(
        aggregator=aggregator,
        pattern=pattern,
        clips=clips,
        seeds=(0,),
        top1=(top1,),
        gflops_per_video=gflops,
        clip_frames=8,
        **{"expensive": expensive, "cheap": cheap, **names},
    )


def test_each_group_has_tables_of_its_own_with_its_own_figures():
    wanted = [
        ("average", "all-E", 8, 0.70, 80.0),
        ("average", "all-C", 8, 0.60, 8.0),
        ("fast-gru", "1:3", 4, 0.65, 15.0),
        ("fast-gru", "1:7", 8, 0.66, 19.0),
        ("fast-gru", "all-E", 8, 0.72, 82.0),
        ("fast-gru", "1:3", 8, 0.71, 28.0),
    ]
    left = [grid_row(a, p, n, t, g, group="left") for a, p, n, t, g in wanted]
    right = [grid_row(a, p, n, t - 0.5, g, group="right") for a, p, n, t, g in wanted]
    other = [replace(row, expensive="huge") if row.expensive else row for row in left]
    other_right = [replace(row, expensive="huge") if row.expensive else row for row in right]
    both = paper_tables([*left, *right, *other, *other_right])
    assert {table.title[:10] for table in both} == {"As Table 2", "As Table 3", "As Table 4", "As Table 6"}
    for group, rows in (("left", [*left, *other]), ("right", [*right, *other_right])):
        alone = [table.rows for table in paper_tables([replace(row, group="") for row in rows])]
        assert [table.rows for table in both if table.title.endswith(f"; {group}")] == alone
    assert all(table.title.endswith(("; left", "; right")) for table in both)


def test_table_4_keeps_settings_apart():
    rows = [
        grid_row("fast-gru", pattern, 8, top1, 20.0, setting=setting)
        for setting, gain in (("epochs 1", 0.0), ("epochs 9", 0.2))
        for pattern, top1 in (("1:3", 0.5 + gain), ("1:7", 0.4 + gain))
    ]
    tables = {table.title: table.rows for table in paper_tables(rows)}
    assert tables == {
        "As Table 4: fast-gru, epochs 1, E = big, C = small": (
            ("1:3", "50.0", "20.0"),
            ("1:7", "40.0", "20.0"),
        ),
        "As Table 4: fast-gru, epochs 9, E = big, C = small": (
            ("1:3", "70.0", "20.0"),
            ("1:7", "60.0", "20.0"),
        ),
    }


def test_table_6_does_not_mix_cheap_models():
    rows = [
        grid_row("fast-gru", "1:3", 8, top1, 20.0, expensive=expensive, cheap=cheap)
        for expensive, cheap, top1 in (
            ("a", "small", 0.1),
            ("b", "small", 0.2),
            ("a", "tiny", 0.3),
            ("b", "tiny", 0.4),
        )
    ]
    tables = {t.title: t.rows for t in paper_tables(rows) if t.title.startswith("As Table 6")}
    assert tables == {
        "As Table 6: 8-frames×8-clips, C = small": (("1:3 (fast-gru)", "10.0", "20.0", "20.0", "20.0"),),
        "As Table 6: 8-frames×8-clips, C = tiny": (("1:3 (fast-gru)", "30.0", "20.0", "40.0", "20.0"),),
    }


def test_splits_are_averaged_seed_by_seed(cells, tmp_path):
    def run(split, seed, top1, aggregator=GRU):
        source = next(cells.glob(f"{aggregator}{seed}" if aggregator == GRU else f"{aggregator}-*"))
        changes = {"split": split, "metrics.top1": top1}
        config = {"split": split, "store": f"/a/{split}.zarr", "store_fingerprint": split}
        return copied(source, tmp_path / f"{aggregator}{split}{seed}", config=config, result=changes)

    runs = [
        run(split, seed, top1)
        for split, figures in (("one", (0.5, 0.6)), ("two", (0.7, 0.9)))
        for seed, top1 in enumerate(figures)
    ]
    (row,), meta = report_of(runs)
    assert row.seeds == (0, 1) and row.top1 == pytest.approx((0.6, 0.75))
    assert row.standard_error == pytest.approx(0.075)
    assert "note: the figures are means over one, two" in meta.coverage
    assert meta.confusions[0].caption.endswith("4 runs added up")
    counted = [json.loads((folder / "result.json").read_text())["confusion"] for folder in runs]
    assert meta.confusions[0].counts.total == sum(sum(confusion["videos"]) for confusion in counted)

    (row,), meta = report_of(runs[:3])  # of the second split only one seed is there
    assert row.seeds == (0,) and row.top1 == pytest.approx((0.6,))
    assert any(line.startswith("note: seed 1 of gru") for line in meta.coverage)

    average = run("one", 0, 0.4, aggregator="average")  # has no second split: not compared with means
    rows, _ = report_of([*runs, average])
    assert [row.group for row in rows] == ["one, two, mean of one, two", "one, one"]
    assert pareto_front(rows) == [True, True]

    mean = copied(runs[0], tmp_path / "other one", config={"training.epochs": 7})
    other = copied(runs[2], tmp_path / "other two", config={"training.epochs": 7})
    rows, meta = report_of([*runs, other, mean])  # compared, in whatever order they are named
    assert len(rows) == 2 and rows[0].group == rows[1].group
    assert sum(line.startswith("note: the figures are means") for line in meta.coverage) == 1

    rows, _ = report_of([*runs, cells / f"{GRU}0", copied(cells / f"{GRU}1", tmp_path / "same")])
    assert len(rows) == 1  # a third split joins the mean
    other = {"store": "/b/one.zarr", "videos.segments": ["other"]}
    again = copied(runs[0], tmp_path / "again", config=other)
    rows, _ = report_of([*runs, again])  # two stores of one split are compared
    assert len(rows) == 3


def test_the_front_and_the_best_are_each_groups_own(cells, tmp_path):
    rows = [
        grid_row("gru", "1:3", 8, 0.9, 1.0, group="left"),
        grid_row("gru", "1:7", 8, 0.2, 2.0, group="left"),
        grid_row("gru", "1:3", 8, 0.5, 3.0, group="right"),
        grid_row("gru", "1:7", 8, 0.4, 4.0, group="right"),
    ]
    assert pareto_front(rows) == [True, False, True, False]
    other = [
        copied(run, tmp_path / run.name, config={"store": "/b/other.zarr", "videos.segments": ["other"]})
        for run in (next(cells.glob("average-*")), cells / f"{GRU}0")
    ]
    _, meta = report_of([cells.parent, *other])
    assert [c.caption for c in meta.confusions] == [
        "Confusion of gru 1:1 of 2 clips (small), 2 runs added up",
        "Confusion of gru 1:1 of 2 clips (other)",
    ]
    assert [g.gained_name for g in meta.gains] == ["gru 1:1 of 2 clips (small)", "gru 1:1 of 2 clips (other)"]
    files = write_report([cells.parent, *other], out=tmp_path / "page" / "r.html")
    assert {"r-gain.svg", "r-gain-2.svg"} <= {path.name for path in files.further}


def test_runs_of_unknown_cost_are_shown_but_for_the_figure(cells, tmp_path):
    average = copied(next(cells.glob("average-*")), tmp_path / "free", result={"gflops_per_video": 0.0})
    files = write_report([average, cells / f"{GRU}0"], out=tmp_path / "r.html")
    assert "left out: 1 of 0 GFLOPs, cost unknown" in files.plot_svg.read_text(encoding="utf-8")
    (line,) = [line for line in files.table_text.splitlines() if line.startswith("  average")]
    assert line.split()[:4] == ["average", "1:1", "2", "0"]
    alone = write_report([average], out=tmp_path / "alone.html")
    assert "no row has a known cost" in alone.plot_svg.read_text(encoding="utf-8")
    free = grid_row("gru", "1:7", 8, 0.9, 0.0)
    assert pareto_front([free, grid_row("gru", "1:3", 8, 0.5, 3.0)]) == [False, True]


def test_the_command_has_every_option_of_the_run(cells, tmp_path):
    store = json.loads((cells / f"{GRU}0" / "config.json").read_text(encoding="utf-8"))["store"]
    train_agg(
        TrainConfig(
            store=store,
            aggregator="gru",
            pattern="1:1",
            init=cells / f"{GRU}0",
            epochs=1,
            batch_size=8,
            label_smoothing=0.2,
            balance_classes=True,
            dropout=0.1,
            validation_share=0.3,
            device="cpu",
            out=tmp_path / "run",
        ),
        progress=False,
    )
    _, meta = report_of([tmp_path / "run"])
    command = shlex.split(meta.lines[-1].split(": ", 1)[1])
    arguments = [*command[2:], "--out", str(tmp_path / "again")]
    assert CliRunner().invoke(train_agg_command, arguments, catch_exceptions=False).exit_code == 0
    for name in ("config.json", "best.safetensors", "predictions.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "path", "value", "why"),
    [
        ("result", "metrics.top1", 2, "metrics.top1 is 2; it lies in"),
        ("result", "metrics.top1", "high", "metrics.top1 is 'high'"),
        ("result", "gflops_per_video", -1, "gflops_per_video is -1"),
        ("result", "split", ..., "'split' is missing"),
        ("result", "part", 3, "part is 3"),
        ("result", "notes", ..., "'notes' is missing"),
        ("result", "coverage.whole", ..., "whole"),
        ("result", "coverage", [], "damaged"),
        ("result", "confusion", [[1, 0], [0, 1]], "not 3 × 3"),
        ("result", "confusion", [[1, 0, 0], [0, 1, 0], [0, 1]], "not 3 × 3"),
        ("result", "confusion", [[1, 0, 0], [0, -1, 0], [0, 1, 0]], "not counts"),
        ("result", "confusion", {"labels": [0], "answers": [3], "videos": [1]}, "not 3 × 3"),
        ("result", "confusion", {"labels": [0], "answers": [1], "videos": [-1]}, "not counts"),
        ("result", "confusion", {"labels": [0], "answers": [1], "videos": []}, "not counts"),
        ("result", "confusion", {"labels": [0], "answers": [1]}, "not counts"),
        ("result", "confusion", 7, "not counts"),
        ("config", "training.seed", ..., "'seed' is missing"),
        ("config", "training", None, "damaged"),
        ("config", "videos.train", ..., "'train' is missing"),
        ("config", "videos", [], "damaged"),
        ("config", "pattern", "1;7", "1;7"),
        ("config", "versions", ..., "'versions' is missing"),
        ("config", "models.dear.spec", {}, "'weights_digest' is missing"),
        ("config", "init", {"run": "x"}, "'sha256' is missing"),
    ],
)
def test_damaged_runs_are_named_in_one_line(cells, tmp_path, name, path, value, why):
    run = copied(cells / f"{GRU}0", tmp_path / "run", **{name: {path: value}})
    with pytest.raises(RunError) as caught:
        report_of([run])
    text = str(caught.value)
    assert f"{name}.json is damaged" in text and why in text and "\n" not in text
    assert text.count("make it again") == 1
