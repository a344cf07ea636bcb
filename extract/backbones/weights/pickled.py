"""Inspect a file of pickled objects without creating any; advise how to save its tensors alone."""

from __future__ import annotations

import pickletools
import re
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from ....terminal.text import counted

MOST_NAMED = 4
LEGACY_PICKLES = 4  # magic number, protocol, system, and then the saved object

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_REFUSED = re.compile(r"\bGLOBAL ([\w.]+)")  # in torch's message
_OF_TENSORS = re.compile(r"(torch\.(_utils\.|[A-Za-z0-9]+Storage$|[a-z0-9]+$|Size$)|collections\.)")


def other_objects(path: Path, refusal: str = "") -> list[str]:
    """Return the full names of other classes and functions than tensors' that a file needs, ascending.

    [] if none is known. The pickle's opcodes are read and never executed. `refusal` is torch's error message
    for the file.
    """
    names: set[str] = set()
    try:
        if zipfile.is_zipfile(path):
            names.update(get_unsafe_globals_in_checkpoint(path))
        elif path.suffix != ".safetensors":
            names.update(name for name in _legacy_globals(path) if not _OF_TENSORS.match(name))
    except Exception:  # a damaged file: torch's message may still tell
        names.clear()
    return sorted(names or _REFUSED.findall(refusal))


def _legacy_globals(path: Path) -> set[str]:
    """Return the globals of a file in the format before PyTorch 1.6: pickles one after the other."""
    names = set()
    with path.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            for code, argument, _place in pickletools.genops(file):
                if code.name == "GLOBAL":
                    names.add(str(argument).replace(" ", "."))
    return names


def saved_anew(path: Path, loaded: Any = None) -> str:
    """Return the advice for the user: one command that saves the tensors alone.

    If `loaded` was read safely, the command reads the file in the same safe way.
    """
    target = str(path.with_name(f"{path.stem}-tensors.pth"))
    inner = "lambda: d.get('state_dict', d.get('model', d))"
    if isinstance(loaded, Mapping) and (wrapped := _wrapped(loaded)):
        inner = f"lambda: d[{wrapped!r}]"
    code = (
        f"import torch; d = torch.load({str(path)!r}, 'cpu', weights_only={loaded is not None}); "
        f"d = getattr(d, 'state_dict', {inner})(); "
        f"torch.save({{k: v for k, v in d.items() if torch.is_tensor(v)}}, {target!r})"
    )
    word = shlex.quote(code) if re.search(r'["$`\\!]', code) else f'"{code}"'
    trust = "" if loaded is not None else "if you trust the file, "
    return f"{trust}save its tensors alone: python -c {word}; then --weights {shlex.quote(target)}"


def _wrapped(loaded: Mapping[Any, Any]) -> str | None:
    """Return the key under which most tensors are; None if they are not under a key."""
    counts = {
        key: sum(isinstance(tensor, Tensor) for tensor in value.values())
        for key, value in loaded.items()
        if isinstance(key, str) and isinstance(value, Mapping)
    }
    most = max(counts, key=lambda key: counts[key], default=None)
    return most if most is not None and counts[most] else None


def shown(loaded: Any) -> str:
    """Describe, for a person, an object that was read instead of a state dict."""
    if not isinstance(loaded, Mapping):
        return f"one {type(loaded).__name__}"
    others = [
        f"{name} ({type(value).__name__})" for name, value in loaded.items() if not isinstance(value, Tensor)
    ]
    tensors = len(loaded) - len(others)
    return " and ".join(([counted(tensors, "tensor")] if tensors else []) + [listed(others) or "nothing"])


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def reason_of(error: Exception) -> str:
    """Return the line of a reader's error that gives the reason.

    Terminal codes and the advice to trust the file are removed.
    """
    text = _ESCAPES.sub("", str(error)).strip()
    _, mark, after = text.rpartition("WeightsUnpickler error: ")
    lines = after.splitlines()
    if mark and not (lines and lines[0].strip()):
        return "it is not what torch.save writes, or damaged"
    return lines[0].strip() if lines else type(error).__name__
