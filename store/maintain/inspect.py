"""Summarise a store: contents, coverage, failures and sizes, for `faster inspect`."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import StoreError
from ..format.manifest import PARTS
from ..format.receipts import list_receipts
from ..format.schema import logits_key, shard_keys
from ..format.spec import FeatureSpec
from ..io.s3 import RemotePath
from ..read.classifier import Agreement, agreement
from ..read.features import Features
from ..read.store import Store


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """One model's maps in a store.

    Attributes:
        whole, failed, pending: videos (of the centre view) with maps, with a recorded failure, with neither.
        reasons: failure reason → number of videos, the most frequent first.
        bytes_per_clip, bytes_per_video: of one map as an array, and of `clips` maps, before padding or
            compression.
        stored_bytes: of the files of complete shards, in all views: maps with their index and padding, and
            scales.
        logits_bytes: of these shards' logits.
        stored_bytes_per_clip: `stored_bytes` per clip in them; None if there are no clips.
        stored_bytes_per_video: `stored_bytes` and `logits_bytes` per video and view in them; None if there
            are no videos.
        compression: bytes of uncompressed float16 maps over `stored_bytes`.
        quantisation_rms_median, quantisation_rms_largest: over the videos, the relative RMS error of uint8;
            None for float16.
        agreement: of the backbone's classifier on the stored maps with the stored logits; None if the store
            has no classifier of the model, or no complete video.
        projected_bytes: of maps, scales and logits of the requested number of videos, rounded up to complete
            shards; None if no number was requested, or if maps are compressed and no video is stored yet to
            measure.
    """

    model: str
    clip_frames: int
    clips: int
    views: int
    map_shape: tuple[int, int, int, int]
    dtype: str
    codec: str
    num_classes: int
    weights_random: bool
    weights_digest: str
    gflops_per_clip: float
    whole: int
    failed: int
    pending: int
    reasons: dict[str, int]
    bytes_per_clip: int
    bytes_per_video: int
    stored_bytes: int
    logits_bytes: int
    stored_bytes_per_clip: float | None
    stored_bytes_per_video: float | None
    compression: float | None
    quantisation_rms_median: float | None
    quantisation_rms_largest: float | None
    agreement: Agreement | None
    projected_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class StoreSummary:
    """The contents of a store.

    Attributes:
        videos: rows that are videos. labelled: videos with a label. missing: listed but not on disk.
        splits: split → subset → number of videos.
        projected_videos: the requested number. free_bytes: of the store's file system, None on object
            storage.
    """

    path: str
    videos: int
    labelled: int
    missing: int
    classes: int
    shard_videos: int
    splits: dict[str, dict[str, int]]
    models: tuple[ModelSummary, ...]
    projected_videos: int | None
    free_bytes: int | None

    @property
    def projected_bytes(self) -> int | None:
        """Projected bytes of all models together; None if one is unknown."""
        sizes = [model.projected_bytes for model in self.models]
        return None if None in sizes or not sizes else sum(size or 0 for size in sizes)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON types."""
        return {**asdict(self), "projected_bytes": self.projected_bytes}


def inspect(path: str | Path, *, videos: int | None = None) -> StoreSummary:
    """Summarise a store, also while an extraction writes to it.

    It gets the size of each shard's files, and reads at most about 500 clips per model, for a store of any
    size.

    Args:
        path: the store's folder.
        videos: project the size of this number of videos from the stored ones.

    Raises:
        StoreError: the path is not a valid store, or the data that were read are damaged.
    """
    store = Store(Path(path))
    manifest = store.videos
    return StoreSummary(
        path=str(store.path),
        videos=int(manifest.exists.sum()),
        labelled=int((manifest.labels >= 0).sum()),
        missing=len(manifest.missing),
        classes=len(manifest.class_names),
        shard_videos=store.shard_videos,
        splits={
            name: {subset: int((manifest.split(name) == number).sum()) for subset, number in PARTS.items()}
            for name in manifest.split_names
        },
        models=tuple(_model_summary(store, *key, videos) for key in store.models),
        projected_videos=videos,
        free_bytes=None if isinstance(store.path, RemotePath) else shutil.disk_usage(path).free,
    )


