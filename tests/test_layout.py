"""The house rules that nobody should have to remember."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from places import ROOT

PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]


def modules() -> list[Path]:
    folders = [ROOT / name.replace("faster", ".", 1).replace(".", "/") for name in PACKAGES]
    return sorted({file.resolve() for folder in folders for file in folder.glob("*.py")})


def imported(file: Path) -> set[str]:
    """Absolute names of what a module imports from its own package, wherever in the file."""
    package = ["faster", *file.relative_to(ROOT).parts[:-1]]
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            names |= {".".join([*base, alias.name]) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def test_every_package_folder_is_in_the_wheel() -> None:
    """A folder left out works when installed editable, and is missing from the wheel."""
    ignored = {"tests", "benchmarks", "build", "dist", "docs"}
    on_disk = {
        ".".join(["faster", *file.parent.relative_to(ROOT).parts])
        for file in ROOT.rglob("__init__.py")
        if not (set(file.relative_to(ROOT).parts) & ignored or any(p.startswith(".") for p in file.parts))
        and "site-packages" not in file.parts
    }
    assert on_disk == set(PACKAGES)


def test_the_stages_meet_only_at_the_store() -> None:
    rules = {"extract": {"aggregate"}, "aggregate": {"extract"}, "store": {"extract", "aggregate"}}
    for file in modules():
        stage = file.relative_to(ROOT).parts[0]
        for other in rules.get(stage, ()):
            crossing = {name for name in imported(file) if name.startswith(f"faster.{other}")}
            assert not crossing, f"{file.relative_to(ROOT)} imports {crossing}"


def test_modules_are_one_concept_long() -> None:
    long = {str(f.relative_to(ROOT)): n for f in modules() if (n := len(f.read_text().splitlines())) > 600}
    assert not long


@pytest.mark.parametrize(
    "module",
    [
        "store",
        "cli",
        "extract.commands",
        "aggregate.commands",
        "predict.commands",
        "costs.commands",
        "demo.commands",
        "exchange.commands",
    ],
)
def test_naming_a_command_or_opening_a_store_does_not_import_torch(module: str) -> None:
    code = f"import faster.{module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
