"""The task of backbone training: one random clip of every training video per epoch."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import RunError, SourceError, StorageError, UsageError, VideoError
from ...runtime.atomic import replace as write_whole
from ...runtime.canonical_json import json_lines
from ...runtime.threads import prefetch
from ...runtime.workarounds import SafeConvolutions
from ...store import VideoRecord
from ...terminal.progress_bars import tqdm
from ...terminal.text import counted
from ...training.distributed import Ranks
from ..backbones import Backbone
from ..backbones.inference.frozen import FrozenBackbone
from ..sources.read import Source
from ..video.decode import LoadedVideo, load_random_video
from ..video.decoder_pool import DecodeJob, DecoderPool
from ..video.decoder_process import VideoFailure
from ..video.transforms import normalise
from .config import TrainBackboneConfig
from .resnet3d_training import train_forward
from .video_cache import CacheEntry, load_cached_clip, load_cached_clips

PREFETCH_BATCHES = 3

ClipsLabelsIds = tuple[Tensor, Tensor, list[str]]


@dataclass(frozen=True, kw_only=True)
class BackboneTrainingVideos:
    """The videos of backbone training by use; `unseen` are those of the fold that is left out."""

    split: str
    train: tuple[VideoRecord, ...]
    validation: tuple[VideoRecord, ...]
    test: tuple[VideoRecord, ...]
    unseen: tuple[VideoRecord, ...] = ()


class BackboneTask:
    """Backbone training for `training.loop.fit`.

    Args:
        model: is on its device.
        frozen: modules that stay in evaluation mode.
        cached: the cache entry of each training and validation video, by id; empty without a cache.
        failures: the file that keeps the videos that could not be decoded, from run to run.

    Attributes:
        failed: those videos, id → reason, of all ranks after each validation.
    """

    def __init__(
        self,
        config: TrainBackboneConfig,
        model: Backbone,
        source: Source,
        subsets: BackboneTrainingVideos,
        pool: DecoderPool,
        *,
        device: torch.device,
        ranks: Ranks,
        frozen: Sequence[nn.Module],
        cached: Mapping[str, CacheEntry],
        failures: Path,
    ) -> None:
        self.model = model
        self._config, self._source, self._subsets, self._pool = config, source, subsets, pool
        self._device, self._ranks, self._frozen, self._cached = device, ranks, frozen, cached
        self._failures = failures
        self.failed = read_failures(failures)
        self._logits = _forward(config, model, device)
        clips = min(config.batch_size, len(subsets.train))
        if clips < 2 * ranks.count:
            fix = "add videos" if clips < config.batch_size else "raise --batch-size"
            raise UsageError(
                f"batches of {counted(clips, 'clip')} for {counted(ranks.count, 'process', 'processes')}: "
                "batch norm needs two clips in each; "
                f"{fix}, or start fewer"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps. Only full batches: batch norm must not get a batch of one."""
        return max(1, len(self._subsets.train) // self._config.batch_size)

    def batches(self, epoch: int, start_step: int) -> Iterator[ClipsLabelsIds]:
        """Yield this rank's part of each batch, prefetched: clips, labels, ids.

        Clips are uint8 (B, L, H, W, 3), labels (B,). A video that cannot be decoded is left out of its batch.
        """
        return prefetch(self._load_batches(epoch, start_step), depth=PREFETCH_BATCHES, stop=self._pool.stop)

    def loss(self, batch: ClipsLabelsIds) -> Tensor:
        """Return this rank's part of the mean softmax loss of the batch's clips."""
        clips, labels, _ = batch
        for module in self._frozen:
            module.eval()
        losses = F.cross_entropy(
            self._logits(clips.to(self._device, non_blocking=True)).float(),
            labels.to(self._device, non_blocking=True),
            label_smoothing=self._config.label_smoothing,
            reduction="sum",
        )
        return losses / self._ranks.total(len(labels))

    def video_ids(self, batch: ClipsLabelsIds) -> Sequence[str]:
        """Return the batch's videos."""
        return batch[2]

    def validate(self) -> dict[str, float]:
        """Return the metrics of the validation share, empty without one; save the list of failures."""
        try:
            return (
                self.figures(self._subsets.validation, "validation", progress=False)
                if self._subsets.validation
                else {}
            )
        finally:
            self.keep_failures()

    def keep_failures(self) -> None:
        """Merge the failures of all ranks and write them, in order of ids."""
        for failed in self._ranks.all_gather(self.failed):
            self.failed |= failed
        self.failed = dict(sorted(self.failed.items()))
        if self._ranks.is_main and self.failed != read_failures(self._failures):
            lines = ({"id": name, "reason": reason} for name, reason in self.failed.items())
            write_whole(self._failures, json_lines(lines, ascii_only=True))

    def figures(self, videos: Sequence[VideoRecord], what: str, *, progress: bool) -> dict[str, float]:
        """Return "top1" and "loss" of videos, tested as in the paper (§4).

        Clips are uniform and softmax scores are averaged; "loss" is −ln of the label's mean score. The
        network runs in float32 with norms folded, as in `faster extract`. Raises SourceError if no video can
        be decoded, and RunError if the network gives values that are not finite or do not fit a store's
        float16.
        """
        network = FrozenBackbone(
            self.model, device=self._device, batch_clips=self._config.validation_clips, compiled=False
        )
        mine = videos[self._ranks.shard(len(videos))]
        scores: list[tuple[int, NDArray[np.float32]]] = []
        results = tqdm(
            self._pool.run([self._uniform_job(i, video) for i, video in enumerate(mine)]),
            total=len(mine),
            desc=what,
            unit="video",
            disable=not (progress and self._ranks.is_main),
        )
        for i, video in results:
            if isinstance(video, VideoFailure):
                self._leave_out(mine[i], video)
                continue
            try:
                _, logits = network(video.clips)
            except VideoError as error:
                raise RunError(f"{mine[i].id}: {error}; lower the learning rate") from error
            scores.append((mine[i].label, torch.from_numpy(logits).softmax(-1).mean(0).numpy()))
        everyones = [each for part in self._ranks.all_gather(scores) for each in part]
        if not everyones:
            failed = {name: why for part in self._ranks.all_gather(self.failed) for name, why in part.items()}
            raise SourceError(f"none of {len(videos)} {what} videos can be decoded: {failed[videos[0].id]}")
        labels = np.array([label for label, _ in everyones])
        mean_scores = np.stack([score for _, score in everyones]).astype(np.float64)
        own = mean_scores[np.arange(len(labels)), labels]
        return {
            "top1": float((mean_scores.argmax(1) == labels).mean()),
            "loss": float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean()),
        }

    def _leave_out(self, video: VideoRecord, failure: VideoFailure) -> None:
        """Record a video that cannot be decoded.

        Raises StorageError if it was cached: its file in the cache is gone or damaged.
        """
        if (entry := self._cached.get(video.id)) is not None:
            raise StorageError(
                f"{entry.file} cannot be read any more ({failure.reason}); the "
                "same command makes it again, and goes on"
            )
        self.failed[video.id] = failure.reason

    def _load_batches(self, epoch: int, start_step: int) -> Generator[ClipsLabelsIds, None, None]:
        config, train = self._config, self._subsets.train
        order = np.random.default_rng([config.seed, epoch]).permutation(len(train))
        steps = [
            order[step * config.batch_size : (step + 1) * config.batch_size]
            for step in range(start_step, self.steps_per_epoch)
        ]
        mine = [rows[self._ranks.shard(len(rows))].tolist() for rows in steps]
        results = self._pool.run(self._training_job(epoch, i) for rows in mine for i in rows)
        for rows in mine:
            shape = (len(rows), config.clip_frames, config.size, config.size, 3)
            clips = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
            kept: list[VideoRecord] = []
            for _ in rows:
                i, video = next(results)
                if isinstance(video, VideoFailure):
                    self._leave_out(train[i], video)
                    continue
                clips[len(kept)].numpy()[:] = video.clips[0]
                kept.append(train[i])
            if not kept:
                reason = self.failed[train[rows[-1]].id]
                raise SourceError(f"none of a batch's {counted(len(rows), 'video')} can be decoded: {reason}")
            labels = torch.tensor([video.label for video in kept])
            yield clips[: len(kept)], labels, [video.id for video in kept]

    def _training_job(self, epoch: int, i: int) -> DecodeJob[int]:
        video = self._subsets.train[i]
        rng = np.random.default_rng([self._config.seed, epoch, i])
        entry = self._cached.get(video.id)
        arguments = {**self._clip_arguments(), "rng": rng}
        if entry is not None:
            return DecodeJob(key=i, path=entry.file, arguments=arguments, load=load_cached_clip)
        return DecodeJob(
            key=i,
            path=self._source.root / video.path,
            arguments={**arguments, **_segment(video)},
            load=load_one_random_clip,
        )

    def _uniform_job(self, i: int, video: VideoRecord) -> DecodeJob[int]:
        entry = self._cached.get(video.id)
        if entry is not None and entry.clips:
            return DecodeJob(key=i, path=entry.file, arguments={}, load=load_cached_clips)
        arguments = {
            **self._clip_arguments(),
            **_segment(video),
            "clips": self._config.validation_clips,
        }
        return DecodeJob(key=i, path=self._source.root / video.path, arguments=arguments)

    def _clip_arguments(self) -> dict[str, Any]:
        return {
            "clip_frames": self._config.clip_frames,
            "frame_stride": self.model.frame_stride,
            "size": self._config.size,
        }


