"""What the pages say of this repository is so: files and modules that they name exist, and links lead somewhere."""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
from places import ROOT

PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("*.md"), *ROOT.glob(".github/**/*.md")])
HISTORY = "CHANGELOG.md"  # names what was, too
# Names of files that a page has its reader write, or that belong to others.
THE_READERS = {"my_nets.py", "my_agg.py", "signal.py"}
TOP = sorted(
    entry.name
    for entry in ROOT.iterdir()
    if entry.is_dir() and (entry / "__init__.py").is_file() and entry.name != "tests"
)
A_FILE = re.compile(r"(?<![\w/.~-])((?:[\w.-]+/)*[\w-]+\.(?:py|toml|cfg))(?![\w/])")
A_FOLDER = re.compile(rf"`((?:{'|'.join([*TOP, 'tests', 'benchmarks', 'docs'])})/(?:[\w-]+/)*)`")
A_NAME = re.compile(r"\bfaster((?:\.\w+)+)(?!\w)")
A_FROM_IMPORT = re.compile(r"^\s*from faster((?:\.\w+)*) import \(?([\w, ]+)", re.MULTILINE)
A_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
A_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")


@cache
def names_in(file: Path) -> frozenset[str]:
    """What a module defines, imports or lists at its top."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return frozenset(found)


def exists(dotted: str) -> bool:
    """Whether `.store.read.store.Store` is a module of the package, or what one of its modules holds."""
    place = ROOT
    steps = dotted.strip(".").split(".")
    for number, step in enumerate(steps):
        module = place / f"{step}.py"
        if (place / step / "__init__.py").is_file():
            place = place / step
            continue
        if module.is_file():
            rest = steps[number + 1 :]
            return not rest or rest[0] in names_in(module)
        return step in names_in(place / "__init__.py")
    return True


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != HISTORY], ids=lambda p: p.name)
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    absent = {
        name
        for name in A_FILE.findall(text)
        if name not in THE_READERS
        and not (ROOT / name).exists()
        and not any("/" not in name and path.name == name for path in ROOT.glob(f"*/**/{name}"))
    }
    absent |= {name for name in A_FOLDER.findall(text) if not (ROOT / name).is_dir()}
    stored = {"faster.spec", "faster.recorded"}  # attributes in a store
    for found in A_NAME.finditer(text):
        name = found[0]
        first = found[1].split(".")[1]
        if name not in stored and (first in TOP or (ROOT / f"{first}.py").is_file()) and not exists(found[1]):
            absent.add(name)
    for package, names in A_FROM_IMPORT.findall(text):
        absent |= {
            f"faster{package}.{name.strip()}"
            for name in names.split(",")
            if name.strip() and not exists(f"{package}.{name.strip()}")
        }
    assert not absent, f"{page.name} names what is not there: {sorted(absent)}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and the site give a page's headings."""
    found: set[str] = set()
    for heading in re.findall(
        r"^#{1,6} +(.+?)\s*$", A_FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE
    ):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number = 0
        while (name := slug if number == 0 else f"{slug}-{number}") in found:
            number += 1
        found.add(name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_pages_and_headings_that_exist(page: Path) -> None:
    text = CODE.sub("", A_FENCE.sub("", page.read_text(encoding="utf-8")))
    broken = []
    for link in ("".join(found) for found in A_LINK.findall(text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken, f"{page.name}: {broken}"


def test_every_page_stands_in_the_list_of_pages() -> None:
    """A page that nobody lists is on the site without a way to it."""
    listed = set(
        re.findall(r"^([\w-]+)$", (ROOT / "docs/index.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {page.stem for page in ROOT.glob("docs/*.md")} - {"index"} == listed


def test_the_version_is_the_same_everywhere() -> None:
    spec = importlib.util.spec_from_file_location("faster_version", ROOT / "__init__.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    version = module.__version__
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    first = re.search(r"^## (\S+)", (ROOT / HISTORY).read_text(encoding="utf-8"), re.MULTILINE)
    assert first and first[1] in (version, "Unreleased")
