"""The figures against obvious loops."""

from __future__ import annotations

import numpy as np
import pytest
from faster.aggregate.metrics import confusion_matrix, measure, topk_accuracy


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
    assert confusion_matrix(scores, labels).tolist() == confusion


def test_few_classes_are_all_among_the_best_five() -> None:
    scores, labels = np.eye(3), np.array([2, 0, 1])
    assert topk_accuracy(scores, labels, 5) == 1.0
    assert topk_accuracy(scores, labels, 1) == 0.0


def test_equal_scores_do_not_favour_the_label() -> None:
    """A network that answers the same for all classes must not look right."""
    labels = np.arange(10)
    assert measure(np.zeros((10, 10)), labels).top1 == pytest.approx(0.1)
    assert measure(np.zeros((10, 10)), labels).top5 == pytest.approx(0.5)