def plain_bytes(spec: FeatureSpec, videos: int, shard_videos: int) -> int:
    """Return the bytes of `videos` uncompressed videos, in all views: maps, indexes, scales and logits.

    Also an upper limit for compressed maps, apart from the less than 1 % that zstd adds to incompressible
    clips.
    """
    return round(_projected(spec, videos, shard_videos, spec.clips * spec.clip_stride_bytes))


def _projected(spec: FeatureSpec, videos: int, shard_videos: int, maps_bytes: float) -> float:
    """Return the bytes of `videos` videos, each with `maps_bytes` of maps per view."""
    shards = -(-videos // shard_videos)
    return spec.views * (videos * maps_bytes + shards * _fixed_bytes(spec, shard_videos))


def _fixed_bytes(spec: FeatureSpec, shard_videos: int) -> int:
    """Return the bytes of a shard except the maps: index, its checksum, scales, logits; always full-size."""
    scales = 4 * spec.map_shape[3] if spec.dtype == "uint8" else 0
    return shard_videos * (spec.clips * (16 + 4 * spec.num_classes) + scales) + 4


def _model_summary(store: Store, model: str, clip_frames: int, videos: int | None) -> ModelSummary:
    features = store.features(model, clip_frames)
    shards = list_receipts(features.folder)
    spec, coverage = features.spec, features.coverage
    complete, failed = int(coverage.ok[:, 0].sum()), int(coverage.failed[:, 0].sum())
    reasons = Counter(coverage.reasons[row, 0] for row in np.flatnonzero(coverage.failed[:, 0]).tolist())
    stored_bytes, logits_bytes = _sizes(features, shards)
    rows, size = coverage.ok, store.shard_videos
    # Videos in these files, once for each view: an extraction may have added others meanwhile.
    viewed = sum(int(rows[shard * size : (shard + 1) * size, view].sum()) for shard, view in shards)
    float16_bytes = viewed * spec.clips * 2 * prod(spec.map_shape)
    rms = coverage.columns["quantisation_rms"][coverage.ok].astype(np.float64)
    rounded = spec.dtype == "uint8" and viewed > 0
    projected = None
    if videos is not None and (viewed or spec.codec == "none"):
        maps_bytes = stored_bytes + logits_bytes - len(shards) * _fixed_bytes(spec, size)
        a_video = maps_bytes / viewed if viewed else spec.clips * spec.clip_stride_bytes
        projected = round(_projected(spec, videos, size, a_video))
    return ModelSummary(
        model=model,
        clip_frames=clip_frames,
        clips=spec.clips,
        views=spec.views,
        map_shape=spec.map_shape,
        dtype=spec.dtype,
        codec=spec.codec,
        num_classes=spec.num_classes,
        weights_random=spec.weights_random,
        weights_digest=spec.weights_digest,
        gflops_per_clip=features.gflops_per_clip,
        whole=complete,
        failed=failed,
        pending=int(store.videos.exists.sum()) - complete - failed,
        reasons=dict(reasons.most_common()),
        bytes_per_clip=spec.clip_bytes,
        bytes_per_video=spec.clip_bytes * spec.clips,
        stored_bytes=stored_bytes,
        logits_bytes=logits_bytes,
        stored_bytes_per_clip=stored_bytes / viewed / spec.clips if viewed else None,
        stored_bytes_per_video=(stored_bytes + logits_bytes) / viewed if viewed else None,
        compression=float16_bytes / stored_bytes if viewed else None,
        quantisation_rms_median=float(np.median(rms)) if rounded else None,
        quantisation_rms_largest=float(rms.max()) if rounded else None,
        agreement=agreement(features),
        projected_bytes=projected,
    )


def _sizes(features: Features, shards: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the bytes of the shards' files: maps and scales, and logits."""
    stored_bytes = logits_bytes = 0
    listed = features.folder.sizes() if isinstance(features.folder, RemotePath) else {}
    for shard, view in shards:
        for key in shard_keys(features.spec, shard, view):
            try:
                size = listed[key] if key in listed else (features.folder / key).stat().st_size
            except OSError as error:
                raise StoreError(
                    f"{features.folder / key}: {error.strerror}, though its receipt is there; "
                    f"run: faster verify {features.store.path} --repair"
                ) from error
            if key == logits_key(shard, view):
                logits_bytes += size
            else:
                stored_bytes += size
    return stored_bytes, logits_bytes
