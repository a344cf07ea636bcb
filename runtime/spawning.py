"""Check whether this program can start processes, which import it again."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from ..errors import UsageError, one_line

GUARD = 'its own code under `if __name__ == "__main__":`'


def require_startable() -> None:
    """Check, before the first process, that processes of this program can start.

    Raises:
        UsageError: they cannot import the main program, as with `python - <<END`; or a file of the current
            folder shadows a module of Python itself that they need at their start.
    """
    main = sys.modules.get("__main__")
    # `python -c` and notebooks have no file, and need none.
    path = str(getattr(main, "__file__", None) or "")
    if path.startswith("<") and getattr(main, "__spec__", None) is None:
        raise UsageError(
            "this program is read from standard input, and the processes that it starts have to read it too: "
            f"save it as a file, with {GUARD}, and run that"
        )
    here = Path.cwd()
    names = sys.stdlib_module_names & sys.modules.keys() - set(sys.builtin_module_names)
    places = [place for name in sorted(names) for place in (here / f"{name}.py", here / name / "__init__.py")]
    found = [place for place in places if place.is_file()]
    # Not every such file is a problem, so try the start of a process.
    command = [sys.executable, "-c", "from multiprocessing import reduction, resource_tracker, spawn"]
    if found and subprocess.run(command, capture_output=True, check=False).returncode:
        raise UsageError(_advice(found))


def loaded_shadows() -> str | None:
    """Return a message about files that were imported instead of Python's own modules, or None."""
    own = Path(sysconfig.get_path("stdlib")).resolve()
    folders = {Path(entry or ".").resolve() for entry in [*sys.path[:1], ""]} - {own}
    files = {
        Path(file).resolve()
        for name in sys.stdlib_module_names
        if (file := getattr(sys.modules.get(name), "__file__", None))
    }
    found = [
        file
        for file in sorted(files)
        if (file.parent if file.name == "__init__.py" else file).parent in folders
    ]
    return _advice(found) if found else None


def _advice(found: list[Path]) -> str:
    shown = ", ".join(one_line(str(path)) for path in found[:3]) + (", …" if found[3:] else "")
    one = len(found) == 1
    return (
        f"{shown} {'has the name' if one else 'have the names'} of Python's own module{'' if one else 's'}, "
        f"and {'is' if one else 'are'} imported in {'its' if one else 'their'} place; "
        f"move or rename {'it' if one else 'them'}, or start from another folder"
    )
