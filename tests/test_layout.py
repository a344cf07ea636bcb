"""The house rules that nobody should have to remember."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from places import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PYPROJECT["tool"]["setuptools"]["packages"]

# From top to bottom; a room imports only from those below its own line.
ORDER = (
    ("cli",),
    ("demo",),
    ("costs", "predict", "exchange"),
    ("aggregate", "extract"),
    ("store", "training"),
    ("runtime",),
    ("terminal",),
    ("errors",),
)
FOLDER_MAX = 12
# More than twelve modules in a folder, and why; never more than fourteen.
FULL_FOLDERS = {
    "extract/video": "each module is one part of the way from a file to clips",
    "runtime": "small modules of the ground floor that have nothing in common but that all stages use them",
}
MODULE_MAX, TEST_MAX = 350, 500
# Longer than that, and by how much; the list can only shrink.
LONG: dict[str, int] = {}


@cache
def modules() -> dict[str, Path]:
    """The product's modules by name."""
    folders = [ROOT.joinpath(*name.split(".")[1:]) for name in PACKAGES]
    files = sorted({file.resolve() for folder in folders for file in folder.glob("*.py")})
    return {
        ".".join(["faster", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): file
        for file in files
    }


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports of its own package, wherever in the file: at the top, in a function, for its types."""
    found: dict[str, set[str]] = {}
    for name, file in modules().items():
        package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
        named: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:  # a module of the package, or a name in it
                    whole = f"{base}.{alias.name}"
                    named.add(whole if whole in modules() else base)
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
        found[name] = named & modules().keys()
    return found


def reached(start: str) -> dict[str, str]:
    """Every module that one leads to, with the one that imports it."""
    by: dict[str, str] = {}
    waiting = [start]
    while waiting:
        module = waiting.pop()
        for other in imports()[module]:
            if other not in by:
                by[other] = module
                waiting.append(other)
    return by


def way(by: dict[str, str], start: str, end: str) -> str:
    """The imports that lead from one module to another, for the message."""
    steps = [end]
    while steps[-1] != start or len(steps) == 1:
        steps.append(by[steps[-1]])
    return " → ".join(reversed(steps))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_package_folder_is_in_the_wheel() -> None:
    """A folder left out works when installed editable, and is missing from the wheel."""
    ignored = {"tests", "benchmarks", "build", "dist", "docs"}
    on_disk = {
        ".".join(["faster", *file.parent.relative_to(ROOT).parts])
        for file in [*ROOT.rglob("__init__.py"), *ROOT.rglob("templates/*.html")]
        if not (set(file.relative_to(ROOT).parts) & ignored or any(p.startswith(".") for p in file.parts))
        and "site-packages" not in file.parts
    }
    assert on_disk == set(PACKAGES)


def test_every_file_beside_the_modules_is_in_the_wheel() -> None:
    folders = {package: ROOT.joinpath(*package.split(".")[1:]) for package in PACKAGES}
    in_wheel = {
        file
        for package, patterns in PYPROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for file in folders[package].glob(pattern)
    }
    rooms = {file for folder in folders.values() if folder != ROOT for file in folder.rglob("*.*")}
    assert {file for file in rooms if file.suffix not in (".py", ".pyc")} == in_wheel - {ROOT / "py.typed"}


def test_the_package_imports_nothing_that_only_developers_install() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"] | {"": PYPROJECT["project"]["dependencies"]}
    names = {extra: {re.split(r"[\[>]", one)[0] for one in wanted} for extra, wanted in extras.items()}
    only = names.pop("dev").difference(*names.values())
    assert "pytest" in only
    imported = re.compile(rf"^\s*(?:import|from) (?:{'|'.join(only)})\b", re.MULTILINE)
    assert not [name for name, file in modules().items() if imported.search(file.read_text())]


def test_every_room_imports_from_those_below_it() -> None:
    level = {name: number for number, names in enumerate(ORDER) for name in names}
    assert {room(module) for module in modules()} - {""} == set(level)
    wrong = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if room(module) and room(other) and room(module) != room(other)
        if level[room(module)] >= level[room(other)]
    ]
    assert not wrong


def test_no_import_leads_back_to_its_module() -> None:
    circles = [way(by, module, module) for module in modules() if module in (by := reached(module))]
    assert not circles


@pytest.mark.parametrize(
    ("start", "other"),
    [
        ("extract", "aggregate"),
        ("aggregate", "extract"),
        ("store", "extract"),
        ("store", "aggregate"),
        ("store", "training"),
    ],
)
def test_the_stages_meet_only_at_the_store(start: str, other: str) -> None:
    crossings = [
        way(by, module, end)
        for module in modules()
        if room(module) == start
        for by in [reached(module)]
        for end in by
        if room(end) == other
    ]
    assert not crossings


def test_the_imports_are_all_found() -> None:
    """Of each form one that is there: relative, of a module and of a name in it, in a function, for types only."""
    assert {"faster.errors", "faster.aggregate.models.base", "faster.aggregate.models.names"} <= imports()[
        "faster.aggregate.models.registry"
    ]
    assert "faster.store" in imports()["faster.extract.pipeline.stages"]
    assert "faster.extract.backbones.adapters" in imports()["faster.extract.backbones.registry"]
    assert "faster.extract.backbones.adapters" in imports()["faster.extract.backbones.libraries.registry"]


def test_the_root_and_the_folders_can_be_overlooked() -> None:
    root = {file.name for file in modules().values() if file.parent == ROOT}
    assert root == {"__init__.py", "cli.py", "errors.py"}
    counts: dict[str, int] = defaultdict(int)
    for file in modules().values():
        counts[file.parent.relative_to(ROOT).as_posix()] += file.name != "__init__.py"
    assert {folder: n for folder, n in counts.items() if n > FOLDER_MAX}.keys() == FULL_FOLDERS.keys()
    assert all(counts[folder] <= 14 for folder in FULL_FOLDERS)


def test_modules_are_one_concept_long() -> None:
    limits = dict.fromkeys(modules().values(), MODULE_MAX)
    limits |= dict.fromkeys((ROOT / "tests").rglob("*.py"), TEST_MAX)
    lines = {file.relative_to(ROOT).as_posix(): len(file.read_text().splitlines()) for file in limits}
    long = {name for (name, n), limit in zip(lines.items(), limits.values(), strict=True) if n > limit}
    assert long == LONG.keys()
    assert all(lines[name] <= LONG[name] for name in LONG), "it has grown"


def test_a_public_name_stands_for_one_thing() -> None:
    """Classes, and other names of types; the same words for the same type may be written twice."""
    meanings: dict[str, set[str]] = defaultdict(set)
    for module, file in modules().items():
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name[0] != "_":
                meanings[node.name].add(module)
            elif isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name):
                text = ast.unparse(node.value)
                if target.id[0].isupper() and not target.id.isupper() and not text.startswith("TypeVar("):
                    meanings[target.id].add(text)
    assert {name: sorted(there) for name, there in meanings.items() if len(there) > 1} == {}


def test_a_public_name_is_no_submodule() -> None:
    """The import of a submodule sets its name in the package, and would put the module in the other's place."""
    for package, file in modules().items():
        if file.name != "__init__.py":
            continue
        public: set[str] = set()
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                public |= set(ast.literal_eval(node.value))
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                public.add(node.name)
        assert not {name for name in public if f"{package}.{name}" in modules()}, package


def test_a_store_needs_no_torch() -> None:
    names = [name for name in modules() if room(name) == "store"]
    code = f"import sys; sys.modules['torch'] = None; import {', '.join(names)}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
    slow = {"torch", "matplotlib", "jinja2"}
    code = f"import faster.{module}, sys; sys.exit(not sys.modules.keys().isdisjoint({slow}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
