"""Which commands make a store's shards again, once they were removed: told from what the store knows of their making.

The stages that make maps know their own options; they hand them in as `Makers`, so that the store knows none of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..format.spec import FeatureSpec
from ..read.features import Features
from ..read.store import Store


@dataclass(frozen=True, kw_only=True)
class Makers:
    """How the stages that make maps say their commands.

    Attributes:
        extract: from a store and the models whose maps were extracted to the commands, as words.
        import_: from a store, a model whose maps were imported, and what its provenance says of that, to the command.
    """

    extract: Callable[[Store, Sequence[Features]], list[list[str]]]
    import_: Callable[[Store, Features, Mapping[str, Any]], list[str]]


def remaking_commands(store: Store, models: Iterable[tuple[str, int]], makers: Makers) -> tuple[str, ...]:
    """The commands that make the removed shards of some models again.

    A store does not tell everything: an annotation file that was the source, or options such as `--limit`, are not in
    them, and the store that maps were converted from stands as SOURCE.

    Args:
        store: the store.
        models: (name, clip frames) of the models.
        makers: how the stages say their commands.

    Raises:
        StoreError: the store does not hold such a model.
    """
    commands: list[list[str]] = []
    extracted: list[Features] = []
    for key in sorted(set(models)):
        features = store.features(*key)
        recorded, spec = features.provenance, features.spec
        if "converted_from" in recorded:
            model = ["--model", spec.model, *encoding_arguments(spec)]
            commands.append(["faster", "convert", "SOURCE", str(store.path), *model])
        elif isinstance(imported := recorded.get("imported"), Mapping):
            commands.append(makers.import_(store, features, imported))
        else:
            extracted.append(features)
    commands += makers.extract(store, extracted)
    return tuple(shlex.join(command) for command in commands)


def encoding_arguments(spec: FeatureSpec) -> list[str]:
    """How the maps are encoded, as options of the command that makes them."""
    return changed_options({"--dtype": (spec.dtype, "float16"), "--codec": (spec.codec, "none")})


def changed_options(values: Mapping[str, tuple[object, object]]) -> list[str]:
    """Those whose value is not the default."""
    return [
        text for name, (value, default) in values.items() if value != default for text in (name, str(value))
    ]
