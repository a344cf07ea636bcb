"""What a user names as `package.module:attribute`: a function or class of their own, imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError


def import_named(name: str, *, role: str, kind: str) -> Callable[..., object]:
    """The function or class that `package.module:attribute` names; modules of the current folder are found last.

    An error inside the module itself is the module's own and passes through.

    Args:
        name: what the user wrote.
        role: what it is to be, such as "model". kind: what the attribute is, "function" or "class". Both are for messages.

    Raises:
        UsageError: the module, or something in it that can be called by this name, does not exist.
    """
    module_name, _, attribute = name.partition(":")
    form = f"the form is package.module:{kind}"
    if not module_name or not attribute:
        raise UsageError(f"{role} {name!r}: {form}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # a console script does not have it; last, so that it shadows nothing
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise UsageError(f"{role} {name!r}: no module {error.name!r} here or installed; {form}") from error
    found: Callable[..., object] | None = getattr(module, attribute, None)
    if not callable(found):
        raise UsageError(f"{role} {name!r}: module {module_name!r} has no {kind} {attribute!r}")
    return found
