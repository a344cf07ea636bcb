"""A store that was moved or copied: runs, sweeps and what is made of them go on, for it is known by what it holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from faster.aggregate.all_splits import evaluate_splits, train_splits
from faster.aggregate.commands import evaluate_command, train_agg_command
from faster.aggregate.evaluation.evaluate import evaluate
from faster.aggregate.export import export_model
from faster.aggregate.runs import load_run
from faster.aggregate.sweep.commands import oracle_command
from faster.aggregate.sweep.grid import Grid
from faster.aggregate.sweep.oracle import oracle
from faster.aggregate.sweep.run import SweepConfig, run_sweep
from faster.aggregate.train import TrainConfig, TrainResult, train_agg
from faster.errors import Interrupted, RunError
from faster.training.loop import TrainingRun
from log_lines import logged
from stores import make_spec, make_store, make_videos

SPECS = [make_spec("dear", clips=4), make_spec("cheap", clips=4)]
GFLOPS = {"dear": 9.0, "cheap": 1.0}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return make_store(tmp_path / "old.zarr", SPECS, make_videos(36), gflops=GFLOPS, signal=True).path


def train(store: Path, out: Path, lines: list[str] | None = None, **changes: Any) -> TrainResult:
    values: dict[str, Any] = {"aggregator": "gru", "pattern": "1:1", "epochs": 2, "batch_size": 9}
    config = TrainConfig(store=store, out=out, device="cpu", **{**values, **changes})
    with logged(lines):
        return train_agg(config, progress=False)


def moved(old: Path) -> Path:
    return Path(shutil.move(old, old.with_name("new.zarr")))


def recorded(run: Path) -> str:
    return str(json.loads((run / "config.json").read_text())["store"])


def test_a_run_goes_on_with_the_copy_of_its_store(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(old, tmp_path / "whole")
    end_epoch = TrainingRun.end_epoch

    def stop(self: TrainingRun) -> Any:
        end_epoch(self)
        raise Interrupted("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "save", lambda self: None)  # the first epoch is done again
        patched.setattr(TrainingRun, "end_epoch", stop)
        with pytest.raises(Interrupted):
            train(old, tmp_path / "r")
    copy = Path(shutil.copytree(old, tmp_path / "node" / "local.zarr"))
    lines: list[str] = []
    result = train(copy, tmp_path / "r", lines)
    assert result.report.metrics == whole.report.metrics
    (line,) = [line for line in lines if "the same store" in line]
    assert str(old) in line and str(copy) in line
    assert recorded(tmp_path / "r") == str(old)  # which outlives the node's own disk
    assert evaluate(load_run(tmp_path / "r"), device="cpu").metrics == whole.report.metrics


def test_a_finished_run_is_told_where_its_store_went(old: Path, tmp_path: Path) -> None:
    whole, run = train(old, tmp_path / "r"), tmp_path / "r"
    new = moved(old)
    for command, words in ((evaluate_command, [str(run)]), (oracle_command, ["--run", str(run)])):
        said = CliRunner().invoke(command, words)
        assert isinstance(said.exception, RunError)
        assert str(old) in str(said.exception) and f"{run} --store FOLDER" in str(said.exception)
    before = (run / "predictions.csv").read_bytes()
    (run / "predictions.csv").unlink()
    found = evaluate(load_run(run), store=new, device="cpu")
    assert found.to_dict() == whole.report.to_dict()  # into the same file, as of the run's own store
    assert (run / "predictions.csv").read_bytes() == before
    assert oracle(load_run(run), store=new, device="cpu").fixed_top1 == whole.report.metrics.top1
    export_model(run, tmp_path / "exported")  # needs no store
    assert CliRunner().invoke(train_agg_command, ["--store", str(new), "--init", str(run), "--out", str(tmp_path / "two"),
        "--aggregator", "gru", "--pattern", "1:1", "--epochs", "1", "--device", "cpu"]).exit_code == 0  # fmt: skip
    train(new, run)
    assert recorded(run) == str(new)  # nothing is left at the old place
    assert evaluate(load_run(run), device="cpu").to_dict() == whole.report.to_dict()


def test_another_store_is_refused_wherever_it_lies(old: Path, tmp_path: Path) -> None:
    train(old, tmp_path / "r")
    other = make_store(tmp_path / "other.zarr", SPECS, make_videos(40), gflops=GFLOPS, signal=True).path
    with pytest.raises(RunError, match="begun with another config"):
        train(other, tmp_path / "r")
    shutil.rmtree(old)
    shutil.move(other, old)
    with pytest.raises(RunError, match="has changed since"):
        train(old, tmp_path / "r")
    with pytest.raises(RunError, match="has changed since"):
        evaluate(load_run(tmp_path / "r"), device="cpu")


def test_every_split_of_a_moved_store(old: Path, tmp_path: Path) -> None:
    config = TrainConfig(store=old, out=tmp_path / "all", aggregator="average", pattern="1:1", device="cpu")
    whole = train_splits(config, progress=False)
    new = moved(old)
    with pytest.raises(RunError, match=f"faster evaluate {tmp_path / 'all'} --store FOLDER"):
        evaluate_splits(tmp_path / "all", device="cpu")
    assert evaluate_splits(tmp_path / "all", store=new, device="cpu").mean == whole.mean


def test_a_run_that_began_from_a_run_that_moved(old: Path, tmp_path: Path) -> None:
    train(old, tmp_path / "origin")
    begun = train(old, tmp_path / "r", init=tmp_path / "origin")
    shutil.move(tmp_path / "origin", tmp_path / "kept")
    assert train(old, tmp_path / "r", init=tmp_path / "kept").report.metrics == begun.report.metrics
    train(old, tmp_path / "third", seed=1)
    with pytest.raises(RunError, match="begun with another config"):
        train(old, tmp_path / "r", init=tmp_path / "third")


def sweeping(store: Path, out: Path, *aggregators: str) -> tuple[list[str], int]:
    lines: list[str] = []
    training = TrainConfig(store=store, epochs=1, batch_size=9, device="cpu")
    grid = Grid(aggregators=aggregators, patterns=("1:1",), clips=(2,), seeds=1)
    with logged(lines):
        result = run_sweep(SweepConfig(training=training, grid=grid, out=out), progress=False)
    return lines, len(result.finished)


def test_a_sweep_goes_on_with_the_copy_of_its_store(old: Path, tmp_path: Path) -> None:
    assert sweeping(old, tmp_path / "s", "gru")[1] == 1
    # A cell that was begun, and is trained to its end on the copy.
    shutil.copytree(next((tmp_path / "s" / "cells").iterdir()), tmp_path / "one")
    sweeping(old, tmp_path / "s", "lstm")
    lstm = next((tmp_path / "s" / "cells").glob("lstm*"))
    (lstm / "result.json").unlink()
    new = moved(old)
    lines, finished = sweeping(new, tmp_path / "s", "gru", "lstm", "concat")
    assert finished == 3 and any("1 of them finished before" in line for line in lines)
    assert any("the same store" in line for line in lines)
    assert recorded(lstm) == str(new)


def test_a_sweep_refuses_other_maps_of_the_same_videos(old: Path, tmp_path: Path) -> None:
    sweeping(old, tmp_path / "s", "gru")
    changed = [make_spec("dear", clips=4, weights_digest="1" * 64), SPECS[1]]
    other = make_store(tmp_path / "other.zarr", changed, make_videos(36), gflops=GFLOPS, signal=True).path
    with pytest.raises(RunError, match="begun with another config"):
        sweeping(other, tmp_path / "s", "concat")
