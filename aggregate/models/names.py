"""The aggregators' names and the place of each class, without torch."""

from __future__ import annotations

from ...errors import UsageError
from ...terminal.suggest import did_you_mean

# Aggregator → its module in this folder, and its class there.
CLASSES = {
    "attentive-probe": ("pooling.attentive_probe", "AttentiveProbe"),
    "average": ("pooling.average", "Average"),
    "concat": ("recurrent.concat", "Concat"),
    "fast-gru": ("recurrent.fast_gru", "FastGRU"),
    "gru": ("recurrent.gru", "GRU"),
    "lstm": ("recurrent.lstm", "LSTM"),
    "max-pool": ("pooling.max_pool", "MaxPool"),
    "netvlad": ("pooling.netvlad", "NetVLAD"),
    "temporal-conv": ("pooling.temporal_conv", "TemporalConv"),
    "tsn": ("pooling.tsn", "TSN"),
}
AGGREGATORS = tuple(CLASSES)


def unknown(name: str, known: tuple[str, ...] | list[str]) -> UsageError:
    """Return the error for an unknown aggregator name."""
    return UsageError(
        f"no aggregator is called {name!r}; known: {', '.join(sorted(known))}{did_you_mean(name, known)}"
    )
