"""Stage two end to end, on small stores whose maps tell the class."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from faster.aggregate.commands import evaluate_command, train_agg_command
from faster.aggregate.data.loader import TrainLoader
from faster.aggregate.evaluation.evaluate import evaluate
from faster.aggregate.models.registry import known_names
from faster.aggregate.runs import load_run
from faster.aggregate.train import TrainConfig, TrainResult, train_agg
from faster.errors import DataError, Interrupted, RunError
from faster.store import Store, VideoRecord
from log_lines import logged
from mounts import mounted
from stores import make_maps, make_spec, make_store, make_videos, note_opens

VIDEOS = 48
SPECS = [make_spec("dear", clips=8), make_spec("cheap", clips=8)]
GFLOPS = {"dear": 9.0, "cheap": 1.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("train") / "small.zarr"
    videos = make_videos(VIDEOS)
    seen = [video.id for video in videos if video.splits["split1"] == "train"][::2]
    return make_store(path, SPECS, videos, gflops=GFLOPS, signal=True, trained_on=seen)


def run(store: Store, out: Path, *, lines: list[str] | None = None, **changes: Any) -> TrainResult:
    values: dict[str, Any] = {"epochs": 3, "batch_size": 8, "warmup_epochs": 1.0, "device": "cpu"}
    config = TrainConfig(store=store.path, out=out, **{**values, **changes})
    with logged(lines):
        return train_agg(config, progress=False)


@pytest.fixture(scope="module")
def finished(store: Store, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(store, tmp_path_factory.mktemp("runs") / "fast-gru", epochs=8, pattern="1:3", clips=4)


@pytest.mark.parametrize("name", known_names())
def test_every_aggregator_learns_what_the_maps_tell(store: Store, tmp_path: Path, name: str) -> None:
    result = run(store, tmp_path, aggregator=name, pattern="1:3", clips=4, epochs=6)
    assert result.report.metrics.top1 >= 0.9 and result.report.metrics.videos == 12
    assert result.report.confusion.total == 12
    again = evaluate(load_run(tmp_path), device="cpu")
    assert again.to_dict() == result.report.to_dict()
    expected = 9 + 3 * 1 + load_run(tmp_path).aggregator.gflops(4, (1, 2, 2, 16))
    assert result.report.gflops_per_video == pytest.approx(expected, rel=1e-12)


def test_a_run_opens_its_store_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = note_opens(monkeypatch)
    run(store, tmp_path, pattern="1:3", clips=4, epochs=1)
    assert opened == [store.path]


def test_the_run_folder_says_everything(store: Store, finished: TrainResult) -> None:
    folder = finished.run
    config = json.loads((folder / "config.json").read_text())
    assert config["store"] == str(store.path.resolve()) and config["store_fingerprint"] == store.fingerprint
    assert (config["expensive"], config["cheap"], config["clips"]) == ("dear", "cheap", 4)
    assert config["models"]["dear"]["spec"] == SPECS[0].to_dict()
    assert config["training"]["epochs"] == 8 and config["versions"]["torch"] == torch.__version__
    assert config["class_names"] == ["a", "b", "c"] and config["map_shapes"]["dear"] == [1, 2, 2, 16]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 8
    result = json.loads((folder / "result.json").read_text())
    assert result == finished.report.to_dict() and result["coverage"]["whole"] == 12
    seen = set(json.loads((folder / "trained_on.json").read_text()))
    parts = store.videos.split("split1")
    assert seen == {store.videos.ids[row] for row in np.flatnonzero(parts == 1)}
    with (folder / "predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["id"] for line in lines] == [store.videos.ids[row] for row in np.flatnonzero(parts == 3)]
    assert np.mean([line["label"] == line["predicted"] for line in lines]) == finished.report.metrics.top1
    for line in lines:
        probabilities = [float(line[f"probability{k}"]) for k in (1, 2, 3)]
        assert line["class1"] == line["predicted"] and probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert sorted(line[f"class{k}"] for k in (1, 2, 3)) == ["a", "b", "c"]


def test_the_report_is_the_aggregator_on_uniform_clips(store: Store, finished: TrainResult) -> None:
    """The whole path against maps made anew and the aggregator run step by step."""
    aggregator = load_run(finished.run).aggregator
    right = []
    for row in np.flatnonzero(store.videos.split("split1") == 3).tolist():
        label = int(store.videos.labels[row])
        maps = [torch.from_numpy(make_maps(spec, row, signal=label + 1)[0]) for spec in SPECS]
        with torch.inference_mode():
            state = aggregator.init(maps[0][:1], "dear")
            for clip in (2, 4, 6):
                state = aggregator.step(state, maps[1][clip : clip + 1], "cheap")
            right.append(int(aggregator.readout(state).argmax()) == label)
    assert finished.report.metrics.top1 == np.mean(right)


def test_a_stopped_run_goes_on_bit_for_bit(
    store: Store, finished: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = TrainLoader.plan

    def stopping(self: TrainLoader, epoch: int, step: int) -> Any:
        if (epoch, step) == (2, 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return plan(self, epoch, step)

    options: dict[str, Any] = {"epochs": 8, "pattern": "1:3", "clips": 4}
    with monkeypatch.context() as patch:
        patch.setattr(TrainLoader, "plan", stopping)
        with pytest.raises(Interrupted, match="the same command goes on"):
            run(store, tmp_path, **options)
    with pytest.raises(RunError, match="is not finished"):
        load_run(tmp_path)
    run(store, tmp_path, **options)
    for name in ("best.safetensors", "last.safetensors", "metrics.jsonl", "predictions.csv"):
        assert (tmp_path / name).read_bytes() == (finished.run / name).read_bytes(), name
    lines: list[str] = []
    run(store, tmp_path, lines=lines, **options)
    assert f"{tmp_path} was finished: only its report is made again" in lines


def test_another_config_in_the_same_folder_is_refused(store: Store, finished: TrainResult) -> None:
    with pytest.raises(
        RunError, match=r"cheap is cheap there, None asked; pattern is 1:3 there, all-E asked"
    ):
        run(store, finished.run, epochs=8, pattern="all-E", clips=4)


def test_what_is_said(store: Store, tmp_path: Path) -> None:
    lines: list[str] = []
    run(store, tmp_path, lines=lines, pattern="1:2", clips=3, epochs=2)
    text = "\n".join(lines)
    assert "split: split1" in lines
    assert "train: 36 listed, 36 whole" in lines and "test: 12 listed, 12 whole" in lines
    assert "validation: 6 of the 36 train videos, parted by video" in lines
    assert "fast-gru: 1:2 of 3 clips of 8 frames (1 dear, 2 cheap), 3 classes" in lines
    assert "% of the 30 training and " in text
    assert "% of the 6 validation videos were in its own training" in text
    assert "note: 3 does not divide the store's 8 clips a video" in text


def test_average_trains_heads_where_a_backbone_has_no_classifier(tmp_path: Path) -> None:
    specs = [make_spec("dear"), make_spec("cheap", class_names=("x", "y", "z"), map_shape=(1, 3, 3, 8))]
    store = make_store(tmp_path / "s.zarr", specs, make_videos(VIDEOS), gflops=GFLOPS, signal=True)
    lines: list[str] = []
    result = run(store, tmp_path / "run", lines=lines, aggregator="average", pattern="1:1", epochs=8)
    assert any("cheap has no classifier for the store's classes, so linear heads" in line for line in lines)
    assert result.best is not None and result.report.metrics.top1 >= 0.9
    assert result.report.gflops_per_video == pytest.approx(2 * 9 + 2 * 1 + 2 * (16 + 8) * 3 / 1e9, rel=1e-12)


def test_models_of_two_shapes_train_and_report(tmp_path: Path) -> None:
    specs = [make_spec("dear"), make_spec("cheap", map_shape=(1, 3, 3, 8))]
    store = make_store(tmp_path / "s.zarr", specs, make_videos(VIDEOS), gflops=GFLOPS, signal=True)
    lines: list[str] = []
    result = run(store, tmp_path / "run", lines=lines, aggregator="fast-gru", pattern="1:1", epochs=8)
    assert (
        "the models' maps differ in shape: all are averaged to 1×2×2, and projected to 16 channels: "
        "dear 1×2×2×16, cheap 1×3×3×8 (projected)"
    ) in lines
    assert result.report.metrics.top1 >= 0.9
    steps, projections = 3 * 4 * 3.5 * 16**2, 2 * 4 * 8 * 16
    assert result.report.gflops_per_video == pytest.approx(
        2 * 9 + 2 * 1 + (steps + projections) / 1e9, rel=1e-12
    )
    again = evaluate(load_run(result.run), device="cpu")
    assert again.metrics == result.report.metrics


def test_the_default_folder_is_named_after_the_run(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(store=store.path, aggregator="average", pattern="1:3", clips=4, seed=2)
    result = train_agg(config, progress=False)
    assert result.run == Path("runs/small-average-1-3-n4-s2") and result.best is None
    assert load_run(result.run).config.reads == "logits"


def part_store(path: Path, parts: Sequence[str], labels: Sequence[int], **changes: Any) -> Store:
    videos = [
        VideoRecord(id=f"v{i}", path=f"v{i}", label=label, splits={"s": part} if part else {})
        for i, (part, label) in enumerate(zip(parts, labels, strict=True))
    ]
    return make_store(path / "s.zarr", [make_spec()], videos, signal=True, **changes)


@pytest.mark.parametrize(
    ("parts", "labels", "message"),
    [
        (
            ["test"] * 6,
            [0, 1] * 3,
            "no labelled train video of s has maps: it lists only test videos; name another",
        ),
        (["train"] * 6, [0, 1] * 3, "no labelled test video of s has maps: it lists only train videos"),
        (["train", "test"] * 4, [1] * 8, "all 4 train videos of s are of one class, b"),
        (
            ["train"] * 6 + ["test"],
            [-1] * 6 + [0],
            r"no labelled train video .* \(6 listed, 6 whole, 6 unlabelled\)",
        ),
        (["train"] * 6 + ["val"], [0, 1] * 3 + [-1], "no labelled val video of s has maps"),
        (["train", "train", "test"], [0, 1, 0], "leaves none to choose the best epoch by"),
        ([""] * 6, [0, 1] * 3, "names no split"),
    ],
)
def test_stores_that_cannot_give_sound_figures(
    tmp_path: Path, parts: list[str], labels: list[int], message: str
) -> None:
    store = part_store(tmp_path, parts, labels)
    with pytest.raises(DataError, match=message) as error:
        run(store, tmp_path / "run")
    assert error.value.exit_code == 65 and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_without_labelled_test_videos_the_val_part_is_reported(tmp_path: Path) -> None:
    parts = ["train"] * 12 + ["val"] * 6 + ["test"] * 3
    store = part_store(tmp_path, parts, [0, 1, 2] * 6 + [-1] * 3)
    lines: list[str] = []
    result = run(store, tmp_path / "run", lines=lines, aggregator="average")
    assert result.report.part == "val" and result.report.metrics.videos == 6
    assert "test: 3 listed, 3 whole, 3 unlabelled" in lines


def test_test_videos_that_a_backbone_saw_are_refused(tmp_path: Path) -> None:
    store = part_store(tmp_path, ["train"] * 9 + ["test"] * 3, [0, 1, 2] * 4, trained_on=["v0", "v10"])
    with pytest.raises(DataError, match="1 of the 3 test videos of s was in the training of r2d26"):
        run(store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_training_that_nobody_knows_is_not_called_unseen(tmp_path: Path) -> None:
    specs = [make_spec("dear", clips=4), make_spec("cheap", clips=4, weights_random=True)]
    store = make_store(tmp_path / "s.zarr", specs, make_videos(24), gflops=GFLOPS, signal=True)
    lines: list[str] = []
    result = run(store, tmp_path / "run", lines=lines, epochs=1)
    assert "dear: which videos were in its own training is unknown" in lines
    assert any(line.startswith("cheap: 0% of the ") for line in lines)
    note = "which videos dear was trained on is unknown: these may be among them"
    assert note in result.report.notes and f"note: {note}" in lines


def test_unseen_leaves_out_what_a_backbone_was_trained_on(store: Store, tmp_path: Path) -> None:
    lines: list[str] = []
    run(store, tmp_path / "run", lines=lines, epochs=1, unseen=True)
    assert "unseen: 18 of the 36 train videos were in no backbone's training" in lines
    assert "validation: 3 of the 18 train videos, parted by video" in lines
    assert any(line.startswith("dear: 0% of the 15 training and 0% of the 3 validation") for line in lines)
    trained_on = set(json.loads((tmp_path / "run/trained_on.json").read_text()))
    assert len(trained_on) == 18 and not trained_on & store.features("dear", 8).trained_on
    assert json.loads((tmp_path / "run/config.json").read_text())["unseen"] is True

    seen = part_store(
        tmp_path, ["train"] * 9 + ["test"] * 3, [0, 1, 2] * 4, trained_on=[f"v{i}" for i in range(9)]
    )
    with pytest.raises(DataError, match="trained on all 9 train videos of s; train them on a part"):
        run(seen, tmp_path / "none", unseen=True)
    unknown = make_store(tmp_path / "u.zarr", SPECS, make_videos(24), gflops=GFLOPS)
    with pytest.raises(DataError, match="which videos dear was trained on is unknown"):
        run(unknown, tmp_path / "none", unseen=True)


def test_groups_on_both_sides_of_a_split_are_told(tmp_path: Path) -> None:
    videos = [
        VideoRecord(
            id=f"v{i}",
            path=f"v{i}",
            label=i % 3,
            splits={"s": "test" if i >= 15 else "train"},
            group=f"g{i // 2}" if i < 20 else "",
        )
        for i in range(24)
    ]
    store = make_store(tmp_path / "s.zarr", SPECS, videos, gflops=GFLOPS)
    notes = run(store, tmp_path / "run", epochs=1).report.notes
    assert [note for note in notes if "group" in note] == [
        "1 group of s (g7) with videos in both train and test: these figures may look better than those of unseen groups"
    ]


def test_evaluation_refuses_what_the_run_or_a_backbone_saw(store: Store, finished: TrainResult) -> None:
    loaded = load_run(finished.run)
    with pytest.raises(DataError, match="18 of the 36 train videos of split1 were in the training of dear"):
        evaluate(loaded, part="train")
    with pytest.raises(DataError, match="no labelled val video of split1 has maps"):
        evaluate(loaded, part="val")


def test_evaluation_on_other_stores(store: Store, finished: TrainResult, tmp_path: Path) -> None:
    loaded = load_run(finished.run)
    fresh = [
        VideoRecord(id=f"new{i}", path=f"new{i}", label=i % 3, splits={"own": "test" if i else "train"})
        for i in range(13)
    ]
    longer = [make_spec("dear", clips=16), make_spec("cheap", clips=16)]
    other = make_store(tmp_path / "other.zarr", longer, fresh, gflops=GFLOPS, signal=True)
    result = evaluate(loaded, store=other.path, split="own")
    assert result.metrics.top1 >= 0.9 and result.metrics.videos == 12
    assert (
        result.predictions == finished.run / "predictions-other-own-test.csv" and result.predictions.exists()
    )

    reweighed = [make_spec("dear", weights_digest="1" * 64), make_spec("cheap")]
    other = make_store(tmp_path / "reweighed.zarr", reweighed, fresh, gflops=GFLOPS)
    with pytest.raises(
        DataError, match="the maps of dear are not those of the run, they differ in weights_digest"
    ):
        evaluate(loaded, store=other.path, split="own")

    renamed = make_store(tmp_path / "renamed.zarr", SPECS, fresh, gflops=GFLOPS, class_names=("a", "c", "b"))
    with pytest.raises(DataError, match="other classes"):
        evaluate(loaded, store=renamed.path, split="own")

    same = [VideoRecord(id=v, path=v, label=0, splits={"own": "test"}) for v in store.videos.ids[:12]]
    unsaid = make_store(tmp_path / "unsaid.zarr", SPECS, same, gflops=GFLOPS)
    with pytest.raises(DataError, match="9 of the 12 test videos of own were in this run's own training"):
        evaluate(loaded, store=unsaid.path, split="own")


def test_predictions_that_cannot_be_written_cost_no_figures(
    store: Store, finished: TrainResult, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.run, folder)
    (folder / "predictions.csv").unlink()
    (folder / "predictions.csv").mkdir()  # in the way, also of root
    whole, hindered = evaluate(load_run(finished.run)), evaluate(load_run(folder))
    assert hindered.metrics == whole.metrics and hindered.predictions is None
    assert hindered.to_dict()["predictions"] is None
    assert hindered.notes == (*whole.notes, f"{folder}/predictions.csv was not written: Is a directory")
    ended = CliRunner().invoke(evaluate_command, [str(folder)], catch_exceptions=False)
    assert ended.exit_code == 0 and "top-1" in ended.output and "predictions:" not in ended.output
    assert ended.output.count("was not written") == 1


def test_runs_on_a_read_only_disk_are_read_by_all(
    store: Store, finished: TrainResult, tmp_path: Path
) -> None:
    folder = tmp_path / "disk"
    shutil.copytree(finished.run, folder / "run")
    prefix = mounted(tmp_path, f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}")
    out = tmp_path / "out.html"
    commands = [
        ["evaluate", str(folder / "run"), "--json"],
        ["oracle", "--run", str(folder / "run")],
        ["report", str(folder / "run"), "--out", str(out)],
        ["predict", "none.mp4", "--run", str(folder / "run")],
    ]
    code = "import json, sys; from faster.cli import main; main(json.loads(sys.argv[1]))"
    ended = [
        subprocess.run(
            [*prefix, sys.executable, "-c", code, json.dumps(words)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        for words in commands
    ]
    figures = json.loads(ended[0].stdout)
    assert figures["metrics"]["top1"] == finished.report.metrics.top1 and figures["predictions"] is None
    assert figures["notes"][-1].endswith("predictions.csv was not written: Read-only file system")
    assert [each.returncode for each in ended[:3]] == [0, 0, 0], [each.stderr for each in ended]
    assert out.exists()
    # This run's backbones are none that could run live; what is said is that, and nothing of the disk.
    assert ended[3].returncode in (2, 65) and "Read-only" not in ended[3].stderr


def test_random_weights_are_said_for_ever(tmp_path: Path) -> None:
    specs = [make_spec(weights_random=True)]
    store = make_store(tmp_path / "s.zarr", specs, make_videos(24))
    result = run(store, tmp_path / "run", epochs=2)
    assert "r2d26 has random weights: its maps, and these figures, mean nothing" in result.report.notes


@pytest.mark.parametrize("damage", ["config.json", "best.safetensors", "other config", "other weights"])
def test_a_folder_that_is_no_whole_run(finished: TrainResult, tmp_path: Path, damage: str) -> None:
    for file in finished.run.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if damage == "other config":
        (tmp_path / "config.json").write_text('{"training": {}, "model": "r2d26"}')
    elif damage == "other weights":
        (tmp_path / "best.safetensors").write_bytes(b"\0" * 64)
    else:
        (tmp_path / damage).unlink()
    with pytest.raises(RunError, match=r"config\.json|best\.safetensors"):
        load_run(tmp_path)


def test_the_commands(store: Store, tmp_path: Path) -> None:
    command = ["--store", str(store.path), "--aggregator", "gru", "--pattern", "1:3", "--clips", "4"]
    command += ["--epochs", "3", "--batch-size", "8", "--out", str(tmp_path / "r"), "--device", "cpu"]
    trained = CliRunner().invoke(train_agg_command, [*command, "--json"], catch_exceptions=False)
    assert trained.exit_code == 0
    values = json.loads(trained.stdout)
    assert values["run"] == str(tmp_path / "r") and values["report"]["metrics"]["videos"] == 12
    assert 1 <= values["best"]["epoch"] <= 3 and "validation: 6 of the 36" in trained.stderr

    plain = CliRunner().invoke(train_agg_command, command, catch_exceptions=False)
    assert f"top-1                {values['report']['metrics']['top1']:8.2%}" in plain.stdout
    assert f"faster evaluate {tmp_path / 'r'}" in plain.stdout

    evaluated = CliRunner().invoke(evaluate_command, [str(tmp_path / "r"), "--json"], catch_exceptions=False)
    assert json.loads(evaluated.stdout) == values["report"]
    text = CliRunner().invoke(evaluate_command, [str(tmp_path / "r")], catch_exceptions=False).stdout
    assert (
        "test part of split1: 12 listed, 12 whole; 12 scored" in text
        and "GFLOPs a video             12" in text
    )
    for each in (train_agg_command, evaluate_command):
        assert "Examples:" in CliRunner().invoke(each, ["--help"]).stdout


def test_importing_the_commands_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, faster.aggregate.commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
