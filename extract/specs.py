"""The spec of each model's maps: everything that decides their bytes.

It comes from the configuration, the network and the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from .. import store as stores
from ..errors import UsageError
from .backbones import plan_of
from .backbones.inference.frozen import FrozenBackbone
from .backbones.weights.load import WeightsInfo
from .config import ExtractConfig
from .video.transforms import REFERENCE_SIZE, centre_transform, short_sides

logger = logging.getLogger(__name__)

DEFAULT_CLIP_FRAMES = 8


def specs_of(
    config: ExtractConfig, networks: Sequence[tuple[FrozenBackbone, WeightsInfo]]
) -> list[stores.FeatureSpec]:
    """Return the spec of each model's maps. Raises UsageError if a network does not take such clips."""
    clip_frames = config.clip_frames or _own_clip_frames(networks)
    specs = []
    for network, info in networks:
        size = config.size or info.size or network.backbone.size or REFERENCE_SIZE
        for flag, asked, trained in (
            ("size", size, info.size),
            ("clip-frames", clip_frames, info.clip_frames),
        ):
            if trained not in (None, asked):
                logger.info(
                    f"note: {info.model} was trained with --{flag} "
                    f"{trained}, and this run has --{flag} {asked}"
                )
        network.backbone.require_takes(clip_frames, size)
        specs.append(_spec(config, clip_frames, size, network, info))
    return specs


def _own_clip_frames(networks: Sequence[tuple[FrozenBackbone, WeightsInfo]]) -> int:
    """Return the clip length of the weights' training, or else of the networks.

    Raises UsageError if two lengths differ.
    """
    own = {info.model: info.clip_frames or network.backbone.clip_frames for network, info in networks}
    lengths = sorted({frames for frames in own.values() if frames})
    if len(lengths) > 1:
        listed = ", ".join(f"{model} {frames}" for model, frames in own.items() if frames)
        raise UsageError(
            f"the models' own clips differ in length ({listed} frames); name one with --clip-frames, or "
            "extract them one by one"
        )
    return lengths[0] if lengths else DEFAULT_CLIP_FRAMES


def gflops_a_clip(network: FrozenBackbone, spec: stores.FeatureSpec) -> float:
    """Return the GFLOPs per clip, from the network's plan if there is one.

    Tracing the network makes torch import its compiler, which takes seconds.
    """
    plan, size = plan_of(spec.model), int(spec.transform["size"])
    if plan is None:
        return network.gflops(spec.clip_frames, size)
    return plan.cost(spec.clip_frames, size).multiply_adds / 1e9


def _spec(
    config: ExtractConfig, clip_frames: int, size: int, network: FrozenBackbone, info: WeightsInfo
) -> stores.FeatureSpec:
    backbone, plan = network.backbone, plan_of(info.model)
    return stores.FeatureSpec(
        model=info.model,
        weights_digest=info.digest,
        weights_random=info.random,
        clip_frames=clip_frames,
        frame_stride=backbone.frame_stride,
        clips=config.clips_a_view(clip_frames),
        views=1 + config.views,
        map_shape=plan.cost(clip_frames, size).map_shape if plan else network.map_shape(clip_frames, size),
        num_classes=0 if info.random else backbone.num_classes or 0,  # random logits would mean nothing
        class_names=info.class_names,
        transform={
            **centre_transform(size).to_dict(),
            **_view_transform(config, size),
            "mean": list(backbone.mean),
            "std": list(backbone.std),
        },
        precision=network.precision,
        batch_clips=network.batch_clips,
        dtype=config.dtype,
        codec=config.codec,
    )


def _view_transform(config: ExtractConfig, size: int) -> dict[str, Any]:
    """Return the distribution of the augmented views; empty for a store without them."""
    return (
        {"view_seed": config.view_seed, "view_short_sides": list(short_sides(size))} if config.views else {}
    )
