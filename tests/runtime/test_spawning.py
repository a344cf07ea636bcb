"""Programs whose processes could not start: what it is, and what to do, before any work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from faster.extract.video.decoder_pool import DecoderPool
from faster.predict.clip_stream import ClipRequest, ClipStream
if __name__ == "__main__":
    with DecoderPool(1, shape=(1, 1, 1, 1, 3), slots=1):
        print("a pool")
"""
VERIFY = """
import sys
from faster.runtime.fan_out import map_units
if __name__ == "__main__":
    print("found", map_units(abs, [-1, -2], workers=2, what_is_kept="all"))
"""


def ended(*command: str, program: str | None = None, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], input=program, capture_output=True, text=True, cwd=cwd, timeout=120
    )


@pytest.mark.parametrize("program", [PROGRAM, VERIFY], ids=["decoders", "processes"])
def test_a_program_from_standard_input_is_told_to_be_saved(program: str, tmp_path: Path) -> None:
    for arguments in ([], ["-"]):
        result = ended(*arguments, program=program, cwd=tmp_path)
        last = result.stderr.splitlines()[-1]
        assert result.returncode == 1 and "save it as a file" in last and "standard input" in last, last
        assert 'if __name__ == "__main__"' in last


def test_where_no_file_is_needed_processes_start(tmp_path: Path) -> None:
    """`python -c`, a notebook (its main module has no file), a script, and a module by its name."""
    (tmp_path / "script.py").write_text(VERIFY)
    notebook = "import __main__; assert not hasattr(__main__, '__file__')\n"
    for command in (["-c", notebook + VERIFY], ["script.py"], ["-m", "script"]):
        result = ended(*command, cwd=tmp_path)
        assert result.stdout == "found [1, 2]\n", result.stderr


@pytest.mark.parametrize("name", ["signal.py", "socket/__init__.py"])
def test_a_file_named_as_one_of_pythons_own_is_named(name: str, tmp_path: Path) -> None:
    """The program lies elsewhere, as the command does; its processes begin in the current folder."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    (here / name).parent.mkdir(parents=True)
    (here / name).write_text("x = 1\n")
    elsewhere.mkdir()
    (elsewhere / "program.py").write_text(VERIFY)
    result = ended(str(elsewhere / "program.py"), cwd=here)
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 1 and str(here / name) in last and "move or rename it" in last, result.stderr
    assert result.stderr.count("Traceback") == 1  # the program's own, none of its processes'


def test_a_file_of_such_a_name_that_is_not_in_the_way_is_nobodys_business(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for name in ("statistics.py", "random.py", "csv.py"):
        (tmp_path / "here" / name).write_text("raise SystemExit('imported')\n")
    (tmp_path / "program.py").write_text(VERIFY)
    result = ended(str(tmp_path / "program.py"), cwd=tmp_path / "here")
    assert result.stdout == "found [1, 2]\n", result.stderr


def test_the_command_as_a_module_says_which_file_it_imported(tmp_path: Path) -> None:
    """`python -m faster.cli`, as torchrun calls it, finds the current folder before Python's own."""
    (tmp_path / "signal.py").write_text("x = 1\n")
    result = ended("-m", "faster.cli", "extract", "videos", "--model", "r2d26", cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert str(tmp_path / "signal.py") in line and "move or rename it" in line
