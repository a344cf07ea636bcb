"""Training options, and the optimiser and schedule that they define."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..terminal.settings import check, declare, documented, setting

if TYPE_CHECKING:  # so that a configuration does not import torch
    from torch import nn
    from torch.optim import Optimizer


@documented
@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to train: by default SGD with momentum, a cosine schedule after a linear warm-up (FASTER §4).

    The configurations of both training stages share most of these options.
    """

    epochs: int = field(metadata=declare(help="Passes over the videos.", least=1))
    batch_size: int = field(metadata=declare(help="Samples a step, of all processes together.", least=1))
    learning_rate: float = field(metadata=declare(help="At the schedule's top.", above=0))
    optimizer: str = setting("sgd", help="What steps.", choices=("sgd", "adamw"))
    momentum: float = setting(
        0.9, help="Of SGD; AdamW's first coefficient.", detail="AdamW's second is 0.999.", least=0, below=1
    )
    weight_decay: float = setting(1e-4, help="Of weights, not biases and norms.", least=0)
    warmup_epochs: float = setting(0.0, help="Epochs of linear rise, before the cosine.", least=0)
    max_gradient_norm: float = setting(
        10.0,
        help="Longer gradients are scaled down to it.",
        detail="One that is not finite ends the run.",
        above=0,
    )
    precision: str = setting(
        "float32",
        help="Of the training steps; weights and validation are float32.",
        detail="bf16 is by autocast.",
        choices=("float32", "bf16"),
    )
    patience: int | None = setting(
        None, help="Stop after so many epochs without a better one.", metavar="EPOCHS", least=1
    )
    seed: int = setting(0, help="Of all that is random.", least=0, most=2**32 - 1)
    device: str = setting("cpu", help="Where to train.")

    def __post_init__(self) -> None:
        check(self)
        if self.warmup_epochs > self.epochs:
            raise UsageError(
                f"--warmup-epochs is {self.warmup_epochs}; it must not exceed --epochs ({self.epochs})"
            )

    @classmethod
    def of(cls, config: object, **settled: Any) -> TrainingOptions:
        """Return the options of a configuration, with the values in `settled` replaced."""
        values = {each.name: getattr(config, each.name) for each in fields(cls) if hasattr(config, each.name)}
        return cls(**{**values, **settled})


def learning_rate_at(options: TrainingOptions, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of the 0-based global step: linear warm-up, then a half cosine to 0 [27]."""
    warmup = options.warmup_epochs * steps_per_epoch
    if step < warmup:
        return options.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / (options.epochs * steps_per_epoch - warmup)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(model: nn.Module, options: TrainingOptions) -> Optimizer:
    """Return the optimiser of a model's parameters; biases and norms have no weight decay."""
    import torch
    from torch.optim import SGD, AdamW

    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = True if torch.device(options.device).type == "cpu" else None  # one pass over memory, not five
    if options.optimizer == "adamw":
        return AdamW(groups, lr=options.learning_rate, betas=(options.momentum, 0.999), fused=fused)
    return SGD(groups, lr=options.learning_rate, momentum=options.momentum, fused=fused)
