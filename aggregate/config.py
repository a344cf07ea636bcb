"""The options of a training run, before the store settles the defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..terminal.outputs import output_folder
from ..terminal.settings import check, declare, documented, like, setting
from ..training.options import TrainingOptions

# The usual rate and decay of each optimiser, used if none is given.
LEARNING_RATES = {"sgd": 0.1, "adamw": 0.001}
WEIGHT_DECAYS = {"sgd": 1e-4, "adamw": 0.01}


@documented
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What `faster train-agg` takes. None is settled from the contents of the store, and logged."""

    store: str | Path = field(metadata=declare(help="A store that faster extract wrote.", metavar="S"))
    aggregator: str = setting(
        "fast-gru",
        help="See faster models; or package.module:Class of your own.",
        detail="That is a subclass of `Aggregator`.",
        metavar="A",
    )
    pattern: str | None = setting(
        None,
        help='"1:7", "all-E", "all-C"; "any": one aggregator for all of them.',
        unset="1:7; all-E with one model",
        metavar="E:C",
    )
    clips: int | None = setting(None, help="Clips a video.", unset="all of the store's", metavar="N", least=1)
    expensive: str | None = setting(None, help="The expensive model.", unset="the dearer of two", metavar="M")
    cheap: str | None = setting(None, help="The cheap model.", unset="the cheaper of two", metavar="M")
    clip_frames: int | None = setting(None, help="Frames a clip.", unset="the store's", metavar="L", least=1)
    split: str | None = setting(
        None,
        help='A named split, or "all": each of them, and the mean.',
        unset="the only one, or the first",
        metavar="NAME",
    )
    out: str | Path | None = setting(
        None,
        help="The run folder.",
        unset="runs/<store>-<aggregator>-<pattern>-n<N>-s<seed>",
        metavar="RUN",
        callback=output_folder,
    )
    init: str | Path | None = setting(
        None, help="Start from this run's aggregator, with a new classifier for other classes.", metavar="RUN"
    )
    epochs: int = like(TrainingOptions, "epochs", 30)
    batch_size: int = like(
        TrainingOptions, "batch_size", 32, help="Videos a step, of all processes together."
    )
    optimizer: str = like(TrainingOptions, "optimizer")
    learning_rate: float | None = like(TrainingOptions, "learning_rate", None, unset="0.1; 0.001 with adamw")
    momentum: float = like(TrainingOptions, "momentum")
    weight_decay: float | None = like(TrainingOptions, "weight_decay", None, unset="0.0001; 0.01 with adamw")
    warmup_epochs: float = like(TrainingOptions, "warmup_epochs", 1.0)
    max_gradient_norm: float = like(TrainingOptions, "max_gradient_norm")
    label_smoothing: float = setting(
        0.0, help="Share of a label that all classes get alike.", least=0, below=1
    )
    balance_classes: bool = setting(False, help="Every class weighs the same, however many videos it has.")
    dropout: float = setting(0.0, help="Before the last layer.", least=0, below=1)
    precision: str = like(
        TrainingOptions, "precision", help="Of the training steps; bf16 by autocast.", detail=""
    )
    patience: int | None = like(TrainingOptions, "patience")
    validation_share: float = setting(
        0.15, help="Share of the train part that chooses the best epoch.", above=0, below=1
    )
    skip_scores: bool = setting(
        False,
        help="Add the backbones' averaged scores to all but average and tsn, which then learn what to add.",
    )
    unseen: bool = setting(False, help="Train only on videos that no backbone in use was trained on.")
    seed: int = like(TrainingOptions, "seed", help="Decides weights, order, clips and validation share.")
    device: str | None = setting(
        None,
        help="cpu, cuda:0, …",
        unset="the first GPU, or the CPU; under torchrun each its own",
        metavar="D",
    )

    def __post_init__(self) -> None:
        check(self)
        self.options("cpu")

    def options(self, device: str) -> TrainingOptions:
        """Return how to train, every value settled. Raises UsageError."""
        rate, decay = self.learning_rate, self.weight_decay
        return TrainingOptions.of(
            self,
            learning_rate=LEARNING_RATES[self.optimizer] if rate is None else rate,
            weight_decay=WEIGHT_DECAYS[self.optimizer] if decay is None else decay,
            device=device,
        )


@documented
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What `evaluate` and `oracle` take besides the run. None takes the run's own value."""

    store: str | Path | None = setting(None, help="Another store.", unset="the run's", metavar="S")
    split: str | None = setting(None, help="Another split.", unset="the run's", metavar="NAME")
    part: str | None = setting(
        None, help="A part of it.", unset="the run's", choices=("train", "val", "test")
    )
    pattern: str | None = setting(None, help="Another pattern than the run's.", metavar="E:C")
    clips: int | None = setting(None, help="Another number of clips.", metavar="N", least=1)
    batch_size: int | None = setting(
        None, help="Videos at a time.", unset="as in the run's own report", least=1
    )
    device: str | None = like(TrainConfig, "device")

    def __post_init__(self) -> None:
        check(self)
