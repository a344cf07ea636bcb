"""Write imported features as a model's maps into a store.

A survey first checks every header and every value, so that a bad file is found before anything is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import StoreError
from ..runtime.flop_counter import MapShape
from ..store.format import manifest as manifests
from ..store.format.manifest import VideoRecord
from ..store.format.receipts import ClipFacts, list_receipts
from ..store.format.schema import shard_videos_for
from ..store.format.spec import CLIP_VALUES_MAX, FeatureSpec
from ..store.read.store import Store
from ..store.write import create as writer
from ..store.write.finalise import finalise
from ..store.write.removal import finish_removals
from ..store.write.shard_writer import ShardWriter
from ..terminal.text import counted
from .export_source import Advance
from .feature_files import FeatureSource
from .sidecar import UNKNOWN_FRAMES

FEATURES_MAX = 1_000_000  # features per video: a larger number means damage
BLOCK_BYTES = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The properties of a source's features.

    Attributes:
        map_shape: (l, h, w, c) of one feature; vectors are (1, 1, 1, c), frames' maps (1, h, w, c).
        lengths: name → T, features of the video.
        digest: SHA-256 over names, shapes and values.
    """

    map_shape: MapShape
    lengths: Mapping[str, int]
    digest: str


@dataclass(frozen=True, kw_only=True)
class ImportedVideo:
    """A row to write: the record and its features, or a failure with its reason if `name` is None.

    positions: (M,) indices of the features to use, in time order. facts: of these M.
    """

    record: VideoRecord
    name: str | None = None
    positions: tuple[int, ...] = ()
    facts: ClipFacts | None = None
    reason: str = ""


def survey(
    source: FeatureSource,
    names: Sequence[str],
    *,
    channels_first: bool,
    signed: bool = True,
    report: Advance,
) -> Survey:
    """Check every header, then every value.

    Args:
        source: the features.
        names: the requested videos.
        channels_first: arrays are (T, c, h, w) or (T, c, l, h, w).
        signed: values below zero are allowed.
        report: called once per video.

    Raises:
        StoreError: the arrays are not floating point, differ in shape from the first, are not finite, exceed
            float16, or have values below zero that are not allowed.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    problems = []
    first: tuple[str, MapShape] | None = None
    for name in names:
        try:
            shape, dtype = source.describe(name)
            map_shape = _map_shape(name, shape, dtype, channels_first)
            first = first or (name, map_shape)
            if map_shape != first[1]:
                raise StoreError(
                    f"{name} has features of {_times(map_shape)} (l×h×w×c), "
                    f"{first[0]} of {_times(first[1])}; a store's maps have one shape"
                )
            shapes[name] = shape
        except StoreError as error:
            problems.append(str(error))
    if problems:
        more = len(problems) - 1
        raise StoreError(problems[0] + (f" (and {counted(more, 'more such problem')})" if more else ""))
    if first is None:
        raise StoreError("no features are named")
    digest = hashlib.sha256()
    for name in names:
        shape, dtype = source.describe(name)
        digest.update(f"{name}\0{shape}\0{dtype.str}\0".encode())
        step = max(1, BLOCK_BYTES // (prod(shape[1:]) * dtype.itemsize))
        for at in range(0, shape[0], step):
            block = np.ascontiguousarray(source.read(name, at, min(at + step, shape[0])))
            half = as_float16(name, block, at)
            if not signed and (below := (half < 0).reshape(len(half), -1).any(axis=1)).any():
                place = at + int(np.flatnonzero(below)[0])
                raise StoreError(
                    f"{name}: feature {place} goes below zero, and uint8 holds maps after a ReLU; "
                    "import them with --dtype float16"
                )
            digest.update(block.data)
        report()
    return Survey(
        map_shape=first[1],
        lengths={name: shape[0] for name, shape in shapes.items()},
        digest=digest.hexdigest(),
    )


def as_float16(name: str, block: NDArray[Any], first: int) -> NDArray[np.float16]:
    """Return the features as float16, rounded to nearest; `first` is the index of the block's first feature.

    Raises:
        StoreError: a value is not finite, or exceeds float16.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        half = block.astype(np.float16)
    if not np.isfinite(half).all():
        place = int(np.flatnonzero(~np.isfinite(half.reshape(len(half), -1)).all(axis=1))[0])
        finite = np.isfinite(block[place]).all()
        what = "goes beyond float16 (±65504)" if finite else "is not finite (NaN or infinite)"
        raise StoreError(f"{name}: feature {first + place} {what}")
    return half


