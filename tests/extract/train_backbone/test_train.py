"""Stage one's options on small real videos; the whole way is in test_pipeline."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import inside
import pytest
import torch
from faster.errors import DataError, Interrupted, RunError, StorageError, UsageError, WeightsError
from faster.extract.backbones import build
from faster.extract.backbones.weights.load import WeightsInfo, load_weights, save_weights
from faster.extract.train_backbone.init import freeze
from faster.extract.train_backbone.task import BackboneTask
from faster.extract.train_backbone.train import (
    TrainBackboneConfig,
    TrainBackboneResult,
    choose_subsets,
    train_backbone,
)
from faster.extract.video.decoder_pool import DecoderPool
from faster.training.distributed import Ranks
from log_lines import logged
from safetensors.torch import load_file
from sets import make_bright_set, write_bright_video
from torch import Tensor, nn

MODEL = "r2d14-w4"


def train(config: TrainBackboneConfig) -> tuple[TrainBackboneResult, list[str]]:
    said: list[str] = []
    with logged(said):
        return train_backbone(config, progress=False), said


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_bright_set(tmp_path_factory.mktemp("sets") / "videos", per_class=12, tests=2)
    (root / "train/dark/broken.mp4").write_bytes(b"no video")
    return root


def config_of(videos: Path, out: Path, **values: Any) -> TrainBackboneConfig:
    usual: dict[str, Any] = {"size": 32, "epochs": 2, "batch_size": 4, "validation_clips": 2}
    return TrainBackboneConfig(
        model=MODEL, source=str(videos), out=str(out), device="cpu", **{**usual, **values}
    )


@pytest.fixture(scope="module")
def trained(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder whose training learnt the classes, with a cache."""
    out = tmp_path_factory.mktemp("weights")
    values = {"warmup_epochs": 1, "learning_rate": 0.02, "validation_share": 0.2, "cache": "uint8"}
    train(config_of(videos, out, epochs=20, **values))
    return out


