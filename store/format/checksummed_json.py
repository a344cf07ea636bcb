"""Small JSON files that show every change: a value's canonical text with a digest of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import StoreError
from ...runtime.canonical_json import canonical_json

FORMAT = 1


def encode_checksummed(value: Mapping[str, Any]) -> bytes:
    """The file of a value: its canonical JSON with the format, and a digest over both that makes any change show."""
    sealed = {"format": FORMAT, **value}
    # Each member's text is written once and copied once, for some are large.
    texts = {key: canonical_json(key) + b":" + canonical_json(item) for key, item in sealed.items()}
    bare = hashlib.sha256()
    for part in _parts(texts):
        bare.update(part)
    texts["digest"] = b'"digest":"%s"' % bare.hexdigest().encode()
    return b"".join(_parts(texts))


def _parts(texts: Mapping[str, bytes]) -> Iterator[bytes]:
    """The canonical JSON of an object whose members' texts are these, in parts."""
    for place, key in enumerate(sorted(texts)):
        yield b"," if place else b"{"
        yield texts[key]
    yield b"}"


def decode_checksummed(data: bytes, *, name: str) -> dict[str, Any]:
    """Read back what `encode_checksummed` gave, but for the digest.

    Raises:
        StoreError: it is not JSON, of another format, or was changed since; `name` says where.
    """
    try:
        value = json.loads(data)
        sealed = value.pop("digest")
        if value["format"] != FORMAT:
            raise StoreError(f"{name} has format {value['format']!r}; this version reads {FORMAT}")
        # The text without its digest is the text that was hashed: no need to write a large value out again, or copy it.
        written = b'"digest":%s,' % canonical_json(sealed)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(f"{name} is damaged, or not of a store: {error!r}") from error
    at = data.find(written)
    bare = hashlib.sha256(memoryview(data)[: max(at, 0)])
    bare.update(memoryview(data)[at + len(written) :])
    if at < 0 or bare.hexdigest() != sealed:
        raise StoreError(f"{name} was changed after it was written: its digest does not fit")
    return dict(value)
