"""What a store holds, its coverage and its failures: the figures behind `faster inspect`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .manifest import PARTS
from .reader import Store


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """One model's maps in a store.

    Attributes:
        whole, failed, pending: videos (of the centre view) with maps, with a recorded failure, with neither.
        reasons: failure reason → number of videos, the commonest first.
        stored_bytes: size of the maps' files; bytes_per_video is that of `clips` maps.
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


@dataclass(frozen=True, kw_only=True)
class StoreSummary:
    """A store at a glance.

    Attributes:
        videos: rows that are videos; labelled, missing: of them with a label; listed but not on disk.
        splits: split → part → number of videos.
    """

    path: str
    videos: int
    labelled: int
    missing: int
    classes: int
    shard_videos: int
    splits: dict[str, dict[str, int]]
    models: tuple[ModelSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def inspect(path: str | Path) -> StoreSummary:
    """Summarise a store, also while an extraction writes it.

    Raises:
        StoreError: the path is not a sound store.
    """
    store = Store(Path(path))
    videos = store.videos
    return StoreSummary(
        path=str(path),
        videos=int(videos.exists.sum()),
        labelled=int((videos.labels >= 0).sum()),
        missing=len(videos.missing),
        classes=len(videos.class_names),
        shard_videos=store.shard_videos,
        splits={
            name: {part: int((videos.split(name) == number).sum()) for part, number in PARTS.items()}
            for name in videos.split_names
        },
        models=tuple(_model_summary(store, *key) for key in store.models),
    )


def _model_summary(store: Store, model: str, clip_frames: int) -> ModelSummary:
    features = store.features(model, clip_frames)
    coverage = features.coverage
    whole, failed = int(coverage.ok[:, 0].sum()), int(coverage.failed[:, 0].sum())
    reasons = Counter(coverage.reasons[row, 0] for row in np.flatnonzero(coverage.failed[:, 0]).tolist())
    size = features.spec.clip_bytes
    return ModelSummary(
        model=model,
        clip_frames=clip_frames,
        clips=features.clips,
        views=features.views,
        map_shape=features.map_shape,
        dtype=features.spec.dtype,
        codec=features.spec.codec,
        num_classes=features.num_classes,
        weights_random=features.spec.weights_random,
        weights_digest=features.spec.weights_digest,
        gflops_per_clip=features.gflops_per_clip,
        whole=whole,
        failed=failed,
        pending=int(store.videos.exists.sum()) - whole - failed,
        reasons=dict(reasons.most_common()),
        bytes_per_clip=size,
        bytes_per_video=size * features.clips,
        stored_bytes=sum(
            file.stat().st_size for file in (features.folder / "maps").rglob("*") if file.is_file()
        ),
    )
