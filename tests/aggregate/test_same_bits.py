"""What is promised to be equal to the bit is computed by the same calls: on a processor whose products differ by row, too."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from faster.aggregate.commands import evaluate_command
from faster.aggregate.data.loader import ClipReader, TrainLoader, uniform_batches
from faster.aggregate.data.mix import MixRequest, choose_mix
from faster.aggregate.evaluation.evaluate import evaluate
from faster.aggregate.models.registry import known_names
from faster.aggregate.runs import load_run, scoring_batch
from faster.aggregate.sweep import cells as sweep_cells
from faster.aggregate.sweep.grid import Grid
from faster.aggregate.sweep.oracle import oracle
from faster.aggregate.sweep.run import SweepConfig, run_sweep
from faster.aggregate.train import TrainConfig, TrainResult, train_agg
from faster.errors import Interrupted, RunError
from faster.store import Store
from faster.training.distributed import Ranks
from stores import make_spec, make_store, make_videos
from torch import Tensor, nn

GFLOPS = {"dear": 9.0, "cheap": 1.0}
TRAINING: dict[str, Any] = {"epochs": 2, "batch_size": 8, "device": "cpu"}
BIG = 2.0**-12  # of a value, for each row: no rounding hides it


def _row_dependent(module: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> Tensor | None:
    """Each row times a factor of how many rows there are, and of its place among them: what some libraries do to last bits."""
    if not isinstance(module, nn.Linear):
        return None
    rows = out.shape[:-1].numel()
    factors = 1 + BIG * (rows + torch.arange(rows, dtype=out.dtype, device=out.device))
    return out * factors.view(*out.shape[:-1], 1)


@pytest.fixture(autouse=True)
def another_processor() -> Iterator[None]:
    handle = nn.modules.module.register_module_forward_hook(_row_dependent)
    yield
    handle.remove()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Without a signal, so that the scores lie close together; 12 videos are reported."""
    specs = [make_spec("dear", clips=8), make_spec("cheap", clips=8)]
    return make_store(tmp_path_factory.mktemp("bits") / "s.zarr", specs, make_videos(48), gflops=GFLOPS)


@pytest.fixture(scope="module")
def two_shapes(tmp_path_factory: pytest.TempPathFactory) -> Store:
    specs = [make_spec("dear", clips=8), make_spec("cheap", clips=8, map_shape=(1, 1, 1, 8))]
    return make_store(tmp_path_factory.mktemp("bits") / "t.zarr", specs, make_videos(48), gflops=GFLOPS)


def train(store: Store, out: Path, **changes: Any) -> TrainResult:
    values = {"pattern": "1:3", "clips": 4, **TRAINING, **changes}
    return train_agg(TrainConfig(store=store.path, out=out, **values), progress=False)


def require_the_same_again(result: TrainResult) -> None:
    predictions = result.report.predictions.read_bytes()
    again = evaluate(load_run(result.run), device="cpu")
    assert again.to_dict() == result.report.to_dict()
    assert again.predictions.read_bytes() == predictions


@pytest.mark.parametrize("batch_size", [5, 64])
@pytest.mark.parametrize("name", known_names())
def test_evaluate_gives_the_report_again(store: Store, tmp_path: Path, name: str, batch_size: int) -> None:
    require_the_same_again(train(store, tmp_path / "r", aggregator=name, batch_size=batch_size))


@pytest.mark.parametrize("name", ["fast-gru", "concat"])
def test_of_models_of_two_shapes_too(two_shapes: Store, tmp_path: Path, name: str) -> None:
    require_the_same_again(train(two_shapes, tmp_path / "r", aggregator=name))


def test_the_command_too_and_another_batch_size_differs_here(store: Store, tmp_path: Path) -> None:
    result = train(store, tmp_path / "r", aggregator="gru")
    report = json.loads(json.dumps(result.report.to_dict()))
    said = CliRunner().invoke(evaluate_command, [str(result.run), "--json"], catch_exceptions=False)
    assert json.loads(said.stdout) == report
    other = [str(result.run), "--json", "--batch-size", "32"]
    said = CliRunner().invoke(evaluate_command, other, catch_exceptions=False)
    assert json.loads(said.stdout)["metrics"] != report["metrics"]  # else this file shows nothing


