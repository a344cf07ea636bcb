"""Small JSON files with a digest that reveals any change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import StoreError
from ...runtime.canonical_json import canonical_json

FORMAT = 1


def encode_checksummed(value: Mapping[str, Any]) -> bytes:
    """Return a file's bytes: canonical JSON of the value and format, with a digest over both."""
    sealed = {"format": FORMAT, **value}
    # Some members are large: each one is encoded once and copied once.
    texts = {key: canonical_json(key) + b":" + canonical_json(item) for key, item in sealed.items()}
    bare = hashlib.sha256()
    for part in _parts(texts):
        bare.update(part)
    texts["digest"] = b'"digest":"%s"' % bare.hexdigest().encode()
    return b"".join(_parts(texts))


def _parts(texts: Mapping[str, bytes]) -> Iterator[bytes]:
    """Yield the canonical JSON of an object in pieces, from the encoded text of each member."""
    for place, key in enumerate(sorted(texts)):
        yield b"," if place else b"{"
        yield texts[key]
    yield b"}"


def decode_checksummed(data: bytes, *, name: str) -> dict[str, Any]:
    """Read back the value that `encode_checksummed` wrote, without the digest.

    Raises:
        StoreError: the data are not JSON, have another format, or were changed. `name` is the file to report.
    """
    try:
        value = json.loads(data)
        sealed = value.pop("digest")
        if value["format"] != FORMAT:
            raise StoreError(f"{name} has format {value['format']!r}; this version reads {FORMAT}")
        # The text without its digest is the text that was hashed: a large value is not encoded or copied
        # again.
        written = b'"digest":%s,' % canonical_json(sealed)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(f"{name} is damaged, or not of a store: {error!r}") from error
    at = data.find(written)
    bare = hashlib.sha256(memoryview(data)[: max(at, 0)])
    bare.update(memoryview(data)[at + len(written) :])
    if at < 0 or bare.hexdigest() != sealed:
        raise StoreError(f"{name} was changed after it was written: its digest does not fit")
    return dict(value)
