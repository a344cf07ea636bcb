"""What `train-agg`'s options do, each on small stores whose maps tell the class."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster.aggregate.all_splits import train_splits
from faster.aggregate.data.loader import ClipReader, TrainLoader
from faster.aggregate.data.mix import MixRequest, choose_mix
from faster.aggregate.data.partition import choose_subsets
from faster.aggregate.evaluation.evaluate import evaluate
from faster.aggregate.init import classifier_names
from faster.aggregate.models.registry import build, known_names
from faster.aggregate.runs import load_run
from faster.aggregate.task import AggregatorTask, class_weights
from faster.aggregate.train import TrainConfig, TrainResult, train_agg
from faster.errors import DataError, Interrupted, RunError, UsageError
from faster.store import Store, VideoRecord
from faster.training.distributed import Ranks
from log_lines import logged
from safetensors.torch import load_file
from stores import make_spec, make_store, make_videos
from torch.nn import functional as F

SPECS = [make_spec("dear", clips=8), make_spec("cheap", clips=8)]
GFLOPS = {"dear": 9.0, "cheap": 1.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("options") / "small.zarr"
    return make_store(path, SPECS, make_videos(48), gflops=GFLOPS, signal=True)


def run(store: Store, out: Path, *, lines: list[str] | None = None, **changes: Any) -> TrainResult:
    values: dict[str, Any] = {"epochs": 3, "batch_size": 8, "pattern": "1:3", "clips": 4, "device": "cpu"}
    config = TrainConfig(store=store.path, out=out, **{**values, **changes})
    with logged(lines):
        return train_agg(config, progress=False)


def task_of(store: Store, name: str, *, rank: int = 0, count: int = 1, depth: int = 2, **changes: Any):
    """A fresh aggregator of the store's maps and its task, as one of several ranks would have it."""
    mix = choose_mix(store, MixRequest(pattern="1:3", clips=4))
    parts = choose_subsets(store, mix, "split1", TrainConfig(store=store.path, validation_share=0.2))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        aggregator = build(name, map_shapes=mix.map_shapes, num_classes=3)
    values = {"batch_size": 7, "seed": 3, "label_smoothing": 0.0, "balanced": False, **changes}
    reader = ClipReader(mix, store.videos.labels, reads="maps", depth=depth)
    return AggregatorTask(
        aggregator,
        reader,
        store,
        parts,
        device=torch.device("cpu"),
        ranks=Ranks(rank=rank, count=count),
        **values,
    )


@pytest.mark.parametrize("name", [name for name in known_names() if name != "concat"])
def test_the_ranks_losses_add_up_to_the_whole_batchs(store: Store, name: str) -> None:
    """And so do their gradients; concat's batch statistics are each rank's own."""
    settings: dict[str, Any] = {"label_smoothing": 0.1, "balanced": True}
    whole = task_of(store, name, **settings)
    ranks = [task_of(store, name, rank=rank, count=3, **settings) for rank in range(3)]
    for task in (whole, *ranks):
        task.model.double()
    batches = [list(task.batches(1, 0)) for task in (whole, *ranks)]
    for batch, *parts in zip(*batches, strict=True):
        assert [v for part in parts for v in part[0].videos.tolist()] == batch[0].videos.tolist()
        assert sum(float(part[1].sum()) for part in parts) == pytest.approx(1, abs=1e-6)
        losses = [task.loss(part) for task, part in zip(ranks, parts, strict=True)]
        expected = whole.loss(batch)
        torch.testing.assert_close(torch.stack(losses).sum(), expected, rtol=1e-6, atol=1e-7)
    expected.backward()
    for loss in losses:
        loss.backward()
    for parameter, *shared in zip(*(task.model.parameters() for task in (whole, *ranks)), strict=True):
        if parameter.grad is not None:
            total = torch.stack([p.grad for p in shared]).sum(0)
            torch.testing.assert_close(total, parameter.grad, rtol=1e-4, atol=1e-7)


def test_more_ranks_than_videos_in_a_batch_are_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="batches of 5 videos cannot be shared by 6 processes"):
        task_of(store, "gru", count=6, batch_size=5)


