"""Numbers as people write them."""

from __future__ import annotations

import pytest
from faster.terminal.text import agreeing, counted, sized


@pytest.mark.parametrize(("count", "said"), [(0, "0 shards"), (1, "1 shard"), (240_000, "240,000 shards")])
def test_counted(count: int, said: str) -> None:
    assert counted(count, "shard") == said


def test_plurals_and_verbs_that_add_no_s() -> None:
    assert (
        counted(1, "class", "classes") == "1 class" and counted(2_000, "class", "classes") == "2,000 classes"
    )
    assert [agreeing(count, "takes", "take") for count in (0, 1, 2)] == ["take", "takes", "take"]


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [(0, "0.0 kB"), (524_288, "524.3 kB"), (6_422_528, "6.4 MB"), (3.0821e12, "3,082.1 GB")],
)
def test_sized(size_bytes: float, said: str) -> None:
    assert sized(size_bytes) == said
