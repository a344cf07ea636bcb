"""The backbone's own linear classifier, as the store keeps it, and what it says of the maps as they are stored."""

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
SAMPLE_VIDEOS = 64  # that the clips are of: few files are opened, whatever the store's size


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How often the classifier answers the same on the stored maps as the backbone did while it ran.

    Attributes:
        clips: compared, the same ones each time.
        same_top1: of them, clips whose best class is the one of the stored logits.
    """

    clips: int
    same_top1: int


def read_head(features: Features) -> Head | None:
    """Weight (K, c) and bias (K,) float32 of the classifier on the map's mean; None where the store has none.

    Raises:
        StoreError: one is there and cannot be read.
    """
    folder = features.folder / "head"
    if not (folder / "zarr.json").exists():  # written when both arrays are whole
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
    """Compare the stored logits' best class with that of mean(map) · Wᵀ + b, on a fixed sample of clips.

    The maps are those of the store, so that what float16 or uint8 took from them shows. None where the store has
    no classifier of the model, or no whole video.

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
