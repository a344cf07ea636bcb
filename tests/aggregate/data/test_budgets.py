"""One aggregator for every pattern and number of clips: what is drawn, validated and reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from faster.aggregate.commands import evaluate_command
from faster.aggregate.data.budgets import budget_name, budgets, draw
from faster.aggregate.data.loader import ClipReader, TrainLoader
from faster.aggregate.data.mix import MixRequest, choose_mix
from faster.aggregate.evaluation.evaluate import evaluate
from faster.aggregate.report.assemble import report_of
from faster.aggregate.runs import load_run
from faster.aggregate.sweep.grid import Grid
from faster.aggregate.sweep.run import SweepConfig, run_sweep
from faster.aggregate.train import TrainConfig, TrainResult, run_folder, train_agg
from faster.errors import RunError, UsageError
from faster.store import Store
from stores import make_maps, make_spec, make_store, make_videos

SPECS = {name: make_spec(name, clips=8, views=1) for name in ("dear", "cheap")}
GFLOPS = {"dear": 9.0, "cheap": 1.0}
OF_4 = ["all-E-n4", "1-1-n4", "1-3-n4", "all-C-n4"]
ALL = ["all-E-n2", "1-1-n2", "all-C-n2", *OF_4]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("budgets") / "small.zarr"
    return make_store(path, list(SPECS.values()), make_videos(36), gflops=GFLOPS, signal=True)


def config(store: Store, out: Path, **changes: object) -> TrainConfig:
    values: dict[str, object] = {"pattern": "any", "clips": 4, "epochs": 4, "batch_size": 8, "device": "cpu"}
    return TrainConfig(store=store.path, out=out, **{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    out = tmp_path_factory.mktemp("runs") / "any"
    return train_agg(config(store, out), progress=False)


def test_the_budgets_are_every_n_with_every_pattern_that_it_has_clips_for(store: Store) -> None:
    assert [
        budget_name(budget.pattern, budget.clips)
        for budget in budgets(choose_mix(store, MixRequest(pattern="any", clips=4)))
    ] == ALL
    names = [
        budget_name(budget.pattern, budget.clips)
        for budget in budgets(choose_mix(store, MixRequest(pattern="any", clips=6)))
    ]
    assert names == [*ALL, "all-E-n6", "1-1-n6", "1-3-n6", "all-C-n6"]
    with pytest.raises(UsageError, match="--clips 1 leaves one; at least 2"):
        choose_mix(store, MixRequest(pattern="any", clips=1))


def test_each_video_draws_its_pattern_and_each_step_its_n(store: Store) -> None:
    mix = choose_mix(store, MixRequest(pattern="any", clips=8))
    lengths, drawn = set(), set()
    for seed in range(200):
        clips, model_of = draw(mix, 3, np.random.default_rng(seed))
        assert model_of.shape == (3, clips)
        lengths.add(clips)
        drawn |= {(clips, tuple(row)) for row in model_of.tolist()}
    possible = {(b.clips, tuple((~b.pattern.expensive_mask(b.clips)).astype(int))) for b in budgets(mix)}
    assert lengths == {2, 4, 8} and drawn == possible


def test_batches_hold_the_clips_of_the_plan(store: Store) -> None:
    mix = choose_mix(store, MixRequest(pattern="any", clips=4))
    loader = TrainLoader(
        ClipReader(mix, store.videos.labels, reads="maps"), np.arange(30), batch_size=5, seed=1
    )
    mixed = 0
    for step, batch in enumerate(loader.batches(epoch=0)):
        rows, _, clips, model_of = loader.plan(0, step)
        mixed += len({tuple(row) for row in model_of.tolist()}) > 1
        dense = batch.dense(torch.float32).numpy()
        for i, row in enumerate(rows):
            for t, clip in enumerate(clips[i]):
                spec = SPECS[list(mix.features)[model_of[i, t]]]
                expected = make_maps(spec, int(row), signal=int(row) % 3 + 1)[0][clip]
                np.testing.assert_array_equal(dense[i, t], expected.astype(np.float32))
    assert mixed  # patterns differ within a batch


def test_every_budget_is_reported_as_evaluate_does(store: Store, trained: TrainResult) -> None:
    run = load_run(trained.run)
    assert run.config.drawn and (str(run.config.pattern), run.config.clips) == ("1:7", 4)
    files = {path.stem: json.loads(path.read_text()) for path in (trained.run / "budgets").glob("*.json")}
    assert sorted(files) == sorted(ALL)
    for name, found in files.items():
        again = evaluate(run, pattern=found["pattern"], clips=found["clips"], batch_size=8).to_dict()
        assert Path(again.pop("predictions")).name == f"predictions-{name}.csv"
        own = {key: value for key, value in found.items() if key not in ("pattern", "clips", "predictions")}
        assert again == own
        dear, cheap = choose_mix(store, MixRequest(pattern=found["pattern"], clips=4)).pattern.counts(
            found["clips"]
        )
        steps = run.aggregator.gflops(found["clips"], (1, 2, 2, 16))
        assert found["gflops_per_video"] == pytest.approx(9 * dear + cheap + steps, rel=1e-12)
    assert files["all-C-n4"]["metrics"]["top1"] > 0.9  # the maps tell the class, whoever made them


def test_validation_is_the_mean_over_the_patterns_of_n_clips(trained: TrainResult, store: Store) -> None:
    from faster.aggregate.data.partition import choose_subsets
    from faster.aggregate.run_setup import PreparedRun

    asked, mix = config(store, trained.run), choose_mix(store, MixRequest(pattern="any", clips=4))
    parts = choose_subsets(store, mix, "split1", TrainConfig(store=store.path))
    cpu = torch.device("cpu")
    prepared = PreparedRun(asked, store, mix, "split1", parts, run=trained.run, device=cpu)
    task = prepared.task(ClipReader(mix, store.videos.labels, reads="maps"))
    prepared.load_best()
    shares = []
    for pattern in ("all-E", "1:1", "1:3", "all-C"):
        alone = choose_mix(store, MixRequest(pattern=pattern, clips=4, expensive="dear", cheap="cheap"))
        one = PreparedRun(asked, store, alone, "split1", parts, run=trained.run, device=cpu)
        single = one.task(ClipReader(alone, store.videos.labels, reads="maps"))
        single.model = prepared.aggregator
        shares.append(single.validate())
    for name in ("top1", "mean_class_accuracy", "loss"):
        assert task.validate()[name] == pytest.approx(np.mean([share[name] for share in shares]))


def test_the_report_sets_it_beside_the_specialised_runs(
    store: Store, trained: TrainResult, tmp_path: Path
) -> None:
    own = train_agg(config(store, tmp_path / "own", pattern="1:3", epochs=4), progress=False)
    rows, meta = report_of([trained.run, own.run])
    assert len(rows) == len(ALL) + 1 and {row.group for row in rows} == {""}
    beside = [row for row in rows if (row.pattern, row.clips) == ("1:3", 4)]
    assert [row.setting for row in beside] == ["trained on any pattern", "trained on its pattern"]
    assert beside[0].gflops_per_video == beside[1].gflops_per_video
    assert beside[0].mixture == beside[1].mixture == ""
    assert any("2 runs, seeds 0" in line for line in meta.lines)
    command = next(line for line in meta.lines if line.startswith("one of them alone"))
    assert "--pattern any --clips 4" in command


def test_the_command_names_both_models_and_no_mixture_may_lack(trained: TrainResult, tmp_path: Path) -> None:
    """The first row is of all-E, which needs one model; in a store of three, training needs both names."""
    _, meta = report_of([trained.run])
    command = next(line for line in meta.lines if line.startswith("one of them alone"))
    assert "--expensive dear --cheap cheap" in command
    shutil.copytree(trained.run, tmp_path / "run")
    (tmp_path / "run/budgets/1-1-n2.json").unlink()
    with pytest.raises(RunError, match=r"1-1-n2\.json is missing; run its train-agg command again"):
        report_of([tmp_path / "run"])


def test_a_sweep_takes_it_as_a_pattern(store: Store, trained: TrainResult, tmp_path: Path) -> None:
    grid = Grid(aggregators=("fast-gru", "gru"), patterns=("any", "1:1"), clips=(4,), seeds=1)
    training = config(store, tmp_path, pattern=None, clips=None)
    swept = run_sweep(SweepConfig(training=training, grid=grid, out=tmp_path / "s"), progress=False)
    assert len(swept.finished) == 4 and not swept.failed
    (cell,) = (tmp_path / "s/cells").glob("fast-gru-any-n4-*")
    for name in ("best.safetensors", "metrics.jsonl", "result.json", "budgets/1-1-n2.csv"):
        own, alone = (folder / name for folder in (cell, trained.run))
        if name == "result.json":
            assert json.loads(own.read_text())["metrics"] == json.loads(alone.read_text())["metrics"]
        else:
            assert own.read_bytes() == alone.read_bytes()
    rows, _ = report_of([tmp_path / "s"])
    assert len(rows) == 2 * (len(ALL) + 1)


def test_commands_and_names(store: Store, trained: TrainResult, tmp_path: Path) -> None:
    assert run_folder(
        TrainConfig(store=store.path, pattern="any"), choose_mix(store, MixRequest(pattern="any", clips=4))
    ) == Path("runs/small-fast-gru-any-n4-s0")
    asked = [str(trained.run), "--pattern", "1:1", "--clips", "2", "--json"]
    found = json.loads(CliRunner().invoke(evaluate_command, asked, catch_exceptions=False).stdout)
    assert found["predictions"].endswith("predictions-1-1-n2.csv")
    alone = train_agg(config(store, tmp_path / "e", pattern="all-E", epochs=1), progress=False)
    with pytest.raises(UsageError, match="the run was trained on dear alone; train one for every pattern"):
        evaluate(load_run(alone.run), pattern="1:1")
