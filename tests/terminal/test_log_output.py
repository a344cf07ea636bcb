"""The lines of the log: printed by a command, on one of two streams, and not by a Python call."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import click
import pytest
from faster import cli
from faster.terminal.log_output import print_log, quiet
from faster.terminal.progress_bars import tqdm
from stores import make_spec, make_store, make_videos

LOGGER = logging.getLogger("faster")
LINES = ("train: 18 listed", "test: 6 listed", "validation: 3 of the 18", "run folder: ")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "small.zarr"
    make_store(path, [make_spec(class_names=("x", "y", "z"))], make_videos(24), signal=True)
    return path


@click.command()
@click.option("--err", is_flag=True)
def logs(err: bool) -> None:
    """A command that logs while a bar is drawn."""
    print_log(err=err)
    with tqdm(total=2, mininterval=0) as bar:
        logging.getLogger("faster.somewhere.below").info("50% × of {it}")
        logging.getLogger("faster.somewhere.below").debug("a detail")
        bar.update()
        with quiet():
            logging.getLogger("faster.somewhere").warning("left out")
        with quiet(False):
            LOGGER.warning("a warning")


@pytest.mark.parametrize("err", [False, True])
def test_a_command_prints_each_line_once_on_its_stream(err: bool, capsys: pytest.CaptureFixture[str]) -> None:
    before = (LOGGER.level, LOGGER.propagate, list(LOGGER.handlers))
    for _ in range(2):
        logs.main(["--err"] if err else [], standalone_mode=False)
        printed = capsys.readouterr()
        lines = [line for line in printed.err.replace("\r", "\n").splitlines() if "it/s" not in line]
        shown = [line for line in lines if line.strip() and "?it" not in line] if err else []
        assert (shown if err else printed.out.splitlines()) == ["50% × of {it}", "a warning"]
        assert not err or not printed.out
    assert (LOGGER.level, LOGGER.propagate, list(LOGGER.handlers)) == before


def test_a_reader_that_went_away_is_the_commands_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Broken())
    with pytest.raises(BrokenPipeError):
        logs.main([], standalone_mode=False)
    assert not LOGGER.handlers


@pytest.mark.parametrize("as_json", [False, True])
def test_training_tells_on_stdout_and_with_json_on_stderr(
    as_json: bool, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train-agg", "--store", str(store), "--pattern", "all-E", "--epochs", "1"]
    with pytest.raises(SystemExit) as left:
        cli.main([*words, "--out", str(tmp_path / "run"), *(["--json"] if as_json else [])])
    printed = capsys.readouterr()
    assert left.value.code == 0, printed.err
    told, other = (printed.err, printed.out) if as_json else (printed.out, printed.err)
    for line in LINES:
        assert told.count(f"\n{line}") == 1 and line not in other, line
    assert not as_json or json.loads(printed.out)["report"]


def test_a_python_call_prints_nothing_until_logging_is_set_up(store: Path, tmp_path: Path) -> None:
    code = f"""
import logging
from faster.aggregate import TrainConfig, train_agg
config = TrainConfig(store={str(store)!r}, pattern="all-E", epochs=1, out={str(tmp_path / "run")!r})
train_agg(config, progress=False)
print("second", flush=True)
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
train_agg(config, progress=False)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "second\n"
    told = ended.stderr.splitlines()
    assert [line for line in told if line.startswith("faster.aggregate.train run folder: ")] == [
        f"faster.aggregate.train run folder: {tmp_path / 'run'}"
    ]
    assert sum(line.startswith("faster.aggregate.data.partition ") for line in told) >= 3
