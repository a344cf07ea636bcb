"""The settings of an extraction before the first clip: what a worker needs, and its shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...runtime.dask_cluster import LOCAL
from ...store import FeatureSpec, Store
from ..backbones.inference.frozen import FrozenBackbone
from ..backbones.inference.precision import as_asked
from ..backbones.weights.load import WeightsInfo, load_weights
from ..config import ExtractConfig

# (index of the model in the job; view): each output has its own shards.
Output = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to make: its rows, and the outputs that have no receipt for it.

    Attributes:
        given_up: rows that fail without a try, and why.
        trial: compute it, and drop the result.
    """

    shard: int
    rows: tuple[int, ...]
    outputs: tuple[Output, ...]
    shard_videos: int
    given_up: tuple[tuple[int, str], ...] = ()
    trial: bool = False


@dataclass(frozen=True, kw_only=True)
class ExtractJob:
    """An `ExtractConfig` resolved for this machine, these weights and this store.

    It is sent to each worker.

    Attributes:
        store, root: the path of the store, and that of the videos.
        models: (model, clip frames) of each. fingerprints: of their specs.
        segments: of the manifest, as `Manifest.segments`.
        weights: the file of each model; None for random weights.
        precisions: the precision of each model, as `FrozenBackbone` takes it.
        devices: where the networks run; worker i of this machine takes device i.
        on_dask: whether the workers are dask's: if one dies, its finished shards must not be made again.
        threads: of a worker; None keeps its setting.
    """

    store: str
    root: str
    models: tuple[tuple[str, int], ...]
    fingerprints: tuple[str, ...]
    segments: tuple[str, ...]
    weights: tuple[str | None, ...]
    allow_random: bool
    precisions: tuple[str, ...]
    batch_clips: int
    compiled: bool
    decoders: int
    devices: tuple[str, ...]
    on_dask: bool = False
    threads: int | None = None


def load_networks(
    models: Sequence[str],
    weights: Sequence[str | None],
    precisions: Sequence[str],
    *,
    device: str,
    allow_random: bool,
    batch_clips: int,
    compiled: bool,
) -> list[tuple[FrozenBackbone, WeightsInfo]]:
    """Load each model and prepare it for a device; see `ExtractJob`."""
    networks = []
    for model, path, precision in zip(models, weights, precisions, strict=True):
        backbone, info = load_weights(model, path=path, allow_random=allow_random)
        network = FrozenBackbone(
            backbone, device=device, batch_clips=batch_clips, precision=precision, compiled=compiled
        )
        networks.append((network, info))
    return networks


def settle(
    config: ExtractConfig,
    store: Store,
    specs: Sequence[FeatureSpec],
    networks: Sequence[tuple[FrozenBackbone, WeightsInfo]],
    root: Path,
    devices: Sequence[str],
) -> ExtractJob:
    """Resolve a configuration for the store that has its models and videos."""
    on_dask = config.cluster is not None
    return ExtractJob(
        # Dask's workers may run in another folder.
        store=str(Path(store.path).absolute() if on_dask else store.path),
        root=str(root.absolute() if on_dask else root),
        models=tuple((spec.model, spec.clip_frames) for spec in specs),
        fingerprints=tuple(spec.fingerprint for spec in specs),
        segments=store.videos.segments,
        weights=tuple(info.path and str(Path(info.path).absolute()) for _, info in networks),
        allow_random=config.allow_random,
        precisions=tuple(as_asked(network.precision) for network, _ in networks),
        batch_clips=config.batch_clips,
        compiled=config.compiled,
        decoders=config.decoders,
        devices=tuple(devices),
        on_dask=on_dask,
        threads=max(1, torch.get_num_threads() // len(devices)) if config.cluster in (None, LOCAL) else None,
    )
