"""The whole way on real files, through the public functions: stage one, extract, train, evaluate, predict."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faster import store as stores
from faster.aggregate.evaluation.evaluate import evaluate
from faster.aggregate.runs import load_run
from faster.aggregate.train import TrainConfig, train_agg
from faster.cli import main
from faster.errors import DataError, Interrupted, SourceError, UsageError, WeightsError
from faster.extract.run import ExtractConfig, extract
from faster.extract.train_backbone.train import TrainBackboneConfig, train_backbone
from faster.predict.predictor import Predictor, write_predictions
from log_lines import logged
from processes import started
from sets import make_bright_set, write_bright_video

CHEAP, DEAR = "r2d14-w4", "r2plus1d14-w4"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos/, weights/, project.zarr and runs/, made by the product."""
    root = tmp_path_factory.mktemp("project")
    make_bright_set(root / "videos", per_class=12, tests=2)
    (root / "videos/test/dark/broken.mp4").write_bytes(b"no video")
    for model in (DEAR, CHEAP):
        train_backbone(backbone_config(root, model), progress=False)
    extract(extract_config(root), progress=False)
    train_agg(agg_config(root), progress=False)
    train_agg(agg_config(root, aggregator="average"), progress=False)
    return root


def backbone_config(root: Path, model: str) -> TrainBackboneConfig:
    return TrainBackboneConfig(
        model=model,
        source=str(root / "videos"),
        out=str(root / "weights"),
        size=32,
        epochs=10,
        batch_size=4,
        warmup_epochs=1,
        learning_rate=0.02,
        validation_share=0.2,
        validation_clips=2,
    )


def extract_config(root: Path) -> ExtractConfig:
    return ExtractConfig(
        models=(DEAR, CHEAP),
        source=str(root / "videos"),
        store=str(root / "project.zarr"),
        weights=tuple(str(root / "weights" / f"{model}.safetensors") for model in (DEAR, CHEAP)),
        clips=4,
        size=32,
    )


def agg_config(root: Path, *, aggregator: str = "fast-gru", pattern: str = "1:1") -> TrainConfig:
    return TrainConfig(
        store=root / "project.zarr",
        aggregator=aggregator,
        pattern=pattern,
        out=root / "runs" / aggregator,
        epochs=6,
        batch_size=4,
        device="cpu",
    )


def test_every_stage_learns_brightness_and_says_what_it_covered(project: Path) -> None:
    for model in (DEAR, CHEAP):
        result = json.loads((project / f"weights/{model}.run/result.json").read_text())
        assert result["test_top1"] == 1.0
        assert list(result["failed"]) == ["test/dark/broken.mp4"]
    report = evaluate(load_run(project / "runs/fast-gru"))
    assert report.metrics.top1 == 1.0 and report.metrics.videos == 4
    assert (report.coverage.listed, report.coverage.whole, report.coverage.failed) == (5, 4, 1)
    np.testing.assert_array_equal(report.confusion.dense(), [[2, 0], [0, 2]])


def test_the_store_knows_what_its_backbones_were_trained_on(project: Path) -> None:
    store = stores.open(project / "project.zarr")
    seen = store.features(DEAR, 8).trained_on
    parts = {name: store.videos.split("folders")[row] for name, row in store.videos.row_of.items()}
    assert seen and all(parts[name] == 1 for name in seen)
    assert store.features(DEAR, 8).class_names == store.class_names == ("dark", "light")


@pytest.mark.parametrize("aggregator", ["fast-gru", "average"])
def test_live_scores_and_costs_equal_the_stores(project: Path, aggregator: str, tmp_path: Path) -> None:
    run = load_run(project / "runs" / aggregator)
    report = evaluate(run)
    with report.predictions.open() as file:
        simulated = {line["id"]: line for line in csv.DictReader(file)}
    predictor = Predictor(run)
    assert predictor.models == [DEAR, CHEAP, DEAR, CHEAP]
    live = list(predictor.predict([project / "videos" / name for name in simulated]))
    for prediction, line in zip(live, simulated.values(), strict=True):
        (name, probability), *_ = prediction.top()
        assert name == line["predicted"]
        assert probability == pytest.approx(float(line["probability1"]), abs=1e-5)
        assert prediction.gflops == pytest.approx(report.gflops_per_video, rel=1e-12)
        assert prediction.clips_of == {DEAR: 2, CHEAP: 2}
        assert float(np.sum(prediction.probabilities)) == pytest.approx(1)  # type: ignore[arg-type]


