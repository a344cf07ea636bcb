"""A store of cross-fitted maps: of each training video those of a network that was trained without it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from faster import store as stores
from faster.store.format import manifest as manifests
from faster.store.format.receipts import read_receipt
from faster.store.write import create as writer
from numpy.typing import NDArray

RIDGE = 0.1  # of the mean square of a channel
Maps = NDArray[np.float16]


def cross_fit(path: Path, *, whole: Path, folds: Sequence[Path], align: bool = False) -> None:
    """Write a store of the maps of `folds` where one of their networks did not see a video that the whole one did.

    All other videos have the whole one's. The stores hold the same videos, and one view. The channels of networks
    that were trained apart mean different things; with `align` a ridge regression on the videos that both networks
    were trained on, position by position, brings a fold's channels to the whole one's.
    """
    main, others = stores.open(whole), [stores.open(fold) for fold in folds]
    if path.exists():
        shutil.rmtree(path)  # minutes of work; the sweeps that read it know it by its fingerprint
    count = writer.create(path, shard_videos=main.shard_videos).shard_videos
    shutil.copytree(whole / "manifest", path / "manifest")
    videos = manifests.load(path)
    for model, length in main.models:
        ours = main.features(model, length)
        theirs = [other.features(model, length) for other in others]
        bring: list[Callable[[Maps], Maps]] = [
            _aligned(fold, ours, videos) if align else _as_they_are for fold in theirs
        ]
        digest = hashlib.sha256("".join(each.spec.weights_digest for each in (ours, *theirs)).encode())
        spec = replace(ours.spec, weights_digest=digest.hexdigest())
        writer.declare(path, spec, recorded={"gflops_per_clip": ours.gflops_per_clip}, trained_on=())
        writer.fit_arrays(path, spec, videos, count)
        for shard in range(-(-videos.rows // count)):
            receipt = read_receipt(ours.folder, shard, 0)
            with stores.ShardWriter(
                path, spec, manifest=videos, shard=shard, view=0, shard_videos=count
            ) as out:
                for entry in receipt.videos:
                    if entry.facts is None:
                        out.fail(entry.row, entry.reason)
                        continue
                    name, clips = videos.ids[entry.row], np.arange(spec.clips)
                    unseen = [k for k, fold in enumerate(theirs) if name not in fold.trained_on]
                    crossed = name in ours.trained_on and unseen
                    source = theirs[unseen[0]] if crossed else ours
                    maps = source.read_maps(entry.row, 0, clips)
                    out.add(
                        entry.row,
                        bring[unseen[0]](maps) if crossed else maps,
                        source.read_logits(entry.row, 0, clips),
                        entry.facts,
                    )
                out.commit()
    stores.finalise(stores.open(path))


def _as_they_are(maps: Maps) -> Maps:
    return maps


def _aligned(
    fold: stores.Features, whole: stores.Features, videos: stores.Manifest
) -> Callable[[Maps], Maps]:
    """Maps of the fold's network in the channels of the whole one's."""
    both = [
        row for row, name in enumerate(videos.ids) if name in fold.trained_on and name in whole.trained_on
    ]
    places = np.repeat(both, fold.clips), 0, np.tile(np.arange(fold.clips), len(both))
    source, target = (
        maps.read_maps(*places).reshape(-1, maps.map_shape[-1])[::3].astype(np.float32)
        for maps in (fold, whole)
    )
    source = np.concatenate([source, np.ones((len(source), 1), np.float32)], axis=1)
    gram = source.T @ source
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram), dtype=np.float32)
    weights = np.linalg.solve(gram, source.T @ target)

    def bring(maps: Maps) -> Maps:
        flat = maps.reshape(-1, maps.shape[-1]).astype(np.float32)
        brought = np.maximum(flat @ weights[:-1] + weights[-1], 0)
        return brought.astype(np.float16).reshape(maps.shape)

    return bring
