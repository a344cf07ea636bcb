"""Options of commands, made from the settings of a dataclass.

@click.command("train")
@options_of(Config)
def train_command(**values: Any) -> None:
    train(Config(**values))
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar

import click

from .settings import ConfigSetting, Declaration, settings_of

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
"""The option that most commands share."""


def options_of(
    config: type, *, only: Collection[str] | None = None, without: Collection[str] = ()
) -> Callable[[CommandT], CommandT]:
    """Return a decorator that adds a dataclass's settings to a command as options, in order, by field name.

    Args:
        only, without: the fields to use, or to leave out.
    """
    settings = settings_of(config)
    if unknown := {*(only or ()), *without} - settings.keys():
        raise ValueError(f"{config.__name__} has no setting {', '.join(sorted(unknown))}")

    def decorate(command: CommandT) -> CommandT:
        for name in reversed(settings):
            if name not in without and (only is None or name in only):
                command = _add(settings[name], command)
        return command

    return decorate


def _add(of: ConfigSetting, command: CommandT) -> CommandT:
    """Add the setting's option or argument to a command."""
    declared = of.declared
    if declared.get("python"):
        return command
    if "by" in declared:
        return declared["by"](command)  # type: ignore[no-any-return]
    common = {"type": _type(of), "metavar": declared.get("metavar"), "callback": declared.get("callback")}
    if declared.get("argument"):
        return click.argument(of.name, nargs=-1 if of.several else 1, **common)(command)
    extra: dict[str, Any] = common | {"multiple": of.several and not declared.get("listed")}
    names = of.option
    if of.kind is bool:
        extra = {"is_flag": True}
        names += f"/--no-{of.option[2:]}" if of.default else ""
    if of.default is MISSING:
        extra["required"] = True
    elif of.default not in (None, ()) and of.default is not False:
        extra |= {"default": of.default, "show_default": True}
    return click.option(names, of.name, help=of.help, **extra)(command)


class _Reads:
    """Mixin of a click type: a bad value raises the setting's own error."""

    setting: ConfigSetting

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a text; a default is not a text and stays as it is."""
        return self.setting.read(value) if isinstance(value, str) else value


class _Choice(_Reads, click.Choice):  # type: ignore[type-arg,unused-ignore]  # generic in newer clicks only
    pass


class _IntRange(_Reads, click.IntRange):
    pass


class _FloatRange(_Reads, click.FloatRange):
    pass


class _Text(_Reads, click.types.StringParamType):
    pass


def _type(of: ConfigSetting) -> Any:
    """Return the click type that reads a setting's text, and shows its range or choices in the help."""
    declared = of.declared
    made: Any
    if declared.get("path"):
        return click.Path(path_type=Path if of.kind is Path else None)
    if declared.get("listed"):
        made = _Text()
    elif "choices" in declared:
        made = _Choice(list(map(str, declared["choices"])))
    elif of.kind in (int, float):
        bounds: Any = (
            declared.get("least", declared.get("above")),
            declared.get("most", declared.get("below")),
        )
        opened = {"min_open": "above" in declared, "max_open": "below" in declared}
        made = (_IntRange if of.kind is int and of.scale is None else _FloatRange)(*bounds, **opened)
    else:
        return click.STRING
    made.setting = of
    return made


def with_own_errors(command: click.Command) -> click.Command:
    """Let a command's numbers and choices that only click declares report errors as settings do."""
    for parameter in command.params:
        kind, name = parameter.type, parameter.opts[0]
        declared: Declaration = {}
        if isinstance(kind, _Reads):
            continue
        if isinstance(kind, click.Choice):
            declared["choices"] = kind.choices
        elif isinstance(kind, click.IntRange | click.FloatRange):
            if kind.min is not None:
                declared["above" if kind.min_open else "least"] = kind.min
            if kind.max is not None:
                declared["below" if kind.max_open else "most"] = kind.max
        else:
            continue
        number = float if isinstance(kind, click.FloatRange) else int
        value_kind = number if "choices" not in declared else str
        parameter.type = _type(ConfigSetting(name=name, option=name, kind=value_kind, declared=declared))
    return command
