"""Aggregators on top of the backbones' averaged scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import MODELS, NUM_CLASSES, make_batch
from faster.aggregate.evaluation.evaluate import evaluate
from faster.aggregate.export import export_model
from faster.aggregate.models.base import Aggregator
from faster.aggregate.models.pooling.average import Average
from faster.aggregate.models.registry import build
from faster.aggregate.models.score_skip import ScoreSkip
from faster.aggregate.report.write import write_report
from faster.aggregate.runs import load_run
from faster.aggregate.sweep.grid import Grid
from faster.aggregate.sweep.run import SweepConfig, run_sweep
from faster.aggregate.train import TrainConfig, train_agg
from faster.errors import DataError, UsageError
from faster.store import Store
from safetensors.torch import load_file
from stores import make_spec, make_store, make_videos
from torch.utils.flop_counter import FlopCounterMode

INNER = ["fast-gru", "gru", "lstm", "concat", "max-pool", "netvlad", "temporal-conv", "attentive-probe"]
ALIKE = dict.fromkeys(MODELS, (2, 3, 3, 8))
UNLIKE = {"dear": (2, 3, 3, 8), "cheap": (1, 2, 2, 4)}


def make(name: str, shapes: Any) -> tuple[ScoreSkip, Aggregator[Any]]:
    """With heads of its own, and averaging with the same heads."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        skip = build(name, map_shapes=shapes, num_classes=NUM_CLASSES, skip_scores=True).double()
        average = build("average", map_shapes=shapes, num_classes=NUM_CLASSES).double()
    assert isinstance(skip, ScoreSkip)
    assert isinstance(average, Average)
    skip.take({model: (average.head(model).weight, average.head(model).bias) for model in shapes})
    return skip.eval(), average.eval()


@pytest.mark.parametrize("shapes", [ALIKE, UNLIKE], ids=["alike", "unlike"])
@pytest.mark.parametrize("name", INNER)
def test_untrained_it_is_averaging_and_its_steps_are_the_whole_sequence(name: str, shapes: Any) -> None:
    skip, average = make(name, shapes)
    batch = make_batch(5, shapes=shapes)
    torch.testing.assert_close(skip(batch), average(batch), rtol=1e-12, atol=1e-12)
    for parameter in skip.inner.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    whole = skip(batch)
    assert not torch.allclose(whole, average(batch), atol=0.01)
    torch.testing.assert_close(whole - skip.inner(batch), average(batch), rtol=1e-9, atol=1e-9)
    state = skip.init(*batch.at(0))
    for t in range(1, 5):
        state = skip.step(state, *batch.at(t))
    torch.testing.assert_close(skip.readout(state), whole, rtol=1e-9, atol=1e-9)


def test_its_cost_is_what_is_counted() -> None:
    skip, _ = make("fast-gru", ALIKE)
    batch = make_batch(4, videos=1)
    with FlopCounterMode(display=False) as counter:
        skip(batch)
    last_layer = skip.inner.fc.weight.numel()
    counted = counter.get_total_flops() / 2 - last_layer
    models = [MODELS[int(i)] for i in batch.model_of[0]]
    assert skip.video_gflops(ALIKE, models) * 1e9 == pytest.approx(counted, rel=1e-12)
    assert skip.gflops(4, ALIKE["dear"]) * 1e9 == pytest.approx(counted, rel=1e-12)


