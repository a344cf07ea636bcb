"""The extraction stage: write the feature maps of a video set, from one or more models, into a store.

from faster.extract import ExtractConfig, extract

extract(ExtractConfig(source="videos", models=("r2plus1d50", "r2d26"), store="kinetics.zarr"))
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .. import __version__
from .. import store as stores
from ..errors import SourceError, UsageError
from ..runtime.dask_cluster import LOCAL
from ..runtime.devices import choose_device
from ..runtime.fan_out import run_units
from ..runtime.file_names import require_text
from ..runtime.signals import interruptible
from ..runtime.spawning import require_startable
from ..store import Store
from ..store.format import manifest as manifests
from ..store.format.attributes import read_spec
from ..store.format.schema import shard_videos_for
from ..store.maintain.inspect import plain_bytes
from ..store.write import create as writer
from ..store.write.removal import finish_removals
from ..terminal.text import counted
from .advice import faster_forward
from .backbones.inference.frozen import FrozenBackbone
from .backbones.weights.load import WeightsInfo
from .config import ExtractConfig
from .jobs.tasks import TaskShare
from .pipeline.dask_tasks import run_dask
from .pipeline.events import Event, StartEvent
from .pipeline.job import load_networks, settle
from .pipeline.worker import ExtractWorker, count_decodes, open_worker
from .plan import forget_failures, plan
from .progress import Estimate, ExtractSummary, Progress
from .sources.read import Source, segment_source
from .specs import gflops_a_clip, specs_of
from .video.durations import probe_durations

__all__ = ["ExtractConfig", "estimate", "extract"]

logger = logging.getLogger(__name__)

KEPT = "whole shards are kept"


def extract(
    config: ExtractConfig,
    *,
    progress: bool = True,
    on_event: Callable[[Event], None] | None = None,
) -> ExtractSummary:
    """Write the maps of every video of a source into a store. Complete shards are not made again.

    Args:
        config: what to extract.
        progress: show a progress bar.
        on_event: called at the start, and for every video and shard that is done (from its own thread).

    Raises:
        UsageError, SourceError, WeightsError: the configuration, source or weights are wrong.
        ProvenanceMismatch: the store's maps of a model were made in another way.
        StorageError: the store cannot be written.
        Interrupted: SIGTERM, SIGUSR1 or SIGUSR2; the current shard is dropped, all others are complete.
    """
    share = None if config.task is None else TaskShare.parse(config.task, os.environ)
    with interruptible(KEPT):
        path, devices, source = _prepare(config, progress)
        networks = _load_networks(config, devices)
        specs = specs_of(config, networks)
        begun = _begun(path)
        would = estimate_of(path, begun, specs, len(source.videos))
        logger.info(would.line)
        store = _declare(path, begun, source, specs, networks)
        manifest, shard_videos = store.videos, store.shard_videos
        rows = {manifest.row_of[video.id] for video in source.videos}
        if share is not None:
            rows = {row for row in rows if share.holds(row // shard_videos)}
        if Path(manifest.root) != source.root:
            logger.info(
                f"note: the store's videos were read from {manifest.root}; those "
                f"of {source.root} are taken to be the same"
            )
        finish_removals(store)
        if config.retry_failed:
            forget_failures(store, specs, rows, source.root)
        tasks = plan(store, specs, rows)
        pending = sum(len(task.rows) for task in tasks)
        logger.info(_plan_line(path, specs, len(rows), pending, len(tasks)))
        costs = tuple(
            gflops_a_clip(network, spec) for (network, _), spec in zip(networks, specs, strict=True)
        )
        if on_event is not None:
            on_event(
                StartEvent(
                    store=str(path),
                    models=config.models,
                    videos=len(rows),
                    to_do=pending,
                    shards=len(tasks),
                    clips=specs[0].clips,
                    views=specs[0].views,
                    clip_frames=specs[0].clip_frames,
                    gflops_per_clip=costs,
                    devices=tuple(devices),
                    decoders=config.decoders,
                    store_bytes=would.store_bytes,
                )
            )
        started = time.perf_counter()
        passes = count_decodes(specs, tasks)
        with Progress(total=passes, gflops_per_clip=costs, shown=progress, on_event=on_event) as bar:
            job = settle(config, store, specs, networks, source.root, devices)
            if config.cluster is not None and tasks:
                gpu = config.cluster != LOCAL and devices[0].startswith("cuda")
                run_dask(job, tasks, cluster=config.cluster, gpu=gpu, report=bar.report)
            else:
                # A unit is the work of one device, so that its decoders can prefetch from one shard to the
                # next.
                shares = [tasks[i :: len(devices)] for i in range(len(devices))]
                run_units(
                    [share for share in shares if share],
                    job,
                    open_worker,
                    bar.report,
                    workers=len(devices),
                    what_is_kept=KEPT,
                    here=ExtractWorker(job, store, [network for network, _ in networks]),
                    name=lambda place: f"the process on {devices[place]}",
                )
        seconds = time.perf_counter() - started
        store = stores.open(path)  # open it again: others may have added videos and models
        made = [store.features(spec.model, spec.clip_frames) for spec in specs]
        # If there are many tasks, the last one does this: otherwise each would read the output of all others.
        if share is None or not any(features.pending() for features in made):
            stores.finalise(store)
        shards = {row // shard_videos for row in rows}
        reasons = {
            row: reason
            for features in made
            for (row, _), reason in features.reasons(shards).items()
            if row in rows
        }
        return ExtractSummary(
            store=str(path),
            models=config.models,
            videos=len(rows),
            missing=len(source.missing),
            extracted=pending,
            already_whole=len(rows - reasons.keys() - {row for task in tasks for row in task.rows}),
            whole=len(rows - reasons.keys()),
            labelled=len({int(manifest.labels[row]) for row in rows} - {-1}) > 1,
            failed=dict(Counter(reasons.values()).most_common()),
            cut_videos=len(bar.left_out),
            left_out_frames=sum(bar.left_out.values()),
            seconds=seconds,
            clips=bar.clips,
            clips_per_second=bar.clips / seconds if seconds else 0.0,
            gflops_spent=bar.gflops,
            written_bytes=bar.written_bytes,
            store_bytes=would.store_bytes,
            slowest=bar.slowest,
            time_shares=bar.times.shares,
            bound_by=bar.times.bound_by,
            advice=bar.times.advice(
                decoders=config.decoders * len(devices),
                forward=lambda: (
                    faster_forward(
                        [network for network, _ in networks], specs, bar.clips_by_model, devices=len(devices)
                    )
                    if config.cluster in (None, LOCAL)
                    else "use more workers, or faster ones"  # the workers are not on this machine
                ),
                dtype=config.dtype,
                codec=config.codec,
            ),
        )


def estimate(config: ExtractConfig, *, progress: bool = True) -> Estimate:
    """Return the disk space that the maps of a source would take, without computing or writing anything.

    Raises:
        UsageError, SourceError, WeightsError, ProvenanceMismatch, StoreError, StorageError: as `extract`.
    """
    path, devices, source = _prepare(config, progress)
    specs = specs_of(config, _load_networks(config, devices))
    would = estimate_of(path, _begun(path), specs, len(source.videos))
    for spec in specs:
        if (path / spec.folder / "zarr.json").exists():
            spec.require_same(read_spec(path / spec.folder))
    return would


def estimate_of(
    path: Path, begun: Store | None, specs: Sequence[stores.FeatureSpec], videos: int
) -> Estimate:
    """Estimate the space of `videos` videos in the store at `path`, which may already exist."""
    shard_videos = begun.shard_videos if begun else _shard_videos(specs)
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    return Estimate(
        videos=videos,
        store_bytes=sum(plain_bytes(spec, videos, shard_videos) for spec in specs),
        compressed=any(spec.codec != "none" for spec in specs),
        free_bytes=shutil.disk_usage(parent).free,
    )


def _begun(path: Path) -> Store | None:
    """Return the store, if there is one. Raises StoreError if it is damaged."""
    return stores.open(path) if (path / "zarr.json").exists() else None


def _prepare(config: ExtractConfig, progress: bool) -> tuple[Path, list[str], Source]:
    """Check all that can be checked before loading networks; return store path, devices and source."""
    path = Path(config.store or _store_name(config.source))
    elsewhere = config.cluster not in (None, LOCAL)
    devices = [name if name and elsewhere else str(choose_device(name)) for name in config.devices or (None,)]
    writer.require_writable(path)
    require_startable()
    source = _source(config, progress)
    require_text(source.root, "the folder of the videos")
    return path, devices, source


def _load_networks(config: ExtractConfig, devices: Sequence[str]) -> list[tuple[FrozenBackbone, WeightsInfo]]:
    """Load the networks that this process needs: to describe the maps, and to make them if no worker does."""
    return load_networks(
        config.models,
        config.weights or (None,) * len(config.models),
        (config.precision,) * len(config.models),
        device=_here(config, devices),
        allow_random=config.allow_random,
        batch_clips=config.batch_clips,
        compiled=config.compiled,
    )


def _here(config: ExtractConfig, devices: Sequence[str]) -> str:
    """Return the device on which this process loads the networks.

    On a machine without a GPU that serves workers with GPUs, this is the CPU.
    """
    if config.cluster in (None, LOCAL) or torch.cuda.is_available() or devices[0] == "cpu":
        return devices[0]
    if config.precision != "bf16":
        raise UsageError(
            "what a GPU computes in cannot be told on this machine, which has none: say --precision bf16, "
            "or start this where a GPU is"
        )
    return "cpu"


def _store_name(source: str | tuple[str, ...] | None) -> str:
    if source is None:
        return f"{Path.cwd().name}.zarr"
    path = Path(source if isinstance(source, str) else source[0]).resolve()
    return f"{(path if path.is_dir() else path.parent).name}.zarr"


def _source(config: ExtractConfig, progress: bool) -> Source:
    source = config.read()
    if config.every_seconds is not None:
        paths = [video.path for video in source.videos]
        durations = probe_durations(source.root, paths, progress=progress)
        known = {video.id: durations[video.path] for video in source.videos if video.path in durations}
        source = segment_source(source, known, config.every_seconds)
    if not source.videos:
        raise SourceError(f"{config.place} names no video that can be used")
    return source


def _shard_videos(specs: Sequence[stores.FeatureSpec]) -> int:
    """Return the number of videos per shard of a new store with these maps."""
    return min(shard_videos_for(spec.clips, spec.map_shape) for spec in specs)


def _declare(
    path: Path,
    begun: Store | None,
    source: Source,
    specs: Sequence[stores.FeatureSpec],
    networks: Sequence[tuple[FrozenBackbone, WeightsInfo]],
) -> Store:
    """Create or join the store, its arrays and its manifest."""
    for _, info in networks:
        if info.path is not None:
            require_text(info.path, "--weights")
    store = begun or writer.create(path, shard_videos=_shard_videos(specs))
    versions = {name: importlib.metadata.version(name) for name in ("torch", "av", "numpy")}
    for spec, (network, info) in zip(specs, networks, strict=True):
        recorded = {
            "gflops_per_clip": gflops_a_clip(network, spec),
            "weights_path": None if info.path is None else str(Path(info.path).resolve()),
            "weights_url": info.extra.get("url"),
            "weights_file_sha256": info.extra.get("sha256"),
            "versions": {"faster": __version__, "python": platform.python_version(), **versions},
        }
        head = network.linear_head() if spec.num_classes else None
        writer.declare(path, spec, recorded=recorded, trained_on=info.trained_on, head=head)
    store.videos = manifests.append(
        path,
        videos=source.videos,
        missing=source.missing,
        class_names=source.class_names,
        root=source.root,
        shard_videos=store.shard_videos,
    )
    for spec in specs:
        writer.fit_arrays(path, spec, store.videos, store.shard_videos)
    return store


def _plan_line(
    path: Path, specs: Sequence[stores.FeatureSpec], videos: int, pending: int, shards: int
) -> str:
    random = [spec.model for spec in specs if spec.weights_random]
    sizes = sorted({spec.transform["size"] for spec in specs})
    warning = f"; RANDOM WEIGHTS for {', '.join(random)}: smoke tests and timing only" if random else ""
    views = f" in {counted(specs[0].views, 'view')}" if specs[0].views > 1 else ""
    whole = "all whole already" if not pending else f"{pending} to do in {counted(shards, 'shard')}"
    return (
        f"{path}: {counted(videos, 'video')} ({whole}), {counted(specs[0].clips, 'clip')} of "
        f"{counted(specs[0].clip_frames, 'frame')} at "
        f"{' and '.join(f'{size}×{size}' for size in sizes)}{views}, "
        f"{' and '.join(f'{spec.model} in {spec.precision}' for spec in specs)}{warning}"
    )
