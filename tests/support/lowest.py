"""pip constraints that hold every requirement of pyproject.toml to the lowest version that it allows: `make lowest`."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
_BOUND = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*>=\s*(?P<version>[0-9.]+)")


def lowest(pyproject: str) -> list[str]:
    """A line `name==version` for each requirement with a lower bound, the extras' too; the highest where it has several.

    Raises ValueError for a requirement of another form than `name[extra]>=version` or a bare name.
    """
    project = tomllib.loads(pyproject)["project"]
    wanted = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    found: dict[str, tuple[int, ...]] = {}
    for requirement in wanted:
        bound = _BOUND.fullmatch(requirement)
        if bound is None:
            if re.fullmatch(r"[A-Za-z0-9._-]+", requirement):
                continue  # any version will do
            raise ValueError(f"{requirement!r} is not of the form name>=version")
        version = tuple(int(part) for part in bound["version"].split("."))
        found[bound["name"]] = max(version, found.get(bound["name"], ()))
    return [f"{name}=={'.'.join(map(str, version))}" for name, version in sorted(found.items())]


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in lowest(PYPROJECT.read_text()))
