"""#E:#C against the paper's words."""

from __future__ import annotations

import pytest
from faster.aggregate.data.pattern import Pattern
from faster.errors import UsageError


@pytest.mark.parametrize(
    ("text", "clips", "expected"),
    [
        ("1:7", 16, "EcccccccEccccccc"),
        ("1:3", 6, "EcccEc"),
        ("1:1", 5, "EcEcE"),
        ("2:3", 9, "EEcccEEcc"),
        ("2:3", 6, "EEcccE"),
        ("1:31", 8, "Eccccccc"),
        ("all-E", 3, "EEE"),
        ("all-C", 3, "ccc"),
        ("3:1", 1, "E"),
        ("0:1", 2, "cc"),
    ],
)
def test_which_clips_are_expensive(text: str, clips: int, expected: str) -> None:
    pattern = Pattern.parse(text)
    assert "".join("E" if e else "c" for e in pattern.expensive_mask(clips)) == expected
    assert pattern.counts(clips) == (expected.count("E"), expected.count("c"))


@pytest.mark.parametrize("text", ["1:7", "all-E", "all-C", "2:3"])
def test_text_round_trip(text: str) -> None:
    assert str(Pattern.parse(text)) == text
    assert Pattern.parse(text.upper()) == Pattern.parse(text)


def test_any_is_a_pattern_where_it_is_allowed_and_takes_both_models() -> None:
    drawn = Pattern.parse("any", "any")
    assert drawn.drawn and str(drawn) == "any" and all(drawn.counts(2))
    with pytest.raises(UsageError, match="1:7"):
        Pattern.parse("any")


@pytest.mark.parametrize(("text", "same"), [("3:0", "all-E"), ("0:2", "all-C")])
def test_patterns_of_one_kind_are_one_pattern(text: str, same: str) -> None:
    assert Pattern.parse(text) == Pattern.parse(same)


@pytest.mark.parametrize(
    "text", ["", "1", "1:", ":7", "1:7:1", "-1:7", "1.5:2", "0:0", "a:b", "all", "1 : 7", "१:७"]
)
def test_bad_patterns_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="1:7"):
        Pattern.parse(text)


@pytest.mark.parametrize(
    ("clips", "pattern", "expensive"), [(32, "1:31", 1), (32, "1:15", 2), (16, "1:7", 2), (8, "1:1", 4)]
)
def test_table_4_counts(clips: int, pattern: str, expensive: int) -> None:
    assert Pattern.parse(pattern).counts(clips) == (expensive, clips - expensive)
