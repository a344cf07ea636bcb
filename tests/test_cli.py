"""The command line: every command helps, mistakes are one line and an exit code, and the docs hold."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run_commands
from faster.cli import COMMANDS, main
from places import ROOT
from reference import help_of, reference
from sets import make_bright_set


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "faster.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_an_example_and_a_line_in_the_readme(name: str) -> None:
    text = help_of(name)
    assert re.search(r"Examples?:\n\s+faster " + name, text)
    options = re.findall(r"^  (?:-\w, )?--[\w-]+.*?(?=^  -|\Z)", text.split("Options:")[1], re.M | re.S)
    assert options and all(re.search(r"\s{2,}\S", option.strip()) for option in options), (
        "an option without help"
    )
    assert f"| `faster {name}` |" in (ROOT / "README.md").read_text()


def test_the_reference_is_what_the_commands_say() -> None:
    assert (ROOT / "docs/commands.md").read_text() == reference(), "run: make reference"


def test_the_readmes_commands_that_need_no_data_run(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    commands = [line for line in lines if line.startswith(("faster flops", "faster models"))]
    assert len(commands) >= 3
    for line in commands:
        with pytest.raises(SystemExit) as left:
            main(shlex.split(line)[1:])
        assert left.value.code == 0, line
        assert capsys.readouterr().out


def test_links_of_the_docs_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_two_lines_of_the_readme_run_as_they_stand(tmp_path: Path) -> None:
    """In a project folder with videos/ and weights/; the networks are narrow ones under the names asked for."""
    project = tmp_path / "kinetics"
    make_bright_set(project / "videos", per_class=6, tests=2)
    settings = ["--size", "32", "--epochs", "2", "--batch-size", "4", "--device", "cpu"]
    folder, video = "runs/kinetics-fast-gru-all-E-n4-s0", next((project / "videos/test/light").iterdir())
    ended = run_commands(
        [
            ["train-backbone", "--model", "r2plus1d14-w4", *settings],
            ["extract", "--model", "r2plus1d14-w4", "--size", "32", "--clips", "4"],
            ["train-agg", "--store", "kinetics.zarr"],
            ["inspect", "kinetics.zarr", "--json"],
            ["predict", str(video), "missing.mp4", "--run", folder, "--json"],
        ],
        cwd=project,
        memory_bytes=8 << 30,
    )
    assert [end.code for end in ended[:4]] == [0] * 4, [end.errors for end in ended]
    _, extracted, _, shown, predicted = ended
    assert "next: faster train-agg --store kinetics.zarr" in extracted.output
    assert [str(run.relative_to(project)) for run in (project / "runs").iterdir()] == [folder]
    assert json.loads(shown.output)["models"][0]["whole"] == 12
    assert predicted.code == 3  # one of the two could not be classified
    first, second = map(json.loads, predicted.output.splitlines())
    assert first["top"] and not second["top"] and second["reason"]
    assert (project / "predictions.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["extract"], 2, "--model"),
        (["extract", "--model", "r2d26"], 65, "no video"),
        (["train-agg", "--store", "none.zarr"], 65, "faster extract"),
        (["flops", "--pattern", "1:x"], 2, "1:7"),
        (["flops", "--model", "r2plus1d51"], 2, "r2plus1d50"),
        (["evaluate", "nowhere"], 65, "run folder"),
        (["predict", "a.mp4", "--run", "nowhere"], 65, "run folder"),
        (["predict", "a.mp4", "--run", "nowhere", "--weights", "x"], 2, "MODEL=FILE"),
        (["predict", ".", "--run", "nowhere"], 2, "is a folder"),
        (["train-backbone", "--model", "resnet50"], 2, "known"),
        (["train-agg", "--store", "none.zarr", "--aggregator", "fastgru"], 2, "fast-gru"),
        (["inspect", "nowhere.zarr"], 65, "faster extract"),
        (["flops", "--table", "3"], 2, "2"),
        (["flop"], 2, "No such command"),
    ],
)
def test_a_mistake_is_one_clear_line_and_its_exit_code(
    arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert words in result.stderr and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m faster.cli flops --table 4 | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in result.stderr and len(result.stdout.splitlines()) == 1
