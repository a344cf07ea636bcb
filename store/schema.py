"""What a store holds: names, shapes, dtypes and provenance. `docs/store.md` is this module in prose.

kinetics.zarr/
  zarr.json                       the store: format, videos a shard
  manifest/000000.json …          the videos, one immutable segment for each time some were added
  videos/                         the manifest again, as Zarr arrays (derived)
  failures.jsonl                  every failed video and why (derived)
  features/<model>/L<frames>/
    zarr.json                     provenance
    maps/                         (video, view, clip, l, h, w, c) float16, fill NaN
    logits/                       (video, view, clip, class) float32, fill NaN
    trained_on.json               ids of the videos that the weights saw
    receipts/000012.v0.json       shard 12 of view 0 is whole
    index/                        the receipts' facts as Zarr arrays (derived)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ..errors import ProvenanceMismatch, StoreError

FORMAT = 1
ALIGNMENT_BYTES = 4096
SHARD_TARGET_BYTES = 100_000_000
SHARD_VIDEOS_MAX = 64
DTYPE = "float16"
DTYPE_BYTES = 2


def canonical_json(value: object) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8. What is hashed is hashed from this."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: object) -> str:
    """SHA-256 of the value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def ids_digest(ids: Sequence[str]) -> str:
    """What a receipt says of its shard's videos; holes do not count, for later segments make some."""
    return digest([name for name in ids if name])


def seal(value: Mapping[str, Any]) -> bytes:
    """The file of a value: its canonical JSON with the format, and a digest over both that makes any change show."""
    sealed = {"format": FORMAT, **value}
    return canonical_json({**sealed, "digest": digest(sealed)})


