"""Every command's words in every surrounding: old encodings, closed streams, readers that go away, narrow terminals."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faster.cli import COMMANDS
from faster.extract.progress import Progress
from faster.terminal import streams
from faster.terminal.progress_bars import tqdm
from places import ROOT
from reference import commands
from stores import make_spec, make_store, make_videos

FASTER = [sys.executable, "-m", "faster.cli"]
HELPS = [*([*name.split(), "--help"] for name, _ in commands()), ["--help"]]
WORDS = [
    ["flops", "--table", "4"],
    ["models"],
    ["models", "--json"],
    ["flops", "--model", "r2d2×"],
    ["flop…"],
]

# Runs the commands of sys.argv one after another in one process, and says how each ended.
ALL = """
import json, sys
from faster.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as left:
        sys.stdout.flush()
        if left.code not in (0, 2):
            raise
"""


def environment(**settings: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    return {**kept, **settings}


@pytest.mark.parametrize(
    "settings",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"TERM": "dumb", "COLUMNS": "1"},
        {"COLUMNS": "20"},
    ],
    ids=str,
)
def test_every_help_and_answer_prints_in_every_encoding_also_into_a_file(
    settings: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", ALL, json.dumps(HELPS + WORDS)]
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        ended = subprocess.run(command, stdout=out, stderr=err, env=environment(**settings))
    written, errors = (tmp_path / "out").read_bytes(), (tmp_path / "err").read_bytes()
    assert ended.returncode == 0 and b"Traceback" not in errors, errors.decode()
    encoding = settings.get("PYTHONIOENCODING", "utf-8").split(":")[0]
    if "PYTHONUTF8" in settings:
        encoding = "ascii"
    text, said = written.decode(encoding), errors.decode(encoding)
    sign = "x" if encoding == "ascii" else "×"
    assert f"8-frames{sign}32-clips, all-E" in text and f"'r2d2{sign}'" in said
    assert all(f"faster {name}" in " ".join(text.split()) for name in COMMANDS)
    assert ("flop..." if encoding != "utf-8" else "flop…") in said


def test_json_is_the_same_json_in_every_encoding(tmp_path: Path) -> None:
    make_store(tmp_path / "café 日.zarr", [make_spec()], make_videos(2))
    asked = [["inspect", "café 日.zarr", "--json"]]
    printed = [
        subprocess.run(
            [sys.executable, "-c", ALL, json.dumps(asked)],
            capture_output=True,
            cwd=tmp_path,
            env=environment(PYTHONIOENCODING=encoding),
        ).stdout
        for encoding in ("utf-8", "ascii")
    ]
    assert all(json.loads(each)["path"] == "café 日.zarr" for each in printed)


def test_every_json_that_a_command_prints_is_plain_ascii() -> None:
    """So that no encoding can harm it: a replacement within a name would be another name."""
    root = ROOT
    for module in sorted({module for module, _, _ in COMMANDS.values()}):
        text = (root / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert "ensure_ascii" not in text, module


@pytest.mark.parametrize("closed", ["2>&-", "1>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_stop_nothing(closed: str, tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", [make_spec()], make_videos(4))
    # verify draws a bar; convert writes files, whose descriptors must not be those that were closed
    line = (
        f'{{ "$0" -m faster.cli verify s.zarr --processes 1 && "$0" -m faster.cli convert s.zarr n.zarr --codec zstd '
        f'--processes 1 && "$0" -m faster.cli verify n.zarr --processes 1 ; }} {closed}'
    )
    ended = subprocess.run(["bash", "-c", line, sys.executable], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    if "1>" not in closed:
        assert "next: faster inspect n.zarr" in ended.stdout
    # A mistake has its exit code, also where nobody can be told.
    ended = subprocess.run(["bash", "-c", f'"$0" -m faster.cli flop {closed}', sys.executable])
    assert ended.returncode == 2


def test_descriptors_that_were_closed_are_not_given_to_files() -> None:
    code = (
        "import os, sys; from faster.terminal.streams import settle; settle()\n"
        "number = os.open(sys.argv[1], os.O_RDONLY); os._exit(0 if number > 2 else 1)"
    )
    line = f'"$0" -c \'{code}\' "$0" 0<&- 1>&- 2>&-'
    assert subprocess.run(["bash", "-c", line, sys.executable]).returncode == 0


@pytest.mark.parametrize(
    "arguments", ["--help", "flops --table 4", "models --json", "extract --help", "submit slurm --help"]
)
def test_a_reader_that_goes_away_ends_it_quietly_with_141(arguments: str) -> None:
    read, write = os.pipe()
    os.close(read)  # gone before the first word
    ended = subprocess.run([*FASTER, *arguments.split()], stdout=write, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (141, b"")
    # The same where it is the reader of the errors.
    ended = subprocess.run([*FASTER, "flop"], stdout=subprocess.PIPE, stderr=write)
    os.close(write)
    assert (ended.returncode, ended.stdout) == (141, b"")


def test_a_full_disk_under_the_output_is_said() -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run([*FASTER, "flops"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 74
    assert ended.stderr == "faster: No space left on device\n"


def test_a_broken_pipe_that_is_not_our_reader_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from faster import cli
    from faster.costs import commands as costs_commands

    def breaks(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(costs_commands.models_command, "callback", breaks)
    with pytest.raises(SystemExit) as left:
        cli.main(["models"])
    assert left.value.code == 74
    assert "a helper process or a connection went away" in capfd.readouterr().err


class Bare:
    """What some programs put in the place of stderr."""

    def write(self, text: str) -> int:
        return len(text)


@pytest.mark.parametrize("stream", [None, Bare(), object()], ids=["None", "write only", "nothing"])
def test_bars_need_no_terminal_nor_a_stream(stream: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", stream)
    assert list(tqdm(range(3), desc="work", dynamic_ncols=True)) == [0, 1, 2]
    with Progress(total=1, gflops_per_clip=[1.0], shown=True) as bar:
        assert bar.clips == 0


def test_nobody_draws_a_bar_past_these() -> None:
    top = sorted(entry.parent for entry in ROOT.glob("*/__init__.py"))
    files = [*ROOT.glob("*.py"), *(file for folder in top for file in folder.rglob("*.py"))]
    assert {"progress_bars.py", "streams.py", "stages.py"} <= {file.name for file in files}
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert file.name == "progress_bars.py" or "from tqdm import" not in text, file
        assert file.name == "streams.py" or ".isatty(" not in text, file


def test_a_stream_without_an_encoding_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Bare()
    monkeypatch.setattr(sys, "stderr", bare)
    monkeypatch.setattr(sys, "stdout", None)
    streams.settle()
    assert sys.stderr is bare and streams.can_write(sys.stdout)
    sys.stdout.close()


def test_signs_that_an_encoding_lacks_become_plain_ones() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="faster.plain")
    stream.write("224×224 … 1–2 ± α caf\udce9")
    stream.flush()
    assert raw.getvalue() == b"224x224 ... 1-2 +- ? caf\\xe9"