def test_every_budget_is_what_evaluate_gives(store: Store, tmp_path: Path) -> None:
    result = train(store, tmp_path / "r", aggregator="gru", pattern="any")
    run, found = load_run(result.run), sorted((result.run / "budgets").glob("*.json"))
    assert len(found) > 4
    for path in found:
        values = json.loads(path.read_text())
        again = evaluate(run, pattern=values["pattern"], clips=values["clips"], device="cpu").to_dict()
        assert json.loads(json.dumps(again["metrics"])) == values["metrics"], path.name


@pytest.mark.parametrize("name", ["fast-gru", "concat"])
def test_the_oracles_own_pattern_is_the_report(store: Store, tmp_path: Path, name: str) -> None:
    result = train(store, tmp_path / "r", aggregator=name)
    assert oracle(load_run(result.run), device="cpu").fixed_top1 == result.report.metrics.top1


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, plan = train(store, tmp_path / "whole", aggregator="concat"), TrainLoader.plan

    def stopping(self: TrainLoader, epoch: int, step: int) -> Any:
        if (epoch, step) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return plan(self, epoch, step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainLoader, "plan", stopping)
        with pytest.raises(Interrupted):
            train(store, tmp_path / "stopped", aggregator="concat")
    train(store, tmp_path / "stopped", aggregator="concat")
    for name in ("last.safetensors", "metrics.jsonl", "predictions.csv"):
        assert (tmp_path / "stopped" / name).read_bytes() == (whole.run / name).read_bytes(), name


def test_a_sweeps_cells_are_those_of_train_agg_and_of_evaluate(store: Store, tmp_path: Path) -> None:
    """`gru` and `tsn` from pooled vectors, the others from maps, side by side."""
    names = ("concat", "fast-gru", "gru", "tsn")
    grid = Grid(aggregators=names, patterns=("1:3",), clips=(4,), seeds=1)
    config = SweepConfig(
        training=TrainConfig(store=store.path, **TRAINING), grid=grid, out=tmp_path / "sweep"
    )
    lines = run_sweep(config, progress=False).finished
    assert [line["aggregator"] for line in lines] == list(names)
    for line in lines:
        alone = train(store, tmp_path / line["aggregator"], aggregator=line["aggregator"], clip_frames=8)
        cell = tmp_path / "sweep" / line["run"]
        for file in ("best.safetensors", "metrics.jsonl", "predictions.csv"):
            assert (cell / file).read_bytes() == (alone.run / file).read_bytes(), (cell.name, file)
        assert evaluate(load_run(cell), device="cpu").to_dict()["metrics"] == line["metrics"]


def test_a_sweep_that_goes_on_with_its_last_cells_has_as_many_threads(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes share the threads; the one unit that is left over runs in this process, with no more than its share."""
    seen: list[int] = []
    prepare = sweep_cells.CellRunner._prepare

    def noting(self: Any, *args: Any) -> Any:
        seen.append(torch.get_num_threads())
        return prepare(self, *args)

    def go(*clips: int) -> None:
        grid = Grid(aggregators=("gru",), patterns=("1:3",), clips=clips, seeds=1)
        config = SweepConfig(
            training=TrainConfig(store=store.path, **TRAINING), grid=grid, out=tmp_path, jobs=2
        )
        run_sweep(config, progress=False)

    monkeypatch.setattr(sweep_cells.CellRunner, "_prepare", noting)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        go(4)
        go(4, 8)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [2, 1]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_several_processes_score_the_batches_of_one(store: Store, count: int) -> None:
    reader = ClipReader(
        choose_mix(store, MixRequest(pattern="1:3", clips=4)), store.videos.labels, reads="maps"
    )
    rows = store.videos.split("split1").nonzero()[0][:17]

    def batches(ranks: Ranks) -> list[list[int]]:
        return [batch.videos.tolist() for batch in uniform_batches(reader, rows, batch_size=4, ranks=ranks)]

    shared = [batch for rank in range(count) for batch in batches(Ranks(rank=rank, count=count))]
    assert shared == batches(Ranks()) and len(shared) == 5


def test_a_processs_share_of_a_step_is_scored_at_a_time() -> None:
    assert [scoring_batch(32, 1), scoring_batch(32, 4), scoring_batch(7, 2)] == [32, 8, 4]


@pytest.mark.parametrize("training", [{}, {"batch_size": 0}, {"batch_size": "8"}, {"batch_size": 2.5}, None])
def test_a_config_that_does_not_say_the_batch_size_is_refused(
    store: Store, tmp_path: Path, training: object
) -> None:
    result = train(store, tmp_path / "r", aggregator="average")
    path = result.run / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "training": training}))
    with pytest.raises(RunError, match=r"config\.json is not of an aggregator's run"):
        load_run(result.run)
