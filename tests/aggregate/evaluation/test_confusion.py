"""The confusion matrix by its cells, against the whole one; many classes and few videos."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
from faster.aggregate.evaluation.confusion import ConfusionMatrix
from faster.aggregate.evaluation.evaluate import evaluate
from faster.aggregate.evaluation.metrics import confusion_matrix, measure, ranked
from faster.aggregate.report.write import write_report
from faster.aggregate.runs import load_run
from faster.aggregate.train import TrainConfig, train_agg
from faster.extract.sources.read import read_source
from faster.store import VideoRecord
from log_lines import logged
from sources import touch, write
from stores import make_spec, make_store

MANY = 20_000  # classes: of int64, a whole matrix takes 3.2 GB


@pytest.mark.parametrize("classes", [1, 3, 12])
def test_cells_against_the_whole_matrix(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels, answers = rng.integers(0, classes, (2, 40))
    whole = np.zeros((classes, classes), np.int64)
    for label, answer in zip(labels, answers, strict=True):
        whole[label, answer] += 1
    matrix = ConfusionMatrix.of(labels, answers, classes)
    assert matrix.dense().tolist() == whole.tolist() and matrix.total == 40
    assert matrix.labelled.tolist() == whole.sum(axis=1).tolist()
    assert matrix.answered.tolist() == whole.sum(axis=0).tolist()
    assert matrix.right.tolist() == whole.diagonal().tolist()
    assert ConfusionMatrix.added([matrix, matrix]).dense().tolist() == (2 * whole).tolist()
    wrong = [(whole[i, j], i, j) for i in range(classes) for j in range(classes) if i != j and whole[i, j]]
    expected = [(i, j, n) for n, i, j in sorted(wrong, key=lambda cell: -cell[0])]
    assert matrix.mistakes(100) == expected and matrix.mistakes(2) == expected[:2]
    occur = np.flatnonzero(whole.sum(axis=0) + whole.sum(axis=1))
    assert matrix.among(occur).dense().tolist() == whole[np.ix_(occur, occur)].tolist()


@pytest.mark.parametrize("whole", [[[2, 0, 1], [0, 0, 0], [0, 3, 0]], [[0]], [[0, 0], [0, 0]]])
def test_what_is_written_is_read_as_is_what_earlier_versions_wrote(whole: list[list[int]]) -> None:
    written = json.loads(json.dumps(ConfusionMatrix.from_dense(whole).to_json()))
    assert ConfusionMatrix.from_json(written, len(whole)).dense().tolist() == whole
    assert ConfusionMatrix.from_json(whole, len(whole)).dense().tolist() == whole
    assert ConfusionMatrix.from_json(whole, len(whole)).to_json() == written


def test_best_classes_of_blocks_of_videos_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).integers(0, 4, (23, 7)).astype(float)  # many are equal
    labels = np.arange(23) % 7
    expected = [sorted(range(7), key=lambda k: (-row[k], k))[:5] for row in scores.tolist()]
    at_once = measure(scores, labels)
    monkeypatch.setattr("faster.aggregate.evaluation.metrics._SCORES_AT_ONCE", 3 * 7)
    assert ranked(scores, 5).tolist() == expected and measure(scores, labels) == at_once
    assert ranked(scores, 1)[:, 0].tolist() == [row[0] for row in expected]


def test_a_run_of_many_classes_takes_what_its_videos_take(tmp_path: Path) -> None:
    """Labels 0 and 19,999: a matrix of all classes would take 3.2 GB, and gigabytes more as JSON."""
    names = [str(label) for label in range(MANY)]
    videos = [
        VideoRecord(
            id=f"{i}.mp4",
            path=f"{i}.mp4",
            label=(MANY - 1) * (i % 2),
            splits={"all": ("train", "train", "train", "test")[i // 2 % 4]},
        )
        for i in range(24)
    ]
    spec = make_spec("r2d26", num_classes=0, class_names=None)
    make_store(tmp_path / "gappy.zarr", [spec], videos, class_names=names)
    lines: list[str] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = TrainConfig(
        store=tmp_path / "gappy.zarr",
        out=tmp_path / "run",
        aggregator="average",
        pattern="all-C",
        clips=2,
        epochs=1,
        device="cpu",
    )
    with logged(lines):
        result = train_agg(config, progress=False)
    again = evaluate(load_run(tmp_path / "run"), device="cpu")
    write_report([tmp_path / "run"], out=tmp_path / "report.html")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 1e9
    assert result.report.confusion.total == 6 and again.to_dict() == result.report.to_dict()
    assert len(result.report.class_names) == MANY
    assert (tmp_path / "run" / "result.json").stat().st_size < 40 * MANY
    assert "19,998 of the 20,000 classes have no video to train on" in "\n".join(lines)


def test_labels_that_leave_gaps_are_kept_and_said(tmp_path: Path) -> None:
    touch(tmp_path / "v", "a.mp4", "b.mp4")
    source = read_source(write(tmp_path / "v" / "list.txt", "a.mp4 0", "b.mp4 99999"))
    assert [video.label for video in source.videos] == [0, 99_999] and len(source.class_names) == 100_000
    (note,) = [note for note in source.notes if "gaps" in note]
    assert "0 to 99,999" in note and "2 occur" in note and "100,000 outputs" in note
    source = read_source(write(tmp_path / "v" / "list.txt", "a.mp4 0", "b.mp4 1"))
    assert not any("gaps" in note for note in source.notes)


def test_figures_over_gaps_are_of_the_classes_that_occur() -> None:
    labels = np.array([0, 5, 5])
    scores = np.zeros((3, 9))
    scores[[0, 1, 2], [0, 5, 7]] = 1
    figures = measure(scores, labels)
    assert figures.mean_class_accuracy == pytest.approx((1 + 0.5) / 2)
    assert figures.macro_f1 == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert confusion_matrix(scores, labels).mistakes(3) == [(5, 7, 1)]
