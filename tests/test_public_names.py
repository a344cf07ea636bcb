"""What a user imports: short, lazy, and the same whatever was imported before."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
import tomllib

import pytest
from places import ROOT

# Package → names that the documentation promises; a capital begins a class, a small letter a function.
PROMISED = {
    "faster.extract": ["extract", "ExtractConfig"],
    "faster.extract.train_backbone": ["train_backbone", "TrainBackboneConfig"],
    "faster.store": ["open", "Store"],
    "faster.aggregate": [
        "Aggregator",
        "SweepConfig",
        "TrainConfig",
        "evaluate",
        "load_run",
        "run_sweep",
        "train_agg",
        "write_report",
    ],
    "faster.predict": ["Prediction", "Predictor"],
}
LAZY = [package for package in PROMISED if package != "faster.store"]

# One child that has imported what takes long; each order is a fork of it, in which no module of ours was imported.
# The store's package, which all others import, is first, second, … in turn.
IN_EVERY_ORDER = """
import importlib, inspect, itertools, os, pkgutil, sys
import av, click, dask, matplotlib.figure, numpy, safetensors.torch, torch.export, tqdm, zarr
assert not [name for name in sys.modules if name.split(".")[0] == "faster"]

def submodules(packages):
    for package in packages:
        for found in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
            importlib.import_module(found.name)

def check(packages, submodules_first, backwards):
    if submodules_first:
        submodules(packages)
    found = {}
    for package in packages:
        for name in sorted(importlib.import_module(package).__all__, reverse=backwards):
            space = {}
            exec(f"from {package} import {name}", space)
            value = found[package, name] = space[name]
            kind = inspect.isclass if name[0].isupper() else inspect.isfunction
            assert kind(value) and value.__name__ == name, (package, name, value)
            assert value.__module__.startswith("faster."), (package, name, value)
    submodules(packages)  # what they bring changes none of the names
    for (package, name), value in found.items():
        assert getattr(sys.modules[package], name) is value, (package, name)

for index, order in enumerate(itertools.permutations(sys.argv[2:])):
    order = (*order[:index % 5], sys.argv[1], *order[index % 5:])
    child = os.fork()
    if not child:
        code = 1
        try:
            check(order, index % 2, index // 2 % 2)
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"in the order {order}, submodules first: {index % 2}, backwards: {index // 2 % 2}")
"""


def test_public_names_are_classes_and_functions_in_every_order_of_import() -> None:
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_EVERY_ORDER, "faster.store", *LAZY],
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr


@pytest.mark.parametrize("package", PROMISED)
def test_what_the_documentation_promises_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert set(PROMISED[package]) <= set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize("package", PROMISED)
def test_no_public_name_is_a_submodules(package: str) -> None:
    """`from package import name` would give one or the other, by what was imported before."""
    module = importlib.import_module(package)
    folder = ROOT.joinpath(*package.split(".")[1:])
    submodules = {file.stem for file in folder.glob("*.py")} | {
        file.parent.name for file in folder.glob("*/__init__.py")
    }
    assert not submodules & set(module.__all__)


@pytest.mark.parametrize("package", LAZY)
def test_type_checkers_see_the_names_that_the_package_gives(package: str) -> None:
    module = importlib.import_module(package)
    tree = ast.parse(inspect.getsource(module))
    (checking,) = (
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.name: f".{node.module}"
        for node in checking.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == module._MODULES and sorted(seen) == sorted(module.__all__)


@pytest.mark.parametrize("package", ["faster", *LAZY])
def test_importing_a_package_imports_none_of_its_modules(package: str) -> None:
    code = f"import {package}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    own = {name for name in loaded.split() if name.split(".")[0] == "faster"}
    parents = {package.rsplit(".", count)[0] for count in range(package.count(".") + 1)}
    assert own <= {*parents, "faster", "faster.runtime", "faster.runtime.lazy"}
    assert not {"torch", "numpy", "zarr", "click"} & set(loaded.split())


def test_the_wheel_says_that_the_package_is_typed() -> None:
    assert (ROOT / "py.typed").read_text() == ""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["package-dir"] == {"faster": "."}  # so that py.typed lies beside __init__.py
    assert "py.typed" in setuptools["package-data"]["faster"]
