"""Video-level figures, from scores and labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOP = 5


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Fractions in [0, 1] over `videos` videos; `mean_class_accuracy` over the classes that occur."""

    top1: float
    top5: float
    mean_class_accuracy: float
    videos: int


def measure(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> Metrics:
    """All figures of scores (n, K) against labels (n,), n ≥ 1."""
    confusion = confusion_matrix(scores, labels)
    return Metrics(
        top1=topk_accuracy(scores, labels, 1),
        top5=topk_accuracy(scores, labels, TOP),
        mean_class_accuracy=mean_class_accuracy(confusion),
        videos=len(labels),
    )


def ranked(scores: NDArray[np.floating], k: int) -> NDArray[np.intp]:
    """The k best classes of each video, best first: (n, min(k, K)); of equal scores the lower class first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def topk_accuracy(scores: NDArray[np.floating], labels: NDArray[np.integer], k: int) -> float:
    """The share of videos whose label is among the k best classes; with K ≤ k classes that is 1."""
    return float((ranked(scores, k) == labels[:, None]).any(axis=1).mean())


def confusion_matrix(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """(K, K) counts: row the label, column the best class."""
    classes = scores.shape[1]
    cells = np.bincount(labels * classes + ranked(scores, 1)[:, 0], minlength=classes * classes)
    return cells.reshape(classes, classes).astype(np.int64)


def mean_class_accuracy(confusion: NDArray[np.int64]) -> float:
    """The mean, over the classes that occur, of the share of their videos that is right."""
    counts = confusion.sum(axis=1)
    return float((confusion.diagonal()[counts > 0] / counts[counts > 0]).mean())
