"""Settings, each declared once as a field of a dataclass: its type, default, range, choices and help.

@documented
@dataclass(frozen=True, kw_only=True)
class Config:
    clips: int | None = setting(None, help="Clips a video.", least=1, unset="all of the store's")

    def __post_init__(self) -> None:
        check(self)

`options.options_of(Config)` gives a command the option `--clips`. `check` refuses a bad value with the same
error as the command, and `documented` describes the fields in the class's docstring.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypedDict, TypeVar, Union, Unpack, get_args, get_origin, get_type_hints

from ..errors import UsageError
from .suggest import did_you_mean

T = TypeVar("T")
ClassT = TypeVar("ClassT", bound=type)

_DECLARED = "faster.setting"
_BOUNDS = {"least": "at least", "above": "above", "most": "at most", "below": "below"}


class Declaration(TypedDict, total=False):
    """The declaration of a setting; its name, type and default are those of the field.

    Attributes:
        help: a sentence or two, for the command's help and the documentation.
        detail: more text, for the documentation only.
        unset: the meaning of None or an empty tuple.
        least, most: the smallest and the largest allowed value.
        above, below: exclusive bounds.
        choices: the allowed values.
        flag: the option's name, if it differs from the field's: "--model" for `models`.
        metavar: the placeholder of the value in the help.
        path: whether the value is a path of a file or folder.
        scale: the field's value for 1 on the command line: 2**30 for an option in GiB and a field in bytes.
        listed: whether a tuple is one text with commas; otherwise its option may be repeated.
        argument: whether it is an argument of the command, not an option.
        python: whether only Python can set it: the command has no option for it.
        callback: click's, called with (context, parameter, value); it returns the field's value.
        by: a decorator that adds the field's options, if they are more or fewer than one.
    """

    help: str
    detail: str
    unset: str
    least: float
    most: float
    above: float
    below: float
    choices: Collection[Any]
    flag: str
    metavar: str
    path: bool
    scale: int
    listed: bool
    argument: bool
    python: bool
    callback: Callable[..., Any]
    by: Callable[[Any], Any]


def setting(default: T, **declared: Unpack[Declaration]) -> T:
    """Return a field with a default; without one, use `field(metadata=declare(…))` for type checkers."""
    return field(default=default, metadata=declare(**declared))


def declare(**declared: Unpack[Declaration]) -> Mapping[str, Any]:
    """Return the metadata of a field that is a setting."""
    return {_DECLARED: declared}


def like(config: type, name: str, default: Any = MISSING, **changed: Unpack[Declaration]) -> Any:
    """Return the field `name` of another class, with a new default, if given, and other changes."""
    (original,) = (each for each in fields(config) if each.name == name)
    declared: Declaration = {**original.metadata[_DECLARED], **changed}
    return setting(original.default if default is MISSING else default, **declared)


@dataclass(frozen=True, kw_only=True)
class ConfigSetting:
    """A setting of a class: its declaration, with the field's name, type and default.

    Attributes:
        option: the user's name for it: "--batch-size", or "SOURCE" for an argument.
        kind: int, float, bool, str or Path; for a tuple, the type of its elements.
        default: MISSING if a value is required.
        optional: whether None is allowed.
        several, single: whether a tuple, and whether a single value, is allowed.
    """

    name: str
    option: str
    kind: type
    declared: Declaration
    default: Any = None
    optional: bool = False
    several: bool = False
    single: bool = True

    def check(self, value: Any) -> None:
        """Raise UsageError if a value is not allowed."""
        if isinstance(value, tuple | list) and self.several:
            for each in value:
                self._check_one(each)
        elif not self.single and not (value is None and self.optional):
            example = f", as {(value,)!r}" if isinstance(value, self.kind) else ""
            raise self._error(value, f"it must be a tuple{example}")
        elif value is not None or not self.optional:
            self._check_one(value)

    def read(self, text: str) -> Any:
        """Read a text from the command line. Raises UsageError if its value is not allowed."""
        if not self.declared.get("listed"):
            return self._read_one(text)
        if not (words := text.replace(",", " ").split()):
            raise self._error(text, "the list is empty; leave the option out for the default")
        return tuple(map(self._read_one, words))

    def _read_one(self, text: str) -> Any:
        value: Any = text
        if self.kind in (int, float):
            with suppress(ValueError, OverflowError):
                value = self.kind(text) if self.scale is None else self.kind(float(text) * self.scale)
        self._check_one(value, text)
        return value

    def _check_one(self, value: Any, shown: Any = None) -> None:
        shown = value if shown is None else shown
        if "choices" in self.declared:
            if value not in self.declared["choices"]:
                known = [str(choice) for choice in self.declared["choices"]]
                raise self._error(shown, f"allowed: {', '.join(known)}{did_you_mean(str(shown), known)}")
        elif self.kind in (int, float):
            number = Integral if self.kind is int else Real
            is_number = isinstance(value, number) and not isinstance(value, bool)
            if not is_number or not self._is_within(value):
                noun = "a whole number" if self.kind is int and self.scale is None else "a number"
                if isinstance(value, str):
                    with suppress(ValueError):  # a text that reads like a number is shown as a text
                        self.kind(value)
                        shown = repr(value)
                raise self._error(
                    shown, f"it must be {', '.join(filter(None, [noun * (not is_number), self.range]))}"
                )

    @property
    def scale(self) -> int | None:
        """See `Declaration`."""
        return self.declared.get("scale")

    def _is_within(self, value: Any) -> bool:
        least, most, above, below = map(self.declared.get, ("least", "most", "above", "below"))
        return bool(
            (least is None or value >= least)
            and (most is None or value <= most)
            and (above is None or value > above)
            and (below is None or value < below)
        )

    def _error(self, value: Any, allowed: str) -> UsageError:
        return UsageError(f"{self.option} is {value if str(value).strip() else repr(value)}; {allowed}")

    @property
    def range(self) -> str:
        """The allowed numbers as text: "at least 0 and below 1"; empty if all are allowed."""
        bounds = {word: self.declared[word] for word in _BOUNDS if word in self.declared}  # type: ignore[literal-required]
        if bounds.keys() == {"least", "most"}:
            return f"from {bounds['least']} to {bounds['most']}"
        return " and ".join(f"{_BOUNDS[word]} {bound}" for word, bound in bounds.items())

    @property
    def help(self) -> str:
        """The option's help, and the meaning of leaving it out."""
        unset = self.declared.get("unset")
        return "  ".join(filter(None, [self.declared.get("help"), unset and f"[{unset}]"]))

    @property
    def documentation(self) -> str:
        """The attribute's documentation: the complete declaration."""
        declared = self.declared
        words = [declared.get("help", ""), declared.get("detail", "")]
        if self.range:
            words.append(f"{self.range[0].upper()}{self.range[1:]}.")
        if "choices" in declared:
            words.append(f"One of {', '.join(map(repr, declared['choices']))}.")
        if "unset" in declared:
            words.append(f"{'None' if self.optional else 'Empty'}: {declared['unset']}.")
        if "flag" in declared:
            words.append(f"Option {declared['flag']}.")
        return " ".join(filter(None, words))


