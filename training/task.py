"""The interface between a training stage and the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

BatchT = TypeVar("BatchT")


class Task(Protocol[BatchT]):
    """The training of one stage. `fit` moves `model` to the device and switches it between train and eval."""

    @property
    def model(self) -> nn.Module:
        """The network to train; best.safetensors holds its state dict."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch, at least 1."""
        ...

    def batches(self, epoch: int, start_step: int) -> Iterator[BatchT]:
        """Yield batches start_step, start_step + 1, … of this epoch: a pure function of (seed, epoch, step).

        Of several ranks, each gets its part of the same batch.
        """
        ...

    def loss(self, batch: BatchT) -> Tensor:
        """Return the batch's mean loss, a scalar with a gradient; the parts of several ranks add up to it."""
        ...

    def video_ids(self, batch: BatchT) -> Sequence[str]:
        """Return the ids of the batch's videos, for messages."""
        ...

    def validate(self) -> dict[str, float]:
        """Return validation figures, the same on every rank; called in eval mode without gradients.

        "top1" in [0, 1], and "loss" to break ties; or nothing in all epochs, and the last epoch is kept.
        """
        ...


class LossOf(nn.Module):
    """The task's loss as a module over its model, which DDP needs to share gradients."""

    def __init__(self, task: Task[Any]) -> None:
        super().__init__()
        self.model, self.task = task.model, task

    def forward(self, batch: Any) -> Tensor:
        """Return the batch's loss."""
        return self.task.loss(batch)
