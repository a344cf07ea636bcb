"""Reports of runs and sweeps."""

from __future__ import annotations

import csv
import shlex
import shutil
import subprocess

import pytest
import torch
from click.testing import CliRunner
from faster.aggregate.commands import train_agg_command
from faster.aggregate.report.assemble import report_of
from faster.aggregate.report.write import write_report
from faster.aggregate.sweep.commands import report_command
from faster.aggregate.sweep.grid import Grid
from faster.aggregate.sweep.run import SweepConfig, run_sweep
from faster.aggregate.train import TrainConfig
from faster.errors import RunError
from pages import Page
from stores import make_spec, make_store, make_videos


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of a small store whose backbones and aggregators err."""
    folder = tmp_path_factory.mktemp("swept")
    specs = [make_spec("dear", clips=4), make_spec("cheap", clips=4)]
    make_store(folder / "small.zarr", specs, make_videos(36), gflops={"dear": 9.0, "cheap": 1.0})
    config = SweepConfig(
        training=TrainConfig(store=folder / "small.zarr", epochs=1, batch_size=16, device="cpu"),
        grid=Grid(aggregators=("average", "gru"), patterns=("1:1", "1:3", "1:7"), clips=(2, 4), seeds=2),
        out=folder / "sweep",
    )
    return run_sweep(config, progress=False)


def test_report_of_a_sweep(swept, tmp_path):
    result = CliRunner().invoke(
        report_command, [str(swept.folder), "--out", str(tmp_path / "r.html")], catch_exceptions=False
    )
    assert result.exit_code == 0
    rows, meta = report_of([swept.folder])
    assert [(r.aggregator, r.clips, r.pattern, r.seeds) for r in rows] == [
        ("average", 2, "1:1", (0,)),
        ("average", 4, "1:1", (0,)),
        ("average", 4, "1:3", (0,)),
        ("gru", 2, "1:1", (0, 1)),
        ("gru", 4, "1:1", (0, 1)),
        ("gru", 4, "1:3", (0, 1)),
    ]
    for r in rows:
        lines = [
            x
            for x in swept.finished
            if (x["aggregator"], x["clips"], x["pattern"]) == (r.aggregator, r.clips, r.pattern)
        ]
        assert r.top1 == tuple(x["metrics"]["top1"] for x in lines)
        assert r.gflops_per_video == lines[0]["gflops_per_video"]
    assert meta.failures == (
        "empty: 1:3 of 2 clips of 8 frames: 1:3 needs 4 clips, there are 2 (average, gru)",
        "empty: 1:7 of 2 clips of 8 frames: 1:7 needs 8 clips, there are 2 (average, gru)",
        "empty: 1:7 of 4 clips of 8 frames: 1:7 needs 8 clips, there are 4 (average, gru)",
    )
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    made = "\n".join(meta.lines)
    for text in (
        "weights 000000000000…",
        "epochs 1",
        f"torch {torch.__version__}",
        "seeds 0, 1",
        "faster train-agg --store",
    ):
        assert text in made and text in page.text
    assert "test part of split1, dear and cheap at 8 frames: 9 listed, 9 whole" in page.text


def test_the_command_of_one_run_makes_it_again(swept, tmp_path):
    _, meta = report_of([swept.folder / "cells" / "gru-1-3-n4-l8-dear-cheap-s1"])
    command = shlex.split(meta.lines[-1].split(": ", 1)[1])
    assert command[:2] == ["faster", "train-agg"]
    done = CliRunner().invoke(
        train_agg_command, [*command[2:], "--out", str(tmp_path / "r")], catch_exceptions=False
    )
    assert done.exit_code == 0
    for name in ("config.json", "best.safetensors", "predictions.csv"):
        there = swept.folder / "cells" / "gru-1-3-n4-l8-dear-cheap-s1" / name
        assert (tmp_path / "r" / name).read_bytes() == there.read_bytes()


def test_gain_against_the_predictions(swept):
    """Per-class shares from predictions.csv of both, added up by hand."""
    rows, meta = report_of([swept.folder])
    best = max((r for r in rows if r.aggregator == "gru"), key=lambda r: r.mean)
    pattern = best.pattern.replace(":", "-")

    def shares(aggregator, seeds):
        right, total = {}, {}
        for seed in seeds:
            name = f"{aggregator}-{pattern}-n{best.clips}-l8-dear-cheap-s{seed}"
            with (swept.folder / "cells" / name / "predictions.csv").open(newline="") as file:
                for line in csv.DictReader(file):
                    total[line["label"]] = total.get(line["label"], 0) + 1
                    right[line["label"]] = right.get(line["label"], 0) + (line["label"] == line["predicted"])
        return [right[name] / total[name] for name in meta.gains[0].class_names]

    assert meta.gains[0].gained == pytest.approx(shares("gru", (0, 1)))
    assert meta.gains[0].base == pytest.approx(shares("average", (0,)))
    assert meta.confusions[0].counts.total == 2 * 9


def test_paths_that_are_no_runs(swept, tmp_path):
    with pytest.raises(RunError, match=r"config\.json is missing"):
        report_of([tmp_path])
    cell = swept.folder / "cells" / "gru-1-3-n4-l8-dear-cheap-s1"
    (tmp_path / "config.json").write_bytes((cell / "config.json").read_bytes())
    with pytest.raises(RunError, match="is not finished"):
        report_of([tmp_path])
    (tmp_path / "result.json").write_text('{"metrics": {}}')
    with pytest.raises(RunError, match="is damaged"):
        report_of([tmp_path])
    (tmp_path / "cells.jsonl").write_text("")
    with pytest.raises(RunError, match="no cell is finished"):
        report_of([tmp_path])
    bad = CliRunner().invoke(report_command, [str(cell), "--out", "report.pdf"])
    assert bad.exit_code == 2 and "name it .html" in bad.stderr


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not on the PATH")
def test_the_page_loads_in_a_browser_without_a_console_message(swept, tmp_path):
    files = write_report([swept.folder], out=tmp_path / "r.html", paper=True)
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command += ["--virtual-time-budget=2000", "--enable-logging=stderr", "--dump-dom"]
    said = subprocess.run(
        [*command, files.page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in said.stderr
    assert said.stdout.count("<svg") == 3 and said.stdout.count("<table") >= 3
    (tmp_path / "wrong.html").write_text("<script>console.error('seen')</script>")
    wrong = subprocess.run(
        [*command, (tmp_path / "wrong.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" in wrong.stderr  # or the check above would see nothing
