"""The aggregators' names, without torch. Each is of the module `aggregate.<name with _ for ->`, which registers it."""

from __future__ import annotations

from ..errors import UsageError
from ..suggest import did_you_mean

AGGREGATORS = (
    "attentive-probe",
    "average",
    "concat",
    "fast-gru",
    "gru",
    "lstm",
    "max-pool",
    "netvlad",
    "temporal-conv",
    "tsn",
)


def unknown(name: str, known: tuple[str, ...] | list[str]) -> UsageError:
    """For a name that no aggregator has."""
    return UsageError(
        f"no aggregator is called {name!r}; known: {', '.join(sorted(known))}{did_you_mean(name, known)}"
    )