def test_smoothing_and_class_weights_against_the_formula(store: Store) -> None:
    task = task_of(store, "gru", label_smoothing=0.2, balanced=True)
    task._weights = np.array([1.0, 2.0, 5.0])
    (batch, shares) = next(task.batches(0, 0))
    logits = task.model(batch)
    weights = torch.tensor([1.0, 2.0, 5.0])[batch.labels]
    assert len(set(weights.tolist())) > 1
    target = 0.8 * F.one_hot(batch.labels, 3) + 0.2 / 3
    losses = -(target * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(weights / weights.sum(), shares)
    torch.testing.assert_close(task.loss((batch, shares)), (weights * losses).sum() / weights.sum())


def test_balanced_classes_weigh_the_same() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [3])
    weights = class_weights(labels, 5, balanced=True)
    assert [weights[k] * (labels == k).sum() for k in (0, 1, 3)] == pytest.approx([10 / 3] * 3)
    assert weights[labels].mean() == pytest.approx(1) and weights[2] == weights[4] == 0
    assert class_weights(labels, 5, balanced=False).tolist() == [1] * 5


@pytest.mark.parametrize("depth", [0, 3])
def test_how_far_ahead_is_read_changes_no_batch(store: Store, depth: int) -> None:
    one, other = task_of(store, "gru"), task_of(store, "gru", depth=depth)
    for epoch in range(3):
        pairs = zip(one.batches(epoch, epoch), other.batches(epoch, epoch), strict=True)
        for (a, shares_a), (b, shares_b) in pairs:
            assert torch.equal(a.dense(torch.float16), b.dense(torch.float16)) and torch.equal(
                a.videos, b.videos
            )
            assert torch.equal(a.labels, b.labels) and torch.equal(shares_a, shares_b)


EVERY_STEP = [(epoch, step) for epoch in range(3) for step in range(4)]


