"""The backbone's linear classifier in the store, and its agreement with the backbone on the stored maps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError
from ..io.safe_open import read_floats
from .features import Features

Head = tuple[NDArray[np.float32], NDArray[np.float32]]

SAMPLE_CLIPS = 512
SAMPLE_VIDEOS = 64  # the videos of these clips: few files are opened, for a store of any size


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How often the classifier on the stored maps gives the same class as the backbone did.

    Attributes:
        clips: number of clips compared; always the same ones.
        same_top1: clips whose best class is the same as in the stored logits.
    """

    clips: int
    same_top1: int


def read_head(features: Features) -> Head | None:
    """Return weight (K, c) and bias (K,) float32 of the classifier on the map's mean; None if there is none.

    Raises:
        StoreError: the classifier exists but cannot be read.
    """
    folder = features.folder / "head"
    if not (folder / "zarr.json").exists():  # written after both arrays
        return None
    classes, channels = features.num_classes, features.map_shape[3]
    arrays = []
    for key, shape in (("weight/c/0/0", (classes, channels)), ("bias/c/0", (classes,))):
        try:
            values = read_floats(folder / key, shape)
        except OSError as error:
            raise StoreError(
                f"{folder / key}: {error.strerror}, though the classifier is declared"
            ) from error
        known = features.provenance.get("head_sha256")
        if isinstance(known, dict) and hashlib.sha256(values.tobytes()).hexdigest() != known.get(key):
            raise StoreError(
                f"{folder / key}: not what was written; run: faster verify {features.store.path} --repair"
            )
        arrays.append(values)
    return arrays[0], arrays[1]


def agreement(features: Features) -> Agreement | None:
    """Compare the best class of the stored logits and of mean(map) · Wᵀ + b, on a fixed sample of clips.

    The maps are read from the store, so the result includes the error of float16 or uint8. None if the store
    has no classifier of the model, or no complete video.

    Raises:
        StoreError: a clip or the classifier is damaged.
    """
    head = read_head(features)
    rows = np.flatnonzero(features.ok[:, 0])
    if head is None or not len(rows):
        return None
    videos = rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE_VIDEOS).astype(np.int64))]
    count = min(features.clips, -(-SAMPLE_CLIPS // len(videos)))
    clips = np.unique(np.linspace(0, features.clips - 1, count).astype(np.int64))
    same = 0
    for row in videos.tolist():
        maps = features.read_maps(row, 0, clips)
        scores = maps.mean(axis=(1, 2, 3), dtype=np.float32) @ head[0].T + head[1]
        stored = features.read_logits(row, 0, clips)
        same += int((scores.argmax(axis=1) == stored.argmax(axis=1)).sum())
    return Agreement(clips=len(videos) * len(clips), same_top1=same)
