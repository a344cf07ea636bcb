"""A clip's way from its file to its map: decode ‖ forward ‖ write, shard by shard, in any process.

Decoding has its own processes, and writing has a thread. On a CPU, the forward pass runs in the calling
thread, because it shares the cores with the decoders. For a GPU it has a thread too, so that the next video's
pixels are copied to the GPU while it computes.
"""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ... import store as stores
from ...errors import ProvenanceMismatch, SourceError
from ...runtime.signals import raise_if_stopped
from ...runtime.threads import BackgroundWorker, Work
from ...store import Store
from ...store.format.receipts import read_receipt, receipt_path
from ..backbones.inference.frozen import FrozenBackbone
from ..video.decode import LoadedVideo, stream_clips
from ..video.decoder_pool import DecodeJob, DecoderPool
from ..video.decoder_process import VideoFailure
from ..video.shared_memory import Shape, fit_slots
from ..video.transforms import ViewDraw, draw_view
from .events import Report
from .job import ExtractJob, ShardTask, load_networks
from .stages import ForwardStage
from .writing import ShardWriters, shard_event

# The most items that writing may be behind; an item is one video's maps of one model.
WRITE_AHEAD = 4


def open_worker(job: ExtractJob, place: int) -> ExtractWorker:
    """Create a worker in its own process; it opens the store and loads the networks itself.

    Raises:
        ProvenanceMismatch: it finds another store or other weights at the same path, or computes in another
            precision.
    """
    # Dask makes its workers daemons of multiprocessing, which cannot start processes; decoders end with their
    # parent.
    multiprocessing.current_process().daemon = False
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    store = stores.open(job.store)
    specs = [store.features(*key).spec for key in job.models]
    if (tuple(spec.fingerprint for spec in specs), store.videos.segments) != (job.fingerprints, job.segments):
        raise ProvenanceMismatch(
            f"the worker on {socket.gethostname()} finds another store at "
            f"{job.store}; all must see the same one"
        )
    networks = load_networks(
        [model for model, _ in job.models],
        job.weights,
        job.precisions,
        device=job.devices[place % len(job.devices)],
        allow_random=job.allow_random,
        batch_clips=job.batch_clips,
        compiled=job.compiled,
    )
    for (network, info), spec in zip(networks, specs, strict=True):
        here, there = (info.digest, network.precision), (spec.weights_digest, spec.precision)
        if here != there:
            raise ProvenanceMismatch(
                f"the worker on {socket.gethostname()} runs {spec.model} with weights {here[0][:12]} in "
                f"{here[1]}; the store's maps are of {there[0][:12]} in {there[1]}"
            )
    return ExtractWorker(job, store, [network for network, _ in networks])


