"""The configuration and the result of backbone training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ...errors import UsageError
from ...terminal.settings import declare, documented, like, setting
from ...training.options import TrainingOptions
from ..sources.options import SourceOptions
from .folds import require_fold

# Fields that do not decide the result, and `init`: its weights decide it.
_BESIDE = ("source", "video_root", "out", "init", "decoders", "device", "cache_folder", "follow_links")


@documented
@dataclass(frozen=True, kw_only=True)
class TrainBackboneConfig(SourceOptions):
    """How to train a backbone. `faster train-backbone` has an option for each field."""

    model: str = field(
        metadata=declare(help="A backbone (see: faster models), for example r2d26 or r2plus1d26-w16.")
    )
    split: str | None = setting(
        None, help="Named split whose train part is trained on.", unset="the only one, or the first by name"
    )
    out: str = setting(
        "weights",
        help="Folder of the weights.",
        detail="It gets the file <model>.safetensors, and the run folder <model>.run beside it.",
        path=True,
    )
    init: str | None = setting(
        None,
        help="Start from these weights (a file, URL or run folder), with a new classifier for other classes.",
        metavar="RUN",
    )
    freeze: tuple[str, ...] = setting(
        (),
        help="Keep a part as --init has it: conv1, res2, …, or features, all but the classifier; repeatable.",
        detail="The statistics of its norms stay, too.",
        metavar="PART",
    )
    folds: int | None = setting(
        None,
        help="Part the training list's groups into K folds, …",
        detail="the same for one seed.",
        metavar="K",
        least=2,
    )
    fold: int | None = setting(
        None, help="… and leave out fold k, from 0; its videos stay unseen.", metavar="k", least=0
    )
    clip_frames: int = setting(8, help="L, frames a clip.", least=1)
    size: int = setting(
        224,
        help="Pixels of a frame's side.",
        detail="The shorter side is drawn from 256/224 to 320/224 of it.",
        least=1,
        most=2048,
    )
    epochs: int = like(TrainingOptions, "epochs", 45, help="Each takes one clip a video.")
    batch_size: int = like(
        TrainingOptions, "batch_size", 16, help="Clips a step, of all processes together.", least=2
    )
    learning_rate: float = like(TrainingOptions, "learning_rate", 0.05, help="At the end of warm-up.")
    momentum: float = like(TrainingOptions, "momentum", help="Of SGD.", detail="")
    weight_decay: float = like(TrainingOptions, "weight_decay")
    warmup_epochs: float | None = like(
        TrainingOptions,
        "warmup_epochs",
        None,
        help="Linear rise before the cosine.",
        unset="2; half of the epochs where fewer",
    )
    label_smoothing: float = setting(
        0.0, help="Share of a label that all classes get alike.", least=0, below=1
    )
    precision: str = like(
        TrainingOptions,
        "precision",
        help="Of the training steps; weights, norms and validation are float32.",
        detail="With bf16 the classifier is float32, too.",
    )
    patience: int | None = like(TrainingOptions, "patience")
    validation_share: float = setting(
        0.1,
        help="Share of the train part that chooses the best epoch; 0: train on all, keep the last.",
        detail="Groups of videos stay together.",
        least=0,
        below=1,
    )
    validation_clips: int = setting(
        4,
        help="N, uniform clips of a validation or test video.",
        detail="Their scores are averaged.",
        least=1,
    )
    seed: int = like(TrainingOptions, "seed", help="Of weights, order, views, folds and validation share.")
    device: str | None = setting(
        None, help="The GPU if there is one, else the CPU; under torchrun each its own."
    )
    cache: str | None = setting(
        None,
        help="Decode each video once, into files that this and other runs read from.",
        choices=("uint8",),
    )
    cache_folder: str | None = setting(None, help="Where they lie.", unset="cache/ in --out", path=True)
    decoders: int = setting(1, help="Decoding processes.", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience is not None and not self.validation_share:
            raise UsageError(
                "--patience needs a validation share: without one no epoch is better than another"
            )
        if self.cache is None and self.cache_folder is not None:
            raise UsageError("--cache-folder goes with --cache uint8")
        if self.freeze and self.init is None:
            raise UsageError("--freeze keeps what --init brings; name weights with --init")
        require_fold(self.folds, self.fold)
        self.options("cpu")

    def options(self, device: str) -> TrainingOptions:
        """Return the training options, with every value set. Raises UsageError."""
        warmup = min(2, self.epochs / 2) if self.warmup_epochs is None else self.warmup_epochs
        return TrainingOptions.of(self, warmup_epochs=warmup, device=device)

    def deciding(self, split: str) -> dict[str, Any]:
        """Return the fields that decide the result."""
        values = asdict(self)
        return {**{name: values[name] for name in values if name not in _BESIDE}, "split": split}


@dataclass(frozen=True, kw_only=True)
class TrainBackboneResult:
    """The result of backbone training. Accuracies are in [0, 1], over the videos that could be decoded.

    Attributes:
        weights: the file for `faster extract --weights`.
        best_epoch: counted from 1.
        validation_top1, test_top1: of videos, scores averaged over the clips; None without such videos.
        trained_on: number of videos seen in training (without the validation share).
        unseen: videos of the fold that was left out.
        failed: videos that could not be decoded, id → reason.
    """

    weights: str
    best_epoch: int
    validation_top1: float | None
    test_top1: float | None
    trained_on: int
    unseen: int
    failed: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self)