def unseal(data: bytes, *, name: str) -> dict[str, Any]:
    """Read back what `seal` gave, but for the digest.

    Raises:
        StoreError: it is not JSON, of another format, or was changed since; `name` says where.
    """
    try:
        value = json.loads(data)
        sealed = value.pop("digest")
        if value["format"] != FORMAT:
            raise StoreError(f"{name} has format {value['format']!r}; this version reads {FORMAT}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(f"{name} is damaged, or not of a store: {error!r}") from error
    if digest(value) != sealed:
        raise StoreError(f"{name} was changed after it was written: its digest does not fit")
    return dict(value)


def shard_videos_for(clips: int, map_shape: tuple[int, int, int, int]) -> int:
    """How many videos make a shard of about 100 MB, for maps of this shape: 1 to 64."""
    video_bytes = clips * clip_stride_bytes(map_shape)
    return max(1, min(SHARD_VIDEOS_MAX, SHARD_TARGET_BYTES // video_bytes))


def clip_bytes(map_shape: tuple[int, int, int, int]) -> int:
    """Bytes of one clip's map."""
    length, height, width, channels = map_shape
    return length * height * width * channels * DTYPE_BYTES


def clip_stride_bytes(map_shape: tuple[int, int, int, int]) -> int:
    """Bytes from one clip's offset in its shard to the next: whole 4 KiB pages."""
    return -(-clip_bytes(map_shape) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Everything that decides the bytes of one model's maps, and so what two runs must share.

    Attributes:
        model: name in the registry, or `package.module:function`.
        weights_digest: SHA-256 of the weights' tensors, whatever file they came from.
        weights_random: True where `--allow-random` made them; maps of such weights mean nothing.
        clip_frames: L, frames a clip.
        frame_stride: frames from one frame of a clip to the next.
        clips: M, clips a view.
        views: views a video; the first is the centre view.
        map_shape: (l, h, w, c) of one clip's map.
        num_classes: length of a clip's logits; 0 where the backbone has no classifier.
        class_names: what the logits stand for, where that is known.
        transform: size, short side, crop, interpolation, mean and standard deviation.
        precision: what the backbone computed in, for example "float32".
        batch_clips: clips a forward pass; the batch's shape decides the last bits.
        dtype: of the stored maps.
    """

    model: str
    weights_digest: str
    weights_random: bool
    clip_frames: int
    frame_stride: int
    clips: int
    views: int
    map_shape: tuple[int, int, int, int]
    num_classes: int
    class_names: tuple[str, ...] | None
    transform: Mapping[str, Any]
    precision: str
    batch_clips: int
    dtype: str = DTYPE

    @property
    def folder(self) -> str:
        """Where this model's arrays lie in the store."""
        return features_folder(self.model, self.clip_frames)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all of it; every receipt carries this."""
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return json.loads(canonical_json(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read back what `to_dict` gave.

        Raises:
            StoreError: a field is missing, unknown, or of the wrong type.
        """
        names = {field.name for field in fields(cls)}
        if set(data) != names:
            raise StoreError(f"provenance has fields {sorted(data)}, expected {sorted(names)}")
        try:
            shape = tuple(int(n) for n in data["map_shape"])
            counts = [int(data[k]) for k in ("clip_frames", "frame_stride", "clips", "views", "batch_clips")]
        except (TypeError, ValueError) as error:
            raise StoreError(f"provenance is malformed: {error}") from error
        if len(shape) != 4 or min(*shape, *counts) < 1 or max(*shape, *counts) > 1_000_000:
            raise StoreError(f"provenance is malformed: map shape {shape}, counts {counts}")
        if data["dtype"] != DTYPE:
            raise StoreError(f"maps of dtype {data['dtype']!r}; this version reads {DTYPE}")
        classes = data["class_names"]
        return cls(
            **{
                **data,
                "map_shape": shape,
                "class_names": None if classes is None else tuple(classes),
                "transform": dict(data["transform"]),
            }
        )

    def require_same(self, stored: FeatureSpec) -> None:
        """Refuse to mix two kinds of maps in one array.

        Raises:
            ProvenanceMismatch: naming each field that differs, with both values.
        """
        mine, theirs = self.to_dict(), stored.to_dict()
        if mine == theirs:
            return
        pairs = {name: (theirs[name], mine[name]) for name in mine}
        for name, (stored_value, asked) in list(pairs.items()):
            if isinstance(stored_value, dict) and isinstance(asked, dict):
                keys = sorted(stored_value.keys() | asked.keys())
                pairs |= {f"{name} {key}": (stored_value.get(key), asked.get(key)) for key in keys}
                del pairs[name]
        differences = "; ".join(
            f"{name}: store has {_short(a)}, asked {_short(b)}" for name, (a, b) in pairs.items() if a != b
        )
        raise ProvenanceMismatch(
            f"the store's maps of {self.model} at {self.clip_frames} frames were made otherwise ({differences}); "
            "ask for the same, or write to another --store"
        )


def features_folder(model: str, clip_frames: int) -> str:
    """Where the maps of a model lie, relative to the store: a model's name as one folder."""
    return f"features/{model.replace('/', '-').replace(':', '-')}/L{clip_frames}"


def maps_key(shard: int, view: int) -> str:
    """The file of a shard's maps, relative to the model's folder."""
    return f"maps/c/{shard}/{view}/0/0/0/0/0"


def logits_key(shard: int, view: int) -> str:
    """The file of a shard's logits, relative to the model's folder."""
    return f"logits/c/{shard}/{view}/0/0"


def group_metadata(attributes: Mapping[str, Any] | None = None) -> bytes:
    """The `zarr.json` of a Zarr v3 group."""
    return _metadata({"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})})


def maps_metadata(rows: int, shard_videos: int, spec: FeatureSpec) -> bytes:
    """The `zarr.json` of a maps array: one inner chunk a clip, one shard a group of videos, index at the end."""
    clip = [1, 1, 1, *spec.map_shape]
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": clip,
            "codecs": [little],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        },
    }
    return _array_metadata(
        shape=[rows, spec.views, spec.clips, *spec.map_shape],
        chunks=[shard_videos, 1, spec.clips, *spec.map_shape],
        dtype=spec.dtype,
        codecs=[sharding],
        names=["video", "view", "clip", "l", "h", "w", "c"],
    )


def logits_metadata(rows: int, shard_videos: int, spec: FeatureSpec) -> bytes:
    """The `zarr.json` of a logits array: one chunk a shard of the maps."""
    return _array_metadata(
        shape=[rows, spec.views, spec.clips, spec.num_classes],
        chunks=[shard_videos, 1, spec.clips, spec.num_classes],
        dtype="float32",
        codecs=[{"name": "bytes", "configuration": {"endian": "little"}}],
        names=["video", "view", "clip", "class"],
    )


def _array_metadata(
    *, shape: list[int], chunks: list[int], dtype: str, codecs: list[dict[str, Any]], names: list[str]
) -> bytes:
    return _metadata(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN",  # an absent clip must never read as zeros
            "codecs": codecs,
            "attributes": {},
            "dimension_names": names,
        }
    )


def _metadata(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode()


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
