"""What a user mistypes is answered with what was meant: commands, options and values; and the list of commands is whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from faster.aggregate.data.pattern import ANY, Pattern
from faster.cli import COMMANDS, group, main
from faster.errors import UsageError
from faster.terminal.help import HelpfulGroup
from faster.terminal.suggest import did_you_mean, nearest
from reference import commands


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that is refused says, as one line."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2, capsys.readouterr().err
    errors = capsys.readouterr().err
    lines = [line for line in errors.splitlines() if line.startswith(("faster: ", "Error: "))]
    assert len(lines) == 1 and "Traceback" not in errors, errors
    return lines[0]


@pytest.mark.parametrize("name", [*COMMANDS, "submit slurm"])
def test_every_command_with_a_letter_left_out_or_swapped_is_known_again(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    *before, word = name.split()
    for mistyped in (word[:-1], word[0] + word[2:], word[1] + word[0] + word[2:], word.upper()):
        if mistyped not in COMMANDS:
            line = said(capsys, *before, mistyped)
            assert f"No such command {mistyped!r}; did you mean " in line
            assert word in re.split(r" or |\?", line.split("did you mean ")[1])


def test_a_word_that_nothing_is_like_gets_no_guess(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "xyzzy").endswith("No such command 'xyzzy'.")


def choices() -> Iterator[tuple[str, click.Option]]:
    for name, command in commands():
        for option in command.params:
            if isinstance(option, click.Option) and isinstance(option.type, click.Choice):
                yield name, option


@pytest.mark.parametrize(
    ("name", "option"), [pytest.param(*pair, id=f"{pair[0]} {pair[1].opts[0]}") for pair in choices()]
)
def test_every_value_of_every_choice_is_known_again(
    name: str, option: click.Option, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(option.type, click.Choice)
    for value in map(str, option.type.choices):
        line = said(capsys, *name.split(), option.opts[0], f"{value}x")
        assert option.opts[0] in line and f"did you mean {value}?" in line


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("flops --patern 1:7", "--pattern"),
        ("extract --mdel r2d26", "--model"),
        ("--versoin", "--version"),
        ("submit slurm --task 3", "--tasks"),
        ("flops --model r2plus1d5O", "r2plus1d50"),
        ("flops --model R2D26", "r2d26"),
        ("flops --model r2d62-w16", "r2d26"),
        ("flops --pattern alle", "all-E"),
        ("flops --pattern all_c", "all-C"),
        ("flops --pattern 1-7", "1:7"),
        ("flops --pattern 1/15", "1:15"),
        ("extract --format kinetic --model r2d26", "kinetics"),
        ("train-backbone --model r2plus1d-50 --device cpu", "r2plus1d50"),
    ],
)
def test_what_is_mistyped_is_answered_with_what_was_meant(
    arguments: str,
    meant: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    line = said(capsys, *arguments.split())
    # Click 8.2 says "Possible options" where there are several.
    guesses = re.search(r"(?:[Dd]id you mean (?:one of: )?|Possible options: )(.*?)[?)]", line)
    assert guesses is not None and meant in re.split(r"[ ',]+", guesses[1])
    assert not list(tmp_path.iterdir())


def test_any_is_a_pattern_only_where_it_can_be_asked_for() -> None:
    for text in ("Any", "an"):
        with pytest.raises(UsageError, match=r"or any; did you mean any\?$"):
            Pattern.parse(text, ANY)
        with pytest.raises(UsageError, match=r"or all-C$"):
            Pattern.parse(text)


def test_the_nearest_is_told_without_regard_to_case_and_hyphens() -> None:
    known = ["fast-gru", "gru", "max-pool"]
    assert nearest("fastgru", known) == nearest("Fast_GRU", known) == ["fast-gru"]
    assert did_you_mean("MAXPOOL", known) == "; did you mean max-pool?"
    assert did_you_mean("train", ["train-agg", "train-backbone", "report"], most=2) == (
        "; did you mean train-agg or train-backbone?"
    )
    assert did_you_mean("xyzzy", known) == did_you_mean("", known) == did_you_mean("gru", []) == ""
    assert did_you_mean("-", known) == ""


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_of_a_list_of_commands_is_cut(width: int) -> None:
    groups = [("faster", group), *((n, c) for n, c in commands() if isinstance(c, click.Group))]
    assert len(groups) == 2
    for name, each in groups:
        assert isinstance(each, HelpfulGroup)
        context = click.Context(each, info_name=name, terminal_width=width, max_content_width=width)
        listed = " ".join(each.get_help(context).split("Commands:")[1].split())
        for verb in each.list_commands(context):
            summary = each.summary(context, verb)
            assert summary.endswith(".") and not summary.endswith("..") and "…" not in summary
            assert f"{verb} {summary}" in listed
    # The list's line, which imports nothing, is the one that the command itself has.
    for verb in COMMANDS:
        command = group.get_command(click.Context(group), verb)
        assert command is not None and command.get_short_help_str(1000) == COMMANDS[verb][2]
