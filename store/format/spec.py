"""The spec of a model's maps: everything that decides their bytes; maps of another spec are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import prod
from typing import Annotated, Any, Self

from msgspec import Meta

from ...errors import ProvenanceMismatch, StoreError
from ...runtime.canonical_json import canonical_json, digest, read_as
from ...runtime.file_names import file_stem
from ...terminal.text import counted
from .encoding import CODECS, DTYPES

ALIGNMENT_BYTES = 4096
CLIP_VALUES_MAX = 1 << 28  # 512 MiB per clip: a larger value means damage
COUNT_MAX = 1_000_000

Length = Annotated[int, Meta(ge=1, le=COUNT_MAX)]
Plain = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Everything that decides the bytes of one model's maps, so two runs must have the same.

    Attributes:
        model: name in the registry, or `package.module:function`.
        weights_digest: SHA-256 of the weights' tensors; independent of the file format.
        weights_random: True if `--allow-random` made them; maps of such weights have no meaning.
        clip_frames: L, frames per clip.
        frame_stride: step between the frames of a clip.
        clips: M, clips per view.
        views: views per video; the first is the centre view.
        map_shape: (l, h, w, c) of one clip's map.
        num_classes: length of a clip's logits; 0 if the backbone has no classifier.
        class_names: the names of the logits, if known.
        transform: size, short side, crop, interpolation, mean and standard deviation.
        precision: the backbone's compute precision, for example "float32".
        batch_clips: clips per forward pass; the batch's shape decides the last bits.
        dtype: of the stored maps, "float16" or "uint8" (one scale per video and channel).
        codec: of a clip's bytes, "none" or "zstd".
    """

    model: str
    weights_digest: str
    weights_random: bool
    clip_frames: Length
    frame_stride: Length
    clips: Length
    views: Length
    map_shape: tuple[Length, Length, Length, Length]
    num_classes: Annotated[int, Meta(ge=0, le=COUNT_MAX)]
    class_names: tuple[str, ...] | None
    transform: Mapping[str, Any]
    precision: str
    batch_clips: Length
    dtype: str = "float16"
    codec: str = "none"

    @property
    def folder(self) -> str:
        """The folder of this model's arrays in the store."""
        return features_folder(self.model, self.clip_frames)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all fields; every receipt contains it."""
        return digest(self.to_dict())

    @property
    def clip_bytes(self) -> int:
        """Bytes of one clip's map before compression."""
        return prod(self.map_shape) * (2 if self.dtype == "float16" else 1)

    @property
    def clip_stride_bytes(self) -> int:
        """Bytes from one uncompressed clip's offset in its shard to the next: a multiple of 4 KiB."""
        return -(-self.clip_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON types."""
        return json.loads(canonical_json(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read back what `to_dict` returned.

        Raises:
            StoreError: a field is missing, unknown, or of the wrong type.
        """
        names = {field.name for field in fields(cls)}
        if set(data) != names:
            missing, unknown = sorted(names - set(data)), sorted(set(data) - names)
            raise StoreError(
                f"provenance lacks {missing} and has {unknown} beside what this version writes: "
                "the store is damaged or of another version; extract into another --store"
            )
        for name, known in (("dtype", DTYPES), ("codec", CODECS)):
            if data[name] not in known:
                raise StoreError(f"maps of {name} {data[name]!r}; this version reads {' and '.join(known)}")
        try:
            spec = read_as(cls, data)
            read_as(dict[str, Plain | list[Plain]], data["transform"])  # refuse nested values
        except ValueError as error:
            raise StoreError(f"provenance is malformed: {error}") from error
        for count, most in ((spec.clips * spec.views, COUNT_MAX), (prod(spec.map_shape), CLIP_VALUES_MAX)):
            if count > most:
                raise StoreError(
                    "provenance is malformed: "
                    f"{spec.clips} clips of {spec.views} views, maps of {spec.map_shape}: "
                    f"{count} where at most {most} belong"
                )
        return spec

    def require_same(self, stored: FeatureSpec) -> None:
        """Refuse to mix two kinds of maps in one array.

        Raises:
            ProvenanceMismatch: the message names each field that differs, with both values.
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
            f"the store's maps of {self.model} at {counted(self.clip_frames, 'frame')} were made otherwise "
            f"({differences}); "
            "ask for the same, or write to another --store"
        )


def features_folder(model: str, clip_frames: int) -> str:
    """Return the folder of a model's maps, relative to the store."""
    return f"features/{file_stem(model)}/L{clip_frames}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
