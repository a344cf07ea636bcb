"""The figures against obvious loops."""

from __future__ import annotations

import numpy as np
import pytest
from faster.aggregate.evaluation.metrics import calibration_error, confusion_matrix, measure, topk_accuracy


@pytest.mark.parametrize("classes", [2, 4, 5, 11])
def test_figures_against_loops(classes: int) -> None:
    rng = np.random.default_rng(classes)
    scores = rng.normal(size=(60, classes))
    labels = rng.integers(0, max(classes - 1, 1), 60)  # the last class does not occur
    top1 = top5 = 0
    right: dict[int, list[bool]] = {}
    confusion = [[0] * classes for _ in range(classes)]
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        order = sorted(range(classes), key=lambda k: row[k], reverse=True)
        top1 += order[0] == label
        top5 += label in order[:5]
        right.setdefault(label, []).append(order[0] == label)
        confusion[label][order[0]] += 1
    figures = measure(scores, labels)
    assert figures.top1 == pytest.approx(top1 / 60)
    assert figures.top5 == pytest.approx(top5 / 60)
    assert figures.mean_class_accuracy == pytest.approx(np.mean([np.mean(r) for r in right.values()]))
    assert figures.videos == 60
    f1 = []
    for k in range(classes):
        both = confusion[k][k]
        precision = both / max(1, sum(row[k] for row in confusion))
        recall = both / max(1, sum(confusion[k]))
        if sum(confusion[k]) or sum(row[k] for row in confusion):
            f1.append(2 * precision * recall / (precision + recall) if both else 0.0)
    assert figures.macro_f1 == pytest.approx(np.mean(f1))
    assert confusion_matrix(scores, labels).dense().tolist() == confusion


def test_few_classes_are_all_among_the_best_five() -> None:
    scores, labels = np.eye(3), np.array([2, 0, 1])
    assert topk_accuracy(scores, labels, 5) == 1.0
    assert topk_accuracy(scores, labels, 1) == 0.0


def test_equal_scores_do_not_favour_the_label() -> None:
    """A network that answers the same for all classes must not look right."""
    labels = np.arange(10)
    assert measure(np.zeros((10, 10)), labels).top1 == pytest.approx(0.1)
    assert measure(np.zeros((10, 10)), labels).top5 == pytest.approx(0.5)


def test_the_calibration_error_against_plain_sums() -> None:
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(size=(400, 6)) * 3, rng.integers(0, 6, 400)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logits, labels, strict=True):
        probabilities = np.exp(row) / np.exp(row).sum()
        best = int(probabilities.argmax())
        place = next(b for b in range(15) if probabilities[best] <= (b + 1) / 15)
        bins.setdefault(place, []).append((float(probabilities[best]), best == label))
    expected = sum(
        len(members) / 400 * abs(np.mean([c for c, _ in members]) - np.mean([r for _, r in members]))
        for members in bins.values()
    )
    assert len(bins) > 5
    assert calibration_error(logits, labels) == pytest.approx(expected)


def test_what_is_sure_and_right_is_calibrated_and_what_is_sure_and_wrong_is_not() -> None:
    sure = np.eye(4)[[0, 1, 2, 3]] * 100
    assert calibration_error(sure, np.arange(4)) == pytest.approx(0)
    assert calibration_error(sure, np.array([1, 0, 3, 2])) == pytest.approx(1)
    assert calibration_error(np.zeros((8, 4)), np.array([0, 0, 1, 1, 2, 2, 3, 3])) == pytest.approx(0)
