"""Stage one of the paper: train a clip-level backbone on the videos that its maps will be extracted from (§4).

from faster.extract.pretrain import TrainBackboneConfig, train_backbone

train_backbone(TrainBackboneConfig(model="r2d26", source="videos", size=112))
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..devices import choose_device
from ..errors import SourceError, UsageError, WeightsError
from ..holdout import hold_out
from ..run_folder import open_run, read_json, write_json
from ..store import VideoRecord
from ..store.sealed import digest
from ..training import TrainingOptions, fit, run_config
from .annotations import Source
from .backbones import build, require_known
from .decode import LoadedVideo, load_random_video
from .decoders import DecodeJob, DecoderPool, VideoFailure
from .slots import MEMORY_BYTES
from .source_options import SourceOptions
from .transforms import normalise
from .weights import WeightsInfo, file_stem, save_weights

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrainBackboneConfig(SourceOptions):
    """How to train a backbone; `faster train-backbone` has an option for each field.

    Attributes:
        model: name of the backbone.
        split: the named split whose train part is trained on; None takes the only one, or the first by name.
        out: folder of the weights file `<model>.safetensors`, and of the run folder `<model>.run` beside it.
        clip_frames: L. size: pixels of a frame's side; the shorter side is drawn from 256/224 to 320/224 of it.
        warmup_epochs: None takes 2, or half of the epochs where that is less.
        validation_share: share of the train part, by group, on which the best epoch is chosen.
        validation_clips: uniform clips a validation or test video, whose scores are averaged.
        decoders: decoding processes.
    """

    model: str
    split: str | None = None
    out: str = "weights"
    clip_frames: int = 8
    size: int = 224
    epochs: int = 45
    batch_size: int = 16
    learning_rate: float = 0.05
    weight_decay: float = 1e-4
    warmup_epochs: float | None = None
    validation_share: float = 0.1
    validation_clips: int = 4
    seed: int = 0
    device: str | None = None
    decoders: int = 1


@dataclass(frozen=True, kw_only=True)
class TrainBackboneResult:
    """What came of it; accuracies are shares of 1, over the videos that could be decoded.

    Attributes:
        weights: the file that `faster extract --weights` takes.
        best_epoch: counted from 1.
        validation_top1, test_top1: of videos, scores averaged over the clips; None without such videos.
        trained_on: videos that training saw (the validation share is not among them).
        failed: videos that could not be decoded, id → reason.
    """

    weights: str
    best_epoch: int
    validation_top1: float
    test_top1: float | None
    trained_on: int
    failed: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def train_backbone(
    config: TrainBackboneConfig, *, say: Say = print, progress: bool = True
) -> TrainBackboneResult:
    """Train a backbone from scratch and write its weights, where `faster extract` finds them.

    Started again with the same configuration it goes on where it was stopped, and does nothing once finished.

    Raises:
        UsageError, SourceError: the configuration or source is wrong, or too few videos or classes are labelled.
        RunError: the run folder holds another configuration's run, or the loss was not finite.
        Interrupted: stopped by a signal; the state is saved.
    """
    require_known(config.model)
    source = _labelled_source(config, say)
    split = _split(config, source, say)
    train, validation = _share_out(config, [v for v in source.videos if v.splits.get(split) == "train"])
    test = [v for v in source.videos if v.splits.get(split) in ("test", "val")]
    test = [v for v in test if v.splits[split] == "test"] or test
    say(
        f"{config.model}: {len(train)} videos to train on, {len(validation)} to validate, {len(test)} to test ({split})"
    )
    shape = (max(config.validation_clips, 1), config.clip_frames, config.size, config.size, 3)
    run_dir = Path(config.out) / f"{file_stem(config.model)}.run"
    options = TrainingOptions(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_epochs=min(2, config.epochs / 2) if config.warmup_epochs is None else config.warmup_epochs,
        seed=config.seed,
        device=str(choose_device(config.device)),
    )
    videos = digest([[v.id for v in part] for part in (train, validation)])
    settled = {"train_backbone": _deciding(config, split), "videos": videos}
    if (run_dir / "result.json").exists():
        open_run(run_dir, run_config(options, settled))
        say(f"{run_dir} is finished: nothing to do")
        return TrainBackboneResult(**read_json(run_dir / "result.json"))
    target = Path(config.out) / f"{file_stem(config.model)}.safetensors"
    if target.exists() and not (run_dir / "config.json").exists():
        raise WeightsError(
            f"{target} is there and is not of this run; move it away, or name another folder with --out"
        )
    torch.manual_seed(config.seed)
    model = build(config.model, len(source.class_names))
    model.require_takes(config.clip_frames, config.size)
    if model.num_classes != len(source.class_names):
        raise UsageError(
            f"{config.model} has a classifier of {model.num_classes} classes, the source {len(source.class_names)}; "
            "stage one needs a network that sets num_classes to what it is given"
        )
    slots = max(1, min(2 * config.batch_size, MEMORY_BYTES // prod(shape)))
    with DecoderPool(config.decoders, shape=shape, slots=slots) as pool:
        task = _BackboneTask(config, model, source, train, validation, pool, options.device)
        best = fit(task, options, run_dir, config=settled, progress=progress)
        model.load_state_dict(load_file(run_dir / "best.safetensors"))
        model.eval()
        with torch.no_grad():
            tested = task.accuracy(test, progress=progress) if test else None
    info = WeightsInfo(
        model=config.model,
        class_names=source.class_names,
        trained_on=tuple(video.id for video in train),
        clip_frames=config.clip_frames,
        size=config.size,
        extra={"split": split, "config": _deciding(config, split), "best": asdict(best)},
    )
    # Both the run folder and the plain file can be given to `faster extract --weights`, and both say what they saw.
    save_weights(model, run_dir / "best.safetensors", info)
    info = save_weights(model, target, info)
    if task.failed:
        lines = [json.dumps({"id": name, "reason": reason}) for name, reason in sorted(task.failed.items())]
        (run_dir / "failures.jsonl").write_text("\n".join(lines) + "\n")
        say(
            f"{len(task.failed)} videos could not be decoded and were left out; see {run_dir / 'failures.jsonl'}"
        )
    result = TrainBackboneResult(
        weights=str(info.path),
        best_epoch=best.epoch,
        validation_top1=best.metrics["top1"],
        test_top1=tested,
        trained_on=len(train),
        failed=dict(sorted(task.failed.items())),
    )
    write_json(run_dir / "result.json", result.to_dict())
    return result


class _BackboneTask:
    """Stage one for `training.fit`: each epoch takes one random clip of every training video, in random order."""

    def __init__(
        self,
        config: TrainBackboneConfig,
        model: nn.Module,
        source: Source,
        train: Sequence[VideoRecord],
        validation: Sequence[VideoRecord],
        pool: DecoderPool,
        device: str,
    ) -> None:
        self.model = model
        self.failed: dict[str, str] = {}
        self._config, self._source = config, source
        self._train, self._validation, self._pool = train, validation, pool
        self._device = device

    @property
    def steps_per_epoch(self) -> int:
        """Full batches only: batch norm must not meet a batch of one."""
        return max(1, len(self._train) // self._config.batch_size)

    def batches(self, epoch: int, start_step: int) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        """(clips uint8 (B, L, H, W, 3), labels (B,), ids); a video that cannot be decoded is left out of its batch."""
        config = self._config
        order = np.random.default_rng([config.seed, epoch]).permutation(len(self._train))
        order = order[start_step * config.batch_size : self.steps_per_epoch * config.batch_size]
        jobs = (self._training_job(epoch, int(i)) for i in order)
        results = self._pool.run(jobs)
        for step in range(0, len(order), config.batch_size):
            clips, labels, ids = [], [], []
            for _ in order[step : step + config.batch_size]:
                i, video = next(results)
                if isinstance(video, VideoFailure):
                    self.failed[self._train[i].id] = video.reason
                    continue
                clips.append(video.clips[0].copy())
                labels.append(self._train[i].label)
                ids.append(self._train[i].id)
            if not clips:
                raise SourceError(
                    f"none of {len(order)} videos can be decoded: {next(iter(self.failed.values()))}"
                )
            yield torch.from_numpy(np.stack(clips)), torch.tensor(labels), ids

    def loss(self, batch: tuple[Tensor, Tensor, list[str]]) -> Tensor:
        """Softmax loss of the clips."""
        clips, labels, _ = batch
        return F.cross_entropy(self.model(self._normalised(clips)), labels.to(self._device))

    def video_ids(self, batch: tuple[Tensor, Tensor, list[str]]) -> Sequence[str]:
        """The batch's videos."""
        return batch[2]

    def validate(self) -> dict[str, float]:
        """Top-1 of the validation share, scores averaged over uniform clips."""
        return {"top1": self.accuracy(self._validation, progress=False)}

    def accuracy(self, videos: Sequence[VideoRecord], *, progress: bool) -> float:
        """Video-level top-1 as the paper tests: uniform clips, softmax scores averaged (§4)."""
        right = seen = 0
        jobs = [
            DecodeJob(
                key=i,
                path=self._source.root / video.path,
                arguments={**self._arguments(video), "clips": self._config.validation_clips},
            )
            for i, video in enumerate(videos)
        ]
        results = tqdm(self._pool.run(jobs), total=len(jobs), desc="test", unit="video", disable=not progress)
        for i, video in results:
            if isinstance(video, VideoFailure):
                self.failed[videos[i].id] = video.reason
                continue
            clips = torch.from_numpy(video.clips)
            scores = self.model(self._normalised(clips)).softmax(-1).mean(0)
            right += int(scores.argmax()) == videos[i].label
            seen += 1
        if not seen:
            raise SourceError(
                f"none of {len(videos)} videos can be decoded: {next(iter(self.failed.values()))}"
            )
        return right / seen

    def _normalised(self, clips: Tensor) -> Tensor:
        model = self.model
        return normalise(clips.to(self._device), model.mean, model.std)  # type: ignore[arg-type]

    def _arguments(self, video: VideoRecord) -> dict[str, Any]:
        return {
            "clip_frames": self._config.clip_frames,
            "frame_stride": self.model.frame_stride,
            "size": self._config.size,
            "start_seconds": video.start_seconds,
            "end_seconds": video.end_seconds,
        }

    def _training_job(self, epoch: int, i: int) -> DecodeJob[int]:
        video = self._train[i]
        rng = np.random.default_rng([self._config.seed, epoch, i])
        return DecodeJob(
            key=i,
            path=self._source.root / video.path,
            arguments={**self._arguments(video), "rng": rng},
            load=load_one_random_clip,
        )


