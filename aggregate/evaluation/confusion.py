"""The confusion matrix, stored as its nonzero cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_VIDEOS = 2**53  # per cell: the largest integer that every JSON reader takes


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfusionMatrix:
    """A (K, K) matrix of videos, row the label, column the answer.

    Its memory grows with the videos and K, not with K².

    Attributes:
        classes: K.
        labels, answers, videos: (cells,) int64: the nonzero cells, ordered by row, then column.
    """

    classes: int
    labels: NDArray[np.int64]
    answers: NDArray[np.int64]
    videos: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        labels: NDArray[np.integer],
        answers: NDArray[np.integer],
        classes: int,
        videos: NDArray[np.integer] | None = None,
    ) -> ConfusionMatrix:
        """Count pairs of label and answer, both (n,), below K; each pair counts 1, or `videos` (n,)."""
        cells, place = np.unique(
            np.asarray(labels, np.int64) * classes + np.asarray(answers, np.int64), return_inverse=True
        )
        counts = np.zeros(len(cells), np.int64)
        np.add.at(counts, place, 1 if videos is None else np.asarray(videos, np.int64))
        kept = counts > 0
        rows, columns = np.divmod(cells[kept], classes)
        return cls(classes=classes, labels=rows, answers=columns, videos=counts[kept])

    @classmethod
    def from_dense(cls, counts: NDArray[np.integer] | Sequence[Sequence[int]]) -> ConfusionMatrix:
        """Build from a dense matrix (K, K). Raises ValueError if it is not square."""
        counts = np.asarray(counts, np.int64)
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
            raise ValueError(f"a confusion of shape {counts.shape}; it is square")
        rows, columns = np.nonzero(counts)
        return cls.of(rows, columns, len(counts), counts[rows, columns])

    @classmethod
    def from_json(cls, value: Any, classes: int) -> ConfusionMatrix:
        """Read back what `to_json` gave, or the dense matrix as a list of rows, which earlier versions wrote.

        Raises ValueError if it is neither, or not of `classes` classes.
        """
        damaged = ValueError(f"the confusion holds {json.dumps(value)[:40]}…, not counts of videos")
        if isinstance(value, list):
            if len(value) != classes or not all(
                isinstance(row, list) and len(row) == classes for row in value
            ):
                raise ValueError(f"the confusion is not {classes} × {classes}, as its classes are")
            if not all(_is_count(count, MOST_VIDEOS) for row in value for count in row):
                raise damaged
            cells = [(i, j, n) for i, row in enumerate(value) for j, n in enumerate(row) if n]
            columns: Sequence[Sequence[int]] = list(zip(*cells, strict=True)) or [[], [], []]
        else:
            if not isinstance(value, dict) or set(value) != {"labels", "answers", "videos"}:
                raise damaged
            columns = [value["labels"], value["answers"], value["videos"]]
            if not all(isinstance(column, list) for column in columns) or len(set(map(len, columns))) != 1:
                raise damaged
            if not all(_is_count(i, classes) for column in columns[:2] for i in column):
                raise ValueError(f"the confusion is not {classes} × {classes}, as its classes are")
            if not all(_is_count(count, MOST_VIDEOS) for count in columns[2]):
                raise damaged
        labels, answers, videos = (np.array(column, np.int64) for column in columns)
        return cls.of(labels, answers, classes, videos)

    def to_json(self) -> dict[str, list[int]]:
        """Return JSON types: the nonzero cells, as three lists of one length."""
        return {
            "labels": self.labels.tolist(),
            "answers": self.answers.tolist(),
            "videos": self.videos.tolist(),
        }

    def dense(self) -> NDArray[np.int64]:
        """Return the dense matrix, (K, K) int64: for few classes."""
        counts = np.zeros((self.classes, self.classes), np.int64)
        counts[self.labels, self.answers] = self.videos
        return counts

    @property
    def total(self) -> int:
        """Number of all videos."""
        return int(self.videos.sum())

    @property
    def labelled(self) -> NDArray[np.int64]:
        """(K,) int64: videos of each label, the sums of the rows."""
        return self._summed(self.labels, self.videos)

    @property
    def answered(self) -> NDArray[np.int64]:
        """(K,) int64: videos that got each answer, the sums of the columns."""
        return self._summed(self.answers, self.videos)

    @property
    def right(self) -> NDArray[np.int64]:
        """(K,) int64: correct videos of each label, the diagonal."""
        own = self.labels == self.answers
        return self._summed(self.labels[own], self.videos[own])

    def mistakes(self, most: int) -> list[tuple[int, int, int]]:
        """Return the largest cells off the diagonal: (label, answer, videos), the most frequent first."""
        wrong = np.flatnonzero(self.labels != self.answers)
        first = wrong[np.argsort(-self.videos[wrong], kind="stable")[:most]]
        return [(int(self.labels[i]), int(self.answers[i]), int(self.videos[i])) for i in first]

    def among(self, classes: NDArray[np.integer]) -> ConfusionMatrix:
        """Return the matrix of these classes only, ascending, renumbered from 0; it must hold every cell."""
        return ConfusionMatrix(
            classes=len(classes),
            labels=np.searchsorted(classes, self.labels),
            answers=np.searchsorted(classes, self.answers),
            videos=self.videos,
        )

    @staticmethod
    def added(matrices: Sequence[ConfusionMatrix]) -> ConfusionMatrix:
        """Return the sum of one or more matrices of the same classes."""
        return ConfusionMatrix.of(
            np.concatenate([matrix.labels for matrix in matrices]),
            np.concatenate([matrix.answers for matrix in matrices]),
            matrices[0].classes,
            np.concatenate([matrix.videos for matrix in matrices]),
        )

    def _summed(self, places: NDArray[np.int64], videos: NDArray[np.int64]) -> NDArray[np.int64]:
        sums = np.zeros(self.classes, np.int64)
        np.add.at(sums, places, videos)
        return sums


def _is_count(value: object, below: int) -> bool:
    return type(value) is int and 0 <= value < below
