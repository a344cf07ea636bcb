"""torchvision, timm and transformers for tests: the real one where it is installed, else a stand-in of its layout.

A stand-in has the classes, attribute names and forward passes that the library documents, at a small size, and random
weights. It shows that an adapter follows that layout, and not that a release still has it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

STANDINS = Path(__file__).with_name("standins")


def use_library(name: str, monkeypatch: pytest.MonkeyPatch, *, stand_in: bool = False) -> ModuleType:
    """The library, importable until the test ends; `stand_in` takes the small one even where there is a real one."""
    if not stand_in:
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    _forget(name, monkeypatch)
    monkeypatch.syspath_prepend(STANDINS / name)
    module = importlib.import_module(name)
    for key in [key for key in sys.modules if key.partition(".")[0] == name]:
        # Set by monkeypatch, so that it is taken out again.
        monkeypatch.setitem(sys.modules, key, sys.modules.pop(key))
    return module


def hide_library(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it a library that is not installed, until the test ends."""
    _forget(name, monkeypatch)
    monkeypatch.setitem(sys.modules, name, None)


def _forget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in [key for key in sys.modules if key.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, key)
