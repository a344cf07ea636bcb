"""Advice: what would make the forward passes of a run faster on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np
import torch

from ..store import FeatureSpec
from ..terminal.text import counted
from .backbones.inference.frozen import FrozenBackbone
from .backbones.inference.precision import has_bf16

TRIAL_CLIPS = 4  # per trial, two in each precision
TRIAL_SHARE = 0.1  # of the clips that the model has computed: the largest part of a run that a trial may take
WORTH = 1.1  # the least speed-up that is worth another store


def faster_forward(
    networks: Sequence[FrozenBackbone], specs: Sequence[FeatureSpec], clips: Sequence[int], *, devices: int
) -> str:
    """Return what helps most, as the end of a sentence: idle GPUs, idle cores, bf16, or another machine.

    If a model computed in float32 and the device has bf16, clips are timed in both precisions, but only if
    this takes a small part of the run. `clips` are the counts that each model computed. `devices` is the
    number of devices that shared the work.
    """
    device = networks[0].device
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cpu" and gpus:
        return f"use the {counted(gpus, 'GPU')} of this machine: --devices {_gpus(gpus)}"
    if device.type == "cuda" and devices < gpus:
        return f"use all {gpus} GPUs of this machine: --devices {_gpus(gpus)}"
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    if device.type == "cpu" and 2 * threads <= cores:
        limit = "OMP_NUM_THREADS" if os.environ.get("OMP_NUM_THREADS") else "the number of PyTorch's threads"
        return f"let it use more cores: {limit} allows {threads} of the {cores} here"
    if told := _in_bf16(networks, specs, clips):
        return told
    if device.type == "cuda":
        return "use more --devices, or try a larger --batch-clips"
    return "use a GPU, a machine with more cores, or a cheaper model"


def _in_bf16(
    networks: Sequence[FrozenBackbone], specs: Sequence[FeatureSpec], clips: Sequence[int]
) -> str | None:
    """Return what bf16 would bring to the most expensive float32 model; None if nothing."""
    others = [place for place, network in enumerate(networks) if network.precision != "bf16"]
    if not others or not has_bf16(networks[0].device):
        return None
    most = max(others, key=lambda place: clips[place] * networks[place].gflops(*_shape(specs[place])))
    network, spec = networks[most], specs[most]
    kind = "GPU" if network.device.type == "cuda" else "processor"
    what = f"{spec.model} computed in {network.precision}, and this {kind} has bf16"
    if clips[most] * TRIAL_SHARE < TRIAL_CLIPS:
        return f"try --precision bf16, into another --store: {what}"
    ratio = _gain(network, spec)
    if ratio is None or ratio < WORTH:
        return None
    return (
        f"--precision bf16, into another --store: {what}, where a clip took "
        f"{1 / ratio:.0%} of the time when tried now"
    )


def _gain(network: FrozenBackbone, spec: FeatureSpec) -> float | None:
    """Return the speed-up from bf16, one clip at a time; None if the network does not run in bf16."""
    frames, size = _shape(spec)
    noise = np.random.default_rng(0).integers(256, size=(1, frames, size, size, 3), dtype=np.uint8)
    seconds = []
    try:
        for precision in ("bf16", "float32"):
            # Not the network itself: its passes have many clips.
            tried = FrozenBackbone(
                network.backbone, device=network.device, batch_clips=1, precision=precision, compiled=False
            )
            tried(noise)  # the first pass packs weights
            began = time.perf_counter()
            tried(noise)  # the result is on the CPU, so the pass is complete
            seconds.append(time.perf_counter() - began)
    except Exception:  # a user's network may raise anything in bf16; this is only advice
        return None
    return seconds[1] / seconds[0]


def _shape(spec: FeatureSpec) -> tuple[int, int]:
    return spec.clip_frames, int(spec.transform["size"])


def _gpus(count: int) -> str:
    return ",".join(f"cuda:{number}" for number in range(count))
