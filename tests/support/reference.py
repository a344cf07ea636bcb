"""The reference of every command, from their own help: `python tests/support/reference.py > docs/commands.md`."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import click
from faster.cli import COMMANDS, group

HEAD = """# Every command

Made from the commands' own help by `make reference`; a test holds it to them.

Exit codes: 0 complete · 2 the command cannot mean that · 3 finished, but videos could not be
used: all of them, or more than `--max-failed` allows (extract), or any (predict) · 65 bad source, weights, store or run · 74 input/output · 75 stopped by a signal, run again · 130 Ctrl-C.
"""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its words after "faster", those of a group after the group's."""
    for name in COMMANDS:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {verb}", inner) for verb, inner in command.commands.items())


def help_of(name: str) -> str:
    command = copy.copy(dict(commands())[name])
    command._help_option = None  # click keeps the one of who asked first, here perhaps a test
    context = click.Context(command, info_name=f"faster {name}", max_content_width=100, terminal_width=100)
    return context.get_help()


def reference() -> str:
    return HEAD + "".join(f"\n## faster {name}\n\n```\n{help_of(name)}\n```\n" for name, _ in commands())


if __name__ == "__main__":
    print(reference(), end="")
