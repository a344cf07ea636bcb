"""Small JSON files that show every change: canonical text, its digest, and the file that holds both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ..errors import StoreError

FORMAT = 1


def canonical_json(value: object) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8. What is hashed is hashed from this."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: object) -> str:
    """SHA-256 of the value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


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
        # The text without its digest is the text that was hashed: no need to write a large value out again.
        bare = data.replace(b'"digest":%s,' % canonical_json(sealed), b"", 1)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(f"{name} is damaged, or not of a store: {error!r}") from error
    if hashlib.sha256(bare).hexdigest() != sealed:
        raise StoreError(f"{name} was changed after it was written: its digest does not fit")
    return dict(value)
