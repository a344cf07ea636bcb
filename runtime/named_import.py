"""Import a user's own function or class, given as `package.module:attribute`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError


def import_named(name: str, *, role: str, kind: str) -> Callable[..., object]:
    """Import the function or class `package.module:attribute`; the current folder is searched last.

    An error inside the module itself is not caught.

    Args:
        name: the user's text.
        role: its purpose, such as "model", for messages.
        kind: "function" or "class", for messages.

    Raises:
        UsageError: the module does not exist, or has no callable attribute of this name.
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
