"""A small task for the training loop, and what a run of it leaves behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from faster.training.options import TrainingOptions
from torch import Tensor, nn

STEPS = 5


class Blobs:
    """Two Gaussian blobs, a small network with dropout and batch norm."""

    def __init__(
        self, *, stop_at: tuple[int, int] | None = None, bad_at: tuple[int, int] | None = None
    ) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.model: nn.Module = nn.Sequential(
                nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)
            )
        self.stop_at, self.bad_at = stop_at, bad_at
        self.losses: dict[tuple[int, int], float] = {}
        self.closed = 0

    steps_per_epoch = STEPS
    signal = signal.SIGTERM

    def batches(self, epoch: int, start_step: int) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        try:
            for step in range(start_step, STEPS):
                rng = np.random.default_rng([epoch, step])
                labels = rng.integers(0, 2, 16)
                x = (rng.normal(size=(16, 6)) + labels[:, None]).astype(np.float32)
                if (epoch, step) == self.bad_at:
                    x[0] = np.nan
                if (epoch, step) == self.stop_at:
                    os.kill(os.getpid(), self.signal)
                yield epoch, step, torch.from_numpy(x), torch.from_numpy(labels)
        finally:
            self.closed += 1

    def loss(self, batch: tuple[int, int, Tensor, Tensor]) -> Tensor:
        epoch, step, x, labels = batch
        loss = nn.functional.cross_entropy(self.model(x), labels)
        self.losses[epoch, step] = loss.item()
        return loss

    def video_ids(self, batch: tuple[int, int, Tensor, Tensor]) -> Sequence[str]:
        return [f"video-{batch[0]}-{batch[1]}-{i}" for i in range(len(batch[3]))]

    def validate(self) -> dict[str, float]:
        assert not self.model.training and not torch.is_grad_enabled()
        rng = np.random.default_rng(99)
        labels = rng.integers(0, 2, 200)
        x = torch.from_numpy((rng.normal(size=(200, 6)) + labels[:, None]).astype(np.float32))
        logits = self.model(x)
        right = (logits.argmax(1).numpy() == labels).mean()
        return {
            "top1": float(right),
            "loss": float(nn.functional.cross_entropy(logits, torch.from_numpy(labels))),
        }


def options(**changes: object) -> TrainingOptions:
    values: dict[str, object] = {
        "epochs": 4,
        "batch_size": 16,
        "learning_rate": 0.1,
        "warmup_epochs": 1,
        "seed": 7,
    }
    return TrainingOptions(**{**values, **changes})  # type: ignore[arg-type]


CONFIG = {"model": "blobs", "nested": {"width": 16}}


def contents(folder: Path) -> dict[str, bytes]:
    timed = ("events.out", "timing.jsonl")
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(timed)}
