"""What a training run is asked for, before the store settles the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..training.options import TrainingOptions

# The usual rate and decay of each optimiser, taken where none is given.
LEARNING_RATES = {"sgd": 0.1, "adamw": 0.001}
WEIGHT_DECAYS = {"sgd": 1e-4, "adamw": 0.01}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What `faster train-agg` takes; None is settled from what the store holds, and said.

    Attributes:
        store: the store's folder.
        aggregator: a name that the registry knows, or package.module:Class, a subclass of `Aggregator` of one's own.
        pattern: "1:7", "all-E", "all-C"; by default 1:7, or all-E where the store has one model.
        clips: N, by default all M clips of the store's grid.
        expensive, cheap: models; of two the dearer and the cheaper.
        clip_frames: L, where the store has more than one clip length.
        split: a named split; the only one, or the first by name.
        out: the run folder, by default runs/<store>-<aggregator>-<pattern>-n<N>-s<seed>.
        init: a run folder whose aggregator to start from, with a new classifier where the classes differ.
        batch_size: videos a step, of all processes together.
        optimizer, momentum, max_gradient_norm, precision, patience: as `TrainingOptions` has them.
        learning_rate: at the top of the schedule; 0.1 with SGD, 0.001 with AdamW.
        weight_decay: 0.0001 with SGD, 0.01 with AdamW.
        label_smoothing: share of the label's weight that all classes get alike, in [0, 1).
        balance_classes: whether every class weighs the same in the loss, however many videos it has.
        dropout: before the last layer, in [0, 1).
        validation_share: share of the train part that chooses the best epoch.
        skip_scores: add the backbones' own averaged scores, so that the aggregator learns what to add to averaging.
        unseen: train, and choose the best epoch, only on videos that no backbone in use was trained on.
        device: "cpu", "cuda:0"; by default the first GPU, or the CPU.
    """

    store: str | Path
    aggregator: str = "fast-gru"
    pattern: str | None = None
    clips: int | None = None
    expensive: str | None = None
    cheap: str | None = None
    clip_frames: int | None = None
    split: str | None = None
    out: str | Path | None = None
    init: str | Path | None = None
    epochs: int = 30
    batch_size: int = 32
    optimizer: str = "sgd"
    learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float | None = None
    warmup_epochs: float = 1.0
    max_gradient_norm: float = 10.0
    label_smoothing: float = 0.0
    balance_classes: bool = False
    dropout: float = 0.0
    precision: str = "float32"
    patience: int | None = None
    validation_share: float = 0.15
    skip_scores: bool = False
    unseen: bool = False
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise UsageError(f"validation_share is {self.validation_share}; it must be between 0 and 1")
        for name in ("label_smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        self.options("cpu")

    def options(self, device: str) -> TrainingOptions:
        """How to train, every value settled. Raises UsageError."""
        rate, decay = self.learning_rate, self.weight_decay
        return TrainingOptions(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=LEARNING_RATES.get(self.optimizer, 1.0) if rate is None else rate,
            momentum=self.momentum,
            weight_decay=WEIGHT_DECAYS.get(self.optimizer, 0.0) if decay is None else decay,
            warmup_epochs=self.warmup_epochs,
            max_gradient_norm=self.max_gradient_norm,
            precision=self.precision,
            patience=self.patience,
            seed=self.seed,
            device=device,
        )