def load_one_random_clip(path: Path, *, out: NDArray[np.uint8], **arguments: Any) -> LoadedVideo:
    """`load_random_video` into the first clip of a slot that has room for a validation video's."""
    return replace(load_random_video(path, out=out[:1], **arguments), clips=out)


def _labelled_source(config: TrainBackboneConfig, say: Say) -> Source:
    source = config.read(say)
    if len({video.label for video in source.videos if video.label >= 0}) < 2:
        raise SourceError(
            f"{config.place} labels fewer than two classes; training needs class folders or an annotation file"
        )
    return source


def _split(config: TrainBackboneConfig, source: Source, say: Say) -> str:
    names = sorted({name for video in source.videos for name in video.splits})
    if config.split is None:
        if len(names) > 1:
            say(f"splits {', '.join(names)}: taking {names[0]} (name another with --split)")
        return names[0]
    if config.split not in names:
        raise UsageError(f"no split {config.split!r}; the source has: {', '.join(names)}")
    return config.split


def _share_out(
    config: TrainBackboneConfig, videos: Sequence[VideoRecord]
) -> tuple[list[VideoRecord], list[VideoRecord]]:
    """The training videos, and the share of each class, whole groups, that the best epoch is chosen on."""
    videos = [video for video in videos if video.label >= 0]
    if not videos:
        raise SourceError("no training video of the split is labelled; name another with --split")
    labels = np.array([video.label for video in videos], dtype=np.int32)
    groups = [video.group for video in videos]
    kept, held = hold_out(
        np.arange(len(videos)), labels, groups, share=config.validation_share, seed=config.seed
    )
    train, validation = [videos[i] for i in kept], [videos[i] for i in held]
    if not train or not validation:
        raise SourceError(f"{len(videos)} labelled training videos are too few to train on and validate with")
    return train, validation


def _deciding(config: TrainBackboneConfig, split: str) -> dict[str, Any]:
    """The configuration without what does not decide the result."""
    values = asdict(config)
    for name in ("source", "video_root", "out", "decoders", "device"):
        del values[name]
    return {**values, "split": split}