@pytest.mark.parametrize("depth", [0, 3])
@pytest.mark.parametrize("stops", [[(1, 2)], pytest.param(EVERY_STEP, marks=pytest.mark.stress)])
def test_a_run_goes_on_bit_for_bit_however_far_ahead_is_read(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stops: list[tuple[int, int]],
    depth: int,
) -> None:
    changes: dict[str, Any] = {
        "optimizer": "adamw",
        "dropout": 0.3,
        "label_smoothing": 0.1,
        "balance_classes": True,
    }
    run(store, tmp_path / "whole", **changes)
    plan, init = TrainLoader.plan, ClipReader.__init__
    monkeypatch.setattr(ClipReader, "__init__", lambda *a, **k: init(*a, **{**k, "depth": depth}))
    for stop in stops:

        def stopping(self: TrainLoader, epoch: int, step: int, stop: tuple[int, int] = stop) -> Any:
            if (epoch, step) == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return plan(self, epoch, step)

        stopped = tmp_path / f"stopped{stop}"
        with monkeypatch.context() as patch:
            patch.setattr(TrainLoader, "plan", stopping)
            with pytest.raises(Interrupted):
                run(store, stopped, **changes)
        run(store, stopped, **changes)
        for name in ("best.safetensors", "last.safetensors", "metrics.jsonl", "predictions.csv"):
            assert (stopped / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (stop, name)


@pytest.mark.parametrize(
    "name", ["concat", "fast-gru", "gru", "lstm", "max-pool", "netvlad", "temporal-conv", "tsn"]
)
def test_aggregators_learn_in_bf16(store: Store, tmp_path: Path, name: str) -> None:
    result = run(store, tmp_path, aggregator=name, precision="bf16", epochs=6)
    assert result.report.metrics.top1 >= 0.9
    assert {t.dtype for t in load_file(tmp_path / "best.safetensors").values()} <= {
        torch.float32,
        torch.int64,
    }


def test_adamw_learns_and_the_config_holds_every_value(store: Store, tmp_path: Path) -> None:
    lines: list[str] = []
    changes: dict[str, Any] = {
        "optimizer": "adamw",
        "balance_classes": True,
        "label_smoothing": 0.1,
        "patience": 2,
    }
    result = run(store, tmp_path, lines=lines, aggregator="gru", epochs=8, learning_rate=0.01, **changes)
    assert result.report.metrics.top1 >= 0.9
    assert TrainConfig(store="s", optimizer="adamw").options("cpu").learning_rate == 0.001
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["training"] == {
        "epochs": 8,
        "batch_size": 8,
        "learning_rate": 0.01,
        "optimizer": "adamw",
        "momentum": 0.9,
        "weight_decay": 0.01,
        "warmup_epochs": 1.0,
        "max_gradient_norm": 10.0,
        "precision": "float32",
        "patience": 2,
        "seed": 0,
        "device": "cpu",
    }
    assert (config["balance_classes"], config["label_smoothing"]) == (True, 0.1)
    assert (config["ranks"], config["init"]) == (1, None)
    assert config["videos"]["store"] == 48 and config["versions"]["zarr"]
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert {"train_loss", "learning_rate", "top1", "macro_f1", "calibration_error", "loss"} <= line.keys()
    epochs = [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in epochs] == list(range(1, len(epochs) + 1))
    assert all(line["seconds"] > 0 and 0 <= line["waited"] <= 1 for line in epochs)
    try:
        import tensorboard  # noqa: F401
    except ModuleNotFoundError:
        assert sum("tensorboard is not installed" in line for line in lines) == 1
    else:
        assert list(tmp_path.glob("events.out.tfevents*"))


# --- starting from another run ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four other classes, the same backbones, two splits."""
    videos = [
        VideoRecord(
            id=f"other{i}",
            path=f"other{i}",
            label=i % 4,
            splits={
                name: "test" if (i // 4 + k) % 3 == 0 else "train" for k, name in enumerate(("one", "two"))
            },
        )
        for i in range(48)
    ]
    path = tmp_path_factory.mktemp("other") / "other.zarr"
    names = ("w", "x", "y", "z")
    specs = [replace(spec, num_classes=4, class_names=names) for spec in SPECS]
    return make_store(path, specs, videos, gflops=GFLOPS, signal=True, class_names=names)


@pytest.fixture(scope="module")
def origin(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(store, tmp_path_factory.mktemp("origin") / "gru", aggregator="gru", epochs=4).run


def test_init_takes_all_but_the_classifier(other_store: Store, origin: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    # A rate so small that the first epoch's weights are still the ones it started from.
    result = run(
        other_store, tmp_path, lines=lines, aggregator="gru", init=origin, epochs=1, learning_rate=1e-12
    )
    theirs, ours = load_file(origin / "best.safetensors"), load_file(tmp_path / "best.safetensors")
    assert classifier_names(load_run(tmp_path).config) == {"fc.weight", "fc.bias"}
    for name, value in ours.items():
        if name.startswith("fc."):
            assert value.shape[0] == 4 and theirs[name].shape[0] == 3
        else:
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-9)
    assert any(f"starts from {origin}, " in line and line.endswith("with a new classifier") for line in lines)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["init"]["run"] == str(origin) and len(config["init"]["sha256"]) == 64
    assert result.report.class_names == ("w", "x", "y", "z")


def test_init_keeps_the_classifier_of_the_same_classes(store: Store, origin: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    run(store, tmp_path, lines=lines, aggregator="gru", init=origin, epochs=1, learning_rate=1e-12)
    theirs, ours = load_file(origin / "best.safetensors"), load_file(tmp_path / "best.safetensors")
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-9) for name in theirs)
    assert any("its classifier too" in line for line in lines)


@pytest.mark.parametrize("name", known_names())
def test_the_classifier_is_what_depends_on_the_number_of_classes(origin: Path, name: str) -> None:
    config = replace(load_run(origin).config, aggregator=name)
    assert classifier_names(config) < set(config.build().state_dict()) or name in (
        "average",
        "tsn",
        "max-pool",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aggregator": "lstm"}, r"trained gru, and lstm is asked; add --aggregator gru"),
        ({"init": "nowhere"}, r"nowhere/config\.json is missing"),
    ],
)
def test_runs_that_cannot_be_started_from(
    other_store: Store, origin: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        run(other_store, tmp_path / "run", **{"aggregator": "gru", "init": origin, **changes})
    assert not (tmp_path / "run").exists()


def test_maps_of_another_shape_and_bare_classifiers_cannot_be_started_from(
    other_store: Store, origin: Path, tmp_path: Path
) -> None:
    wide = [make_spec(spec.model, clips=8, map_shape=(1, 2, 2, 20)) for spec in SPECS]
    store = make_store(tmp_path / "wide.zarr", wide, make_videos(24), gflops=GFLOPS, signal=True)
    with pytest.raises(
        DataError, match=r"trained on maps of \(1, 2, 2, 16\).*the store's are \(1, 2, 2, 20\)"
    ):
        run(store, tmp_path / "run", aggregator="gru", init=origin)
    pooled = run(other_store, tmp_path / "pooled", aggregator="max-pool", epochs=1).run
    with pytest.raises(DataError, match="max-pool has nothing but a classifier"):
        run(store, tmp_path / "run", aggregator="max-pool", init=pooled)


# --- every split -----------------------------------------------------------------------------------------


def test_init_never_saw_what_is_reported(other_store: Store, origin: Path, tmp_path: Path) -> None:
    first = run(other_store, tmp_path / "first", aggregator="gru", epochs=1, split="one", init=origin)
    second = run(other_store, tmp_path / "second", aggregator="gru", epochs=1, split="one", init=first.run)
    seen = load_run(origin).trained_on | load_run(first.run).trained_on
    assert seen and load_run(second.run).trained_on == seen  # of all runs before it
    for split in ("two", "all"):  # videos of split one's train part are tested on in split two
        train = train_splits if split == "all" else train_agg
        config = TrainConfig(
            store=other_store.path,
            aggregator="gru",
            pattern="1:3",
            clips=4,
            split=split,
            init=second.run,
            out=tmp_path / split,
            device="cpu",
        )
        with pytest.raises(DataError, match=r"test videos of two were in the training of .*second"):
            train(config, progress=False)
        assert not list(tmp_path.glob(f"{split}/**/metrics.jsonl"))


def test_every_split_is_trained_and_averaged(other_store: Store, origin: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner
    from faster.aggregate.commands import evaluate_command, train_agg_command

    folder = tmp_path / "all"
    command = ["--store", str(other_store.path), "--aggregator", "gru", "--pattern", "1:3", "--clips", "4"]
    command += [
        "--epochs",
        "2",
        "--batch-size",
        "8",
        "--device",
        "cpu",
        "--init",
        str(origin),
        "--split",
        "all",
    ]
    trained = CliRunner().invoke(
        train_agg_command, [*command, "--out", str(folder), "--json"], catch_exceptions=False
    )
    values = json.loads(trained.stdout)
    assert list(values["splits"]) == ["one", "two"] and values == json.loads(
        (folder / "result.json").read_text()
    )
    tops = []
    for split in ("one", "two"):
        single = run(other_store, tmp_path / split, aggregator="gru", epochs=2, init=origin, split=split)
        assert values["splits"][split]["metrics"] == single.report.to_dict()["metrics"]
        assert evaluate(load_run(folder / split), device="cpu").metrics == single.report.metrics
        tops.append(single.report.metrics.top1)
    assert values["mean"]["top1"] == pytest.approx(np.mean(tops))
    assert values["standard_error"]["top1"] == pytest.approx(abs(tops[0] - tops[1]) / 2)

    again = CliRunner().invoke(evaluate_command, [str(folder), "--json"], catch_exceptions=False)
    assert json.loads(again.stdout) == values
    text = (
        CliRunner().invoke(evaluate_command, [str(folder), "--split", "all"], catch_exceptions=False).stdout
    )
    assert (
        f"top-1                {np.mean(tops):8.2%} ± " in text
        and "mean ± standard error of 2 splits" in text
    )
    one = CliRunner().invoke(
        evaluate_command, [str(folder), "--split", "two", "--json"], catch_exceptions=False
    )
    assert json.loads(one.stdout) == values["splits"]["two"]
    with pytest.raises(DataError, match="train with faster train-agg --split all"):
        CliRunner().invoke(evaluate_command, [str(origin), "--split", "all"], catch_exceptions=False)
    with pytest.raises(DataError, match="no run of split 'three'; it has one, two"):
        CliRunner().invoke(evaluate_command, [str(folder), "--split", "three"], catch_exceptions=False)
    with pytest.raises(RunError, match=rf"a run of each split; name one of them: {folder}/one, {folder}/two"):
        load_run(folder)


def test_a_split_that_cannot_be_reported_is_refused_before_any_training(tmp_path: Path) -> None:
    """The second split tests on a video that a backbone saw."""
    videos = [
        VideoRecord(
            id=f"v{i}",
            path=f"v{i}",
            label=i % 2,
            splits={"one": "train" if i % 4 < 3 else "test", "two": "test" if i < 4 else "train"},
        )
        for i in range(16)
    ]
    store = make_store(tmp_path / "s.zarr", SPECS, videos, gflops=GFLOPS, trained_on=["v1"])
    config = TrainConfig(store=store.path, aggregator="gru", epochs=1, out=tmp_path / "runs", split="all")
    with pytest.raises(DataError, match="1 of the 4 test videos of two was in the training of dear"):
        train_splits(config, progress=False)
    assert not (tmp_path / "runs").exists()
