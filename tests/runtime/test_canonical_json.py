"""The forms of JSON on disk are these bytes, and what does not fit its type is told in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from faster.runtime.canonical_json import (
    Count,
    as_json_types,
    canonical_json,
    digest,
    indented_json,
    json_lines,
    read_as,
)

VALUE = {"b": (1, 2.0), "a": "ü", "n": None}


def test_each_form_has_its_bytes() -> None:
    assert canonical_json(VALUE) == '{"a":"ü","b":[1,2.0],"n":null}'.encode()
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert indented_json({"b": [1], "a": "ü"}) == '{\n  "b": [\n    1\n  ],\n  "a": "ü"\n}'.encode()
    assert indented_json({"a": 1}, indent=1) == b'{\n "a": 1\n}'
    assert json_lines([{"a": "ü"}, {}]) == '{"a": "ü"}\n{}\n'.encode()
    assert json_lines([{"a": "ü"}], ascii_only=True) == b'{"a": "\\u00fc"}\n'
    assert as_json_types(VALUE) == {"b": [1, 2.0], "a": "ü", "n": None}
    with pytest.raises(ValueError, match="not JSON compliant"):
        indented_json(float("nan"), allow_nan=False)


@dataclass(frozen=True, kw_only=True)
class Inner:
    shape: tuple[Count, ...]


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner
    share: float = 0.5
    by_name: Mapping[str, Count] | None = None


def value(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "inner": {"shape": [1, 2]}, **changes}


def test_a_value_that_fits_becomes_its_type() -> None:
    read = read_as(Outer, value(share=1, by_name={"x": 3}, newer=1))
    assert read == Outer(name="a", inner=Inner(shape=(1, 2)), share=1.0, by_name={"x": 3})
    assert isinstance(read.share, float)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": 3}, "name: Expected `str`, got `int`, found 3"),
        ({"inner": {"shape": [1, -2]}}, "inner.shape[1]: Expected `int` >= 0, found -2"),
        ({"inner": {"shape": [True]}}, "inner.shape[0]: Expected `int`, got `bool`, found True"),
        ({"inner": {"shape": [1.0]}}, "inner.shape[0]: Expected `int`, got `float`, found 1.0"),
        ({"inner": {}}, "inner: Object missing required field `shape`"),
        ({"share": "x" * 99}, "share: Expected `float`, got `str`, found '" + "x" * 59),
        ({"by_name": {"a\nb": -1}}, "by_name[...]: Expected `int` >= 0"),
        ({"newer": 1}, "unknown keys ['newer']"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        read_as(Outer, value(**changes), refuse_unknown=True)


def test_what_is_no_object_is_told() -> None:
    with pytest.raises(ValueError, match=r"Expected `object`, got `array`, found \[1\]"):
        read_as(Outer, [1])
