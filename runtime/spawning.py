"""Whether this program can start processes of its own, which import it again."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from ..errors import UsageError, one_line

GUARD = 'its own code under `if __name__ == "__main__":`'


def require_startable() -> None:
    """Make sure that processes which this program starts come up; told before the first of them.

    Raises:
        UsageError: the main program is no file that they could import, as with `python - <<END`; or a file of the
            current folder stands in the place of a module of Python's own that each of them begins with.
    """
    main = sys.modules.get("__main__")
    # `python -c` and notebooks have no file, and need none.
    path = str(getattr(main, "__file__", None) or "")
    if path.startswith("<") and getattr(main, "__spec__", None) is None:
        raise UsageError(
            "this program is read from standard input, and the processes that it starts have to read it too: save it as a "
            f"file, with {GUARD}, and run that"
        )
    here = Path.cwd()
    names = sys.stdlib_module_names & sys.modules.keys() - set(sys.builtin_module_names)
    places = [place for name in sorted(names) for place in (here / f"{name}.py", here / name / "__init__.py")]
    found = [place for place in places if place.is_file()]
    # Not each such file is in the way: what starting a process takes is tried.
    command = [sys.executable, "-c", "from multiprocessing import reduction, resource_tracker, spawn"]
    if found and subprocess.run(command, capture_output=True, check=False).returncode:
        raise UsageError(_advice(found))


def loaded_shadows() -> str | None:
    """Which files were imported in place of Python's own modules, and what to do; None where none was."""
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
        f"{shown} {'has the name' if one else 'have the names'} of Python's own module{'' if one else 's'}, and "
        f"{'is' if one else 'are'} imported in {'its' if one else 'their'} place; move or rename {'it' if one else 'them'}, "
        "or start from another folder"
    )
