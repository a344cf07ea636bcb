"""How to train: the options, and the optimiser and the schedule that they stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from ..errors import UsageError

OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to train: by default SGD with momentum, a cosine schedule after a linear warm-up (FASTER §4).

    Attributes:
        optimizer: "sgd" or "adamw".
        momentum: of SGD; AdamW's first coefficient, its second is 0.999.
        weight_decay: of weights, not of biases and norms.
        max_gradient_norm: longer gradients are scaled down to it; one that is not finite ends the run.
        precision: of the training steps, "float32", or "bf16" by autocast; weights and validation are float32.
        patience: stop after so many epochs in a row without a better one; None trains them all.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: float = 0.0
    max_gradient_norm: float = 10.0
    precision: str = "float32"
    patience: int | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "max_gradient_norm"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("momentum", "weight_decay", "warmup_epochs", "seed"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not self.momentum < 1:
            raise UsageError(f"momentum is {self.momentum}; it must be below 1")
        if self.warmup_epochs > self.epochs:
            raise UsageError(
                f"warmup_epochs is {self.warmup_epochs}; it must not exceed epochs ({self.epochs})"
            )
        if self.patience is not None and self.patience < 1:
            raise UsageError(f"patience is {self.patience}; it must be at least 1")
        for name, known in (("optimizer", OPTIMIZERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(known)}")


def learning_rate_at(options: TrainingOptions, step: int, steps_per_epoch: int) -> float:
    """The rate of global step `step` (0-based): linear warm-up, then a half cosine down to 0 [27]."""
    warmup = options.warmup_epochs * steps_per_epoch
    if step < warmup:
        return options.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / (options.epochs * steps_per_epoch - warmup)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(model: nn.Module, options: TrainingOptions) -> Optimizer:
    """The optimiser of a model's parameters; biases and norms do not decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = True if torch.device(options.device).type == "cpu" else None  # one pass over memory, not five
    if options.optimizer == "adamw":
        return AdamW(groups, lr=options.learning_rate, betas=(options.momentum, 0.999), fused=fused)
    return SGD(groups, lr=options.learning_rate, momentum=options.momentum, fused=fused)
