"""What a file of pickled objects holds, without making any of them; and how its tensors are saved alone."""

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
LEGACY_PICKLES = 4  # a magic number, the protocol, the system, and then what was saved

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_REFUSED = re.compile(r"\bGLOBAL ([\w.]+)")  # in what torch says
_OF_TENSORS = re.compile(r"(torch\.(_utils\.|[A-Za-z0-9]+Storage$|[a-z0-9]+$|Size$)|collections\.)")


def other_objects(path: Path, refusal: str = "") -> list[str]:
    """Full names of the classes and functions that a file needs beside those of tensors, ascending; [] where none is known.

    The pickle's codes are read, and none is carried out. `refusal` is what torch said of the file.
    """
    names: set[str] = set()
    try:
        if zipfile.is_zipfile(path):
            names.update(get_unsafe_globals_in_checkpoint(path))
        elif path.suffix != ".safetensors":
            names.update(name for name in _legacy_globals(path) if not _OF_TENSORS.match(name))
    except Exception:  # a damaged file: torch's refusal says what it may
        names.clear()
    return sorted(names or _REFUSED.findall(refusal))


def _legacy_globals(path: Path) -> set[str]:
    """Of a file as PyTorch wrote it before 1.6: pickles one after the other."""
    names = set()
    with path.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            for code, argument, _place in pickletools.genops(file):
                if code.name == "GLOBAL":
                    names.add(str(argument).replace(" ", "."))
    return names


def saved_anew(path: Path, loaded: Any = None) -> str:
    """What to do: one command that saves the tensors alone; of what was `loaded` without running anything, in the same way."""
    plain = str(path.with_name(f"{path.stem}-tensors.pth"))
    inner = "lambda: d.get('state_dict', d.get('model', d))"
    if isinstance(loaded, Mapping) and (wrapped := _wrapped(loaded)):
        inner = f"lambda: d[{wrapped!r}]"
    code = (
        f"import torch; d = torch.load({str(path)!r}, 'cpu', weights_only={loaded is not None}); "
        f"d = getattr(d, 'state_dict', {inner})(); "
        f"torch.save({{k: v for k, v in d.items() if torch.is_tensor(v)}}, {plain!r})"
    )
    word = shlex.quote(code) if re.search(r'["$`\\!]', code) else f'"{code}"'
    trust = "" if loaded is not None else "if you trust the file, "
    return f"{trust}save its tensors alone: python -c {word}; then --weights {shlex.quote(plain)}"


def _wrapped(loaded: Mapping[Any, Any]) -> str | None:
    """The key under which most tensors lie, where they lie under a key."""
    counts = {
        key: sum(isinstance(tensor, Tensor) for tensor in value.values())
        for key, value in loaded.items()
        if isinstance(key, str) and isinstance(value, Mapping)
    }
    most = max(counts, key=lambda key: counts[key], default=None)
    return most if most is not None and counts[most] else None


def shown(loaded: Any) -> str:
    """What was read in place of a state dict, for a person."""
    if not isinstance(loaded, Mapping):
        return f"one {type(loaded).__name__}"
    others = [
        f"{name} ({type(value).__name__})" for name, value in loaded.items() if not isinstance(value, Tensor)
    ]
    tensors = len(loaded) - len(others)
    return " and ".join(([counted(tensors, "tensor")] if tensors else []) + [listed(others) or "nothing"])


def listed(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def reason_of(error: Exception) -> str:
    """The line of a reader's error that says what is wrong, without a terminal's codes and advice on how to trust."""
    text = _ESCAPES.sub("", str(error)).strip()
    _, mark, after = text.rpartition("WeightsUnpickler error: ")
    lines = after.splitlines()
    if mark and not (lines and lines[0].strip()):
        return "it is not what torch.save writes, or damaged"
    return lines[0].strip() if lines else type(error).__name__