class ExtractWorker:
    """A worker that makes shards with the networks of a job, on their device.

    The store already has the models and videos of the job.
    """

    def __init__(self, job: ExtractJob, store: Store, networks: Sequence[FrozenBackbone]) -> None:
        self._job, self._store, self._networks = job, store, networks
        self._manifest = store.videos
        self._specs = [store.features(*key).spec for key in job.models]
        self._pools: dict[tuple[Shape, int], DecoderPool] = {}
        self._threads_before = torch.get_num_threads()

    def run(self, tasks: Sequence[ShardTask], report: Report) -> None:
        """Decode each task's videos once, run the models with outputs missing, and commit the shard.

        A video that cannot be decoded, or whose maps do not fit float16, is recorded as failed with its
        reason. The writing thread calls `report`.

        Raises:
            SourceError: on dask, none of a shard's videos is on this machine. Recorded as failed instead, all
                videos would soon fail on a worker that sees none.
        """
        if self._job.threads is not None:
            torch.set_num_threads(self._job.threads)
        if self._job.on_dask:
            tasks = [self._not_done(task, report) for task in tasks]
        # One decode serves all models whose clips have the same frames; other models get their own pass.
        for frames in sorted({_frames_of(spec) for spec in self._specs}):
            here = {i for i, spec in enumerate(self._specs) if _frames_of(spec) == frames}
            passes = [_part_of(task, here) for task in tasks]
            passes = [task for task in passes if task.outputs]
            if passes:
                self._run_pass(passes, self._specs[min(here)], report)

    def close(self) -> None:
        """End the kept decoders, and restore the process's threads."""
        torch.set_num_threads(self._threads_before)
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    def _not_done(self, task: ShardTask, report: Report) -> ShardTask:
        """Return the task without the outputs that are complete by now; these are only reported.

        This happens if a result was lost with its worker.
        """
        pending = []
        for model, view in task.outputs:
            folder = Path(self._job.store) / self._specs[model].folder
            if receipt_path(folder, task.shard, view).exists():
                report(shard_event(self._specs[model].model, read_receipt(folder, task.shard, view)))
            else:
                pending.append((model, view))
        root = Path(self._job.root)
        if (
            pending
            and not task.trial
            and not any((root / self._manifest.paths[row]).exists() for row in task.rows)
        ):
            raise SourceError(
                f"the worker on {socket.gethostname()} finds none of the videos of shard {task.shard} in "
                f"{root}; all must see the same ones"
            )
        return replace(task, outputs=tuple(pending))

    def _open_pool(self, shape: Shape, slots: int) -> AbstractContextManager[DecoderPool]:
        """Return decoders. On dask, where a task is one shard, they are kept for the next one."""
        if not self._job.on_dask:
            return DecoderPool(self._job.decoders, shape=shape, slots=slots)
        if (shape, slots) not in self._pools:
            self._pools[shape, slots] = DecoderPool(self._job.decoders, shape=shape, slots=slots)
        return nullcontext(self._pools[shape, slots])

    def _run_pass(self, tasks: Sequence[ShardTask], spec: stores.FeatureSpec, report: Report) -> None:
        """Make the shards of the models that see the same pixels as `spec`."""
        size = _frames_of(spec)[1]
        shape, slots = fit_slots(
            (spec.clip_frames, size, size, 3),
            clips=spec.clips * spec.views,
            workers=self._job.decoders,
            batch_clips=self._job.batch_clips,
        )
        device = self._networks[0].device
        waited = 0.0
        with ExitStack() as stack:
            pool = stack.enter_context(self._open_pool(shape, slots))
            writers = stack.enter_context(
                ShardWriters(Path(self._job.store), self._specs, self._manifest, report)
            )
            writing = stack.enter_context(BackgroundWorker("write", ahead=WRITE_AHEAD))
            computing = (
                stack.enter_context(BackgroundWorker("forward", ahead=1)) if _has_own_cores(device) else None
            )
            stage = ForwardStage(
                self._networks,
                self._manifest,
                writers=writers,
                writing=writing,
                report=report,
                decode_wait=lambda: computing.idle_seconds if computing else waited,
            )

            def do(work: Work) -> None:
                if computing is None:
                    work()
                else:
                    computing.do(work)

            for i in {model for task in tasks for model, _ in task.outputs}:
                do(partial(self._networks[i].require_clips_apart, spec.clip_frames, size))
                if computing is not None:  # compiling takes long, and so does the decoders' start
                    do(partial(self._networks[i].warm_up, spec.clip_frames, size))
            videos = stack.enter_context(closing(pool.run(self._decode_jobs(tasks, spec))))
            for task in tasks:
                do(partial(stage.begin, task))
                given_up = dict(task.given_up)
                for row in task.rows:
                    if row in given_up:
                        do(partial(stage.add, row, VideoFailure(reason=given_up[row]), None))
                        continue
                    more = True
                    while more:
                        raise_if_stopped()
                        began = time.perf_counter()
                        key, part = next(videos)
                        waited += time.perf_counter() - began
                        assert key == row
                        more = isinstance(part, LoadedVideo) and part.more
                        pixels = _on_device(part, device) if isinstance(part, LoadedVideo) else None
                        do(partial(stage.add, row, part, pixels))
                do(stage.commit)

    def _decode_jobs(self, tasks: Sequence[ShardTask], spec: stores.FeatureSpec) -> Iterator[DecodeJob[int]]:
        for task in tasks:
            given_up = dict(task.given_up)
            for row in task.rows:
                if row in given_up:
                    continue
                start, end = float(self._manifest.start_seconds[row]), float(self._manifest.end_seconds[row])
                arguments = {
                    "clips": spec.clips,
                    "clip_frames": spec.clip_frames,
                    "frame_stride": spec.frame_stride,
                    "size": _frames_of(spec)[1],
                    "start_seconds": None if np.isnan(start) else start,
                    "end_seconds": None if np.isnan(end) else end,
                    "views": _draws(self._manifest.ids[row], spec),
                }
                path = Path(self._job.root) / self._manifest.paths[row]
                yield DecodeJob(key=row, path=path, arguments=arguments, load=stream_clips)


def count_decodes(specs: Sequence[stores.FeatureSpec], tasks: Sequence[ShardTask]) -> int:
    """Count how often `ExtractWorker`s decode a video: once for all models that see the same pixels."""
    return sum(
        len(task.rows) * len({_frames_of(specs[model]) for model, _ in task.outputs}) for task in tasks
    )


def _part_of(task: ShardTask, models: set[int]) -> ShardTask:
    return replace(task, outputs=tuple(output for output in task.outputs if output[0] in models))


def _has_own_cores(device: torch.device) -> bool:
    """Whether the forward pass leaves this machine's cores free for decoding and copying."""
    return device.type == "cuda"


def _on_device(part: LoadedVideo, device: torch.device) -> Tensor:
    """Return a part's pixels on the networks' device; for a GPU a finished copy."""
    pixels = torch.from_numpy(part.clips)
    if device.type != "cuda":
        return pixels
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # beside that of the forward pass
    with torch.cuda.stream(stream):
        copied = pixels.pin_memory().to(device, non_blocking=True)
    stream.synchronize()
    copied.record_stream(torch.cuda.default_stream(device))
    return copied


def _frames_of(spec: stores.FeatureSpec) -> tuple[int, int]:
    """Return (frame stride, size), which decide the pixels that a model sees.

    The number and length of clips are the same for all models.
    """
    return spec.frame_stride, int(spec.transform["size"])


def _draws(video: str, spec: stores.FeatureSpec) -> tuple[ViewDraw, ...]:
    """Return all views, also those that are complete.

    So a video's result does not depend on where a run was stopped.
    """
    size, seed = _frames_of(spec)[1], int(spec.transform.get("view_seed", 0))
    return tuple(draw_view(video, view, seed=seed, size=size) for view in range(spec.views))
