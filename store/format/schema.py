"""The schema of a store: names, shapes, dtypes and provenance. `docs/store.md` explains it.

kinetics.zarr/
  zarr.json                       the store: format, videos per shard
  manifest/000000.json …          the videos, one immutable segment per addition
  videos/                         the manifest again, as Zarr arrays (derived)
  failures.jsonl                  every failed video and why (derived)
  features/<model>/L<frames>/
    zarr.json                     provenance
    maps/                         (video, view, clip, l, h, w, c) float16, fill NaN; or uint8
    scales/                       of uint8 maps: (video, view, c) float32, fill NaN
    logits/                       (video, view, clip, class) float32, fill NaN
    head/weight, head/bias        the backbone's linear classifier, if it has one
    trained_on.json               ids of the videos that the weights were trained on
    receipts/000012.v0.json       confirms that shard 12 of view 0 is complete
    index/                        the receipts' facts as Zarr arrays (derived)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from ...runtime.canonical_json import digest, indented_json
from .encoding import ZSTD_LEVEL
from .spec import FeatureSpec

SHARD_TARGET_BYTES = 100_000_000
SHARD_VIDEOS_MAX = 64


def ids_digest(ids: Sequence[str]) -> str:
    """Return the digest of a shard's ids without holes, because later segments create holes."""
    return digest([name for name in ids if name])


def shard_videos_for(clips: int, map_shape: tuple[int, int, int, int]) -> int:
    """Return how many videos make a shard of about 100 MB of float16 maps: 1 to 64."""
    return max(1, min(SHARD_VIDEOS_MAX, SHARD_TARGET_BYTES // (clips * prod(map_shape) * 2)))


def maps_key(shard: int, view: int) -> str:
    """Return the file of a shard's maps, relative to the model's folder."""
    return f"maps/c/{shard}/{view}/0/0/0/0/0"


def logits_key(shard: int, view: int) -> str:
    """Return the file of a shard's logits, relative to the model's folder."""
    return f"logits/c/{shard}/{view}/0/0"


def scales_key(shard: int, view: int) -> str:
    """Return the file of a shard's uint8 scales, relative to the model's folder."""
    return f"scales/c/{shard}/{view}/0"


def shard_keys(spec: FeatureSpec, shard: int, view: int) -> list[str]:
    """Return every file of a shard, the maps first, relative to the model's folder."""
    keys = [maps_key(shard, view)]
    if spec.dtype == "uint8":
        keys.append(scales_key(shard, view))
    if spec.num_classes:
        keys.append(logits_key(shard, view))
    return keys


def arrays_metadata(rows: int, shard_videos: int, spec: FeatureSpec) -> dict[str, bytes]:
    """Return the `zarr.json` of each array of a model, by the array's name."""
    arrays = {"maps": _maps_metadata(rows, shard_videos, spec)}
    if spec.dtype == "uint8":
        arrays["scales"] = array_metadata(
            shape=[rows, spec.views, spec.map_shape[3]],
            chunks=[shard_videos, 1, spec.map_shape[3]],
            dtype="float32",
            names=["video", "view", "c"],
        )
    if spec.num_classes:
        arrays["logits"] = array_metadata(
            shape=[rows, spec.views, spec.clips, spec.num_classes],
            chunks=[shard_videos, 1, spec.clips, spec.num_classes],
            dtype="float32",
            names=["video", "view", "clip", "class"],
        )
    return arrays


def group_metadata(attributes: Mapping[str, Any] | None = None) -> bytes:
    """Return the `zarr.json` of a Zarr v3 group."""
    return indented_json({"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})})


def array_metadata(
    *,
    shape: list[int],
    chunks: list[int],
    dtype: str,
    names: list[str],
    codecs: list[dict[str, Any]] | None = None,
) -> bytes:
    """Return the `zarr.json` of an array; without `codecs`, chunks are little-endian bytes."""
    return indented_json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            # An absent clip must never read as zeros: uint8 has no NaN, so its scale is NaN.
            "fill_value": 0 if dtype == "uint8" else "NaN",
            "codecs": codecs or [_LITTLE],
            "attributes": {},
            "dimension_names": names,
        }
    )


_LITTLE: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}


def _maps_metadata(rows: int, shard_videos: int, spec: FeatureSpec) -> bytes:
    """Return the maps' metadata: an inner chunk per clip, a shard per group of videos, index at the end."""
    inner = [_LITTLE if spec.dtype == "float16" else {"name": "bytes"}]
    if spec.codec == "zstd":
        inner.append({"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}})
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, 1, 1, *spec.map_shape],
            "codecs": inner,
            "index_codecs": [_LITTLE, {"name": "crc32c"}],
            "index_location": "end",
        },
    }
    return array_metadata(
        shape=[rows, spec.views, spec.clips, *spec.map_shape],
        chunks=[shard_videos, 1, spec.clips, *spec.map_shape],
        dtype=spec.dtype,
        codecs=[sharding],
        names=["video", "view", "clip", "l", "h", "w", "c"],
    )
