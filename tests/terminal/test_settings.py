"""A setting is declared once: its option, its check and its documentation cannot differ."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from faster.errors import UsageError
from faster.terminal.options import options_of, with_own_errors
from faster.terminal.settings import check, declare, documented, like, setting, settings_of


def _hook(command: Any) -> Any:
    return click.option("--twice", "workers", default="0.5", type=lambda text: round(2 * float(text)))(
        command
    )


@documented
@dataclass(frozen=True, kw_only=True)
class Config:
    """What to do."""

    models: tuple[str, ...] = field(metadata=declare(help="A network.", flag="--model"))
    clips: int | None = setting(None, help="Clips a video.", least=1, most=64, unset="all of the store's")
    rate: float = setting(0.5, help="Of learning.", detail="At its top.", above=0, below=1)
    views: int = setting(0, help="Views.", least=0)
    codec: str = setting("none", help="Of maps.", choices=("none", "zstd"))
    table: int | None = setting(None, help="Of the paper.", choices=(2, 4))
    sizes: tuple[int, ...] | None = setting(None, help="Sizes.", listed=True, least=1, metavar="N,…")
    cache_bytes: int | None = setting(None, help="Memory.", flag="--cache-gib", scale=2**30, least=0)
    quick: bool = setting(False, help="Do less.")
    compiled: bool = setting(True, help="Compile.", flag="--compile")
    out: str | Path | None = setting(None, help="The folder.", path=True)
    workers: int = setting(1, help="Who works.", by=_hook, least=1)
    hidden: float = setting(1.0, help="Only here.", least=0, python=True)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Other:
    clips: int = like(Config, "clips", 8, help="Clips here.")
    codec: str = like(Config, "codec")
    source: str | tuple[str, ...] | None = setting(None, help="", argument=True, path=True)

    def __post_init__(self) -> None:
        check(self)


@click.command()
@options_of(Config)
def command(**values: Any) -> Config:
    return Config(**values)


def run(*arguments: str, of: click.Command = command) -> Any:
    return of.main(list(arguments), standalone_mode=False)


def test_a_command_takes_what_the_class_declares_with_its_defaults(tmp_path: Path) -> None:
    assert run("--model", "a") == Config(models=("a",))
    everything = (
        "--model a --model b --clips 3 --rate 0.25 --views 2 --codec zstd --table 4 --sizes 1,2 --cache-gib 0.5 --quick --no-compile "
        f"--out {tmp_path} --twice 3"
    )
    assert run(*everything.split()) == Config(
        models=("a", "b"),
        clips=3,
        rate=0.25,
        views=2,
        codec="zstd",
        table=4,
        sizes=(1, 2),
        cache_bytes=2**29,
        quick=True,
        compiled=False,
        out=tmp_path,
        workers=6,
    )
    assert not any(
        name in parameter.opts for parameter in command.params for name in ("--hidden", "--workers")
    )
    with pytest.raises(click.MissingParameter):
        run()


# Values of a field, what the command is given for the same, and the error of both.
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"clips": 0}, "--clips 0", "--clips is 0; it must be from 1 to 64"),
    ({"clips": 65}, "--clips 65", "--clips is 65; it must be from 1 to 64"),
    ({"clips": "many"}, "--clips many", "--clips is many; it must be a whole number, from 1 to 64"),
    ({"clips": 1.5}, "--clips 1.5", "--clips is 1.5; it must be a whole number, from 1 to 64"),
    ({"rate": 1.0}, "--rate 1.0", "--rate is 1.0; it must be above 0 and below 1"),
    ({"rate": math.nan}, "--rate nan", "--rate is nan; it must be above 0 and below 1"),
    ({"views": ""}, "--views=", "--views is ''; it must be a whole number, at least 0"),
    ({"codec": "zst"}, "--codec zst", "--codec is zst; allowed: none, zstd; did you mean zstd?"),
    ({"table": 3}, "--table 3", "--table is 3; allowed: 2, 4"),
    ({"cache_bytes": -1}, "--cache-gib -1", "--cache-gib is -1; it must be at least 0"),
    ({"sizes": (4, 0)}, "--sizes 4,0", "--sizes is 0; it must be at least 1"),
]


@pytest.mark.parametrize(("values", "arguments", "message"), BAD, ids=[case[1] for case in BAD])
def test_a_bad_value_has_one_error_for_python_and_the_command(
    values: dict[str, Any], arguments: str, message: str
) -> None:
    with pytest.raises(UsageError) as in_python:
        Config(models=("a",), **values)
    with pytest.raises(UsageError) as in_command:
        run("--model", "a", *arguments.split())
    assert str(in_python.value) == str(in_command.value) == message


def test_what_only_python_can_get_wrong_is_refused_too() -> None:
    for values, message in (
        ({"models": "a"}, r"--model is a; it must be a tuple, as \('a',\)"),
        ({"models": None}, r"--model is None; it must be a tuple"),
        ({"views": None}, "--views is None; it must be a whole number"),
        ({"views": "3"}, "--views is '3'; it must be a whole number"),
        ({"views": True}, "--views is True; it must be a whole number"),
        ({"hidden": -1.0}, "hidden is -1.0; it must be at least 0"),
    ):
        with pytest.raises(UsageError, match=message):
            Config(**{"models": ("a",), **values})
    with pytest.raises(UsageError, match="the list is empty; leave the option out"):
        run("--model", "a", "--sizes", " ")


def test_a_shared_setting_keeps_what_does_not_change() -> None:
    settings = settings_of(Other)
    assert settings["clips"].default == 8 and settings["clips"].range == "from 1 to 64"
    assert settings["clips"].help == "Clips here.  [all of the store's]"
    assert settings["codec"].declared == settings_of(Config)["codec"].declared
    with pytest.raises(UsageError, match="--clips is None"):
        Other(clips=None)  # type: ignore[arg-type]

    @click.command()
    @options_of(Other, without=["codec"])
    @options_of(Config, only=["codec", "quick"])
    def both(**values: Any) -> dict[str, Any]:
        return values

    values = run("a", "b", "--codec", "zstd", "--quick", of=both)
    assert values == {"clips": 8, "source": ("a", "b"), "codec": "zstd", "quick": True}
    with pytest.raises(ValueError, match="Other has no setting quick"):
        options_of(Other, only=["quick"])


def test_the_help_and_the_docstring_say_what_is_declared() -> None:
    shown = " ".join(CliRunner().invoke(command, ["--help"], terminal_width=200).output.split())
    for words in (
        "--model TEXT A network. [required]",
        "--clips INTEGER RANGE Clips a video. [all of the store's] [1<=x<=64]",
        "--rate FLOAT RANGE Of learning. [default: 0.5; 0<x<1]",
        "--codec [none|zstd] Of maps. [default: none]",
        "--sizes N,… Sizes.",
        "--cache-gib FLOAT RANGE Memory. [x>=0]",
        "--compile / --no-compile Compile. [default: compile]",
        "--out PATH The folder.",
    ):
        assert words in shown
    documentation = " ".join(str(Config.__doc__).split())
    assert documentation.startswith("What to do. Attributes: models: A network. Option --model.")
    for words in (
        "clips: Clips a video. From 1 to 64. None: all of the store's.",
        "rate: Of learning. At its top. Above 0 and below 1.",
        "codec: Of maps. One of 'none', 'zstd'.",
        "hidden: Only here. At least 0.",
    ):
        assert words in documentation


def test_options_that_only_click_declares_have_the_same_errors() -> None:
    @click.command()
    @click.option("--share", type=click.FloatRange(0, 1, max_open=True))
    @click.option("--size", type=click.IntRange(min=1), default=3, show_default=True)
    @click.option("--part", type=click.Choice(["train", "test"]))
    def plain(**values: Any) -> dict[str, Any]:
        return values

    before = plain.get_help(click.Context(plain))
    plain = with_own_errors(plain)
    assert plain.get_help(click.Context(plain)) == before
    assert run("--share", "0.5", "--part", "test", of=plain) == {"share": 0.5, "size": 3, "part": "test"}
    for arguments, message in (
        (["--share", "1"], "--share is 1; it must be at least 0 and below 1"),
        (["--size", "x"], "--size is x; it must be a whole number, at least 1"),
        (["--part", "tset"], "--part is tset; allowed: train, test; did you mean test?"),
    ):
        with pytest.raises(UsageError) as refused:
            run(*arguments, of=plain)
        assert str(refused.value) == message
