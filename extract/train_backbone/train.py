"""The paper's first stage: train a clip-level backbone on the videos that it will extract maps from (§4).

from faster.extract.train_backbone import TrainBackboneConfig, train_backbone

train_backbone(TrainBackboneConfig(model="r2d26", source="videos", size=112))
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from ... import __version__
from ...errors import SourceError, UsageError, WeightsError
from ...runtime.canonical_json import digest
from ...runtime.file_names import file_stem, require_text
from ...runtime.signals import interruptible
from ...runtime.spawning import require_startable
from ...store import VideoRecord
from ...terminal.log_output import quiet
from ...terminal.outputs import require_folder
from ...terminal.text import agreeing, counted
from ...training.distributed import Ranks, init_distributed
from ...training.holdout import group_split
from ...training.loop import fit, run_config
from ...training.run_folder import init_run_dir, read_json, write_json
from ..backbones import Backbone, build, require_known
from ..backbones.weights.load import WeightsInfo, load_weights, save_weights
from ..sources.read import Source
from ..video.decoder_pool import DecoderPool
from ..video.shared_memory import MEMORY_BYTES
from .config import TrainBackboneConfig, TrainBackboneResult
from .folds import fold_of
from .init import freeze, require_unseen_by, start_from
from .task import BackboneTask, BackboneTrainingVideos
from .video_cache import CacheEntry, ClipCache

__all__ = ["TrainBackboneConfig", "TrainBackboneResult", "train_backbone"]

logger = logging.getLogger(__name__)


def train_backbone(config: TrainBackboneConfig, *, progress: bool = True) -> TrainBackboneResult:
    """Train a backbone and write its weights where `faster extract` finds them.

    Training starts from scratch or from other weights. Started again with the same configuration, it
    continues where it was stopped; once finished, it does nothing. Under torchrun the processes share each
    batch, and the first one prints and writes.

    Raises:
        UsageError, SourceError: the configuration or source is wrong, or too few videos or classes are
            labelled.
        DataError: the initial weights do not fit, or saw videos that must stay unseen.
        RunError: the run folder holds another configuration's run, or the loss was not finite.
        StorageError: the disk has no room for the cache, or fails.
        Interrupted: stopped by a signal; the state is saved.
    """
    with init_distributed(config.device) as (ranks, device), quiet(not ranks.is_main):
        return _train(config, progress, ranks, device)


def _train(
    config: TrainBackboneConfig, progress: bool, ranks: Ranks, device: torch.device
) -> TrainBackboneResult:
    require_known(config.model)
    require_text(config.out, "--out")
    require_startable()
    source = _labelled_source(config)
    subsets = choose_subsets(config, source)
    run_dir = Path(config.out) / f"{file_stem(config.model)}.run"
    target = Path(config.out) / f"{file_stem(config.model)}.safetensors"
    model, origin = _network(config, source)
    if origin is not None:
        require_unseen_by(origin, subsets.test, f"test videos of {subsets.split}")
        require_unseen_by(origin, subsets.unseen, f"videos of fold {config.fold}")
    frozen = freeze(config.model, model, config.freeze)
    options = config.options(str(device))
    settled = {
        "train_backbone": config.deciding(subsets.split),
        "videos": digest([[[v.id, v.label] for v in part] for part in (subsets.train, subsets.validation)]),
        "classes": digest(list(source.class_names)),
        "init": None if origin is None else origin.digest,
        "ranks": ranks.count,
        "versions": _versions(),
    }
    if (run_dir / "result.json").exists():
        init_run_dir(run_dir, run_config(options, settled))
        if ranks.is_main and not target.exists():
            finished, info = load_weights(config.model, path=run_dir)
            save_weights(finished, target, info)
        logger.info(f"{run_dir} is finished: nothing to do")
        return TrainBackboneResult(**read_json(run_dir / "result.json"))
    if target.exists() and not (run_dir / "config.json").exists():
        raise WeightsError(
            f"{target} is there and is not of this run; move it away, or name another folder with --out"
        )
    require_folder(Path(config.out), "--out")
    cached = _cache(config, model, source, subsets, ranks, progress)
    shape = (config.validation_clips, config.clip_frames, config.size, config.size, 3)
    slots = max(1, min(2 * config.batch_size, MEMORY_BYTES // prod(shape)))
    with DecoderPool(config.decoders, shape=shape, slots=slots) as pool:
        task = BackboneTask(
            config,
            model.to(device),
            source,
            subsets,
            pool,
            device=device,
            ranks=ranks,
            frozen=frozen,
            cached=cached,
            failures=run_dir / "failures.jsonl",
        )
        best = fit(task, options, run_dir, config=settled, progress=progress, ranks=ranks)
        ranks.wait()  # until the first one has written it
        model.load_state_dict(load_file(run_dir / "best.safetensors"))
        tested = task.figures(subsets.test, "test", progress=progress)["top1"] if subsets.test else None
        task.keep_failures()
    trained_on = {video.id for video in subsets.train}.union(origin.trained_on if origin else ())
    extra = {"split": subsets.split, "config": config.deciding(subsets.split), "best": asdict(best)}
    if origin is not None:
        extra["init"] = {
            "path": origin.path,
            "digest": origin.digest,
            "trained_on_known": bool(origin.trained_on),
        }
    if config.folds is not None:
        extra["unseen"] = [video.id for video in subsets.unseen]
    info = WeightsInfo(
        model=config.model,
        class_names=source.class_names,
        trained_on=tuple(sorted(trained_on)),
        clip_frames=config.clip_frames,
        size=config.size,
        extra=extra,
    )
    result = TrainBackboneResult(
        weights=str(target),
        best_epoch=best.epoch,
        validation_top1=best.metrics.get("top1"),
        test_top1=tested,
        trained_on=len(subsets.train),
        unseen=len(subsets.unseen),
        failed=task.failed,
    )
    if ranks.is_main:
        # `faster extract --weights` takes the run folder and the file; both record which videos the weights
        # saw.
        save_weights(model, run_dir / "best.safetensors", info)
        save_weights(model, target, info)
        write_json(run_dir / "result.json", result.to_dict())
    if task.failed:
        logger.warning(
            f"{counted(len(task.failed), 'video')} could not be decoded and "
            f"{agreeing(len(task.failed), 'was', 'were')} left out; see {run_dir / 'failures.jsonl'}"
        )
    return result


def choose_subsets(config: TrainBackboneConfig, source: Source) -> BackboneTrainingVideos:
    """Return the videos to train on, to validate on, to test on and to leave out.

    Raises:
        UsageError, SourceError: the split does not exist, or has too few labelled videos.
    """
    split = _split(config, source)
    videos = [video for video in source.videos if video.splits.get(split) == "train" and video.label >= 0]
    if not videos:
        raise SourceError("no training video of the split is labelled; name another with --split")
    unseen: list[VideoRecord] = []
    if config.folds is not None:
        folds = fold_of(videos, source.class_names, config.folds, seed=config.seed)
        unseen = [video for video, fold in zip(videos, folds, strict=True) if fold == config.fold]
        videos = [video for video, fold in zip(videos, folds, strict=True) if fold != config.fold]
    train, validation = _share_out(config, videos)
    test = [video for video in source.videos if video.splits.get(split) in ("test", "val")]
    test = [video for video in test if video.splits[split] == "test"] or test
    left_out = f", {len(unseen)} left out (fold {config.fold} of {config.folds})" if unseen else ""
    logger.info(
        f"{config.model}: {counted(len(train), 'video')} to train on, {len(validation)} to validate, "
        f"{len(test)} to test "
        f"({split}){left_out}"
    )
    return BackboneTrainingVideos(
        split=split,
        train=tuple(train),
        validation=tuple(validation),
        test=tuple(test),
        unseen=tuple(unseen),
    )


def _network(config: TrainBackboneConfig, source: Source) -> tuple[Backbone, WeightsInfo | None]:
    """Return the network at the start of training, and the facts of its initial weights."""
    classes = len(source.class_names)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        model = build(config.model, classes)
    model.require_takes(config.clip_frames, config.size)
    if model.num_classes != classes:
        raise UsageError(
            f"{config.model} has a classifier of {model.num_classes} classes, the source {classes}; "
            "backbone training needs a network that sets num_classes to what it is given"
        )
    if config.init is None:
        return model, None
    origin, said = start_from(config.model, config.init, model, source.class_names)
    logger.info(said)
    return model, origin


def _cache(
    config: TrainBackboneConfig,
    model: Backbone,
    source: Source,
    subsets: BackboneTrainingVideos,
    ranks: Ranks,
    progress: bool,
) -> dict[str, CacheEntry]:
    """Return the cache entry of each cached training and validation video, by id.

    The first rank fills the cache before. A video that cannot be cached is decoded at each use, and fails
    there.
    """
    if config.cache is None:
        return {}
    cache = ClipCache(
        Path(config.cache_folder or Path(config.out) / "cache"),
        clip_frames=config.clip_frames,
        frame_stride=model.frame_stride,
        size=config.size,
    )
    entries = {
        video.id: cache.entry(video, source.root, clips=clips)
        for videos, clips in ((subsets.train, 0), (subsets.validation, config.validation_clips))
        for video in videos
    }
    failed: dict[str, str] = {}
    if ranks.is_main:
        with interruptible("cached videos are kept"):
            failed = cache.fill(list(entries.values()), decoders=config.decoders, progress=progress)
    failed = ranks.all_gather(failed)[0]
    return {name: entry for name, entry in entries.items() if name not in failed}


def _labelled_source(config: TrainBackboneConfig) -> Source:
    source = config.read()
    if len({video.label for video in source.videos if video.label >= 0}) < 2:
        raise SourceError(
            f"{config.place} labels fewer than two classes; training "
            "needs class folders or an annotation file"
        )
    return source


def _split(config: TrainBackboneConfig, source: Source) -> str:
    names = sorted({name for video in source.videos for name in video.splits})
    if config.split is None:
        if len(names) > 1:
            logger.info(f"splits {', '.join(names)}: taking {names[0]} (name another with --split)")
        return names[0]
    if config.split not in names:
        raise UsageError(f"no split {config.split!r}; the source has: {', '.join(names)}")
    return config.split


def _share_out(
    config: TrainBackboneConfig, videos: Sequence[VideoRecord]
) -> tuple[list[VideoRecord], list[VideoRecord]]:
    """Return the training videos, and the validation share of each class, in complete groups.

    The validation share chooses the best epoch.
    """
    if not config.validation_share:
        return list(videos), []
    labels = np.array([video.label for video in videos], dtype=np.int32)
    groups = [video.group for video in videos]
    kept, held = group_split(
        np.arange(len(videos)), labels, groups, share=config.validation_share, seed=config.seed
    )
    train, validation = [videos[i] for i in kept], [videos[i] for i in held]
    if not train or not validation:
        raise SourceError(
            f"{counted(len(videos), 'labelled training video')} {agreeing(len(videos), 'is', 'are')} too "
            "few to train on and validate with"
        )
    return train, validation


def _versions() -> dict[str, Any]:
    """Return the versions of the decoding and computing libraries: recorded, not compared."""
    names = ("torch", "av", "numpy")
    return {
        "faster": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }
