"""Video-level metrics, from scores and labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .confusion import ConfusionMatrix

TOP = 5
CALIBRATION_BINS = 15  # as Guo et al., On Calibration of Modern Neural Networks, 2017
_SCORES_AT_ONCE = 1 << 22  # sorted or made probabilities: 32 MiB of float64, for any number of classes


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Fractions in [0, 1] over `videos` videos.

    Attributes:
        top1, top5: share of videos whose label is the best class, or among the best five.
        mean_class_accuracy: mean accuracy over the classes that occur as labels.
        macro_f1: mean F1 over the classes that occur as labels or answers.
        calibration_error: expected calibration error, in 15 bins of equal width.
    """

    top1: float
    top5: float
    mean_class_accuracy: float
    macro_f1: float
    calibration_error: float
    videos: int


def measure(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Metrics:
    """Return all metrics of logits (n, K) against labels (n,), n ≥ 1."""
    confusion = confusion_matrix(logits, labels)
    return Metrics(
        top1=topk_accuracy(logits, labels, 1),
        top5=topk_accuracy(logits, labels, TOP),
        mean_class_accuracy=mean_class_accuracy(confusion),
        macro_f1=macro_f1(confusion),
        calibration_error=calibration_error(logits, labels),
        videos=len(labels),
    )


def softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the probabilities of the logits, (n, K)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def ranked(scores: NDArray[np.floating], k: int) -> NDArray[np.intp]:
    """Return each video's k best classes, best first, (n, min(k, K)); ties: the lower class first."""
    if k == 1:
        return np.asarray(scores.argmax(axis=1)[:, None])
    parts = [np.argsort(-part, axis=1, kind="stable")[:, :k].copy() for part in _row_blocks(scores)]
    return np.concatenate(parts)


def _row_blocks(scores: NDArray[np.floating]) -> Iterator[NDArray[np.floating]]:
    """Return the scores (n, K) in blocks of rows; n ≥ 1."""
    rows = max(1, _SCORES_AT_ONCE // scores.shape[1])
    return (scores[first : first + rows] for first in range(0, len(scores), rows))


def topk_accuracy(scores: NDArray[np.floating], labels: NDArray[np.integer], k: int) -> float:
    """Return the share of videos whose label is among the k best classes; 1 if K ≤ k."""
    return float((ranked(scores, k) == labels[:, None]).any(axis=1).mean())


def confusion_matrix(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> ConfusionMatrix:
    """Count videos in a (K, K) matrix: row the label, column the best class."""
    return ConfusionMatrix.of(labels, ranked(scores, 1)[:, 0], scores.shape[1])


def mean_class_accuracy(confusion: ConfusionMatrix) -> float:
    """Return the mean accuracy per class, over the classes that occur."""
    counts = confusion.labelled
    return float((confusion.right[counts > 0] / counts[counts > 0]).mean())


def macro_f1(confusion: ConfusionMatrix) -> float:
    """Return the mean of 2·right / (labels + answers) over the classes that occur as either."""
    total = confusion.labelled + confusion.answered
    return float((2 * confusion.right[total > 0] / total[total > 0]).mean())


def calibration_error(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the expected calibration error: the mean distance of confidence and accuracy.

    The mean is over bins of the best class's probability, (0, 1/15], (1/15, 2/15], …, each weighted with its
    share of the videos.
    """
    confidence = np.concatenate([softmax(part).max(axis=1) for part in _row_blocks(logits)])
    right = ranked(logits, 1)[:, 0] == labels
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    surplus = np.bincount(bins, weights=confidence - right, minlength=CALIBRATION_BINS)
    return float(np.abs(surplus).sum() / len(labels))
