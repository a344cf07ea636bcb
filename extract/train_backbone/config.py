"""What stage one is asked for, and what comes of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...errors import UsageError
from ...training.options import TrainingOptions
from ..sources.options import SourceOptions
from .folds import require_fold

CACHES = ("uint8",)

# What does not decide the result, and `init`, of which the weights do.
_BESIDE = ("source", "video_root", "out", "init", "decoders", "device", "cache_folder", "follow_links")


@dataclass(frozen=True, kw_only=True)
class TrainBackboneConfig(SourceOptions):
    """How to train a backbone; `faster train-backbone` has an option for each field.

    Attributes:
        model: name of the backbone.
        split: the named split whose train part is trained on; None takes the only one, or the first by name.
        out: folder of the weights file `<model>.safetensors`, and of the run folder `<model>.run` beside it.
        init: weights to start from, a file, URL or run folder; the classifier is new where the classes differ.
        freeze: parts of the network that stay as `init` has them, norms' statistics too; "features" is all but the classifier.
        folds, fold: leave out fold `fold`, from 0, of the train part's groups in `folds` folds, the same for one seed.
        clip_frames: L. size: pixels of a frame's side; the shorter side is drawn from 256/224 to 320/224 of it.
        batch_size: clips a step, of all processes together.
        warmup_epochs: None takes 2, or half of the epochs where that is less.
        label_smoothing: share of the label's weight that all classes get alike, in [0, 1).
        precision: of the training steps: "float32", or "bf16" with float32 weights, norms and classifier.
        patience: stop after so many epochs in a row without a better one.
        validation_share: share of the train part, by group, on which the best epoch is chosen; 0 trains on all of it, and
            the last epoch is kept.
        validation_clips: uniform clips a validation or test video, whose scores are averaged.
        cache: "uint8" keeps decoded videos in `cache_folder` (`cache` in `out`), and training reads them from there.
        decoders: decoding processes.
    """

    model: str
    split: str | None = None
    out: str = "weights"
    init: str | None = None
    freeze: tuple[str, ...] = ()
    folds: int | None = None
    fold: int | None = None
    clip_frames: int = 8
    size: int = 224
    epochs: int = 45
    batch_size: int = 16
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: float | None = None
    label_smoothing: float = 0.0
    precision: str = "float32"
    patience: int | None = None
    validation_share: float = 0.1
    validation_clips: int = 4
    seed: int = 0
    device: str | None = None
    cache: str | None = None
    cache_folder: str | None = None
    decoders: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.validation_share < 1:
            raise UsageError(
                f"validation_share is {self.validation_share}; it must be at least 0, and less than 1"
            )
        if self.patience is not None and not self.validation_share:
            raise UsageError(
                "--patience needs a validation share: without one no epoch is better than another"
            )
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        if self.validation_clips < 1:
            raise UsageError(f"validation_clips is {self.validation_clips}; it must be at least 1")
        if self.cache is not None and self.cache not in CACHES:
            raise UsageError(f"cache is {self.cache!r}; allowed: {', '.join(CACHES)}")
        if self.cache is None and self.cache_folder is not None:
            raise UsageError("--cache-folder goes with --cache uint8")
        if self.freeze and self.init is None:
            raise UsageError("--freeze keeps what --init brings; name weights with --init")
        require_fold(self.folds, self.fold)
        self.options("cpu")

    def options(self, device: str) -> TrainingOptions:
        """How to train, every value settled. Raises UsageError."""
        warmup = self.warmup_epochs
        return TrainingOptions(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            warmup_epochs=min(2, self.epochs / 2) if warmup is None else warmup,
            precision=self.precision,
            patience=self.patience,
            seed=self.seed,
            device=device,
        )

    def deciding(self, split: str) -> dict[str, Any]:
        """The configuration without what does not decide the result."""
        values = asdict(self)
        return {**{name: values[name] for name in values if name not in _BESIDE}, "split": split}


@dataclass(frozen=True, kw_only=True)
class TrainBackboneResult:
    """What came of it; accuracies are shares of 1, over the videos that could be decoded.

    Attributes:
        weights: the file that `faster extract --weights` takes.
        best_epoch: counted from 1.
        validation_top1, test_top1: of videos, scores averaged over the clips; None without such videos.
        trained_on: videos that training saw (the validation share is not among them).
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
        """As JSON types."""
        return asdict(self)