def test_only_the_named_backbone_runs_on_each_clip(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from faster.extract.backbones.inference.frozen import FrozenBackbone

    ran: list[tuple[int, int]] = []
    call = FrozenBackbone.__call__

    def spy(self: FrozenBackbone, clips: np.ndarray) -> object:
        ran.append((sum(p.numel() for p in self.backbone.parameters()), len(clips)))
        return call(self, clips)

    monkeypatch.setattr(FrozenBackbone, "__call__", spy)
    list(Predictor(project / "runs/fast-gru").predict([next((project / "videos/test/light").glob("*.mp4"))]))
    dear, cheap = ran[:2]
    assert dear[0] != cheap[0] and dear[1] == cheap[1] == 1
    assert ran == [dear, cheap, dear, cheap]


def test_a_video_that_cannot_be_decoded_is_a_reasoned_line_not_a_guess(project: Path, tmp_path: Path) -> None:
    good = next((project / "videos/test/dark").glob("dark*.mp4"))
    broken = project / "videos/test/dark/broken.mp4"
    predictions = list(Predictor(project / "runs/fast-gru").predict([broken, good, tmp_path / "absent.mp4"]))
    assert [bool(p.reason) for p in predictions] == [True, False, True]
    assert predictions[0].top() == [] and predictions[0].gflops == 0
    write_predictions(tmp_path / "predictions.csv", predictions)
    with (tmp_path / "predictions.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["predicted"] for line in lines] == ["", "dark", ""]
    assert "video" in lines[0]["reason"] and lines[2]["reason"]


def run_command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


def test_a_folder_streams_an_answer_a_clip_and_its_last_lines_are_the_stores(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder holds a broken video: a reasoned line, and exit code 3 at the end."""
    run = project / "runs/fast-gru"
    with evaluate(load_run(run)).predictions.open() as file:
        simulated = {line["id"]: line for line in csv.DictReader(file)}
    table = tmp_path / "predictions.csv"
    assert run_command("predict", project / "videos/test", "--run", run, "--stream", "--out", table) == 3
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    (failed,) = [line for line in lines if "reason" in line]
    assert failed["path"].endswith("broken.mp4") and "no video container" in failed["reason"]
    assert said.err == f"predictions: {table}; 1 of 5 videos failed\n"
    answers = [line for line in lines if "clip" in line]
    assert [line["clip"] for line in answers] == [0, 1, 2, 3] * 4
    for line in answers:
        assert line["model"] == (CHEAP if line["clip"] % 2 else DEAR) and line["time_seconds"] >= 0
    last = [line for line in answers if line["last"]]
    costs = [line["gflops"] for line in answers[:4]]
    assert costs == sorted(set(costs)) and [line["gflops"] for line in last] == costs[3:] * 4
    with table.open() as file:
        rows = {line["path"]: line for line in csv.DictReader(file)}
    for line in last:
        name = str(Path(line["path"]).relative_to(project / "videos"))
        assert line["top"][0]["class"] == simulated[name]["predicted"] == rows[line["path"]]["predicted"]
        probability = float(simulated[name]["probability1"])
        assert line["top"][0]["probability"] == pytest.approx(probability, abs=1e-3)
        assert float(rows[line["path"]]["probability1"]) == pytest.approx(
            line["top"][0]["probability"], abs=1e-6
        )


def test_stopping_early_is_reported_and_a_budget_too_small_is_refused(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, table = project / "runs/fast-gru", tmp_path / "predictions.csv"
    video = next((project / "videos/test/light").glob("*.mp4"))
    after = Predictor(run).gflops_after.tolist()
    command = ("predict", video, "--run", run, "--out", table)
    assert run_command(*command, "--budget-gflops", after[1], "--json") == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["stopped_by"], found["clips"]) == ("budget", {DEAR: 1, CHEAP: 1})
    assert found["saved"] == {"gflops": pytest.approx(after[3] - after[1]), "clips": 2}
    assert "1 of 1 video left early" in said.err and "2 of 4 clips" in said.err
    assert run_command(*command, "--exit", "0.01") == 0
    assert "confident: saved" in capsys.readouterr().out
    with table.open() as file:
        (row,) = csv.DictReader(file)
    assert (row["clips"], row["stopped_by"]) == ("1", "confident")
    table.unlink()
    assert run_command(*command, "--budget-gflops", after[0] / 2) == 2
    assert "the first clip alone costs" in capsys.readouterr().err
    assert not table.exists()


def test_a_stop_keeps_the_answers_so_far(project: Path, tmp_path: Path) -> None:
    video = next((project / "videos/test/light").glob("*.mp4"))
    command = [sys.executable, "-m", "faster.cli", "predict", *[str(video)] * 2000, "--json"]
    command += ["--run", str(project / "runs/fast-gru"), "--out", str(tmp_path / "table.csv")]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        answers = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        answers += process.stdout.readlines()
        said = process.stderr.read()
        process.wait()
    assert process.returncode == 75 and f"answers so far are in {tmp_path / 'table.csv'}" in said
    with (tmp_path / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) in (len(answers), len(answers) + 1)
    assert len(answers) < 2000


def test_the_exported_average_of_the_backbones_scores_is_the_runs(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = project / "runs/average"
    assert load_run(run).aggregator.reads == "logits"
    assert run_command("export-model", run, "--out", tmp_path / "exported", "--json") == 0
    names = json.loads(capsys.readouterr().out)["files"]
    description = json.loads((tmp_path / "exported/model.json").read_text())
    assert description["models"][DEAR]["weights_digest"] and description["class_names"] == ["dark", "light"]
    programs = {name: torch.export.load(tmp_path / "exported" / name).module() for name in names}
    scores = torch.tensor([[[2.0, -1.0]], [[0.5, 0.25]], [[-3.0, 3.0]]])
    state = programs["init.pt2"](scores[0])
    for score in scores[1:]:
        state = programs["step.pt2"](*state, score)
    mean = scores.softmax(-1).mean(0)
    torch.testing.assert_close(programs["readout.pt2"](*state).softmax(-1), mean)


def test_a_new_video_from_anywhere_is_classified(project: Path, tmp_path: Path) -> None:
    write_bright_video(tmp_path / "new one.mp4", level=185, frames=40, seed=99)
    (prediction,) = Predictor(project / "runs/fast-gru").predict([tmp_path / "new one.mp4"])
    assert prediction.top(1)[0][0] == "light"


def test_other_weights_than_the_stores_are_refused(project: Path, tmp_path: Path) -> None:
    from faster.extract.backbones import build
    from faster.extract.backbones.weights.load import WeightsInfo, save_weights

    other = save_weights(build(CHEAP, 2), tmp_path / "other.safetensors", WeightsInfo(model=CHEAP))
    with pytest.raises(WeightsError, match=r"not the weights that the run's store.*--weights r2d14-w4=FILE"):
        Predictor(project / "runs/fast-gru", weights={CHEAP: str(other.path)})


def test_weights_named_for_a_model_that_the_run_has_not_are_refused(project: Path) -> None:
    with pytest.raises(UsageError, match="the run has no model 'typo'"):
        Predictor(project / "runs/fast-gru", weights={"typo": "x"})


def test_models_of_different_frame_sizes_are_each_shown_their_own(project: Path, tmp_path: Path) -> None:
    """The live scores equal the store's also where the two models need two decodes."""
    small, large = replace(extract_config(project), store=str(tmp_path / "s.zarr")), 48
    weights = dict(zip(small.models, small.weights, strict=True))
    for model, size in ((DEAR, 32), (CHEAP, large)):
        extract(replace(small, models=(model,), weights=(weights[model],), size=size), progress=False)
    config = replace(
        agg_config(project, aggregator="average"), store=tmp_path / "s.zarr", out=tmp_path / "run"
    )
    report = train_agg(config, progress=False).report
    with report.predictions.open() as file:
        simulated = {line["id"]: float(line["probability1"]) for line in csv.DictReader(file)}
    live = Predictor(tmp_path / "run").predict([project / "videos" / name for name in simulated])
    for prediction, probability in zip(live, simulated.values(), strict=True):
        assert prediction.top()[0][1] == pytest.approx(probability, abs=1e-5)


def test_backbone_training_leaves_weights_that_are_not_its_own(project: Path, tmp_path: Path) -> None:
    settings = replace(backbone_config(project, CHEAP), out=str(tmp_path))
    (tmp_path / f"{CHEAP}.safetensors").write_bytes(b"mine")
    with pytest.raises(WeightsError, match="is not of this run"):
        train_backbone(settings, progress=False)
    assert (tmp_path / f"{CHEAP}.safetensors").read_bytes() == b"mine"


def test_evaluation_refuses_videos_that_a_backbone_saw(project: Path) -> None:
    with pytest.raises(DataError, match="train"):
        evaluate(load_run(project / "runs/fast-gru"), part="train")


def test_backbone_training_goes_on_bit_for_bit_where_it_was_stopped(project: Path, tmp_path: Path) -> None:
    from faster.extract.train_backbone.task import BackboneTask

    settings = replace(backbone_config(project, CHEAP), out=str(tmp_path / "weights"))
    loss = BackboneTask.loss
    steps = 0

    def stopped(self: object, batch: object) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 4:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, batch)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(BackboneTask, "loss", stopped)
        train_backbone(settings, progress=False)
    train_backbone(settings, progress=False)
    said: list[str] = []
    with logged(said):
        train_backbone(settings, progress=False)
    assert said[-1].endswith("is finished: nothing to do")
    name = f"{CHEAP}.safetensors"
    assert (tmp_path / "weights" / name).read_bytes() == (project / "weights" / name).read_bytes()


def test_backbone_training_refuses_what_it_cannot_learn_from(tmp_path: Path) -> None:
    write_bright_video(tmp_path / "videos/only/one.mp4", level=100, frames=10, seed=0)
    with pytest.raises(SourceError, match="fewer than two classes"):
        train_backbone(backbone_config(tmp_path, CHEAP), progress=False)
