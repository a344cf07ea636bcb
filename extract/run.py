"""The extraction stage: a video set's feature maps, of one model or several, into a store.

from faster.extract.run import ExtractConfig, extract

extract(ExtractConfig(source="videos", models=("r2plus1d50", "r2d26"), store="kinetics.zarr"))
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from .. import store as stores
from ..devices import choose_device
from ..errors import SourceError, StoreError, UsageError
from ..stopping import interruptible
from ..store import manifest as manifests
from ..store import writer
from ..store.attributes import read_spec
from ..store.encoding import CODECS, DTYPES
from ..store.inspect import plain_bytes
from ..store.receipts import list_receipts
from ..store.removal import finish_removals, remove_shards
from ..store.schema import maps_key, shard_videos_for
from .annotations import Source, segment_source
from .durations import probe_durations
from .executors import run_processes
from .frozen import FrozenBackbone
from .shards import Job, Progress, ShardTask, load_networks, run_shards
from .source_options import SourceOptions
from .transforms import centre_transform
from .weights import WeightsInfo

Say = Callable[[str], None]
PAPER_FRAMES = 256  # "we fix the total number of frames processed to be 256" (§4)


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(SourceOptions):
    """What to extract; `faster extract` has an option for each field.

    Attributes:
        models: names of backbones; all of them see the same decoded clips.
        store: the store to write; None names it after the source's folder, in the current one.
        weights: a file for each model, in the models' order; empty looks for `weights/<model>.*`.
        allow_random: go on with random weights where none are found.
        clip_frames: L. clips: M a video, None for 256 / L as in the paper. size: pixels of a frame's side.
        dtype: of the stored maps, "float16" or "uint8". codec: "none" or "zstd".
        limit: as of any source; run again without it to add the others.
        every_seconds: cut files into segments of this many seconds, each a row of its own.
        retry_failed: do the shards again that hold failed videos, for files that were mended since; but those of which
            a file is gone, whose maps are kept.
        devices: where the backbones run; several share the work, one process each. None takes the first GPU, or
            the CPU.
        decoders: decoding processes for each device.
    """

    models: tuple[str, ...]
    store: str | None = None
    weights: tuple[str, ...] = ()
    allow_random: bool = False
    clip_frames: int = 8
    clips: int | None = None
    size: int = 224
    dtype: str = "float16"
    codec: str = "none"
    every_seconds: float | None = None
    retry_failed: bool = False
    devices: tuple[str, ...] | None = None
    decoders: int = 1

    def __post_init__(self) -> None:
        if not self.models:
            raise UsageError("no model named; see: faster models")
        if len(set(self.models)) < len(self.models):
            raise UsageError("a model is named twice")
        if self.weights and len(self.weights) != len(self.models):
            raise UsageError(
                f"{len(self.weights)} --weights for {len(self.models)} --model; give one each, in order"
            )
        for name in ("clip_frames", "size", "decoders"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}; 1 is the least")
        for name, known in (("dtype", DTYPES), ("codec", CODECS)):
            if getattr(self, name) not in known:
                raise UsageError(f"--{name} is {getattr(self, name)}; allowed: {', '.join(known)}")
        if self.clips is not None and self.clips < 1:
            raise UsageError(f"--clips is {self.clips}; 1 is the least")

    @property
    def clips_a_view(self) -> int:
        """M, by default as many clips as give the paper's 256 frames (§4)."""
        return self.clips or max(1, PAPER_FRAMES // self.clip_frames)


@dataclass(frozen=True, kw_only=True)
class ExtractSummary:
    """What a run of `extract` did and what the store now holds.

    Attributes:
        videos: rows of the store that the source names; missing: listed and not on disk.
        extracted: videos decoded in this run; already_whole: those it had no need to; whole: with all maps now.
        labelled: whether there are labels of two classes or more to train an aggregator on.
        failed: videos of the source that the store records as failed, in this run or before, by reason.
        seconds: of decoding, forward passes and writing; clips_per_second counts each model's clips.
    """

    store: str
    models: tuple[str, ...]
    videos: int
    missing: int
    extracted: int
    already_whole: int
    whole: int
    labelled: bool
    failed: dict[str, int]
    seconds: float
    clips_per_second: float
    gflops_spent: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What an extraction would take on disk.

    Attributes:
        videos: of the source; those that are in the store already are counted too.
        store_bytes: all their maps and scores; compressed: this is the most that it can be.
        free_bytes: on the store's file system now.
    """

    videos: int
    store_bytes: int
    compressed: bool
    free_bytes: int

    @property
    def line(self) -> str:
        """For a person."""
        most = "at most " if self.compressed else ""
        return f"{self.videos} videos take {most}{_size(self.store_bytes)} in the store; {_size(self.free_bytes)} are free there"

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.1f} MB"


def extract(config: ExtractConfig, *, say: Say = print, progress: bool = True) -> ExtractSummary:
    """Write the maps of every video of a source into a store; what is whole there is not done again.

    Args:
        config: what to extract.
        say: receives one line for each thing the user should know.
        progress: show a progress bar.

    Raises:
        UsageError, SourceError, WeightsError: as the configuration, source or weights are wrong.
        ProvenanceMismatch: the store's maps of a model were made otherwise.
        StorageError: the store cannot be written.
        Interrupted: SIGTERM or SIGUSR1; the shard in hand is dropped, all others are whole.
    """
    with interruptible("whole shards are kept"):
        path, devices, source, job = _prepare(config, say, progress)
        networks = load_networks(job, devices[0])
        for _, info in networks:
            for name in ("size", "clip_frames"):
                trained, asked = getattr(info, name), getattr(job, name)
                if trained not in (None, asked):
                    flag = name.replace("_", "-")
                    say(
                        f"note: {info.model} was trained with --{flag} {trained}, and this run has --{flag} {asked}"
                    )
        specs = [_spec(config, job, network, info) for network, info in networks]
        say(estimate_of(path, specs, len(source.videos)).line)
        manifest, shard_videos = _declare(path, source, specs, networks, job)
        rows = {manifest.row_of[video.id] for video in source.videos}
        if Path(manifest.root) != source.root:
            say(
                f"note: the store's videos were read from {manifest.root}; those of {source.root} are taken to be the same"
            )
        finish_removals(stores.open(path))
        if config.retry_failed:
            _forget_failures(path, specs, rows, source.root, say)
        tasks = plan(path, manifest, specs, shard_videos, rows)
        todo = sum(len(task.rows) for task in tasks)
        say(_plan_line(path, job, networks, len(rows), todo, len(tasks)))
        started = time.perf_counter()
        with Progress(total=todo, models=len(specs), shown=progress) as bar:
            if len(devices) == 1:
                run_shards(job, specs, manifest, tasks, [network for network, _ in networks], bar.report)
            else:
                run_processes(job, specs, manifest, tasks, devices=devices, report=bar.report)
        seconds = time.perf_counter() - started
        store = stores.open(path)
        stores.finalise(store)
        reasons = {
            row: reason
            for spec in specs
            for (row, _), reason in store.features(spec.model, spec.clip_frames).coverage.reasons.items()
            if row in rows
        }
        costs = [network.gflops(job.clip_frames, job.size) for network, _ in networks]
        return ExtractSummary(
            store=str(path),
            models=job.models,
            videos=len(rows),
            missing=len(source.missing),
            extracted=todo,
            already_whole=len(rows - reasons.keys() - {row for task in tasks for row in task.rows}),
            whole=len(rows - reasons.keys()),
            labelled=len({int(manifest.labels[row]) for row in rows} - {-1}) > 1,
            failed=dict(Counter(reasons.values()).most_common()),
            seconds=seconds,
            clips_per_second=bar.clips / seconds if seconds else 0.0,
            gflops_spent=sum(count * cost for count, cost in zip(bar.clips_by_model, costs, strict=True)),
        )


def estimate(config: ExtractConfig, *, say: Say = print, progress: bool = True) -> Estimate:
    """What the maps of a source would take on disk, before anything is computed or written.

    Raises:
        UsageError, SourceError, WeightsError, ProvenanceMismatch, StoreError, StorageError: as `extract`.
    """
    path, devices, source, job = _prepare(config, say, progress)
    specs = [_spec(config, job, network, info) for network, info in load_networks(job, devices[0])]
    would = estimate_of(path, specs, len(source.videos))
    for spec in specs:
        if (path / spec.folder / "zarr.json").exists():
            spec.require_same(read_spec(path / spec.folder))
    return would


def estimate_of(path: Path, specs: Sequence[stores.FeatureSpec], videos: int) -> Estimate:
    """What `videos` videos take in the store at `path`.

    Raises:
        StoreError: what is there is not a sound store.
    """
    shard_videos = stores.open(path).shard_videos if (path / "zarr.json").exists() else _shard_videos(specs)
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    return Estimate(
        videos=videos,
        store_bytes=sum(plain_bytes(spec, videos, shard_videos) for spec in specs),
        compressed=any(spec.codec != "none" for spec in specs),
        free_bytes=shutil.disk_usage(parent).free,
    )


def _prepare(config: ExtractConfig, say: Say, progress: bool) -> tuple[Path, list[str], Source, Job]:
    """Everything that can be found wrong before a network is loaded; the store's place can be written."""
    path = Path(config.store or _store_name(config.source))
    devices = [str(choose_device(name)) for name in config.devices or (None,)]
    source = _source(config, say, progress)
    job = Job(
        store=str(path),
        root=str(source.root),
        models=config.models,
        weights=config.weights or (None,) * len(config.models),
        allow_random=config.allow_random,
        clip_frames=config.clip_frames,
        clips=config.clips_a_view,
        size=config.size,
        decoders=config.decoders,
    )
    writer.require_writable(path)
    return path, devices, source, job


def plan(
    path: Path,
    manifest: stores.Manifest,
    specs: Sequence[stores.FeatureSpec],
    shard_videos: int,
    rows: set[int],
) -> list[ShardTask]:
    """The shards that hold one of `rows` and have no receipt of some model, and which models that are."""
    whole = [set(list_receipts(path / spec.folder)) for spec in specs]
    for spec, receipts in zip(specs, whole, strict=True):
        for shard, view in receipts:
            if not (path / spec.folder / maps_key(shard, view)).is_file():
                raise StoreError(
                    f"{path}: the maps of {spec.model}, shard {shard}, are gone though its receipt is there; run: "
                    f"faster verify {path} --repair"
                )
    tasks = []
    for shard in sorted({row // shard_videos for row in rows}):
        lacking = tuple(i for i, receipts in enumerate(whole) if (shard, 0) not in receipts)
        first = shard * shard_videos
        members = tuple(
            row for row in range(first, min(first + shard_videos, manifest.rows)) if manifest.ids[row]
        )
        if lacking:
            tasks.append(ShardTask(shard=shard, rows=members, models=lacking, shard_videos=shard_videos))
    return tasks


def _forget_failures(
    path: Path, specs: Sequence[stores.FeatureSpec], rows: set[int], root: Path, say: Say
) -> None:
    """Undo the shards in which a video of `rows` failed; they are made again as a whole.

    A shard is kept where the file of one of its whole videos cannot be read any more: its maps would be lost.
    """
    store = stores.open(path)
    size, videos = store.shard_videos, store.videos
    shards: set[tuple[str, int, int, int]] = set()
    kept: set[int] = set()
    gone: set[Path] = set()
    for spec in specs:
        coverage = store.features(spec.model, spec.clip_frames).coverage
        for shard, view in {(row // size, view) for row, view in coverage.reasons if row in rows}:
            first = shard * size
            needed = first + np.flatnonzero(coverage.ok[first : first + size, view])
            files = [root / videos.paths[row] for row in needed.tolist()]
            lost = [file for file in files if not (os.access(file, os.R_OK) and file.is_file())]
            if lost:
                kept.add(shard)
                gone.update(lost)
            else:
                shards.add((spec.model, spec.clip_frames, shard, view))
    if kept:
        more = f" (nor are {len(gone) - 1} more)" if len(gone) > 1 else ""
        say(
            f"--retry-failed: {min(gone)} is not there to be read{more}, and its maps are whole: nothing was removed of the "
            f"shards that hold such videos ({len(kept)}); restore the files to retry these"
        )
    if shards:
        remove_shards(store, sorted(shards))


def _store_name(source: str | tuple[str, ...] | None) -> str:
    if source is None:
        return f"{Path.cwd().name}.zarr"
    path = Path(source if isinstance(source, str) else source[0]).resolve()
    return f"{(path if path.is_dir() else path.parent).name}.zarr"


def _source(config: ExtractConfig, say: Say, progress: bool) -> Source:
    source = config.read(say)
    if config.every_seconds is not None:
        paths = [video.path for video in source.videos]
        durations = probe_durations(source.root, paths, say=say, progress=progress)
        known = {video.id: durations[video.path] for video in source.videos if video.path in durations}
        source = segment_source(source, known, config.every_seconds)
    if not source.videos:
        raise SourceError(f"{config.place} names no video that can be used")
    return source


def _spec(config: ExtractConfig, job: Job, network: FrozenBackbone, info: WeightsInfo) -> stores.FeatureSpec:
    backbone = network.backbone
    return stores.FeatureSpec(
        model=info.model,
        weights_digest=info.digest,
        weights_random=info.random,
        clip_frames=job.clip_frames,
        frame_stride=backbone.frame_stride,
        clips=job.clips,
        views=1,
        map_shape=network.map_shape(job.clip_frames, job.size),
        num_classes=0 if info.random else backbone.num_classes or 0,  # random scores would mean nothing
        class_names=info.class_names,
        transform={
            **centre_transform(job.size).to_dict(),
            "mean": list(backbone.mean),
            "std": list(backbone.std),
        },
        precision=network.precision,
        batch_clips=network.batch_clips,
        dtype=config.dtype,
        codec=config.codec,
    )


def _shard_videos(specs: Sequence[stores.FeatureSpec]) -> int:
    """Videos a shard of a store that begins with these maps."""
    return min(shard_videos_for(spec.clips, spec.map_shape) for spec in specs)


def _declare(
    path: Path,
    source: Source,
    specs: Sequence[stores.FeatureSpec],
    networks: Sequence[tuple[FrozenBackbone, WeightsInfo]],
    job: Job,
) -> tuple[stores.Manifest, int]:
    """Make or join the store, its arrays and its manifest."""
    shard_videos = writer.create(path, shard_videos=_shard_videos(specs))
    versions = {name: importlib.metadata.version(name) for name in ("torch", "av", "numpy")}
    for spec, (network, info) in zip(specs, networks, strict=True):
        recorded = {
            "gflops_per_clip": network.gflops(job.clip_frames, job.size),
            "weights_path": None if info.path is None else str(Path(info.path).resolve()),
            "versions": {"faster": __version__, "python": platform.python_version(), **versions},
        }
        head = network.linear_head() if spec.num_classes else None
        writer.declare(path, spec, recorded=recorded, trained_on=info.trained_on, head=head)
    manifest = manifests.append(
        path,
        videos=source.videos,
        missing=source.missing,
        class_names=source.class_names,
        root=source.root,
        shard_videos=shard_videos,
    )
    for spec in specs:
        writer.fit_arrays(path, spec, manifest, shard_videos)
    return manifest, shard_videos


def _plan_line(
    path: Path,
    job: Job,
    networks: Sequence[tuple[FrozenBackbone, WeightsInfo]],
    videos: int,
    todo: int,
    shards: int,
) -> str:
    random = [info.model for _, info in networks if info.random]
    warning = f"; RANDOM WEIGHTS for {', '.join(random)}: smoke tests and timing only" if random else ""
    whole = "all whole already" if not todo else f"{todo} to do in {shards} shards"
    return (
        f"{path}: {videos} videos ({whole}), {job.clips} clips of {job.clip_frames} frames at {job.size}×{job.size}, "
        f"{' and '.join(job.models)}{warning}"
    )