def load_one_random_clip(path: Path, *, out: NDArray[np.uint8], **arguments: Any) -> LoadedVideo:
    """Run `load_random_video` into the first clip of a slot that has room for a validation video's clips."""
    return replace(load_random_video(path, out=out[:1], **arguments), clips=out)


def read_failures(path: Path) -> dict[str, str]:
    """Read id → reason from a file that `BackboneTask` keeps; empty without one."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["id"]: line["reason"] for line in lines}


def _segment(video: VideoRecord) -> dict[str, float | None]:
    return {"start_seconds": video.start_seconds, "end_seconds": video.end_seconds}


def _forward(
    config: TrainBackboneConfig, model: Backbone, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Return the network's fastest form from pixels to logits.

    Raises:
        UsageError: bf16 on a CPU, and the network is not this package's.
    """
    bf16 = config.precision == "bf16"
    fast = train_forward(model, torch.bfloat16 if bf16 else torch.float32)
    if fast is not None:
        return fast
    if bf16 and device.type == "cpu":
        raise UsageError(
            f"{config.model} cannot be trained in bf16 on a CPU: the gradients of PyTorch's Conv3d are not "
            "to be trusted there; leave out --precision bf16"
        )
    return partial(_reference, model)


def _reference(model: Backbone, clips: Tensor) -> Tensor:
    with SafeConvolutions() if clips.device.type == "cpu" else nullcontext():
        logits: Tensor = model(normalise(clips, model.mean, model.std))
    return logits
