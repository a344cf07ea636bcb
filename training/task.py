"""What a stage trains, as the loop sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

BatchT = TypeVar("BatchT")


class Task(Protocol[BatchT]):
    """What a stage trains. `fit` moves `model` to the device and switches it between train and eval."""

    @property
    def model(self) -> nn.Module:
        """The network that is trained; its state dict is what best.safetensors holds."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch, at least 1."""
        ...

    def batches(self, epoch: int, start_step: int) -> Iterator[BatchT]:
        """Batches start_step, start_step + 1, … of this epoch: a pure function of (seed, epoch, step).

        Of several ranks, each gets its part of the same batch.
        """
        ...

    def loss(self, batch: BatchT) -> Tensor:
        """The batch's mean loss, a scalar with a gradient; of several ranks, the parts add up to it."""
        ...

    def video_ids(self, batch: BatchT) -> Sequence[str]:
        """The ids of the batch's videos, for messages."""
        ...

    def validate(self) -> dict[str, float]:
        """Validation figures, the same on every rank, called in eval mode without gradients.

        "top1" in [0, 1], and "loss" to part ties; or nothing at any epoch, and the last one is kept.
        """
        ...


class LossOf(nn.Module):
    """The task's loss as a module over its model: what gradients can be shared of."""

    def __init__(self, task: Task[Any]) -> None:
        super().__init__()
        self.model, self.task = task.model, task

    def forward(self, batch: Any) -> Tensor:
        """The batch's loss."""
        return self.task.loss(batch)