@cache
def settings_of(config: type) -> dict[str, ConfigSetting]:
    """Return the settings that a dataclass declares, by field name, in its order."""
    hints = get_type_hints(config)
    return {
        each.name: _settled(each, hints[each.name]) for each in fields(config) if _DECLARED in each.metadata
    }


def _settled(each: Field[Any], hint: Any) -> ConfigSetting:
    declared: Declaration = each.metadata[_DECLARED]
    members = [*_members(hint)]
    tuples = [member for member in members if get_origin(member) in (tuple, Sequence)]
    kinds = [member for member in members if member not in (*tuples, NoneType)]
    name = each.name
    if not declared.get("python"):
        name = name.upper() if declared.get("argument") else f"--{name.replace('_', '-')}"
    return ConfigSetting(
        name=each.name,
        option=declared.get("flag", name),
        kind=Path if Path in kinds else kinds[0] if kinds else get_args(tuples[0])[0],
        declared=declared,
        default=each.default,
        optional=NoneType in members,
        several=bool(tuples),
        single=bool(kinds),
    )


def _members(hint: Any) -> Iterator[Any]:
    """Yield the types of a union, or a single type itself."""
    if get_origin(hint) in (Union, UnionType):
        for member in get_args(hint):
            yield from _members(member)
    else:
        yield hint


def check(config: Any) -> None:
    """Raise UsageError if a value of a configuration is not allowed; `__post_init__` calls this first."""
    for each in settings_of(config.__class__).values():
        each.check(getattr(config, each.name))


def documented(config: ClassT) -> ClassT:
    """Add an Attributes section, made from the declared settings, to a dataclass's docstring; a decorator."""
    if config.__doc__:  # absent with python -OO
        lines = (f"{name}: {each.documentation}" for name, each in settings_of(config).items())
        wrapped = (
            textwrap.fill(line, 108, initial_indent="    ", subsequent_indent="        ") for line in lines
        )
        config.__doc__ = "\n".join([inspect.cleandoc(config.__doc__), "", "Attributes:", *wrapped])
    return config
