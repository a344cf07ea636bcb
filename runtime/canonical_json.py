"""JSON on disk: the forms in which it is written, and how what is read becomes a checked value.

The bytes of a form never change: digests are counted over them, and files are compared by them.
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
    """The one JSON text of a value: sorted keys, no spaces, UTF-8. What is hashed is hashed from this."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: object) -> str:
    """SHA-256 of the value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def indented_json(value: object, *, indent: int = 2, allow_nan: bool = True) -> bytes:
    """JSON for people and programs: keys in the order given, UTF-8, no newline at the end."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=allow_nan).encode()


def json_lines(values: Iterable[object], *, ascii_only: bool = False) -> bytes:
    """One JSON text a line, keys in the order given; `ascii_only` escapes every other letter."""
    return "".join(json.dumps(value, ensure_ascii=ascii_only) + "\n" for value in values).encode()


def as_json_types(value: object) -> Any:
    """The value as it comes back from a JSON file: tuples are lists, keys are text."""
    return json.loads(json.dumps(value))


def read_as(kind: type[Checked], value: object, *, refuse_unknown: bool = False) -> Checked:
    """A value of JSON types as a dataclass, a `msgspec.Struct` or another type, checked against its annotations.

    Args:
        kind: its fields' types say what is allowed, also as `Annotated[int, Meta(ge=0)]`. No type is converted into
            another, but for a whole number where a float belongs, and a list where a tuple or set does.
        value: what `json.loads` gave.
        refuse_unknown: whether a key that is no field of the dataclass is an error; else it is left out.

    Raises:
        ValueError: in one line the key, what is allowed there, and what was found.
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
    """The library's message with the key in front, and what was found behind it."""
    expected, _, place = message.partition(" - at `$")
    place = place.removesuffix("`")
    found, steps = value, _STEP.findall(place)
    try:
        for key, index in steps:
            found = found[key] if key else found[int(index)]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):  # of a mapping the library does not say under which key
        return f"{place.lstrip('.')}: {expected}"
    key = f"{place.lstrip('.')}: " if steps else ""
    shown = "" if isinstance(found, dict) else f", found {found!r:.60}"
    return f"{key}{expected}{shown}"
