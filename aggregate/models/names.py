"""The aggregators' names, and the modules that register them, without torch."""

from __future__ import annotations

from ...errors import UsageError
from ...terminal.suggest import did_you_mean

# Aggregator → its module in this folder.
MODULES = {
    "attentive-probe": "pooling.attentive_probe",
    "average": "pooling.average",
    "concat": "recurrent.concat",
    "fast-gru": "recurrent.fast_gru",
    "gru": "recurrent.gru",
    "lstm": "recurrent.lstm",
    "max-pool": "pooling.max_pool",
    "netvlad": "pooling.netvlad",
    "temporal-conv": "pooling.temporal_conv",
    "tsn": "pooling.tsn",
}
AGGREGATORS = tuple(MODULES)


def unknown(name: str, known: tuple[str, ...] | list[str]) -> UsageError:
    """For a name that no aggregator has."""
    return UsageError(
        f"no aggregator is called {name!r}; known: {', '.join(sorted(known))}{did_you_mean(name, known)}"
    )
