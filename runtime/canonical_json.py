"""JSON on disk: the forms of writing it, and reading it into checked values.

The bytes of each form never change, because digests are computed over them, and files are compared by them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

Checked = TypeVar("Checked")

Positive = Annotated[int, Meta(ge=1, le=2**62)]
Count = Annotated[int, Meta(ge=0, le=2**62)]
UInt31 = Annotated[int, Meta(ge=0, le=2**31 - 1)]
UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def canonical_json(value: object) -> bytes:
    """Return the unique JSON text of a value, for hashing: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: object) -> str:
    """Return the SHA-256 of the value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def indented_json(value: object, *, indent: int = 2, allow_nan: bool = True) -> bytes:
    """Return JSON for people and programs: keys in the order given, UTF-8, no newline at the end."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=allow_nan).encode()


def json_lines(values: Iterable[object], *, ascii_only: bool = False) -> bytes:
    """Return one JSON text per line, keys in the order given; `ascii_only` escapes all other characters."""
    return "".join(json.dumps(value, ensure_ascii=ascii_only) + "\n" for value in values).encode()


def as_json_types(value: object) -> Any:
    """Return the value as it would come back from a JSON file: tuples are lists, keys are text."""
    return json.loads(json.dumps(value))


def read_as(kind: type[Checked], value: object, *, refuse_unknown: bool = False) -> Checked:
    """Convert JSON types to a dataclass, a `msgspec.Struct` or another type, checked against its annotations.

    Args:
        kind: the target type; its fields' types say what is allowed, also as `Annotated[int, Meta(ge=0)]`.
            Types are not converted, except an integer to a float, and a list to a tuple or set.
        value: the result of `json.loads`.
        refuse_unknown: raise an error for a key that is not a field of the dataclass; else ignore it.

    Raises:
        ValueError: one line with the key, the allowed type, and the value found.
    """
    if refuse_unknown and isinstance(value, dict):
        known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
        if unknown := sorted(set(value) - known):
            raise ValueError(f"unknown keys {unknown}"[:200])
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_told(str(error), value)) from error


def _told(message: str, value: object) -> str:
    """Return the library's message with the key before it and the found value after it."""
    expected, _, place = message.partition(" - at `$")
    place = place.removesuffix("`")
    found, steps = value, _STEP.findall(place)
    try:
        for key, index in steps:
            found = found[key] if key else found[int(index)]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):  # for a mapping, the library does not name the key
        return f"{place.lstrip('.')}: {expected}"
    key = f"{place.lstrip('.')}: " if steps else ""
    shown = "" if isinstance(found, dict) else f", found {found!r:.60}"
    return f"{key}{expected}{shown}"
