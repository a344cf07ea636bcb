"""Maps for the store's benchmarks, and stores of them: like a backbone's, made from noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from faster import store as stores
from faster.store.format import manifest as manifests
from faster.store.write import create as writer
from numpy.typing import NDArray

MODELS = ("r2plus1d50", "r2d26")
CLIP_FRAMES = 8
MAP_SHAPE = (1, 7, 7, 2048)
CLASSES = 400


def post_relu_maps(row: int, model: str, clips: int) -> NDArray[np.float16]:
    """(clips, 1, 7, 7, 2048) float16: ReLU of Gaussians whose mean and spread differ by channel; half are zeros."""
    rng = np.random.default_rng([row, MODELS.index(model)])
    per_channel = np.random.default_rng(MODELS.index(model))
    spread = per_channel.lognormal(0.0, 0.5, MAP_SHAPE[3]).astype(np.float32)
    mean = per_channel.normal(0.0, 0.3, MAP_SHAPE[3]).astype(np.float32)
    noise = rng.standard_normal((clips, *MAP_SHAPE), dtype=np.float32)
    return np.maximum((noise + mean) * spread, 0).astype(np.float16)


def make_spec(model: str, *, clips: int, dtype: str = "float16", codec: str = "none") -> stores.FeatureSpec:
    """Of full-size maps; no scores."""
    return stores.FeatureSpec(
        model=model,
        weights_digest="0" * 64,
        weights_random=True,
        clip_frames=CLIP_FRAMES,
        frame_stride=1,
        clips=clips,
        views=1,
        map_shape=MAP_SHAPE,
        num_classes=0,
        class_names=None,
        transform={},
        precision="float32",
        batch_clips=8,
        dtype=dtype,
        codec=codec,
    )


def make_records(videos: int) -> list[stores.VideoRecord]:
    """Names as long as Kinetics' are."""
    parts = {True: "train", False: "test"}
    return [
        stores.VideoRecord(
            id=f"class {i % CLASSES}/{i:011d}_000010_000020.mp4",
            path=f"class {i % CLASSES}/{i:011d}_000010_000020.mp4",
            label=i % CLASSES,
            splits={"kinetics": parts[i % 10 > 0]},
        )
        for i in range(videos)
    ]


def begin_store(
    path: Path, specs: list[stores.FeatureSpec], *, videos: int, shard_videos: int
) -> stores.Manifest:
    """Everything of a store but its shards."""
    writer.create(path, shard_videos=shard_videos)
    manifest = manifests.append(
        path,
        videos=make_records(videos),
        missing=[],
        class_names=[f"class {i}" for i in range(CLASSES)],
        root=Path("videos"),
        shard_videos=shard_videos,
    )
    for spec, gflops in zip(specs, (29.98, 3.17), strict=True):
        writer.declare(path, spec, recorded={"gflops_per_clip": gflops}, trained_on=[])
        writer.fit_arrays(path, spec, manifest, shard_videos)
    return manifest


def make_facts(clips: int) -> stores.ClipFacts:
    """A video of 256 frames at 25 a second."""
    starts = tuple(i * CLIP_FRAMES for i in range(clips))
    times = tuple(start / 25 for start in starts)
    return stores.ClipFacts(
        frames=clips * CLIP_FRAMES, fps=25.0, starts=starts, times_seconds=times, padded=(0,) * clips
    )


def write_shard(
    path: Path,
    spec: stores.FeatureSpec,
    manifest: stores.Manifest,
    shard: int,
    shard_videos: int,
    maps: list[NDArray[np.float16]],
) -> None:
    """One shard of these maps, one a video, through the store's writer."""
    with stores.ShardWriter(
        path, spec, manifest=manifest, shard=shard, view=0, shard_videos=shard_videos
    ) as shard_writer:
        for i, values in enumerate(maps):
            shard_writer.add(shard * shard_videos + i, values, None, make_facts(spec.clips))
        shard_writer.commit()


def make_store(
    path: Path, *, videos: int, clips: int, shard_videos: int, dtype: str = "float16", codec: str = "none"
) -> stores.Store:
    """A whole store of two models."""
    specs = [make_spec(model, clips=clips, dtype=dtype, codec=codec) for model in MODELS]
    manifest = begin_store(path, specs, videos=videos, shard_videos=shard_videos)
    for spec in specs:
        for shard in range(-(-videos // shard_videos)):
            rows = range(shard * shard_videos, min((shard + 1) * shard_videos, videos))
            write_shard(
                path,
                spec,
                manifest,
                shard,
                shard_videos,
                [post_relu_maps(row, spec.model, clips) for row in rows],
            )
    store = stores.open(path)
    stores.finalise(store)
    return stores.open(path)