@pytest.mark.parametrize("name", ["average", "tsn"])
def test_what_scores_clips_itself_takes_none(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} adds up the clips' scores itself"):
        build(name, map_shapes=ALIKE, num_classes=NUM_CLASSES, skip_scores=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two models with classifiers that are not very good."""
    rng = np.random.default_rng(0)
    specs = [make_spec("dear"), make_spec("cheap", map_shape=(1, 1, 1, 8))]
    heads = {
        spec.model: (
            (np.eye(3, spec.map_shape[3]) + rng.normal(0, 0.5, (3, spec.map_shape[3]))).astype(np.float32),
            rng.normal(0, 0.1, 3).astype(np.float32),
        )
        for spec in specs
    }
    path = tmp_path_factory.mktemp("skip") / "s.zarr"
    costs = {"dear": 9.0, "cheap": 1.0}
    return make_store(path, specs, make_videos(48), gflops=costs, heads=heads, signal=True)


def train(store: Store, out: Path, **values: Any) -> Any:
    usual = {"aggregator": "fast-gru", "pattern": "1:3", "epochs": 3, "device": "cpu", "skip_scores": True}
    return train_agg(TrainConfig(store=store.path, out=out, **{**usual, **values}), progress=False)


def test_training_keeps_the_classifiers_and_runs_say_so(store: Store, tmp_path: Path) -> None:
    done = train(store, tmp_path / "run", epochs=8)
    assert done.report.metrics.top1 == 1.0
    weights = load_file(done.run / "best.safetensors")
    for model in ("dear", "cheap"):
        head = store.path / "features" / model / "L8" / "head" / "weight" / "c" / "0" / "0"
        kept = weights[f"scores.heads.head{sorted(('dear', 'cheap')).index(model)}.weight"]
        assert kept.numpy().tobytes() == head.read_bytes()
    run = load_run(done.run)
    assert run.config.skip_scores and isinstance(run.aggregator, ScoreSkip)
    assert evaluate(run, device="cpu").metrics == done.report.metrics
    assert export_model(run, tmp_path / "exported").files
    again = train(store, tmp_path / "again", init=done.run)
    assert load_run(again.run).config.skip_scores
    with pytest.raises(DataError, match="was trained with --skip-scores; add it"):
        train(store, tmp_path / "plain", init=done.run, skip_scores=False)


def test_a_sweep_gives_the_same_and_leaves_averaging_as_it_is(store: Store, tmp_path: Path) -> None:
    alone = train(store, tmp_path / "alone", aggregator="gru", seed=0)
    template = TrainConfig(store=store.path, epochs=3, device="cpu", skip_scores=True)
    grid = Grid(aggregators=("average", "gru"), patterns=("1:3",), seeds=1)
    run_sweep(SweepConfig(grid=grid, training=template, out=tmp_path / "sweep"), progress=False)
    (cell,) = (tmp_path / "sweep" / "cells").glob("gru-*")
    assert (cell / "best.safetensors").read_bytes() == (alone.run / "best.safetensors").read_bytes()
    (cell,) = (tmp_path / "sweep" / "cells").glob("average-*")
    assert not load_run(cell).config.skip_scores
    page = write_report([tmp_path / "sweep"], out=tmp_path / "report" / "index.html").page.read_text(
        encoding="utf-8"
    )
    assert "with averaged scores" in page and "skip_scores True" in page and "--skip-scores" in page


def test_models_without_a_classifier_are_refused(tmp_path: Path) -> None:
    bare = make_store(tmp_path / "s.zarr", [make_spec("dear")], make_videos(24), signal=True)
    with pytest.raises(DataError, match="the store keeps no linear classifier of dear"):
        train(bare, tmp_path / "run", pattern="all-E")


def test_it_starts_from_a_run_with_more_models(tmp_path: Path) -> None:
    specs = [make_spec("dear"), make_spec("cheap")]
    head = (np.eye(3, 16, dtype=np.float32), np.zeros(3, np.float32))
    heads, costs = dict.fromkeys(("dear", "cheap"), head), {"dear": 9.0, "cheap": 1.0}
    both = make_store(tmp_path / "s.zarr", specs, make_videos(24), gflops=costs, heads=heads)
    origin = train(both, tmp_path / "both", epochs=1)
    begun = train(both, tmp_path / "one", epochs=1, init=origin.run, pattern="all-E", expensive="dear")
    assert set(load_run(begun.run).config.models) == {"dear"}


def test_cells_of_models_without_a_classifier_are_empty_and_the_others_are_not(
    store: Store, tmp_path: Path
) -> None:
    specs = [make_spec("dear"), make_spec("cheap", num_classes=0, class_names=None)]
    heads = {"dear": (np.eye(3, 16, dtype=np.float32), np.zeros(3, np.float32))}
    costs = {"dear": 9.0, "cheap": 1.0}
    mixed = make_store(tmp_path / "s.zarr", specs, make_videos(48), gflops=costs, heads=heads)
    template = TrainConfig(store=mixed.path, epochs=1, device="cpu", skip_scores=True)
    grid = Grid(aggregators=("gru",), patterns=("all-E", "all-C", "1:3"), seeds=1)
    config = SweepConfig(grid=grid, training=template, out=tmp_path / "sweep")
    run_sweep(config, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "sweep" / "cells.jsonl").read_text().splitlines()]
    assert {line["pattern"]: line.get("empty", "")[:23] for line in lines} == {
        "all-E": "",
        "all-C": "cheap has no classifier",
        "1:3": "cheap has no classifier",
    }