def test_a_cached_run_in_float32_learns_and_names_what_failed(trained: Path, videos: Path) -> None:
    result = json.loads((trained / f"{MODEL}.run/result.json").read_text())
    assert result["test_top1"] == 1.0 and list(result["failed"]) == ["train/dark/broken.mp4"]
    lines = (trained / f"{MODEL}.run/failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["train/dark/broken.mp4"]
    metrics = [json.loads(line) for line in (trained / f"{MODEL}.run/metrics.jsonl").read_text().splitlines()]
    assert all(line["loss"] > 0 for line in metrics) and metrics[-1]["loss"] < metrics[0]["loss"]
    files = list((trained / "cache").iterdir())
    assert len(files) == 20 and all(path.suffix == ".npy" for path in files)


def test_a_second_run_reads_the_first_ones_cache(trained: Path, videos: Path, tmp_path: Path) -> None:
    _, said = train(
        config_of(
            videos,
            tmp_path,
            epochs=1,
            validation_share=0.2,
            cache="uint8",
            cache_folder=str(trained / "cache"),
        )
    )
    line = next(line for line in said if line.startswith("cache: "))
    assert line == f"cache: {trained / 'cache'} holds 20 videos"  # and not the broken one


def test_stopped_runs_go_on_bit_for_bit(videos: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {"cache": "uint8", "precision": "bf16", "label_smoothing": 0.1}
    train(config_of(videos, tmp_path / "whole", epochs=3, **values))
    loss, steps = BackboneTask.loss, 0

    def stopped(self: BackboneTask, batch: Any) -> Tensor:
        nonlocal steps
        steps += 1
        if steps in (2, 5):
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, batch)

    config = config_of(videos, tmp_path / "stopped", epochs=3, **values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BackboneTask, "loss", stopped)
        for _ in range(2):
            with pytest.raises(Interrupted, match="stopped after step"):
                train(config)
    train(config)
    whole, again = (tmp_path / name / f"{MODEL}.safetensors" for name in ("whole", "stopped"))
    assert whole.read_bytes() == again.read_bytes()
    metrics = [path.with_suffix(".run") / "metrics.jsonl" for path in (whole, again)]
    assert metrics[0].read_text() == metrics[1].read_text()
    failures = [path.with_suffix(".run") / "failures.jsonl" for path in (whole, again)]
    assert failures[0].read_text() == failures[1].read_text()


def test_folds_leave_each_video_out_once_and_say_so(videos: Path, tmp_path: Path) -> None:
    unseen: list[set[str]] = []
    whole = choose_subsets(config_of(videos, tmp_path), config_of(videos, tmp_path).read())
    for fold in range(2):
        config = config_of(videos, tmp_path / str(fold), epochs=1, folds=2, fold=fold)
        result, said = train(config)
        info = load_weights(MODEL, path=result.weights)[1]
        unseen.append(set(info.extra["unseen"]))
        assert not unseen[fold] & set(info.trained_on) and len(unseen[fold]) == result.unseen
        assert any(f"{result.unseen} left out (fold {fold} of 2)" in line for line in said)
        again = choose_subsets(config, config.read())
        assert {video.id for video in again.unseen} == unseen[fold]
    assert not unseen[0] & unseen[1]
    assert unseen[0] | unseen[1] == {video.id for video in (*whole.train, *whole.validation)}
    with pytest.raises(RunError, match=r"train_backbone\.fold is 0 there, 1 asked"):
        train(config_of(videos, tmp_path / "0", epochs=1, folds=2, fold=1))


def test_without_a_validation_share_all_videos_train_and_the_last_epoch_is_kept(
    videos: Path, tmp_path: Path
) -> None:
    shared, whole = (
        choose_subsets(config, config.read())
        for config in (config_of(videos, tmp_path), config_of(videos, tmp_path, validation_share=0.0))
    )
    assert {v.id for v in whole.train} == {v.id for v in (*shared.train, *shared.validation)}
    result, _ = train(config_of(videos, tmp_path, epochs=3, validation_share=0.0))
    run = tmp_path / f"{MODEL}.run"
    assert result.best_epoch == 3 and result.validation_top1 is None and result.test_top1 is not None
    last, kept = (load_file(run / f"{name}.safetensors") for name in ("last", "best"))
    assert all(torch.equal(value, last[f"model/{name}"]) for name, value in kept.items())


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_bright_set(tmp_path_factory.mktemp("three") / "other", per_class=5, tests=1)
    for i in range(5):
        part = "test" if i < 1 else "train"
        write_bright_video(root / part / "middle" / f"middle {i}.mp4", level=125, frames=20, seed=i)
    return root


def test_other_classes_get_a_new_classifier_on_what_was_learnt(
    trained: Path, three_classes: Path, tmp_path: Path
) -> None:
    init = trained / f"{MODEL}.run"
    config = config_of(
        three_classes, tmp_path, init=str(init), freeze=("features",), learning_rate=0.5, epochs=3
    )
    result, said = train(config)
    before, after = load_file(init / "best.safetensors"), load_file(result.weights)
    changed = {
        name
        for name in before
        if before[name].shape != after[name].shape or (before[name] != after[name]).any()
    }
    assert changed == {"fc.weight", "fc.bias"}  # statistics too
    info, origin = load_weights(MODEL, path=result.weights)[1], load_weights(MODEL, path=init)[1]
    assert info.class_names == ("dark", "light", "middle")
    assert set(origin.trained_on) < set(info.trained_on) and info.extra["init"]["digest"] == origin.digest
    assert any(line.endswith("with a new classifier") for line in said)
    settled = json.loads((tmp_path / f"{MODEL}.run/config.json").read_text())
    assert settled["init"] == origin.digest


def test_the_same_classes_keep_their_classifier_and_frozen_parts_their_weights(
    trained: Path, videos: Path, tmp_path: Path
) -> None:
    init = str(trained / f"{MODEL}.safetensors")
    config = config_of(videos, tmp_path, init=init, freeze=("conv1", "res2.0"), epochs=1, learning_rate=1e-4)
    result, said = train(config)
    assert any("its classifier too" in line for line in said)
    before, after = load_file(init), load_file(result.weights)
    for name in before:
        kept = name.startswith(("conv1.", "res2.0."))
        if kept or name.endswith("conv.weight"):
            assert kept == torch.equal(before[name], after[name]), name


def test_weights_that_saw_a_test_video_or_the_fold_are_not_started_from(videos: Path, tmp_path: Path) -> None:
    parts = choose_subsets(config_of(videos, tmp_path, folds=2, fold=0), config_of(videos, tmp_path).read())
    for seen, what in ((parts.test[0], "test videos"), (parts.unseen[0], "videos of fold 0")):
        info = WeightsInfo(model=MODEL, class_names=("x", "y"), trained_on=(seen.id,))
        save_weights(build(MODEL, 2), tmp_path / "w.safetensors", info)
        config = config_of(videos, tmp_path / "out", init=str(tmp_path / "w.safetensors"), folds=2, fold=0)
        with pytest.raises(DataError, match=f"1 of the .* {what}.*{seen.id}"):
            train(config)


def test_a_cache_that_goes_missing_ends_the_run_and_is_made_again(videos: Path, tmp_path: Path) -> None:
    """Its videos can be decoded: they must not be left out as those that cannot."""
    loss = BackboneTask.loss

    def deleting(self: BackboneTask, batch: Any) -> Tensor:
        for path in (tmp_path / "cache").glob("*.npy"):
            path.unlink()
        return loss(self, batch)

    config = config_of(videos, tmp_path, cache="uint8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BackboneTask, "loss", deleting)
        with pytest.raises(StorageError, match=r"cannot be read any more.*the same command makes it again"):
            train(config)
    assert set(train(config)[0].failed) <= {"train/dark/broken.mp4"}


def test_weights_of_an_unfinished_run_are_refused_and_unknown_training_is_said(
    trained: Path, videos: Path, tmp_path: Path
) -> None:
    """What a run has seen is written at its end: before, it would look like weights that saw nothing."""
    begun = shutil.copytree(trained / f"{MODEL}.run", tmp_path / f"{MODEL}.run")
    (begun / "result.json").unlink()
    with pytest.raises(WeightsError, match="is not finished: which videos its weights saw"):
        train(config_of(videos, tmp_path / "out", init=str(begun)))
    (begun / "best.safetensors.json").unlink()
    result, said = train(config_of(videos, tmp_path / "out", init=str(begun / "best.safetensors"), epochs=1))
    assert any("which videos it was trained on is unknown" in line for line in said)
    extra = load_weights(MODEL, path=result.weights)[1].extra
    assert extra["init"]["trained_on_known"] is False

    Path(result.weights).unlink()  # the run folder has them still
    _, said = train(config_of(videos, tmp_path / "out", init=str(begun / "best.safetensors"), epochs=1))
    assert said[-1].endswith("is finished: nothing to do")
    again = load_file(result.weights)
    for name, value in load_file(tmp_path / "out" / f"{MODEL}.run/best.safetensors").items():
        assert torch.equal(again[name], value)
    assert load_weights(MODEL, path=result.weights)[1].extra == extra


def test_other_labels_are_another_run(videos: Path, tmp_path: Path) -> None:
    paths = [path for path in sorted((videos / "train").rglob("*.mp4")) if path.name != "broken.mp4"]
    labels = [int(path.parent.name == "light") for path in paths]
    listed = tmp_path / "train_list.txt"

    def write() -> None:
        names = [path.relative_to(videos / "train") for path in paths]
        lines = [f"{name} {label}\n" for name, label in zip(names, labels, strict=True)]
        listed.write_text("".join(lines), encoding="utf-8")

    config = replace(config_of(listed, tmp_path / "out", epochs=1), video_root=str(videos / "train"))
    write()
    train(config)
    labels[0] = 1
    write()
    with pytest.raises(RunError, match="was begun with another config"):
        train(config)


def test_few_videos_are_not_shared_by_more_processes(videos: Path, tmp_path: Path) -> None:
    config = config_of(videos, tmp_path)
    source = config.read()
    parts = choose_subsets(config, source)
    shape = (2, 8, 32, 32, 3)
    with DecoderPool(1, shape=shape, slots=2) as pool, pytest.raises(UsageError, match="add videos"):
        BackboneTask(
            config,
            build(MODEL, 2),
            source,
            replace(parts, train=parts.train[:3]),
            pool,
            device=torch.device("cpu"),
            ranks=Ranks(rank=0, count=2),
            frozen=(),
            cached={},
            failures=tmp_path / "failures.jsonl",
        )


def test_features_are_all_but_the_classifier(tmp_path: Path) -> None:
    """Also what no layer holds, as the tokens of transformers."""
    backbone = build(MODEL, 2)
    backbone.register_parameter("token", nn.Parameter(torch.ones(3)))
    freeze(MODEL, backbone, ["features"])
    assert {name for name, value in backbone.named_parameters() if value.requires_grad} == {
        "fc.weight",
        "fc.bias",
    }


def test_parts_that_cannot_be_frozen_are_refused() -> None:
    backbone = build(MODEL, 2)
    with pytest.raises(UsageError, match="no part 'layer1' to freeze; there is: features, conv1, res2, res3"):
        freeze(MODEL, backbone, ["layer1"])
    with pytest.raises(UsageError, match="leaves nothing to train"):
        freeze(MODEL, backbone, ["features", "fc"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"freeze": ("conv1",)}, "--freeze keeps what --init brings"),
        ({"cache_folder": "x"}, "goes with --cache"),
        ({"cache": "float"}, "allowed: uint8"),
        ({"folds": 2}, "go together"),
        ({"label_smoothing": 1.0}, "below 1"),
        ({"validation_share": 1.0}, "at least 0 and below 1"),
        ({"validation_share": 0.0, "patience": 2}, "needs a validation share"),
        ({"validation_clips": 0}, "at least 1"),
        ({"precision": "fp8"}, "float32, bf16"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        TrainBackboneConfig(model=MODEL, **values)


def test_bf16_on_a_cpu_is_refused_for_networks_of_others(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "foreign_nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    channels = 4\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.num_classes, self.conv = classes, nn.Conv3d(3, 4, (8, 16, 16), (8, 16, 16))\n"
        "        self.fc = nn.Linear(4, classes)\n"
        "    def features(self, x):\n"
        "        return self.conv(x).permute(0, 2, 3, 4, 1)\n"
        "    def classify(self, maps):\n"
        "        return self.fc(maps.mean((1, 2, 3)))\n"
    )
    config = replace(config_of(videos, tmp_path, epochs=1), model="foreign_nets:Net")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        with pytest.raises(UsageError, match="cannot be trained in bf16 on a CPU"):
            train(replace(config, precision="bf16"))
        assert train(config)[0].best_epoch == 1  # as it is, in float32


@pytest.mark.slow
def test_two_processes_train_as_one(trained: Path, videos: Path, tmp_path: Path) -> None:
    """With norms frozen, which are each process's own in training, the losses are equal up to the order of sums."""
    init = ["--init", str(trained / f"{MODEL}.run"), "--freeze", "features", "--learning-rate", "0.5"]
    usual = [
        "--model",
        MODEL,
        "--size",
        "32",
        "--epochs",
        "2",
        "--batch-size",
        "6",
        "--validation-clips",
        "2",
    ]
    command = ["train-backbone", str(videos), *usual, *init, "--device", "cpu", "--json"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    lines = {}
    for name, count in (("one", 1), ("two", 2)):
        out = ["--out", str(tmp_path / name)]
        done: Any = (
            inside.faster(*command, *out)
            if count == 1
            else subprocess.run(
                [*torchrun, "-m", "faster.cli", *command, *out],
                capture_output=True,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=False,
            )
        )
        assert done.returncode == 0, done.stderr
        assert list(json.loads(done.stdout)["failed"]) == ["train/dark/broken.mp4"]  # one process speaks
        run = tmp_path / name / f"{MODEL}.run"
        lines[name] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert json.loads((run / "config.json").read_text())["ranks"] == count
    assert len(lines["one"]) == len(lines["two"]) == 2
    for one, two in zip(lines["one"], lines["two"], strict=True):
        assert one == pytest.approx(two, rel=1e-5)
    weights = [load_file(tmp_path / name / f"{MODEL}.safetensors") for name in ("one", "two")]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-4, atol=1e-6, msg=key)
