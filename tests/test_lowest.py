"""The lowest versions that pyproject.toml allows, as constraints for pip."""

from __future__ import annotations

import pytest
from lowest import PYPROJECT, lowest


def requirements(*wanted: str, **extras: list[str]) -> str:
    lines = ["[project]", f"dependencies = {list(wanted)!r}", "[project.optional-dependencies]"]
    return "\n".join([*lines, *(f"{name} = {extra!r}" for name, extra in extras.items())])


def test_every_bound_is_a_constraint_and_of_several_the_highest() -> None:
    text = requirements("zarr>=3.1.6", "dask[array]>=2025.7", "av>=9", dev=["mypy", "av>=17", "av>=16.9"])
    assert lowest(text) == ["av==17", "dask==2025.7", "zarr==3.1.6"]


@pytest.mark.parametrize(
    "requirement", ["torch~=2.10", "torch>=2.10,<3", "torch==2.10", "torch>=2.10; extra"]
)
def test_what_is_no_lower_bound_is_not_passed_over(requirement: str) -> None:
    with pytest.raises(ValueError, match="torch"):
        lowest(requirements(requirement))


def test_ours_names_each_package_that_is_imported() -> None:
    names = {line.partition("==")[0] for line in lowest(PYPROJECT.read_text())}
    assert {"torch", "numpy", "av", "zarr", "dask", "distributed", "click"} <= names
