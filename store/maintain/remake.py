"""Build the commands that make removed shards again, from the store's provenance.

The stages that make maps know their own options. They pass them in as `Makers`, so the store need not know
them.
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
    """Functions of the stages that make maps; they return the stages' commands.

    Attributes:
        extract: (store, models whose maps were extracted) → commands, as lists of arguments.
        import_: (store, a model whose maps were imported, its provenance of the import) → command.
    """

    extract: Callable[[Store, Sequence[Features]], list[list[str]]]
    import_: Callable[[Store, Features, Mapping[str, Any]], list[str]]


def remaking_commands(store: Store, models: Iterable[tuple[str, int]], makers: Makers) -> tuple[str, ...]:
    """Return the commands that make the removed shards of some models again.

    A store does not record everything: the commands do not contain an annotation file that was the source, or
    options such as `--limit`. The store that maps were converted from is written as SOURCE.

    Args:
        store: the store.
        models: (name, clip frames) of the models.
        makers: build the commands of the other stages.

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
    """Return the encoding of the maps as options of the command that makes them."""
    return changed_options({"--dtype": (spec.dtype, "float16"), "--codec": (spec.codec, "none")})


def changed_options(values: Mapping[str, tuple[object, object]]) -> list[str]:
    """Return the options whose value is not the default."""
    return [
        text for name, (value, default) in values.items() if value != default for text in (name, str(value))
    ]