def _map_shape(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], channels_first: bool) -> MapShape:
    if dtype.kind != "f":
        raise StoreError(f"{name} is of {dtype}; features are float16, float32 or float64")
    if len(shape) not in (2, 4, 5) or 0 in shape:
        raise StoreError(
            f"{name} has shape {_times(shape)}; "
            "allowed: (T, c), (T, h, w, c), (T, l, h, w, c), none of them 0"
        )
    inner = shape[1:]
    if channels_first:
        inner = (*inner[1:], inner[0])
    map_shape = (*(1,) * (4 - len(inner)), *inner)
    if shape[0] > FEATURES_MAX or prod(map_shape) > CLIP_VALUES_MAX:
        raise StoreError(f"{name} has shape {_times(shape)}; that is damage, or no features")
    return map_shape[0], map_shape[1], map_shape[2], map_shape[3]


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def choose_positions(features: int, clips: int) -> tuple[int, ...]:
    """Return the indices of the features to use: ⌊i·T/M⌋, or, with fewer than M, the last one repeated."""
    if features < clips:
        return tuple(min(i, features - 1) for i in range(clips))
    return tuple(i * features // clips for i in range(clips))


def unknown_facts(features: int, clips: int, clip_frames: int) -> ClipFacts:
    """Return facts of a video with only its number of features known; a repeated feature is all padding."""
    return ClipFacts(
        frames=UNKNOWN_FRAMES,
        fps=0.0,
        starts=(0,) * clips,
        times_seconds=(0.0,) * clips,
        padded=tuple(clip_frames if i >= features else 0 for i in range(clips)),
    )


def write_imported(
    path: Path,
    spec: FeatureSpec,
    videos: Sequence[ImportedVideo],
    source: FeatureSource,
    *,
    channels_first: bool,
    recorded: Mapping[str, Any],
    trained_on: Sequence[str],
    missing: Sequence[VideoRecord],
    class_names: Sequence[str],
    root: Path,
    report: Advance,
) -> int:
    """Write videos into a new store, or as a further model into an existing one; complete shards are kept.

    In the written shards, rows without an imported video become failures.

    Returns:
        The number of written videos.

    Raises:
        StoreError, ProvenanceMismatch: the store has other videos or maps.
        StorageError: the disk failed.
    """
    store = writer.create(path, shard_videos=shard_videos_for(spec.clips, spec.map_shape))
    shard_videos = store.shard_videos
    writer.declare(path, spec, recorded=recorded, trained_on=trained_on)
    store.videos = manifest = manifests.append(
        path,
        videos=[video.record for video in videos],
        missing=missing,
        class_names=class_names,
        root=root,
        shard_videos=shard_videos,
    )
    writer.fit_arrays(path, spec, manifest, shard_videos)
    finish_removals(store)
    of_row = {manifest.row_of[video.record.id]: video for video in videos}
    complete = {shard for shard, _ in list_receipts(path / spec.folder)}
    written = 0
    for shard in sorted({row // shard_videos for row in of_row} - complete):
        rows = range(shard * shard_videos, min((shard + 1) * shard_videos, manifest.rows))
        with ShardWriter(
            path, spec, manifest=manifest, shard=shard, view=0, shard_videos=shard_videos
        ) as shard_writer:
            for row in rows:
                if not manifest.ids[row]:
                    continue
                video = of_row.get(row)
                if video is None or video.name is None or video.facts is None:
                    shard_writer.fail(row, video.reason if video else "no features of it were imported")
                    continue
                maps = _read(source, video.name, video.positions, channels_first, spec.map_shape)
                shard_writer.add(row, maps, None, video.facts)
                written += 1
                report()
            shard_writer.commit()
    finalise(Store(path))
    return written


def _read(
    source: FeatureSource, name: str, positions: Sequence[int], channels_first: bool, map_shape: MapShape
) -> NDArray[np.float16]:
    """Read the features at these positions as maps (M, l, h, w, c)."""
    maps = np.empty((len(positions), *map_shape), dtype=np.float16)
    for i, place in enumerate(positions):
        if i and place == positions[i - 1]:
            maps[i] = maps[i - 1]
            continue
        feature = as_float16(name, source.read(name, place, place + 1), place)[0]
        maps[i] = (np.moveaxis(feature, 0, -1) if channels_first and feature.ndim > 1 else feature).reshape(
            map_shape
        )
    return maps


def spec_of_export(spec: FeatureSpec, survey: Survey, *, clips: int, pooled: bool) -> FeatureSpec:
    """Return the spec of an export's maps in the new store: the same maps, float16, without logits.

    Pooled features differ from the maps of the weights, so they get their own digest.
    """
    spec = replace(
        spec,
        clips=clips,
        views=1,
        map_shape=survey.map_shape,
        num_classes=0,
        class_names=None,
        dtype="float16",
        codec="none",
    )
    if not pooled:
        return spec
    return replace(
        spec, weights_digest=survey.digest, transform={**spec.transform, "pooled": "mean over l, h, w"}
    )


def spec_of_features(model: str, survey: Survey, *, clips: int, clip_frames: int) -> FeatureSpec:
    """Return the spec of others' features; their digest replaces that of the unknown weights."""
    return FeatureSpec(
        model=model,
        weights_digest=survey.digest,
        weights_random=False,
        clip_frames=clip_frames,
        frame_stride=1,
        clips=clips,
        views=1,
        map_shape=survey.map_shape,
        num_classes=0,
        class_names=None,
        transform={"imported": True},
        precision="unknown",
        batch_clips=1,
    )
