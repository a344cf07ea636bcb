"""The oracle against plain enumeration, clip by clip and video by video."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from faster.aggregate.evaluation.evaluate import evaluate
from faster.aggregate.runs import Run, load_run
from faster.aggregate.sweep import oracle as module
from faster.aggregate.sweep.commands import oracle_command
from faster.aggregate.sweep.oracle import oracle
from faster.aggregate.train import TrainConfig, train_agg
from faster.errors import DataError
from faster.store import Store
from stores import make_maps, make_spec, make_store, make_videos

SPECS = [make_spec("dear", clips=6), make_spec("cheap", clips=6)]
GFLOPS = {"dear": 9.0, "cheap": 1.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Without a signal the aggregator errs, so that there is something to choose."""
    path = tmp_path_factory.mktemp("oracle") / "small.zarr"
    return make_store(path, SPECS, make_videos(72), gflops=GFLOPS)


def trained(
    store: Store, out: Path, aggregator: str = "fast-gru", pattern: str = "1:2", clips: int = 6
) -> Run:
    config = TrainConfig(
        store=store.path,
        aggregator=aggregator,
        pattern=pattern,
        clips=clips,
        out=out,
        epochs=2,
        batch_size=16,
        device="cpu",
    )
    return load_run(train_agg(config, progress=False).run)


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(store, tmp_path_factory.mktemp("run") / "r")


def scores_of(run: Run, store: Store, row: int, chosen: tuple[int, ...]) -> tuple[bool, float]:
    """Whether the video is right with these clips expensive, and its label's log-probability."""
    label = int(store.videos.labels[row])
    maps = {spec.model: torch.from_numpy(make_maps(spec, row)[0]) for spec in SPECS}
    names = ["dear" if t in chosen else "cheap" for t in range(6)]
    with torch.inference_mode():
        state = run.aggregator.init(maps[names[0]][:1], names[0])
        for t in range(1, 6):
            state = run.aggregator.step(state, maps[names[t]][t : t + 1], names[t])
        logs = torch.log_softmax(run.aggregator.readout(state).double(), -1)[0]
    return int(logs.argmax()) == label, float(logs[label])


def test_the_best_choice_against_all_of_them(store: Store, run: Run) -> None:
    result = oracle(run, device="cpu", batch_size=4)
    rows = np.flatnonzero(store.videos.split("split1") == 3).tolist()
    choices = list(itertools.combinations(range(6), 2))
    fixed, best, mean, shares = [], [], [], np.zeros(6)
    for row in rows:
        found = {chosen: scores_of(run, store, row, chosen) for chosen in choices}
        fixed.append(found[0, 3])
        winner = max(choices, key=lambda chosen: found[chosen])
        best.append(found[winner])
        mean.append(np.mean([right for right, _ in found.values()]))
        shares[list(winner)] += 1 / len(rows)
    assert (result.videos, result.ways, result.expensive_clips, result.exhaustive) == (len(rows), 15, 2, True)
    assert result.fixed_top1 == np.mean([right for right, _ in fixed])
    assert result.best_top1 == np.mean([right for right, _ in best])
    assert result.mean_top1 == pytest.approx(np.mean(mean), abs=1e-12)
    assert result.fixed_loss == pytest.approx(-np.mean([log for _, log in fixed]), rel=1e-5)
    assert result.best_loss == pytest.approx(-np.mean([log for _, log in best]), rel=1e-5)
    assert result.chosen_share == pytest.approx(shares.tolist())
    assert result.regret == result.best_top1 - result.fixed_top1 > 0
    plain = evaluate(run, device="cpu")
    assert (result.fixed_top1, result.gflops_per_video) == (plain.metrics.top1, plain.gflops_per_video)


def test_greedy_lies_between_the_pattern_and_the_best(
    run: Run, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    bound = oracle(run, device="cpu")
    monkeypatch.setattr(module, "CHOICES_MAX", 14)
    greedy = oracle(run, device="cpu")
    assert not greedy.exhaustive and greedy.mean_top1 is None
    assert bound.fixed_top1 == greedy.fixed_top1 < greedy.best_top1 <= bound.best_top1
    assert sum(greedy.chosen_share) == pytest.approx(2)


def test_greedy_takes_the_best_clip_where_one_is_to_choose(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one expensive clip greedy tries them all; by log-probability, as greedy steps go."""
    run = trained(store, tmp_path / "r", pattern="1:5")
    bound = oracle(run, device="cpu")
    monkeypatch.setattr(module, "CHOICES_MAX", 1)
    greedy = oracle(run, device="cpu")
    assert bound.ways == 6 and bound.exhaustive and not greedy.exhaustive
    assert greedy.best_top1 <= bound.best_top1 and greedy.best_loss <= bound.best_loss + 1e-9


@pytest.mark.parametrize("name", ["average", "gru", "concat"])
def test_other_aggregators(store: Store, tmp_path: Path, name: str) -> None:
    result = oracle(trained(store, tmp_path / "r", name, clips=3), device="cpu")
    assert result.ways == 3 and result.fixed_top1 <= result.best_top1
    assert result.best_loss <= result.fixed_loss or result.best_top1 > result.fixed_top1


def test_one_model_leaves_no_choice(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to choose"):
        oracle(trained(store, tmp_path / "r", "gru", "all-C"), device="cpu")


def test_the_command_says_that_it_uses_the_labels(run: Run, store: Store) -> None:
    arguments = ["--run", str(run.path), "--store", str(store.path), "--device", "cpu"]
    text = CliRunner().invoke(oracle_command, arguments, catch_exceptions=False).stdout
    assert text.startswith("uses the test labels: a bound, not a result")
    values = json.loads(
        CliRunner().invoke(oracle_command, [*arguments, "--json"], catch_exceptions=False).stdout
    )
    assert f"{values['regret']:7.2%}" in text and "best of all 15" in text
    assert values["regret"] == values["best_top1"] - values["fixed_top1"]
